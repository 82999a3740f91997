// Kinds of attention beyond those of the tiny models, by what they must equal: chunks are documents of their own at the positions that
// they have, values from the keys' projection are those of one with the same weight, long documents have tables of their own. No GPU. Run alone: npx vitest run test/model/attention_variants.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { chunkStarts, hostBatch } from "../../lib/model/batch.ts";
import type { BatchRow } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { HeadsAttentionSpec, ModelSpec } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { Device } from "../../lib/tensor.ts";
import { tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";

const base = modelSpec(tinyOlmoe, "config.json");
/** The model with another attention in the layers of which `change` says so. */
const changed = (change: (a: HeadsAttentionSpec, l: number) => HeadsAttentionSpec): ModelSpec => ({
  ...base,
  layers: base.layers.map((layer, l) => {
    if (layer.attention.kind !== "heads") throw new Error("grouped heads expected");
    return { ...layer, attention: change(layer.attention, l) };
  }),
});
const row = (length: number, docs: readonly number[]): BatchRow => {
  const ids = Int32Array.from({ length }, (_, t) => (t * 131 + 7) % 2048);
  const docStart = ids.map((_, t) => Math.max(...docs.filter((d) => d <= t)));
  return { ids, targets: ids.map((x) => (x + 1) % 2048), docStart };
};

let dir: string;
let device: Device;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "esft-attention-"));
  await writeTinyModel(dir, tinyOlmoe, { tokenizer: false });
  device = new Device({ kind: "cpu", threads: 2 });
});
afterAll(async () => {
  device.dispose();
  await rm(dir, { recursive: true, force: true });
});

/** Loss and every gradient of one step. */
async function step(spec: ModelSpec, rows: readonly BatchRow[]): Promise<Map<string, Buffer>> {
  const params = await Parameters.load(device, spec, await openCheckpoint(dir));
  const model = new Transformer(spec, device, params);
  try {
    const state = model.train({ keys: fullTrainable(spec).keys });
    const host = hostBatch(rows);
    model.resetLoss();
    model.forwardBackward(host, 1 / host.supervised);
    const out = new Map<string, Buffer>();
    for (const p of state.parameters) out.set(p.key, Buffer.from((await p.grad!.readF32()).buffer));
    out.set("loss", Buffer.from(Float64Array.of((await model.readLoss()).loss).buffer));
    return out;
  } finally {
    model.dispose();
    params.dispose();
  }
}
function expectSame(got: ReadonlyMap<string, Buffer>, want: ReadonlyMap<string, Buffer>): void {
  expect([...got.keys()]).toEqual([...want.keys()]);
  for (const [key, bytes] of got) expect(Buffer.compare(bytes, want.get(key)!), key).toBe(0);
}

describe("chunks", () => {
  it("begin anew with each document", () => {
    expect([...chunkStarts(Int32Array.of(0, 0, 0, 3, 3, 3, 3, 3, 8), 2)]).toEqual([0, 0, 2, 3, 3, 5, 5, 7, 8]);
    expect([...chunkStarts(Int32Array.of(0, 0, 2, 2), 1)]).toEqual([0, 1, 2, 3]);
    expect([...chunkStarts(Int32Array.of(0, 0, 2, 2), 2 ** 31)]).toEqual([0, 0, 2, 2]);
  });

  const packed = row(57, [0, 1, 20]);
  const start = Int32Array.from(packed.docStart!);
  const positions = start.map((s, t) => t - s);

  it("are documents at other positions, bit for bit", async () => {
    const got = await step(
      changed((a) => ({ ...a, chunk: 8 })),
      [packed],
    );
    expectSame(got, await step(base, [{ ...packed, docStart: chunkStarts(start, 8), positions }]));
    expect(Buffer.compare(got.get("loss")!, (await step(base, [packed])).get("loss")!)).not.toBe(0);
  });

  it("wider than every document change nothing", async () => {
    expectSame(
      await step(
        changed((a) => ({ ...a, chunk: 37 })),
        [packed],
      ),
      await step(base, [packed]),
    );
  });

  it("of several sizes, in some of the layers, mean the same for documents packed and in rows of their own", async () => {
    const spec = changed((a, l) => (l === 0 ? { ...a, chunk: 8 } : l === 1 ? { ...a, chunk: 5, window: 3 } : a));
    const ends = [1, 20, 57];
    const apart = [0, 1, 20].map((begin, i): BatchRow => {
      const part = (values: ArrayLike<number>): number[] => Array.from(values).slice(begin, ends[i]);
      return { ids: part(packed.ids), targets: part(packed.targets) };
    });
    expectSame(await step(spec, [packed]), await step(spec, apart));
  });
});

describe("rotary tables by the length of a document", () => {
  const packed = row(57, [0, 1, 20]); // documents of 1, 19 and 37 tokens
  const rotated = (scale: number, factor: number): ModelSpec =>
    changed((a) => ({ ...a, rope: { ...a.rope!, inverseFrequencies: a.rope!.inverseFrequencies.map((f) => f / scale), factor } }));
  const both = changed((a) => ({
    ...a,
    rope: { ...a.rope!, beyond: { length: 19, inverseFrequencies: a.rope!.inverseFrequencies.map((f) => f / 3), factor: 1.25 } },
  }));
  const part = (from: number, to: number): BatchRow => {
    const of = (values: ArrayLike<number>): number[] => Array.from(values).slice(from, to);
    return { ids: of(packed.ids), targets: of(packed.targets) };
  };

  it("are those of the document alone, packed or not", async () => {
    expectSame(await step(both, [packed]), await step(both, [part(0, 1), part(1, 20), part(20, 57)]));
  });

  it("are the first ones up to the length and the others beyond, bit for bit", async () => {
    expectSame(await step(both, [part(0, 1), part(1, 20)]), await step(base, [part(0, 1), part(1, 20)]));
    expectSame(await step(both, [part(20, 57)]), await step(rotated(3, 1.25), [part(20, 57)]));
  });
});

describe("values from the projection of the keys", () => {
  const normed = (a: HeadsAttentionSpec): HeadsAttentionSpec => ({ ...a, vNorm: a.kNorm! });
  const norms = (a: HeadsAttentionSpec, size: number): HeadsAttentionSpec => {
    const of = (norm: HeadsAttentionSpec["kNorm"]) => ({ ...norm!, weight: { ...norm!.weight!, rows: [0, size] as const }, size });
    return { ...a, kNorm: of(a.kNorm), vNorm: of(a.kNorm) };
  };

  it.each([
    ["a norm of all heads", normed],
    ["a norm of each head", (a: HeadsAttentionSpec) => norms(a, a.headDim)],
  ])("give what a projection of the same weight gives: %s", async (_name, change) => {
    const rows = [row(40, [0, 13])];
    const got = await step(
      changed((a) => ({ ...change(a), v: "with k" })),
      rows,
    );
    const want = await step(
      changed((a) => ({ ...change(a), v: a.k })),
      rows,
    );
    expect([...got.keys()]).toEqual([...want.keys()]);
    const floats = (b: Buffer): Float32Array => new Float32Array(b.buffer, b.byteOffset, b.length / 4);
    for (const [key, bytes] of got) {
      if (key === "loss") continue;
      const [x, y] = [floats(bytes), floats(want.get(key)!)];
      const far = Math.hypot(...x.map((v, i) => v - y[i]!)) / Math.hypot(...y);
      expect(far, key).toBeLessThan(2e-6);
    }
  });
});
