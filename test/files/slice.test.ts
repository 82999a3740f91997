// Slices of tensors: their keys, shapes and byte ranges, and what lies between them. No GPU.
// Run alone: npx vitest run test/files/slice.test.ts
import { describe, expect, it } from "vitest";
import { LayoutError } from "../../lib/errors.ts";
import type { Dtype } from "../../lib/files/safetensors.ts";
import type { TensorSlice } from "../../lib/files/slice.ts";
import { frozenRanges, placeSlice, placeSlices, sliceKey } from "../../lib/files/slice.ts";

type Part = Omit<TensorSlice, "name">;
const place = (part: Part, shape: readonly number[], dtype: Dtype = "F32", expected?: readonly number[]) =>
  placeSlice({ name: "x", ...part }, { dtype, shape }, expected);

it("a key names the tensor, the entry and the rows", () => {
  const keys = [{}, { index: 3 }, { index: 0 }, { index: 3, rows: [0, 16] }, { rows: [0, 16] }] as const;
  expect(keys.map((part) => sliceKey({ name: "x", ...part }))).toEqual(["x", "x[3]", "x[0]", "x[3,0:16]", "x[0:16]"]);
});

describe("a slice", () => {
  it.each<[string, Part, number[], number[], number, number]>([
    ["the whole", {}, [3, 5], [3, 5], 0, 60],
    ["a vector", {}, [7], [7], 0, 28],
    ["a scalar", {}, [], [], 0, 4],
    ["nothing", {}, [0, 5], [0, 5], 0, 0],
    ["the first entry", { index: 0 }, [2, 3, 5], [3, 5], 0, 60],
    ["the last entry", { index: 1 }, [2, 3, 5], [3, 5], 60, 120],
    ["an entry of a vector", { index: 2 }, [4], [], 8, 12],
    ["a row of a matrix", { index: 2 }, [4, 5], [5], 40, 60],
    ["rows of an entry", { index: 1, rows: [1, 3] }, [2, 3, 5], [2, 5], 80, 120],
    ["rows", { rows: [1, 2] }, [3, 5], [1, 5], 20, 40],
    ["all rows", { rows: [0, 3] }, [3, 5], [3, 5], 0, 60],
    ["rows of a vector", { rows: [2, 4] }, [4], [2], 8, 16],
    ["rows of blocks", { rows: [1, 2] }, [2, 3, 5], [1, 3, 5], 60, 120],
  ])("is a shape and a range of bytes: %s", (_, part, of, shape, begin, end) => {
    expect(place(part, of)).toEqual({ shape, begin, end });
    expect(place(part, of, "BF16", shape)).toEqual({ shape, begin: begin / 2, end: end / 2 });
  });

  it.each<[string, Part, number[], string]>([
    ["an index behind the last", { index: 2 }, [2, 3], "F32 [2, 3]: expected an index below 2, found x[2]"],
    ["an index before the first", { index: -1 }, [2, 3], "F32 [2, 3]: expected an index below 2, found x[-1]"],
    ["half an index", { index: 0.5 }, [2, 3], "F32 [2, 3]: expected an index below 2, found x[0.5]"],
    ["an entry of a scalar", { index: 0 }, [], "F32 []: expected a tensor with a first dimension to index, found x[0]"],
    ["rows of a scalar", { rows: [0, 1] }, [], "F32 []: expected a tensor with rows, found x[0:1]"],
    ["rows before the first", { rows: [-1, 1] }, [3], "F32 [3]: expected rows inside [0, 3), found x[-1:1]"],
    ["no rows", { rows: [1, 1] }, [3], "F32 [3]: expected rows inside [0, 3), found x[1:1]"],
    ["rows behind the last", { index: 0, rows: [2, 4] }, [2, 3], "F32 [2, 3]: expected rows inside [0, 3), found x[0,2:4]"],
    ["half a first row", { rows: [0.5, 2] }, [3], "F32 [3]: expected rows inside [0, 3), found x[0.5:2]"],
    ["half a last row", { rows: [0, 1.5] }, [3], "F32 [3]: expected rows inside [0, 3), found x[0:1.5]"],
  ])("outside of its tensor is refused: %s", (_, part, of, fault) => {
    expect(() => place(part, of)).toThrow(LayoutError);
    expect(() => place(part, of)).toThrow(`tensor "x" ${fault}`);
  });

  it("of half bytes is refused, of whole ones not", () => {
    expect(() => place({ index: 1 }, [2, 3, 3], "F4")).toThrow("F4 [2, 3, 3]: expected rows of whole bytes, found x[1]");
    expect(place({ index: 1 }, [2, 3, 4], "F4")).toEqual({ shape: [3, 4], begin: 6, end: 12 });
  });

  it("of another shape than expected is refused, with file, tensor and both shapes", () => {
    const of = { dtype: "F32", shape: [2, 3], path: "m.safetensors" } as const;
    const refused = (part: Part) => () => placeSlice({ name: "x", ...part }, of, [6]);
    expect(refused({})).toThrow(/^m\.safetensors: tensor "x": expected shape \[6\], found \[2, 3\]$/);
    expect(refused({ index: 1 })).toThrow(/^m\.safetensors: tensor "x\[1\]": expected shape \[6\], found \[3\] of a tensor \[2, 3\]$/);
    expect(() => place({}, [2, 3], "F32", [6])).toThrow(/^tensor "x": expected/);
    for (const [path, fault] of [["m.safetensors", refused({})], [undefined, () => place({ index: 9 }, [2])]] as const) {
      const error = attempt(fault);
      expect(error).toBeInstanceOf(LayoutError);
      expect((error as LayoutError).where).toEqual({ tensor: "x", file: path });
    } // prettier-ignore
  });
});

