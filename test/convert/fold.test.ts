// What an adapter attached, folded into weights: base + LoRA computes what the merged model computes, merging verifies, and methods that
// cannot be merged say why. No GPU. Run alone: npx vitest run test/convert/fold.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { foldAdapter } from "../../lib/convert/fold.ts";
import { mergeAdapter, verifyMerge } from "../../lib/convert/merge.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { checkMergedLogits } from "../../lib/logits_check.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { MoeModel } from "../../lib/moe_model.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
const at = (name: string): string => join(root, name);
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-fold-"));
  await writeTinyModel(at("f32"), tinyDeepseek, { dtype: "f32" });
  await writeTinyModel(at("bf16"), tinyDeepseek);
});
afterAll(() => rm(root, { recursive: true, force: true }));

async function trained(model: string, name: string, method: object): Promise<Adapter> {
  await using base = await MoeModel.fromPretrained(at(model), { device: "cpu" });
  const run = base.train({
    data: { rows: Dataset.fromRows(toyRows(24)), maxLength: 32 },
    method: method as TrainRequest["method"],
    outDir: at(name),
    steps: 4,
    rowsPerStep: 4,
    evalFraction: 0,
    keep: "last",
    optimizer: { lr: 5e-2 },
  });
  return (await run.result).adapter!;
}

const rows = hostBatch([{ ids: Array.from({ length: 24 }, (_, t) => (t * 37) % 500), targets: Array.from({ length: 24 }, () => -100) }]);
async function logits(dir: string, adapter?: string): Promise<Float32Array> {
  await using model = await MoeModel.fromPretrained(dir, { device: "cpu", ...(adapter === undefined ? {} : { adapter }) });
  using out = model.transformer.logits(rows);
  return out.readF32();
}
const distance = (a: Float32Array, b: Float32Array): number => Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));

const selected = new ExpertSet({ layers: [[1, { ranked: [5, 0] }], [2, { ranked: [7] }]] }); // prettier-ignore

describe.each([
  ["all-linear", { type: "lora", rank: 4, targets: "all-linear" }],
  ["head", { type: "lora", rank: 4, targets: ["head", "attention"] }],
  ["fused", { type: "lora", rank: 3, targets: ["experts"], expertTerms: "fused" }],
  ["selected", { type: "lora", rank: 4, targets: ["experts", "attention"], experts: selected, ranks: { down_proj: 2 }, rslora: true }],
] as const)("LoRA %s", (name, method) => {
  it("merged in f32 it computes what it computes beside the base", async () => {
    const adapter = await trained("f32", `${name}-f32`, method);
    const base = await openCheckpoint(at("f32"));
    const report = await mergeAdapter(base, adapter, at(`${name}-merged`));
    expect(report.ok).toBe(true);
    const [before, beside, merged] = [
      await logits(at("f32")),
      await logits(at("f32"), at(`${name}-f32`)),
      await logits(at(`${name}-merged`)),
    ];
    expect(distance(before, beside)).toBeGreaterThan(0.05);
    expect(distance(beside, merged)).toBeLessThan(2e-5);
    const again = await verifyMerge(base, await Adapter.load(at(`${name}-f32`)), at(`${name}-merged`));
    expect([again.ok, again.slices.length]).toEqual([true, report.slices.length]);
    expect(Object.values(report.changedExperts).flat()).toHaveLength(name === "selected" ? 3 : name === "head" ? 0 : 16);
  });

  it("merged into bf16 it is base + term, rounded once", async () => {
    const adapter = await trained("bf16", `${name}-bf16`, method);
    const base = await openCheckpoint(at("bf16"));
    await mergeAdapter(base, adapter, at(`${name}-merged16`));
    expect(await checkMergedLogits(at("bf16"), foldAdapter(base, adapter), at(`${name}-merged16`))).toMatchObject({
      ok: true,
      different: 0,
    });
    const [before, beside, merged] = [
      await logits(at("bf16")),
      await logits(at("bf16"), at(`${name}-bf16`)),
      await logits(at(`${name}-merged16`)),
    ];
    expect(distance(beside, merged)).toBeLessThan(distance(before, beside) / 5);
  });
});

it("an adapter that attaches nothing stays as it is", async () => {
  const adapter = await trained("bf16", "esft", { type: "esft", experts: selected });
  expect(foldAdapter(await openCheckpoint(at("bf16")), adapter)).toBe(adapter);
});

it.each([
  ["R", /variant R, cannot be merged: its adapters have a router of their own/],
  ["E", /variant E, cannot be merged: an adapter is a linear map beside a gated expert/],
  ["D", /variant D, cannot be merged: its adapters are a linear map beside the whole block/],
  ["S", /variant S, cannot be merged/],
])("PERFT-%s is refused with the reason", async (variant, message) => {
  const adapter = await trained("bf16", `perft-${variant}`, { type: "perft", variant, rank: 2 });
  const base = await openCheckpoint(at("bf16"));
  await expect(mergeAdapter(base, adapter, at("nothing"))).rejects.toThrow(message);
  await expect(mergeAdapter(base, adapter, at("nothing"))).rejects.toMatchObject({ code: "ERR_LAYOUT" });
});
