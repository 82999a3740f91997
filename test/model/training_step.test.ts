// Gradients of a step, beyond the golden numbers: compact = dense, micro-batches = one batch, packed = unpacked, nothing below
// the lowest trained layer, bit-identical on any number of threads. No GPU.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import type { BatchRow } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { moeOf } from "../../lib/model/spec.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Device } from "../../lib/tensor.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { normals, tinyDeepseek, tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";

const expertKeys = (spec: ModelSpec, layer: number, ids: number[]): string[] =>
  ids.flatMap((e) => Object.values(moeOf(spec, layer)!.experts[e]!).map((ref) => sliceKey(ref)));

function randomRows(count: number, length: number, seed: number): BatchRow[] {
  const normal = normals(seed);
  return Array.from({ length: count }, (_, r) => {
    const n = length - r;
    const ids = Int32Array.from({ length: n }, () => Math.floor(Math.abs(normal()) * 500) % 2048);
    const targets = Int32Array.from({ length: n }, (_, t) => (t + 1 < n && (t + r) % 3 !== 0 ? ids[t + 1]! : -100));
    return { ids, targets };
  });
}

describe.each([
  ["olmoe", tinyOlmoe, 1],
  ["deepseek_v2", tinyDeepseek, 2],
] as const)("%s", (name, config, layer) => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), "esft-step-"));
    await writeTinyModel(dir, config, { tokenizer: false });
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  async function gradients(
    keys: (spec: ModelSpec) => Iterable<string>,
    batches: readonly (readonly BatchRow[])[],
    threads = 2,
  ): Promise<Map<string, Float32Array>> {
    const device = new Device({ kind: "cpu", threads });
    const checkpoint = await openCheckpoint(dir);
    const spec = modelSpec(checkpoint.config, dir);
    const params = await Parameters.load(device, spec, checkpoint);
    const model = new Transformer(spec, device, params);
    const state = params.train(keys(spec));
    const supervised = batches.flat().reduce((n, r) => n + Array.from(r.targets).filter((t) => t >= 0).length, 0);
    model.resetLoss();
    for (const rows of batches) model.forwardBackward(hostBatch(rows), 1 / supervised);
    const out = new Map<string, Float32Array>();
    for (const p of state.parameters) out.set(p.key, await p.grad!.readF32());
    out.set("loss", Float32Array.of((await model.readLoss()).loss));
    model.dispose();
    params.dispose();
    device.dispose();
    return out;
  }
  const close = (a: Float32Array, b: Float32Array): number => {
    const norm = Math.hypot(...b);
    return Math.hypot(...a.map((x, i) => x - b[i]!)) / (norm || 1);
  };

  it("the gradient of selected experts is the one full fine-tuning computes, bit for bit", async () => {
    const rows = [randomRows(3, 40, 7)];
    const full = await gradients((spec) => fullTrainable(spec).keys, rows);
    const some = await gradients((spec) => expertKeys(spec, layer, [0, 2, 5]), rows);
    for (const [key, grad] of some) expect(Buffer.compare(Buffer.from(grad.buffer), Buffer.from(full.get(key)!.buffer)), key).toBe(0);
    expect(some.size).toBe(10);
    expect([...some.values()].some((g) => g.some((x) => x !== 0))).toBe(true);
  });

  it("micro-batches of unequal token counts add up to the whole batch", async () => {
    const rows = randomRows(4, 37, 3);
    const whole = await gradients((spec) => fullTrainable(spec).keys, [rows]);
    const parts = await gradients((spec) => fullTrainable(spec).keys, [rows.slice(0, 1), rows.slice(1)]);
    for (const [key, grad] of parts) expect(close(grad, whole.get(key)!), key).toBeLessThan(5e-6);
  });

  it("documents packed into one row give the same gradients as rows of their own", async () => {
    const rows = randomRows(3, 29, 5);
    const apart = await gradients((spec) => fullTrainable(spec).keys, [rows]);
    const ids = rows.flatMap((r) => Array.from(r.ids));
    const starts = rows.flatMap((r, i) => Array.from(r.ids, () => rows.slice(0, i).reduce((n, x) => n + x.ids.length, 0)));
    const packed: BatchRow = { ids, targets: rows.flatMap((r) => Array.from(r.targets)), docStart: starts };
    const together = await gradients((spec) => fullTrainable(spec).keys, [[packed]]);
    for (const [key, grad] of together) expect(Buffer.compare(Buffer.from(grad.buffer), Buffer.from(apart.get(key)!.buffer)), key).toBe(0);
  });

  it("1, 2 and 3 threads give the same bits", async () => {
    const rows = [randomRows(5, 60, 11)];
    const one = await gradients((spec) => fullTrainable(spec).keys, rows, 1);
    for (const threads of [2, 3]) {
      const more = await gradients((spec) => fullTrainable(spec).keys, rows, threads);
      for (const [key, grad] of more)
        expect(Buffer.compare(Buffer.from(grad.buffer), Buffer.from(one.get(key)!.buffer)), `${key}, ${threads} threads`).toBe(0);
    }
  });

  it(`${name}: keeps no activations below the lowest trained layer`, async () => {
    const device = new Device({ kind: "cpu", threads: 1 });
    const checkpoint = await openCheckpoint(dir);
    const spec = modelSpec(checkpoint.config, dir);
    const params = await Parameters.load(device, spec, checkpoint);
    const model = new Transformer(spec, device, params);
    params.train(expertKeys(spec, layer, [1]));
    const saved = new Set(
      model
        .describePlan(true)
        .table(64)
        .filter((row) => row.lifetime === "kept" && row.owner !== "model")
        .map((row) => row.owner),
    );
    expect([...saved]).toEqual([`layer ${layer}`]);
    model.dispose();
    params.dispose();
    device.dispose();
  });
});
