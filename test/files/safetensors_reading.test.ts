// safetensors reader: what it reads, whole and in parts, from files it opens and files that are open. No GPU.
// Run alone: npx vitest run test/files/safetensors_reading.test.ts
import { constants } from "node:buffer";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, it } from "vitest";
import { RegularFile } from "../../lib/files/regular.ts";
import { openSafetensors, tensorBytes, tensorReader } from "../../lib/files/safetensors.ts";
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
async function words(pieces: AsyncIterable<Uint8Array>): Promise<string[]> {
  const out: string[] = [];
  for await (const piece of pieces) out.push(Buffer.from(piece).toString());
  return out;
}

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

  it("takes tensors of no bytes where others begin and end", async () => {
    const header = { b: f32([1], [4, 8]), a: f32([1], [0, 4]), none: f32([0], [4, 4]), first: f32([3, 0], [0, 0]), last: f32([0], [8, 8]) };
    const opened = await openSafetensors(file(rawSafetensors(header, 8)));
    expect([...opened.tensors.keys()]).toEqual(["first", "a", "none", "b", "last"]);
    expect([...(await openSafetensors(file(rawSafetensors({})))).tensors.keys()]).toEqual([]);
  });

  it("says where a tensor is, and reads parts of it, from files that are open where there are any", async () => {
    const path = file(rawSafetensors({ a: f32([1], [0, 4]), b: f32([2], [4, 12]) }, Buffer.from("0123456789ab")));
    const opened = await openSafetensors(path);
    const b = opened.tensors.get("b")!;
    expect(b).toEqual({ name: "b", dtype: "F32", shape: [2], file: basename(path), path, begin: opened.size - 8, end: opened.size });
    expect([opened.path, opened.size]).toEqual([path, readFileSync(path).length]);
    expect(await words(opened.chunks("b"))).toEqual(["456789ab"]);
    expect(await words(opened.chunks("b", 8))).toEqual(["456789ab"]);
    expect(await words(opened.chunks("b", 3))).toEqual(["456", "789", "ab"]);
    expect(Buffer.from(await opened.range("b", 1, 3)).toString()).toBe("56");
    expect(() => opened.chunks("c")).toThrow(/expected tensor "c", found 2 tensors without it/);
    await expect(opened.range("c", 0, 1)).rejects.toMatchObject({ code: "ERR_LAYOUT", where: { file: path, tensor: "c" } });
    await using open = await RegularFile.open(path);
    const asked: string[] = [];
    const held = { get: (of: string) => (asked.push(of), open) };
    const elsewhere = tensorReader("m", new Map([["b", { ...b, path: "nowhere" }]]), held);
    expect(Buffer.from(await elsewhere.read("b")).toString()).toBe("456789ab");
    expect(await words(elsewhere.chunks("b", 5))).toEqual(["45678", "9ab"]);
    expect(Buffer.from(await elsewhere.range("b", 0, 1)).toString()).toBe("4");
    expect(asked).toEqual(["nowhere", "nowhere", "nowhere"]);
    expect(await open.read(0, 0)).toEqual(new Uint8Array(0)); // still open
    const far = { get: () => ({ read: async (begin: number, to: number) => new Uint8Array(to - begin) }) as unknown as RegularFile };
    const place = { begin: constants.MAX_LENGTH, end: constants.MAX_LENGTH + 8 };
    expect((await tensorReader("m", new Map([["x", { ...b, ...place }]]), far).read("x")).length).toBe(8);
    const huge = tensorReader("m", new Map([["x", { ...b, begin: 0, end: constants.MAX_LENGTH + 1 }]]));
    await expect(huge.read("x")).rejects.toMatchObject({ code: "ERR_MEMORY", where: { file: path, tensor: "b" } });
  });

  it("reports a file that shrank after opening", async () => {
    const path = file(rawSafetensors({ a: f32([4], [0, 16]) }, 16));
    const opened = await openSafetensors(path);
    truncateSync(path, opened.size - 3);
    await expect(opened.read("a")).rejects.toThrow(/changed while it was read/);
  });

  it("counts bytes of every dtype exactly", () => {
    expect(tensorBytes("U8", [2 ** 53 - 1])).toBe(2 ** 53 - 1);
    expect([tensorBytes("U8", [2 ** 53]), tensorBytes("F4", [2 ** 52]), tensorBytes("F4", [3])]).toEqual([null, 2 ** 51, null]);
    expect(tensorBytes("U8", [2 ** 50, 2 ** 50, 0])).toBe(0);
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
