// The identity of a base model: order of tensors, when every byte is hashed, progress, a stop; tensors as floats. No GPU.
// Run alone: npx vitest run test/files/hash.test.ts
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { AbortError, LayoutError } from "../../lib/errors.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { castFloats, decodeFloats, encodeFloats, firstNonFinite } from "../../lib/files/floats.ts";
import { hashCheckpoint, sameBase, sha256, shownIdentity } from "../../lib/files/hash.ts";
import type { Dtype } from "../../lib/files/safetensors.ts";
import type { Progress } from "../../lib/task.ts";

/** A checkpoint of bytes in memory that says how many it has. */
function made(tensors: Readonly<Record<string, Uint8Array>>, totalBytes?: number): Checkpoint {
  const of = (name: string): Uint8Array => tensors[name]!;
  const infos = Object.entries(tensors).map(([name, { byteLength }]) => {
    return [name, { name, dtype: "U8", shape: [byteLength], file: "m", path: "m", begin: 8, end: 8 + byteLength }] as const;
  });
  return {
    dir: "base",
    tensors: new Map(infos),
    totalBytes: totalBytes ?? infos.reduce((n, [, { begin, end }]) => n + end - begin, 0),
    read: async (name: string) => of(name),
    range: async (name: string, from: number, to: number) => of(name).slice(from, to),
    chunks: async function* (name: string) {
      for (let at = 0; at < of(name).byteLength; at += 4) yield of(name).subarray(at, at + 4);
    },
  } as unknown as Checkpoint;
}
const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

describe("an identity", () => {
  it("is of the tensors by name, however they are stored", async () => {
    const [a, B, b] = [bytes(1, 2, 3, 4, 5), bytes(6), bytes()];
    const { identity } = await hashCheckpoint(made({ b, a, B }));
    expect(await hashCheckpoint(made({ B, b, a }))).toEqual({ identity });
    const lines = [["B", B], ["a", a], ["b", b]].map(([name, t]) => `${JSON.stringify([name, "U8", [t!.length], sha256(t!)])}\n`).join(""); // prettier-ignore
    expect(identity).toEqual({ fingerprint: sha256(lines), contents: sha256(lines), tensors: 3, bytes: 6 });
    expect(sha256("abc")).toBe(createHash("sha256").update("abc").digest("hex"));
  });

  it("is of three windows of a large tensor, and of all bytes", async () => {
    const window = 16 * 1024;
    const large = new Uint8Array(5 * window + 1).map((_, i) => (i * 7) & 255);
    const line = (...parts: Uint8Array[]): string =>
      sha256(`${JSON.stringify(["a", "U8", [large.length], sha256(Buffer.concat(parts))])}\n`);
    const { identity } = await hashCheckpoint(made({ a: large }));
    const windows = [0, 2 * window, 4 * window + 1].map((at) => large.subarray(at, at + window));
    expect([identity.fingerprint, identity.contents]).toEqual([line(...windows), line(large)]);
  });

  it("has all bytes in it up to 1 GiB, and where that is asked for", async () => {
    const of = async (total: number, contents?: boolean) => {
      return Object.keys((await hashCheckpoint(made({ a: bytes(1) }, total), { contents })).identity).sort();
    };
    const [cheap, full] = [["bytes", "fingerprint", "tensors"], ["bytes", "contents", "fingerprint", "tensors"]]; // prettier-ignore
    expect([await of(2 ** 30), await of(2 ** 30 + 1), await of(2 ** 30 + 1, true), await of(1, false)]).toEqual([full, cheap, full, cheap]);
  });

  it("tells how far it is, in bytes of all tensors, and stops at a signal before and within a tensor", async () => {
    const base = made({ a: bytes(1, 2, 3, 4, 5), b: bytes(6, 7) });
    const report = async (contents: boolean): Promise<Progress[]> => {
      const progress: Progress[] = [];
      await hashCheckpoint(base, { contents, onProgress: (p) => void progress.push(p) });
      return progress;
    };
    const at = (done: number): Progress => ({ phase: "hash", done, total: 7, unit: "bytes" });
    expect([await report(false), await report(true)]).toEqual([[at(5), at(7)], [at(4), at(5), at(7)]]); // prettier-ignore
    for (const contents of [false, true]) {
      await expect(hashCheckpoint(base, { contents, signal: AbortSignal.abort() })).rejects.toThrow(AbortError);
      const stop = new AbortController();
      const seen: number[] = [];
      const onProgress = ({ done }: Progress): void => {
        seen.push(done);
        stop.abort();
      };
      await expect(hashCheckpoint(base, { contents, signal: stop.signal, onProgress })).rejects.toThrow("hashing base was aborted");
      expect(seen).toEqual([contents ? 4 : 5]);
    }
  });

  it("is the same base as far as both sides know", () => {
    const of = (fingerprint: string, contents?: string) => ({ fingerprint, contents, tensors: 1, bytes: 2 });
    expect(sameBase(of("f", "c"), of("f", "c"))).toBe(true);
    expect(sameBase(of("f", "c"), of("f", "d"))).toBe(false);
    for (const [a, b] of [[of("f", "c"), of("f")], [of("f"), of("f", "c")], [of("f"), of("f")]] as const) expect(sameBase(a, b)).toBe(true); // prettier-ignore
    expect([sameBase(of("f", "c"), of("g", "c")), sameBase(of("f"), of("g", "c"))]).toEqual([false, false]);
    const long = "0123456789abcdef0123";
    expect(shownIdentity(of(long, `c${long}`))).toBe("0123456789abcdef/c0123456789abcde (1 tensors, 2 bytes)");
    expect(shownIdentity(of(long))).toBe("0123456789abcdef (1 tensors, 2 bytes)");
  });
});

