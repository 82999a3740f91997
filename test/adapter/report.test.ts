// What verifyMerge reports, number by number, of a checkpoint made by hand; and how it and the merge tell how far they are, and stop.
// No GPU. Run alone: npx vitest run test/adapter/report.test.ts
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import type { AdapterTensor } from "../../lib/adapter/tensors.ts";
import { verifyMerge } from "../../lib/adapter/verify_merge.ts";
import { AbortError, LayoutError } from "../../lib/errors.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { encodeFloats } from "../../lib/files/floats.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import type { ParameterPlace } from "../../lib/model/spec.ts";
import type { Progress } from "../../lib/task.ts";
import { fresh, makeAdapter, makeBase } from "./support.ts";

const f32 = (...values: number[]) => encodeFloats(Float32Array.from(values), "F32");
const F32 = "F32" as const;
/** In file order: experts 10 and 2, one that is not changed, a bias, and a table of which the second row trains. */
const weights = [
  { name: "x10", dtype: F32, shape: [3], data: f32(3, 4, 12) },
  { name: "x2", dtype: F32, shape: [1], data: f32(1) },
  { name: "x3", dtype: F32, shape: [1], data: f32(7) },
  { name: "bias", dtype: F32, shape: [1], data: f32(1) },
  { name: "table", dtype: F32, shape: [4, 2], data: f32(1, 2, 3, 4, 5, 6, 7, 8) },
];
const trained = (name: string, place: ParameterPlace, values: number[], rows?: [number, number]): AdapterTensor => {
  const shape = rows ? [rows[1] - rows[0], values.length] : [values.length];
  return { name, ...(rows ? { rows } : {}), ...place, dtype: F32, shape, read: async () => f32(...values) };
};
const tensors = [
  trained("x10", { role: "expert", layer: 1, expert: 10, part: "up" }, [0, 4, 13]),
  trained("x2", { role: "expert", layer: 1, expert: 2, part: "up" }, [-1]),
  trained("x3", { role: "expert", layer: 2, expert: 3, part: "up" }, [7]),
  trained("bias", { role: "norm", layer: 3 }, [2]),
  trained("table", { role: "embedding", layer: -1 }, [3, 5], [1, 2]),
];
const adapter = new Adapter({ method: { type: "full" }, base: { identity: null }, experts: null, tensors });

let base: Checkpoint;
let out: string;
beforeAll(async () => {
  const dir = fresh();
  writeFileSync(join(dir, "config.json"), "{}");
  await writeSafetensors(join(dir, "model.safetensors"), weights);
  base = await openCheckpoint(dir);
  out = join(fresh(), "m");
  await mergeAdapter(base, adapter, out);
});

describe("a report", () => {
  it("says of each slice how far it moved, and which experts changed, in ascending order", async () => {
    const slice = (key: string, elements: number, changed: number, deltaNorm: number, baseNorm: number, maxAbs: number) => {
      return { key, elements, changed, deltaNorm, baseNorm, maxAbs };
    };
    expect(await verifyMerge(base, adapter, out)).toEqual({
      ok: true,
      mismatches: [],
      tensors: 5,
      untouched: 0,
      bytesCompared: 56,
      slices: [
        slice("x10", 3, 2, Math.sqrt(10), 13, 3),
        slice("x2", 1, 1, 2, 1, 2),
        slice("x3", 1, 0, 0, 7, 0),
        slice("bias", 1, 1, 1, 1, 1),
        slice("table[1:2]", 2, 1, 1, 5, 1),
      ],
      changedExperts: { 1: [2, 10] },
    });
  });

  it("comes with progress after every range, frozen ones of a tensor first", async () => {
    const seen: Progress[] = [];
    await verifyMerge(base, adapter, out, { onProgress: (p) => seen.push(p) });
    expect(seen).toEqual([12, 16, 20, 24, 32, 48, 56].map((done) => ({ phase: "verify", done, total: 56, unit: "bytes" })));
  });

  it.each([12, 32])("stops after %i bytes when it is aborted there", async (after) => {
    const stop = new AbortController();
    let last = 0;
    const run = verifyMerge(base, adapter, out, {
      signal: stop.signal,
      onProgress: ({ done }) => {
        last = done;
        if (done === after) stop.abort();
      },
    });
    await expect(run).rejects.toThrow(new AbortError(`verifying ${out} was aborted`));
    expect(last).toBe(after);
  });
});

describe("a merge", () => {
  it("tells how far it is, over all shards, then how far its verification is", async () => {
    const sharded = await makeBase({ shards: 3 });
    const seen: Progress[] = [];
    await mergeAdapter(sharded, await makeAdapter(sharded), join(fresh(), "m"), { onProgress: (p) => seen.push(p) });
    expect([...new Set(seen.map((p) => `${p.phase}, ${p.unit}`))]).toEqual(["hash, bytes", "merge, bytes", "verify, bytes"]);
    const written = seen.filter((p) => p.phase === "merge");
    const total = sharded.shards.reduce((n, { size }) => n + size, 0);
    expect(new Set(written.map((p) => p.total))).toEqual(new Set([total]));
    const done = written.map((p) => p.done);
    expect(done).toEqual([...new Set(done)].sort((a, b) => a - b));
    expect(done[0]).toBeGreaterThan(0);
    expect(done.at(-1)).toBe(total);
  });

  it("with overwrite needs nothing to overwrite", async () => {
    const absent = join(fresh(), "m");
    expect((await mergeAdapter(base, adapter, absent, { overwrite: true })).ok).toBe(true);
    expect((await mergeAdapter(base, adapter, fresh(), { overwrite: true })).ok).toBe(true);
  });

  it("that does not verify leaves nothing behind", async () => {
    let reads = 0;
    const fickle = adapter.with({ tensors: [{ ...tensors[3]!, read: async () => f32(reads++) }, ...tensors.slice(0, 3)] });
    const parent = fresh();
    const run = mergeAdapter(base, fickle, join(parent, "m"));
    await expect(run).rejects.toThrow(/m: the merged model does not verify and was discarded: tensor "bias" differs from the adapter$/);
    await expect(run).rejects.toThrow(LayoutError);
    expect(readdirSync(parent)).toEqual([]);
  });

  it("names what it may not do", async () => {
    await expect(mergeAdapter(base, adapter, base.dir)).rejects.toMatchObject({
      code: "ERR_CONFIG",
      where: { key: "output" },
      message: expect.stringContaining("is the folder of the base;") as string,
    });
  });
});
