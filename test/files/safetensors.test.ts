// safetensors reader against hand-made hostile bytes and against its own writer. No GPU.
// Run alone: npx vitest run test/files/safetensors.test.ts
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { EsftError, IoError, LayoutError } from "../../lib/errors.ts";
import { openSafetensors, parseSafetensorsHeader, tensorBytes } from "../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { floats, rawSafetensors, tempDir } from "../support/fixture.ts";

const dir = tempDir();
let count = 0;
function file(bytes: Uint8Array): string {
  const path = join(dir, `${count++}.safetensors`);
  writeFileSync(path, bytes);
  return path;
}
const f32 = (shape: unknown, offsets: unknown, dtype: unknown = "F32") => ({ dtype, shape, data_offsets: offsets });

describe("openSafetensors", () => {
  it("reads tensors, metadata, unaligned data, scalars and empty tensors", async () => {
    const data = Buffer.from(floats(7, 1).buffer);
    const path = file(
      rawSafetensors({ __metadata__: { format: "pt" }, b: f32([2, 3], [4, 28]), a: f32([], [0, 4]), none: f32([0, 9], [28, 28]) }, data),
    );
    const opened = await openSafetensors(path);
    expect(opened.metadata).toEqual({ format: "pt" });
    expect([...opened.tensors.keys()]).toEqual(["a", "b", "none"]);
    expect(await opened.read("b")).toEqual(new Uint8Array(data.subarray(4)));
    expect((await opened.read("none")).length).toBe(0);
    const parts: Uint8Array[] = [];
    for await (const part of opened.chunks("b", 5)) parts.push(part);
    expect(parts.map((p) => p.length)).toEqual([5, 5, 5, 5, 4]);
    expect(Buffer.concat(parts).equals(data.subarray(4))).toBe(true);
    await expect(opened.read("c")).rejects.toThrow(/expected tensor "c"/);
  });

  it("takes tensors of up to 32 dimensions", async () => {
    const of = (rank: number) =>
      rawSafetensors(
        {
          x: f32(
            Array.from({ length: rank }, () => 1),
            [0, 4],
          ),
        },
        4,
      );
    expect((await openSafetensors(file(of(32)))).tensors.get("x")!.shape).toHaveLength(32);
    await expect(openSafetensors(file(of(33)))).rejects.toThrow(/at most 32 dimensions, found 33/);
  });

  const hostile: [string, Uint8Array, RegExp][] = [
    ["empty file", Buffer.alloc(0), /8 bytes of the header length, found 0/],
    ["cut in the length", Buffer.alloc(5), /found 5 bytes/],
    ["header cut", rawSafetensors({ a: f32([1], [0, 4]) }, 4).subarray(0, 20), /truncated/],
    [
      "huge header length",
      Buffer.from([255, 255, 255, 255, 255, 255, 255, 255, 123]),
      /at most 100000000 bytes, found a length of 18446744073709551615/,
    ],
    ["header length above the cap", Buffer.from([0, 225, 245, 6, 0, 0, 0, 0, 123]), /at most 100000000/],
    ["no header", rawSafetensors(""), /first byte/],
    ["not JSON", rawSafetensors("{nope}"), /JSON header/],
    ["header is an array", rawSafetensors("[1]"), /first byte/],
    ["byte order mark", rawSafetensors("\ufeff{}"), /first byte/],
    [
      "invalid UTF-8",
      rawSafetensors("").fill(0, 8) && Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([123, 34, 255, 125])]),
      /JSON header/,
    ],
    ["deep nesting", rawSafetensors(`{"a":${"[".repeat(10_000)}${"]".repeat(10_000)}}`), /nesting deeper/],
    [
      "duplicate tensor",
      rawSafetensors(`{"a":${JSON.stringify(f32([1], [0, 4]))},"\\u0061":${JSON.stringify(f32([1], [0, 4]))}}`, 4),
      /duplicate key "a"/,
    ],
    ["duplicate field", rawSafetensors(`{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), /duplicate key "dtype"/],
    ["metadata not strings", rawSafetensors({ __metadata__: { n: 3 } }), /expected a string under "n", found a value of type number/],
    ["metadata an array", rawSafetensors({ __metadata__: ["x"] }), /expected an object of strings/],
    ["tensor null", rawSafetensors({ a: null }), /tensor "a": expected an object/],
    ["unknown field", rawSafetensors({ a: { ...f32([1], [0, 4]), extra: 1 } }, 4), /found "extra"/],
    ["unknown dtype", rawSafetensors({ a: f32([1], [0, 4], "F128") }, 4), /tensor "a": expected a dtype among .*found "F128"/],
    ["inherited dtype", rawSafetensors({ a: f32([1], [0, 4], "constructor") }, 4), /expected a dtype/],
    ["negative size", rawSafetensors({ a: f32([-1], [0, 4]) }, 4), /non-negative integers, found \[-1\]/],
    ["fractional size", rawSafetensors({ a: f32([1.5], [0, 6]) }, 6), /non-negative integers/],
    [
      "size beyond exact integers",
      rawSafetensors(`{"a":{"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4]}}`, 4),
      /non-negative integers/,
    ],
    ["infinite size", rawSafetensors(`{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}`, 4), /non-negative integers/],
    ["overflowing product", rawSafetensors({ a: f32([2 ** 40, 2 ** 40], [0, 4]) }, 4), /counted exactly/],
    ["product that wraps to the truth", rawSafetensors({ a: f32([2 ** 32, 2 ** 32, 1], [0, 0]) }), /counted exactly/],
    [
      "huge rank",
      rawSafetensors(
        {
          a: f32(
            Array.from({ length: 40 }, () => 1),
            [0, 4],
          ),
        },
        4,
      ),
      /at most 32 dimensions, found 40/,
    ],
    ["one offset", rawSafetensors({ a: f32([1], [0]) }, 4), /data_offsets \[begin, end\]/],
    ["negative offset", rawSafetensors({ a: f32([1], [-4, 0]) }, 4), /non-negative/],
    ["reversed offsets", rawSafetensors({ a: f32([1], [4, 0]) }, 4), /begin <= end/],
    ["out of the file", rawSafetensors({ a: f32([2], [0, 8]) }, 4), /within the 4 data bytes/],
    ["lying length", rawSafetensors({ a: f32([2], [0, 4]) }, 4), /expected 8 bytes for F32 \[2\], found data_offsets of 4 bytes/],
    ["overlap", rawSafetensors({ a: f32([2], [0, 8]), b: f32([1], [4, 8]) }, 8), /tensor "b": .*overlap/],
    ["same range twice", rawSafetensors({ a: f32([1], [0, 4]), b: f32([1], [0, 4]) }, 4), /overlap/],
    ["hole", rawSafetensors({ a: f32([1], [0, 4]), b: f32([1], [8, 12]) }, 12), /tensor "b": expected data to begin at 4/],
    ["hole at the front", rawSafetensors({ a: f32([1], [4, 8]) }, 8), /expected data to begin at 0/],
    ["trailing bytes", rawSafetensors({ a: f32([1], [0, 4]) }, 5), /found 1 trailing bytes/],
    ["data without tensors", rawSafetensors({}, 5), /5 trailing bytes/],
    ["half bytes", rawSafetensors({ a: f32([3], [0, 2], "F4") }, 2), /whole bytes/],
  ];
  it.each(hostile)("refuses: %s", async (_, bytes, message) => {
    const path = file(bytes);
    const error = await openSafetensors(path).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(LayoutError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toContain(path);
  });

  it("refuses missing files and folders with typed errors", async () => {
    await expect(openSafetensors(join(dir, "absent"))).rejects.toThrow(IoError);
    mkdirSync(join(dir, "folder"));
    await expect(openSafetensors(join(dir, "folder"))).rejects.toThrow(IoError);
  });

  it("reports a file that shrank after opening", async () => {
    const path = file(rawSafetensors({ a: f32([4], [0, 16]) }, 16));
    const opened = await openSafetensors(path);
    truncateSync(path, opened.size - 3);
    await expect(opened.read("a")).rejects.toThrow(/changed while it was read/);
  });

  it("survives any mutation of a valid header: it opens or gives a LayoutError", async () => {
    const good = rawSafetensors(
      { __metadata__: { format: "pt" }, "x.weight": f32([2, 3], [0, 24]), y: f32([4], [24, 32], "BF16"), z: f32([], [32, 33], "U8") },
      33,
    );
    const headerEnd = good.length - 33;
    let seed = 7;
    const random = (n: number) => ((seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8) % n;
    let opened = 0;
    for (let round = 0; round < 3000; round++) {
      let bytes = Buffer.from(good);
      for (let k = random(4) + 1; k > 0; k--) {
        const at = random(headerEnd);
        const how = random(5);
        if (how === 0) bytes[at] = random(256);
        else if (how === 1) bytes[at] = '0123456789-.e"[]{},:'.charCodeAt(random(20));
        else if (how === 2) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random(9))]);
        else if (how === 3)
          bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(random(bytes.length), random(bytes.length)), bytes.subarray(at)]);
        else bytes = bytes.subarray(0, random(bytes.length + 1));
        if (bytes.length === 0) bytes = Buffer.alloc(1);
      }
      // Parse the mutated header directly (length taken from the file) and, now and then, through a real file.
      const claimed = bytes.length >= 8 ? Number(bytes.readBigUInt64LE(0)) : 0;
      try {
        parseSafetensorsHeader(bytes.subarray(8, 8 + Math.min(claimed, bytes.length)), { path: "fuzz", size: bytes.length });
        opened++;
      } catch (error) {
        expect(error).toBeInstanceOf(LayoutError);
      }
      if (round % 10 === 0) {
        const error = await openSafetensors(file(bytes)).catch((e: unknown) => e);
        if (error instanceof Error) expect(error).toBeInstanceOf(EsftError);
      }
    }
    expect(opened).toBeGreaterThan(0);
  });

  it("counts bytes of every dtype exactly", () => {
    expect(tensorBytes("F4", [4, 4])).toBe(8);
    expect(tensorBytes("F6_E2M3", [4])).toBe(3);
    expect(tensorBytes("BF16", [3, 0, 2 ** 50])).toBe(0);
    expect(tensorBytes("F32", [])).toBe(4);
  });

  it("round-trips what the writer writes", async () => {
    const path = join(dir, "round.safetensors");
    const data = new Uint8Array(floats(12, 3).buffer);
    await writeSafetensors(path, [{ name: "10", dtype: "F32", shape: [12], data }, { name: "2", dtype: "U8", shape: [3], data: async () => new Uint8Array([1, 2, 3]) }], { metadata: { a: "b" } }); // prettier-ignore
    const opened = await openSafetensors(path);
    expect([...opened.tensors.keys()]).toEqual(["10", "2"]);
    expect(await opened.read("10")).toEqual(data);
    expect(opened.metadata).toEqual({ a: "b" });
    expect(opened.tensors.get("10")!.begin % 8).toBe(0);
  });
});
