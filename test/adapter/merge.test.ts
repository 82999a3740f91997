// Merge and its verification, the frozen digest and the slices that both rest on, on tiny checkpoints. No GPU.
// Run alone: npx vitest run test/adapter/merge.test.ts
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { AbortError, ConfigError, LayoutError, NonFiniteError } from "../../lib/errors.ts";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { frozenDigest } from "../../lib/adapter/digest.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import { verifyMerge } from "../../lib/adapter/verify_merge.ts";
import type { TensorSlice } from "../../lib/files/slice.ts";
import { placeSlice, sliceKey } from "../../lib/files/slice.ts";
import { createHash } from "node:crypto";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { encodeFloats } from "../../lib/files/floats.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import type { TensorEntry } from "../../lib/files/safetensors_writer.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import type { Progress } from "../../lib/task.ts";
import { floats } from "../support/fixture.ts";
import { fresh, makeAdapter, makeBase, makeTensors } from "./support.ts";

afterEach(() => vi.restoreAllMocks());

describe("verifyMerge", () => {
  /** A merge, and its file written again with other tensors. */
  async function rewritten(edit: (t: TensorEntry) => TensorEntry[]) {
    const base = await makeBase({ dtype: "F32" });
    const adapter = await makeAdapter(base);
    const out = join(fresh(), "merged");
    await mergeAdapter(base, adapter, out);
    const merged = await openSafetensors(join(out, "model.safetensors"));
    const entries = await Promise.all([...merged.tensors.values()].map(async (t) => ({ ...t, data: await merged.read(t.name) })));
    await writeSafetensors(join(out, "model.safetensors"), entries.flatMap(edit));
    return verifyMerge(base, adapter, out);
  }
  const at = "model.embed_tokens.weight";
  const only = (change: (t: TensorEntry) => TensorEntry[]) => (t: TensorEntry) => (t.name === at ? change(t) : [t]);

  it("accepts no tensor more, less, or of another type", async () => {
    const same = await rewritten((t) => [t]);
    expect(same).toMatchObject({ ok: true, mismatches: [] });
    const extra = await rewritten(only((t) => [t, { ...t, name: "stowaway" }]));
    expect(extra).toMatchObject({ ok: false, mismatches: ['tensor "stowaway" is not in the base'] });
    const missing = await rewritten(only(() => []));
    expect(missing).toMatchObject({
      ok: false,
      mismatches: [`tensor "${at}": expected F32 [10, 8] in model.safetensors, found no such tensor`],
    });
    const shape = await rewritten(only((t) => [{ ...t, shape: [8, 10] }]));
    expect(shape).toMatchObject({
      ok: false,
      mismatches: [expect.stringContaining("expected F32 [10, 8] in model.safetensors, found F32 [8, 10]")],
    });
    const dtype = await rewritten(only((t) => [{ ...t, dtype: "I32" }]));
    expect(dtype).toMatchObject({ ok: false, mismatches: [expect.stringContaining("found I32 [10, 8]")] });
    expect([same.tensors, extra.tensors, missing.untouched]).toEqual([same.tensors, same.tensors, same.untouched - 1]);
  });

  it("compares what lies behind the first eight MiB of a tensor too, and reports at most a hundred faults", async () => {
    const shape = [24, 2 ** 17]; // 12 MiB of f32
    const dir = fresh();
    const values = floats(shape[0]! * shape[1]!, 5);
    const many = Array.from({ length: 120 }, (_, i) => ({
      name: `x${i}`,
      dtype: "F32" as const,
      shape: [1],
      data: encodeFloats(floats(1, i), "F32"),
    }));
    const big = { name: "big", dtype: "F32" as const, shape, data: encodeFloats(values, "F32") };
    const trained = { name: "t", dtype: "F32" as const, shape: [2, 4], data: encodeFloats(floats(8, 3), "F32") };
    writeFileSync(join(dir, "config.json"), "{}");
    await writeSafetensors(join(dir, "model.safetensors"), [big, ...many, trained]);
    const base = await openCheckpoint(dir);
    const bytes = encodeFloats(floats(4, 9), "F32");
    const tensors = [
      { name: "t", rows: [1, 2] as const, role: "norm" as const, layer: 0, dtype: "F32" as const, shape: [1, 4], read: async () => bytes },
    ];
    const adapter = new Adapter({ method: { type: "full" }, base: { identity: null }, experts: null, tensors });
    const out = join(fresh(), "m");
    expect(await mergeAdapter(base, adapter, out)).toMatchObject({ ok: true, untouched: 121, bytesCompared: base.totalBytes });
    const path = join(out, "model.safetensors");
    const file = readFileSync(path);
    const { begin, end } = (await openCheckpoint(out)).tensors.get("big")!;
    file[end - 1]! ^= 1;
    writeFileSync(path, file);
    const step = 8 * 2 ** 20;
    expect((await verifyMerge(base, adapter, out)).mismatches).toEqual([
      `tensor "big": bytes ${step} to ${end - begin} differ from the base although they are frozen`,
    ]);
    for (const t of (await openCheckpoint(out)).tensors.values()) file[t.begin]! ^= 1;
    writeFileSync(path, file);
    const { mismatches } = await verifyMerge(base, adapter, out);
    expect(mismatches).toHaveLength(100);
  });
});

