// A tiny model, rows and a plan for comparisons that take seconds.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { PlanInput } from "../../lib/compare/plan.ts";
import { writeRows } from "../cli/support.ts";
import { tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";

export interface Small {
  readonly plan: PlanInput;
  readonly at: (name: string) => string;
}

/** Two methods × two rates × two seeds × one task. */
export async function smallPlan(root: string): Promise<Small> {
  const at = (name: string): string => join(root, name);
  await writeTinyModel(at("model"), tinyOlmoe);
  const rows = (name: string, n: number, seed: number): string => writeRows(at(`${name}.jsonl`), toyRows(n, seed));
  const plan: PlanInput = {
    model: at("model"),
    tasks: [{ name: "sums", train: rows("train", 40, 1), validation: rows("validation", 8, 2), test: rows("test", 8, 3) }],
    others: [{ name: "general", file: rows("general", 8, 4) }],
    methods: [
      { name: "esft", method: { type: "esft", p: 0.4 }, lr: [0.001, 0.01] },
      { name: "lora", method: { type: "lora", rank: 2 }, lr: [0.001, 0.01] },
    ],
    seeds: [1, 2],
    steps: 6,
    rowsPerStep: 4,
    saveEvery: 2,
    data: { maxLength: 64 },
    profile: { tokens: 500 },
    evaluation: { answers: { metrics: "exact", maxTokens: 3, rows: 3 } },
    device: "cpu",
    threads: 1,
  };
  return { plan, at };
}

export function writePlan(file: string, plan: PlanInput): string {
  writeFileSync(file, JSON.stringify(plan));
  return file;
}