describe("tensors as floats", () => {
  const values = Float32Array.of(1, -2.5, 0, 3);

  it.each([["F32", 4], ["BF16", 2], ["F16", 2], ["F64", 8]] as const)("%s: there and back, from any place in memory", (dtype, size) => {
    const there = encodeFloats(values, dtype);
    expect(there.byteLength).toBe(4 * size);
    expect(decodeFloats(there, dtype)).toEqual(values);
    for (const offset of [1, 2, 4, 8]) {
      const moved = new Uint8Array(offset + there.length).subarray(offset);
      moved.set(there);
      expect(decodeFloats(moved, dtype)).toEqual(values);
      expect(firstNonFinite(moved, dtype)).toBe(-1);
    }
    const part = encodeFloats(values.subarray(1, 3), dtype);
    expect(decodeFloats(part, dtype)).toEqual(Float32Array.of(-2.5, 0));
    expect(castFloats(there, dtype, "F32")).toEqual(encodeFloats(values, "F32"));
    expect(castFloats(encodeFloats(values, "F32"), "F32", dtype)).toEqual(there);
    expect(castFloats(there, dtype, dtype)).toBe(there);
    for (const odd of [Infinity, -Infinity, NaN]) expect(firstNonFinite(encodeFloats(Float32Array.of(1, odd, odd), dtype), dtype)).toBe(1);
    const largest = { F32: 3.4e38, BF16: 3.3e38, F16: 65504, F64: 3.4e38 }[dtype];
    expect(firstNonFinite(encodeFloats(Float32Array.of(largest, -largest), dtype), dtype)).toBe(-1);
    expect(decodeFloats(new Uint8Array(0), dtype)).toEqual(new Float32Array(0));
  }); // prettier-ignore

  it("F32 is a view where it is aligned", () => {
    const there = encodeFloats(values, "F32");
    const part = decodeFloats(there.subarray(4, 12), "F32");
    expect(part).toEqual(values.subarray(1, 3));
    for (const { buffer } of [there, decodeFloats(there, "F32"), part]) expect(buffer).toBe(values.buffer);
  });

  it("of other dtypes are refused; their bits are always finite", () => {
    for (const dtype of ["U8", "F8_E4M3", "I64", "BOOL"] satisfies Dtype[]) {
      expect(() => decodeFloats(new Uint8Array(8), dtype)).toThrow(`expected a tensor of F32, BF16, F16 or F64, found ${dtype}`);
      expect(() => encodeFloats(values, dtype)).toThrow(LayoutError);
      expect(firstNonFinite(new Uint8Array(8).fill(255), dtype)).toBe(-1);
    }
  });
});