describe("frozenDigest", () => {
  const source = (values: Record<string, number[]>, dtype: "F32" | "I32" = "F32") => ({
    tensors: new Map(Object.entries(values).map(([name, v]) => [name, { dtype, shape: [v.length / 2, 2] }])),
    async *chunks(name: string) {
      const bytes = new Uint8Array(Float32Array.from(values[name]!).buffer);
      for (let at = 0; at < bytes.length; at += 5) yield bytes.subarray(at, at + 5);
    },
  });
  const rows = (name: string, a: number, b: number): TensorSlice => ({ name, rows: [a, b] });
  const ones = { a: [1, 1, 1, 1, 1, 1], b: [1, 1] };

  it("says which ranges are frozen, and not only their bytes", async () => {
    const digests = await Promise.all(
      [[], [rows("a", 0, 1)], [rows("a", 1, 2)], [rows("a", 2, 3)], [rows("a", 0, 2)], [rows("a", 0, 3)], [rows("b", 0, 1)]].map((t) =>
        frozenDigest(source(ones), t),
      ),
    );
    expect(new Set(digests).size).toBe(digests.length);
    const other = await Promise.all([
      frozenDigest(source({ ...ones, a: [1, 1, 1, 1] }), []),
      frozenDigest(source(ones, "I32"), []),
      frozenDigest(source({ a: ones.a, c: ones.b }), []),
    ]);
    for (const d of other) expect(digests).not.toContain(d);
  });

  it("is the sha256 of a line and the frozen bytes of each tensor, by name", async () => {
    const s = source({ b: [5, 6], a: [1, 2, 3, 4] });
    const hash = createHash("sha256");
    hash.update('["a","F32",[2,2],[[0,8]]]\n').update(new Uint8Array(Float32Array.of(1, 2).buffer));
    hash.update('["b","F32",[1,2],[[0,8]]]\n').update(new Uint8Array(Float32Array.of(5, 6).buffer));
    const seen: Progress[] = [];
    expect(await frozenDigest(s, [rows("a", 1, 2)], { onProgress: (p) => seen.push(p) })).toBe(hash.digest("hex"));
    const done = [5, 8, 8, 8, 13, 16]; // 16 bytes of "a", of which 8 are frozen, and 8 of "b", five at a time
    expect(seen).toEqual(done.map((n) => ({ phase: "digest", done: n, total: 16, unit: "bytes" })));
    seen.length = 0;
    await frozenDigest(s, [rows("a", 0, 1), rows("b", 0, 1)], { onProgress: (p) => seen.push(p) });
    expect(seen.map((p) => `${p.done}/${p.total}`)).toEqual(["0/8", "2/8", "7/8", "8/8"]); // "b" trains: it is not read
    await expect(frozenDigest(s, [rows("x", 0, 1)])).rejects.toThrow(LayoutError);
    const aborted = frozenDigest(s, [], { signal: AbortSignal.abort() });
    await expect(aborted).rejects.toThrow(new AbortError("hashing the frozen weights was aborted"));
  });
});

describe("merge refuses", () => {
  it("another base, the base itself, a full folder, foreign folders, quantised bases, overflow, an abort", async () => {
    const base = await makeBase();
    const adapter = await makeAdapter(base);
    await expect(mergeAdapter(await makeBase({ seed: 4 }), adapter, join(fresh(), "m"))).rejects.toThrow(/another base/);
    await expect(mergeAdapter(base, adapter, base.dir, { overwrite: true })).rejects.toThrow(ConfigError);
    const taken = fresh();
    writeFileSync(join(taken, "thesis.tex"), "");
    await expect(mergeAdapter(base, adapter, taken)).rejects.toThrow(/not empty/);
    await expect(mergeAdapter(base, adapter, taken, { overwrite: true })).rejects.toThrow(ConfigError);
    expect(readdirSync(taken)).toEqual(["thesis.tex"]);

    const half = await makeBase({ dtype: "F16" });
    const huge = (await makeTensors(half)).map((t) => ({
      ...t,
      read: async () => encodeFloats(new Float32Array(t.shape.reduce((a, b) => a * b, 1)).fill(1e6), "F32"),
    }));
    const out = join(fresh(), "m");
    await expect(mergeAdapter(half, await makeAdapter(half, { tensors: huge }), out)).rejects.toThrow(NonFiniteError);
    await expect(mergeAdapter(base, adapter, out, { signal: AbortSignal.abort() })).rejects.toThrow(AbortError);
    expect(readdirSync(join(out, ".."))).toEqual([]);

    await mergeAdapter(base, adapter, out);
    expect((await mergeAdapter(base, adapter, out, { overwrite: true })).ok).toBe(true);
    expect(readdirSync(join(out, ".."))).toEqual(["m"]);
  });
});