describe("slices of a checkpoint", () => {
  const tensors = new Map([
    ["a", { dtype: "F32", shape: [4, 2] }],
    ["b", { dtype: "F32", shape: [2] }],
  ] as const);

  it("are sorted within each tensor, and may touch", () => {
    const [last, first, other] = [{ name: "a", rows: [2, 3] }, { name: "a", rows: [0, 2] }, { name: "b" }] as const;
    const placed = placeSlices<TensorSlice>([last, other, first], tensors);
    expect([...placed.keys()]).toEqual(["a", "b"]);
    expect(placed.get("a")).toEqual([
      { shape: [2, 2], begin: 0, end: 16, slice: first },
      { shape: [1, 2], begin: 16, end: 24, slice: last },
    ]);
    expect(placed.get("b")).toEqual([{ shape: [2], begin: 0, end: 8, slice: other }]);
    expect(placeSlices([], tensors).size).toBe(0);
  });

  it("are of tensors that are there, and do not overlap", () => {
    for (const [slices, message, tensor] of [
      [[{ name: "c" }], /expected tensor "c" in the base model, found no such tensor/, "c"],
      [
        [
          { name: "a", rows: [0, 2] },
          { name: "a", index: 1 },
        ],
        /do not overlap, found a\[0:2\] and a\[1\]/,
        "a",
      ],
      [[{ name: "b" }, { name: "b" }], /do not overlap, found b and b/, "b"],
      [[{ name: "a", rows: [0, 9] }], /rows inside \[0, 4\)/, "a"],
    ] as const) {
      const error = attempt(() => placeSlices<TensorSlice>(slices, tensors));
      expect(error).toBeInstanceOf(LayoutError);
      expect(error).toMatchObject({ message: expect.stringMatching(message) as string, where: { tensor } });
    }
  });

  it("leave the rest frozen", () => {
    const at = (...ranges: [number, number][]) => ranges.map(([begin, end]) => ({ shape: [], begin, end }));
    const gaps = (...ranges: [number, number][]) => ranges.map(([begin, end]) => ({ begin, end }));
    expect(frozenRanges(8, undefined)).toEqual(gaps([0, 8]));
    expect(frozenRanges(0, undefined)).toEqual([]);
    expect(frozenRanges(8, at([0, 8]))).toEqual([]);
    expect(frozenRanges(8, at([0, 2], [2, 3]))).toEqual(gaps([3, 8]));
    expect(frozenRanges(8, at([1, 2], [4, 8]))).toEqual(gaps([0, 1], [2, 4]));
  });
});

function attempt(work: () => unknown): unknown {
  try {
    return work();
  } catch (error) {
    return error;
  }
}
