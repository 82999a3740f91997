// safetensors writer: streaming, atomicity, full disks. No GPU.
// Run alone: npx vitest run test/files/safetensors_writer.test.ts
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { AbortError, IoError, LayoutError } from "../../lib/errors.ts";
import { writeDirectoryAtomic, writeFileAtomic } from "../../lib/files/atomic.ts";
import { castFloats, decodeFloats, encodeFloats, firstNonFinite } from "../../lib/files/floats.ts";
import { sha256 } from "../../lib/files/hash.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../lib/floats.ts";
import type { Progress } from "../../lib/task.ts";
import { floats, tempDir } from "../support/fixture.ts";

const root = tempDir();
const fresh = () => mkdtempSync(join(root, "t-"));
afterEach(() => vi.restoreAllMocks());

const MB = 1 << 20;
const entry = (name: string, bytes: number) => ({ name, dtype: "U8" as const, shape: [bytes], data: new Uint8Array(bytes).fill(7) });

describe("writeSafetensors", () => {
  it("streams from generators and hashes what it wrote", async () => {
    const dir = fresh();
    const written = await writeSafetensors(join(dir, "m.safetensors"), [
      { name: "a", dtype: "U8", shape: [6], data: async function* () { yield new Uint8Array([1, 2]); yield new Uint8Array([3, 4, 5, 6]); } }, // prettier-ignore
    ]);
    expect(written.sha256.get("a")).toBe("7192385c3c0605de55bb9476ce1d90748190ecb32a8eed7f5207b30cf6a1fe89");
    expect(await (await openSafetensors(join(dir, "m.safetensors"))).read("a")).toEqual(new Uint8Array([1, 2, 3, 4, 5, 6]));
    expect(readdirSync(dir)).toEqual(["m.safetensors"]);
  });

  it("writes a header padded to eight bytes, then the data in the given order", async () => {
    const path = join(fresh(), "m.safetensors");
    const entries = [entry("b", 3), { ...entry("a", 8), dtype: "F32" as const, shape: [1, 2] }, { ...entry("none", 0), shape: [0, 7] }];
    for (const [metadata, begins] of [[undefined, '{"b":'], [{}, '{"b":'], [{ k: "v" }, '{"__metadata__":{"k":"v"},"b":']] as const) {
      const written = await writeSafetensors(path, entries, metadata === undefined ? {} : { metadata });
      const bytes = readFileSync(path);
      const length = Number(bytes.readBigUInt64LE(0));
      const header = bytes.subarray(8, 8 + length).toString();
      expect([length % 8, bytes.length, written.bytes]).toEqual([0, 8 + length + 11, 8 + length + 11]);
      expect(header.trimEnd()).toBe(`${begins}{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[3,11]},"none":{"dtype":"U8","shape":[0,7],"data_offsets":[11,11]}}`);
      expect(header.length - header.trimEnd().length).toBeLessThan(8);
      expect(bytes.subarray(8 + length)).toEqual(Buffer.alloc(11, 7));
    }
  }); // prettier-ignore

  it("hashes each tensor, the file, or nothing, and tells how far it is", async () => {
    const path = join(fresh(), "m.safetensors");
    const data = { array: new Uint8Array(4).fill(1), promise: async () => new Uint8Array(4).fill(1), stream: async function* () { yield new Uint8Array(1).fill(1); yield new Uint8Array(3).fill(1); } }; // prettier-ignore
    const entries = Object.entries(data).map(([name, of]) => ({ name, dtype: "U8" as const, shape: [4], data: of }));
    const progress: Progress[] = [];
    const written = await writeSafetensors(path, entries, { onProgress: (p) => void progress.push(p) });
    const hash = sha256(new Uint8Array(4).fill(1));
    expect([[...written.sha256], written.fileSha256]).toEqual([Object.keys(data).map((name) => [name, hash]), null]);
    const total = readFileSync(path).byteLength;
    expect(progress).toEqual([8, 4, 3, 0].map((left) => ({ phase: "write", done: total - left, total, unit: "bytes" })));
    const whole = await writeSafetensors(path, entries, { hash: "file" });
    expect([whole.sha256.size, whole.fileSha256]).toEqual([0, sha256(readFileSync(path))]);
    expect(await writeSafetensors(path, entries, { hash: false })).toEqual({ bytes: total, sha256: new Map(), fileSha256: null });
  });

  it.each([3, 9])("refuses data of %i bytes where 6 are due and leaves the old file", async (n) => {
    const dir = fresh();
    writeFileSync(join(dir, "m.safetensors"), "old");
    const refused = writeSafetensors(join(dir, "m.safetensors"), [entry("b", 1), { ...entry("a", 6), data: new Uint8Array(n) }]);
    await expect(refused).rejects.toBeInstanceOf(LayoutError);
    await expect(refused).rejects.toThrow(`tensor "a": expected 6 bytes for U8 [6], found ${n > 6 ? "more than 6" : n}`);
    expect(readdirSync(dir)).toEqual(["m.safetensors"]);
    expect(readFileSync(join(dir, "m.safetensors"), "utf8")).toBe("old");
  });

  it("refuses duplicate names and impossible shapes", async () => {
    await expect(writeSafetensors(join(fresh(), "m"), [entry("a", 1), entry("a", 1)])).rejects.toThrow(/unique/);
    await expect(writeSafetensors(join(fresh(), "m"), [entry("__metadata__", 1)])).rejects.toThrow(/reserved/);
    const unable = writeSafetensors(join(fresh(), "m"), [{ ...entry("x", 1), dtype: "F4", shape: [3] }]);
    await expect(unable).rejects.toThrow('tensor "x": F4 [3] is too large or does not fill whole bytes');
    await expect(writeSafetensors(join(fresh(), "m"), [{ ...entry("a", 1), shape: [2 ** 50, 2 ** 50] }])).rejects.toThrow(LayoutError);
  });

  it("stops at an abort and leaves nothing", async () => {
    const dir = fresh();
    const controller = new AbortController();
    const work = writeSafetensors(join(dir, "m"), [entry("a", 10), entry("b", 10)], {
      signal: controller.signal,
      onProgress: () => controller.abort(),
    });
    await expect(work).rejects.toBeInstanceOf(AbortError);
    await expect(work).rejects.toThrow(`writing ${join(dir, "m")} was aborted`);
    expect(readdirSync(dir)).toEqual([]);
  });

  it("a disk that fills while writing: IoError with needed and free bytes, nothing left", async () => {
    const dir = fresh();
    const probe = await open(join(dir, "probe"), "w");
    const proto = Object.getPrototypeOf(probe) as { write: () => Promise<unknown> };
    await probe.close();
    rmSync(join(dir, "probe"));
    vi.spyOn(proto, "write").mockRejectedValue(Object.assign(new Error("no space"), { code: "ENOSPC" }));
    const error = await writeSafetensors(join(dir, "m"), [entry("a", 100)]).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(IoError);
    expect((error as IoError).message).toMatch(/disk is full: needs \d+ bytes, \d+ bytes free/);
    expect((error as IoError).where.neededBytes).toBeGreaterThan(100);
    expect(readdirSync(dir)).toEqual([]);
  });

  it("a really full disk (small tmpfs; needs the right to mount)", async (context) => {
    const dir = fresh();
    const disk = join(dir, "disk");
    mkdirSync(disk);
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], { stdio: "ignore" });
    } catch {
      return context.skip();
    }
    try {
      // Announced size: refused before writing. Unannounced (a file of unknown length): ENOSPC on the way.
      await expect(writeSafetensors(join(disk, "m"), [entry("a", 5 * MB)])).rejects.toThrow(
        /disk is full: needs 5\d+ bytes, \d+ bytes free/,
      );
      const grow = async function* (pieces: number) { for (let i = 0; i < pieces; i++) yield new Uint8Array(MB); }; // prettier-ignore
      await expect(writeFileAtomic(join(disk, "m"), grow(5))).rejects.toThrow(/disk is full/);
      await expect(writeDirectoryAtomic(join(disk, "d"), (t) => writeFileAtomic(join(t, "x"), grow(Infinity)))).rejects.toThrow(IoError);
      expect(readdirSync(disk)).toEqual([]);
    } finally {
      execFileSync("umount", [disk]);
    }
  });
});