describe("slices and digest", () => {
  it("place themselves exactly", () => {
    const t = { dtype: "BF16" as const, shape: [4, 6, 5] };
    expect(placeSlice({ name: "w" }, t)).toEqual({ shape: [4, 6, 5], begin: 0, end: 240 });
    expect(placeSlice({ name: "w", index: 2 }, t)).toEqual({ shape: [6, 5], begin: 120, end: 180 });
    expect(placeSlice({ name: "w", index: 2, rows: [1, 3] }, t)).toEqual({ shape: [2, 5], begin: 130, end: 150 });
    expect(placeSlice({ name: "w", rows: [1, 2] }, t)).toEqual({ shape: [1, 6, 5], begin: 60, end: 120 });
    expect(placeSlice({ name: "b", index: 1 }, { dtype: "F32", shape: [3] })).toEqual({ shape: [], begin: 4, end: 8 });
    for (const s of [
      { index: 4 },
      { index: -1 },
      { index: 1.5 },
      { rows: [0, 5] as const },
      { rows: [2, 2] as const },
      { index: 0, rows: [0, 7] as const },
    ])
      expect(() => placeSlice({ name: "w", ...s }, t)).toThrow(LayoutError);
    expect(() => placeSlice({ name: "s", index: 0 }, { dtype: "F32", shape: [] })).toThrow(LayoutError);
    expect(placeSlice({ name: "w", index: 2 }, t, [6, 5])).toEqual(placeSlice({ name: "w", index: 2 }, t));
    expect(() => placeSlice({ name: "w", index: 2 }, { ...t, path: "x.safetensors" }, [5, 6])).toThrow(
      'x.safetensors: tensor "w[2]": expected shape [5, 6], found [6, 5] of a tensor [4, 6, 5]',
    );
    expect(() => placeSlice({ name: "w" }, t, [24, 5])).toThrow('tensor "w": expected shape [24, 5], found [4, 6, 5]');
    expect(() => placeSlice({ name: "w", index: 9 }, { ...t, path: "x.safetensors" })).toThrow(/^x.safetensors: .*an index below 4/);
    expect(sliceKey({ name: "w", index: 2, rows: [1, 3] })).toBe("w[2,1:3]");
  });

  it("refuse to overlap", async () => {
    const base = await makeBase({ fused: true });
    const name = "model.layers.1.mlp.experts.gate_up_proj";
    await expect(
      frozenDigest(base, [
        { name, index: 1 },
        { name, index: 1, rows: [0, 2] },
      ]),
    ).rejects.toThrow(/do not overlap/);
    await expect(frozenDigest(base, [{ name: "absent" }])).rejects.toThrow(/no such tensor/);
  });

  it("does not depend on shards or chunk sizes, and sees every frozen bit and no trained one", async () => {
    const [one, three] = [await makeBase(), await makeBase({ shards: 3 })];
    const trained = [{ name: "model.layers.1.mlp.experts.2.up_proj.weight" }, { name: "model.embed_tokens.weight", rows: [2, 4] as const }];
    const digest = await frozenDigest(one, trained);
    expect(await frozenDigest(three, trained)).toBe(digest);
    const small = { tensors: one.tensors, chunks: (n: string) => one.chunks(n, 7) };
    expect(await frozenDigest(small, trained)).toBe(digest);
    const flip = (name: string, at: number) => ({
      tensors: one.tensors,
      chunks: async function* (n: string) {
        const bytes = await one.read(n);
        if (n === name) bytes[at]! ^= 1;
        yield bytes;
      },
    });
    expect(await frozenDigest(flip(trained[0]!.name, 0), trained)).toBe(digest);
    expect(await frozenDigest(flip("model.embed_tokens.weight", 32), trained)).toBe(digest); // row 2 begins at 2·8·2 bytes
    expect(await frozenDigest(flip("model.embed_tokens.weight", 31), trained)).not.toBe(digest);
    expect(await frozenDigest(flip("model.layers.2.mlp.gate.weight", 5), trained)).not.toBe(digest);
  });
});
