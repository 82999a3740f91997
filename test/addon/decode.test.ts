// Tensor.decode refuses what it cannot read, before anything is read, and reports what only the values tell. The values themselves:
// test/golden/quantised.test.ts. Alone: npx vitest run test/addon/decode.test.ts

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { DisposedError, KernelError } from "../../lib/errors.ts";
import { Device, MappedFile } from "../../lib/tensor.ts";
import type { MappedWeight } from "../../lib/tensor.ts";

const root = mkdtempSync(join(tmpdir(), "esft-decode-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const path = join(root, "weights");
const [ROWS, COLS] = [3, 8];

let device: Device;
let file: MappedFile;
beforeEach(() => {
  const scales = Float32Array.of(1, 2, 3, 4, 5, 6);
  const order = Int32Array.of(1, 0, 1, 0, 0, 0, 1, 1);
  writeFileSync(path, Buffer.concat([Buffer.from(Int8Array.from({ length: ROWS * COLS }, (_, i) => i - 12).buffer), Buffer.from(scales.buffer), Buffer.from(order.buffer)])); // prettier-ignore
  device = new Device({ kind: "cpu", threads: 2 });
  file = new MappedFile(path);
});
afterEach(() => {
  file.dispose();
  device.dispose();
});

const part = (begin: number, end: number) => ({ file, begin, end });
/** int8 [3, 8], a scale for each half of a row. */
function weight(more: Partial<MappedWeight> = {}): MappedWeight {
  const blocks = { blockRows: 1, blockCols: 4, nestedBlock: 1, nestedOffset: 0, factor: 1 };
  const plain = { label: "w", codes: "int8", scale: "f32", rounding: "f32", zeros: "none", matrices: 1, rows: ROWS, cols: COLS, transposed: false };
  return { ...plain, ...blocks, parts: { codes: part(0, 24), scales: part(24, 48) }, ...more };
} // prettier-ignore

async function decoded(w: MappedWeight, rows = ROWS, firstRow = 0): Promise<number[]> {
  using t = device.empty("f32", w.transposed ? [COLS, ROWS] : [rows, COLS]);
  t.decode(w, firstRow);
  return [...(await t.readF32())];
}

describe("what is decoded", () => {
  const code = (r: number, c: number): number => r * COLS + c - 12;
  const scale = (r: number, g: number): number => 2 * r + g + 1;
  const all = (value: (r: number, c: number) => number): number[] => Array.from({ length: ROWS * COLS }, (_, i) => value(Math.floor(i / COLS), i % COLS));

  it("codes by their scales, whole or from a row on, transposed, in the order that is given", async () => {
    const plain = all((r, c) => code(r, c) * scale(r, Math.floor(c / 4)) || 0);
    expect((await decoded(weight())).map((x) => x || 0)).toEqual(plain);
    expect(await decoded(weight(), 1, 2)).toEqual(plain.slice(16));
    expect((await decoded(weight({ transposed: true }))).map((x) => x || 0)).toEqual(Array.from({ length: ROWS * COLS }, (_, i) => plain[(i % ROWS) * COLS + Math.floor(i / ROWS)]));
    using some = device.empty("f32", [COLS, ROWS]);
    some.rows(0, 2).decode(weight({ transposed: true }), 1);
    const column = (c: number): number[] => [0, 1, 2].map((r) => plain[r * COLS + c]!);
    expect([...(await some.readF32())].map((x) => x || 0)).toEqual([...column(1), ...column(2), ...Array.from({ length: 6 * ROWS }, () => 0)]);
    const groups = [1, 0, 1, 0, 0, 0, 1, 1];
    const ordered = { ...weight().parts, order: part(48, 80) };
    expect((await decoded(weight({ parts: ordered }))).map((x) => x || 0)).toEqual(all((r, c) => code(r, c) * scale(r, groups[c]!) || 0));
  });

  it("exponents: 2^(x − 127), of which 255 is NaN, infinite, or one more than f32 has", async () => {
    writeFileSync(path, Uint8Array.of(1, 2, 0, 255, 0, 127, 255), { flag: "r+" });
    const codes = { rows: 1, cols: 2, blockCols: 2, parts: { codes: part(0, 2), scales: part(5, 6) } };
    const of = async (scale: string, at: number): Promise<number[]> => {
      using t = device.empty("f32", [1, 2]);
      t.decode(weight({ ...codes, scale, parts: { codes: part(at, at + 2), scales: part(6, 7) } }));
      return [...(await t.readF32())];
    };
    expect(await of("e8m0", 0)).toEqual([NaN, NaN]);
    expect(await of("power", 1)).toEqual([Infinity, NaN]);
    expect(await of("ldexp", 2)).toEqual([0, -Infinity]);
    using t = device.empty("f32", [1, 2]);
    t.decode(weight({ ...codes, scale: "e8m0" }));
    expect([...(await t.readF32())]).toEqual([1, 2]);
  });
}); // prettier-ignore

describe("what is refused", () => {
  it.each<[string, () => MappedWeight, RegExp]>([
    ["too few codes", () => weight({ parts: { codes: part(0, 23), scales: part(24, 48) } }), /w: expected 24 bytes of codes, found 23/],
    ["too many scales", () => weight({ parts: { codes: part(0, 24), scales: part(24, 52) } }), /w: expected 24 bytes of scales, found 28/],
    ["no scales", () => weight({ parts: { codes: part(0, 24) } }), /expected 24 bytes of scales, found 0/],
    ["bytes outside the file", () => weight({ parts: { codes: part(0, 24), scales: part(64, 88) } }), /inside the file's 80 bytes/],
    ["a part that nobody knows", () => weight({ parts: { ...weight().parts, other: part(0, 1) } }), /a word that the addon knows, received "other"/],
    ["codes that nobody knows", () => weight({ codes: "int5" }), /a word that the addon knows, received "int5"/],
    ["columns that fill no bytes", () => weight({ codes: "e2m1", cols: 7 }), /columns that fill whole bytes/],
    ["no columns", () => weight({ cols: 0 }), /sizes of at least 1/],
    ["no block", () => weight({ blockCols: 0 }), /blocks of at least 1/],
    ["more elements than there are", () => weight({ rows: 2 ** 40, cols: 2 ** 40 }), /at most 2\^46 elements/],
    ["more than anybody has", () => weight({ rows: 2 ** 30, cols: 2 ** 20 }), /at most 2\^46 elements/],
    ["half a row", () => weight({ rows: 1.5 }), /rows must be a safe integer/],
    ["scales beside blocks that hold them", () => weight({ codes: "q8_0", cols: 32 }), /no scales beside blocks/],
    ["a table of several matrices", () => weight({ codes: "table4", matrices: 2 }), /one matrix without/],
    ["packed zero points beside bytes", () => weight({ zeros: "words" }), /packed zero points beside packed rows only/],
  ])("%s", (_, make, message) => {
    using t = device.empty("f32", [ROWS, COLS]);
    expect(() => t.decode(make())).toThrow(message);
    expect(() => t.decode(make())).toThrow(KernelError);
  });

  it("tensors of other sizes, dtypes and layouts", () => {
    using i32 = device.empty("i32", [ROWS, COLS]);
    expect(() => i32.decode(weight())).toThrow(/f32 or bf16, received i32/);
    using odd = device.empty("f32", [5]);
    expect(() => odd.decode(weight())).toThrow(/whole rows of 8, of 3 in all, received \[5\] f32 from row 0/);
    using t = device.empty("f32", [ROWS, COLS]);
    expect(() => t.decode(weight(), 1)).toThrow(/whole rows of 8, of 3 in all/);
    expect(() => t.decode(weight(), -1)).toThrow(/whole rows/);
    expect(() => t.columns(0, 4).decode(weight({ cols: 4, blockCols: 4, parts: { codes: part(0, 12), scales: part(24, 36) } }))).toThrow(/whole rows/);
    using mapped = device.mapped(file, 24, "f32", [1, 8]);
    expect(() => mapped.decode(weight())).toThrow(/read-only mapped tensor/);
  });

  it("what was disposed of", () => {
    const t = device.empty("f32", [ROWS, COLS]);
    const w = weight();
    t.dispose();
    expect(() => t.decode(w)).toThrow(DisposedError);
    using other = device.empty("f32", [ROWS, COLS]);
    file.dispose();
    expect(() => other.decode(w)).toThrow(DisposedError);
  });

  it("groups that are not there, when they are read", async () => {
    writeFileSync(path, Buffer.from(Int32Array.of(1, 0, 1, 2, 0, 0, 1, 1).buffer), { flag: "r+" }); // as codes they are fine
    const w = weight({ parts: { ...weight().parts, order: part(0, 32) } });
    await expect(decoded(w)).rejects.toThrow(/w: expected groups below 2 in its order of columns, found 2 for column 3/);
    expect(await decoded(weight())).toHaveLength(24);
  });

  it("a file that shrank", async () => {
    const w = weight();
    truncateSync(path, 10);
    await expect(decoded(w)).rejects.toThrow(/shrank from 80 to 10 bytes while it was in use/);
  });
}); // prettier-ignore