describe("16-bit floats", () => {
  it("bf16 rounds to nearest even and keeps NaN, infinities and signed zeros", () => {
    const bits = new Uint32Array([
      0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff, 0x7f800000, 0xff800000, 0x7f800001, 0xffffffff, 0x80000000, 0x00000001,
    ]);
    const out = f32ToBf16(new Float32Array(bits.buffer));
    expect([...out].map((h) => h.toString(16))).toEqual(["3f80", "3f82", "3f81", "7f80", "7f80", "ff80", "7fc0", "ffff", "8000", "0"]);
  });

  it("every bf16 and every half survives the way through f32", () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const nan = (h: number, exponent: number) => (h & exponent) === exponent && (h & ~(exponent | 0x8000) & 0xffff) !== 0;
    const b = f32ToBf16(bf16ToF32(all));
    const h = f32ToF16(f16ToF32(all));
    expect([...all].filter((i) => (!nan(i, 0x7f80) && b[i] !== i) || (!nan(i, 0x7c00) && h[i] !== i))).toEqual([]);
  });

  it("half rounds like a search over all neighbours", () => {
    const values = f16ToF32(Uint16Array.from({ length: 0x7c00 }, (_, i) => i));
    const x = floats(4000, 5).map((v, i) => v * 2 ** ((i % 48) - 30));
    const h = f32ToF16(x);
    const back = f16ToF32(h);
    x.forEach((v, i) => {
      const code = h[i]! & 0x7fff;
      if (code === 0x7c00) return expect(Math.abs(v)).toBeGreaterThanOrEqual(65520);
      const error = Math.abs(back[i]! - v);
      for (const n of [code - 1, code + 1]) if (n >= 0 && n < 0x7c00) expect(error).toBeLessThanOrEqual(Math.abs(values[n]! - Math.abs(v)));
    });
  });

  it("casts unaligned views, returns equal dtypes untouched, finds non-finite values", () => {
    const source = encodeFloats(floats(9, 2), "F32");
    const shifted = new Uint8Array(37).subarray(1);
    shifted.set(source);
    expect(decodeFloats(shifted, "F32")).toEqual(decodeFloats(source, "F32"));
    expect(castFloats(source, "F32", "F32")).toBe(source);
    expect(() => castFloats(source, "F32", "F8_E4M3")).toThrow(LayoutError);
    for (const dtype of ["F32", "BF16", "F16", "F64"] as const) {
      expect(firstNonFinite(encodeFloats(Float32Array.of(1, 2, Infinity), dtype), dtype)).toBe(2);
      expect(firstNonFinite(encodeFloats(Float32Array.of(1, NaN), dtype), dtype)).toBe(1);
      expect(firstNonFinite(encodeFloats(Float32Array.of(1, -3), dtype), dtype)).toBe(-1);
    }
  });
});
