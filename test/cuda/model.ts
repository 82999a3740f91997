// Whole models on the device "cuda", for the tests that train them.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent } from "../../lib/index.ts";
import type { LoadOptions } from "../../lib/moe_model.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { cudaLibrary, withCuda } from "./support.ts";

/** Emulation runs a thread at a time. */
export const patience = 600_000;

/** withCuda, for tests that need the device and not only its ops. */
export const withCudaModel = (name: string, body: () => void): void => (cudaLibrary === "ref" ? undefined : withCuda(name, body));

/** A folder with a tiny checkpoint in `model`, removed after the file's tests. */
export function tinyCheckpoint(options: { dtype?: "bf16" | "f32" } = {}): (name: string) => string {
  let root = "";
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), "esft-cuda-"));
    await writeTinyModel(join(root, "model"), tinyDeepseek, options);
  });
  afterAll(() => rm(root, { recursive: true, force: true }));
  return (name) => join(root, name);
}

export const open = (dir: string, options: LoadOptions = {}): Promise<MoeModel> =>
  MoeModel.fromPretrained(dir, { device: "cuda", ...options });

export const experts = new ExpertSet({
  layers: [
    [1, { ranked: [0, 3] }],
    [2, { ranked: [5] }],
  ],
});

/** A short ESFT run; @returns its events */
export async function train(model: MoeModel, outDir: string, more: Partial<TrainRequest> = {}): Promise<TrainEvent[]> {
  const run = model.train({
    data: { rows: Dataset.fromRows(toyRows(24)), maxLength: 32 },
    method: { type: "esft", experts },
    outDir,
    steps: 4,
    rowsPerStep: 2,
    evalEvery: 0,
    evalFraction: 0.1,
    keep: "last",
    optimizer: { lr: 5e-3 },
    ...more,
  });
  const events: TrainEvent[] = [];
  for await (const event of run) events.push(event);
  await run.result;
  return events;
}

export const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
