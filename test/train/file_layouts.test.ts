// Experts whose file has gate and up mixed and turned ([E, D, 2F], [E, F, D]): trained, saved, applied, merged; the file's layout is
// kept everywhere. No GPU. Run alone: npx vitest run test/train/file_layouts.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset, ExpertSet, mergeAdapter, MoeModel, openCheckpoint, verifyMerge } from "../../lib/index.ts";
import { Adapter } from "../../lib/adapter/adapter.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { toyRows, writeTinyModel } from "../support/tiny_model.ts";

const config = {
  model_type: "llama4_text",
  hidden_size: 40,
  head_dim: 16,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 24,
  intermediate_size_mlp: 48,
  num_local_experts: 5,
  num_experts_per_tok: 2,
  attention_chunk_size: 16,
  max_position_embeddings: 256,
  vocab_size: 2048,
  bos_token_id: 1,
  eos_token_id: 2,
};
const [D, F] = [40, 24];
const at = "model.layers.1.feed_forward.experts";
const selected = [1, 4];

describe.each(["f32", "bf16"] as const)("experts with gate and up mixed, %s", (dtype) => {
  let folder: string;
  let base: Checkpoint;
  let trained: number;
  const dir = (name: string): string => path.join(folder, name);
  const rows = Dataset.fromRows(toyRows(12));
  const loss = async (model: MoeModel): Promise<number> => (await model.evaluate(rows, { maxLength: 64 })).loss;
  const open = (name: string, adapter?: string): Promise<MoeModel> =>
    MoeModel.fromPretrained(dir(name), { device: "cpu", threads: 2, ...(adapter === undefined ? {} : { adapter }) });

  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), "esft-layouts-"));
    await writeTinyModel(dir("base"), config, { dtype });
    base = await openCheckpoint(dir("base"));
    await using model = await open("base");
    const experts = new ExpertSet({ layers: [[1, { ranked: selected }]] });
    await model.train({ data: { rows, maxLength: 64 }, method: { type: "esft", experts }, outDir: dir("run"), rowsPerStep: 4, steps: 3, evalEvery: 0, optimizer: { lr: 0.01 } }).result; // prettier-ignore
    trained = await loss(model); // of the base again
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("are saved as their file has them", async () => {
    const adapter = await Adapter.load(dir("run"), { base });
    expect([...adapter.tensors].map(([key, t]) => [key, t.part, t.shape])).toEqual(
      selected
        .flatMap((e) => [
          [`${at}.down_proj[${e}]`, "down", [F, D]],
          [`${at}.gate_up_proj[${e}]`, "gateUp", [D, 2 * F]],
        ])
        .sort(([a], [b]) => (a! < b! ? -1 : 1)),
    );
  });

  it("applied, and merged, give the model that was trained", async () => {
    const adapter = await Adapter.load(dir("run"), { base });
    await mergeAdapter(base, adapter, dir("merged"));
    expect(await verifyMerge(base, adapter, dir("merged"))).toMatchObject({ ok: true, changedExperts: { 1: selected } });
    await using applied = await open("base", dir("run"));
    await using merged = await open("merged");
    const of = await loss(applied);
    expect(of).toBeLessThan(trained);
    // What a merge rounds to the base's bf16, an adapter of that dtype has rounded already.
    expect(await loss(merged)).toBe(of);
    applied.removeAdapter();
    expect(await loss(applied)).toBe(trained);
  });

  it("lie transposed: what changed in the merged file are whole experts", async () => {
    const merged = await openCheckpoint(dir("merged"));
    for (const part of ["gate_up_proj", "down_proj"]) {
      const [before, after] = [await base.read(`${at}.${part}`), await merged.read(`${at}.${part}`)];
      const bytes = before.byteLength / config.num_local_experts;
      const changed = Array.from({ length: config.num_local_experts }, (_, e) => e).filter(
        (e) => Buffer.compare(before.subarray(e * bytes, (e + 1) * bytes), after.subarray(e * bytes, (e + 1) * bytes)) !== 0,
      );
      expect(changed).toEqual(selected);
    }
  });
});
