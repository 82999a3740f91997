// Element-wise ops on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/elementwise.test.ts

import { it } from "vitest";
import {
  addBase,
  castBase,
  clampBackwardBase,
  clampBase,
  columnSumBase,
  elementwiseCases,
  fillBase,
  maskGradBase,
  scaleBase,
  swigluBackwardBase,
  swigluBase,
} from "./cases/elementwise.ts";
import { Random, f32, out, zeros } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("elementwise", elementwiseCases);

const limits = [{ name: "lo above hi", change: { lo: 2, hi: 1 }, says: ["hi", "at least lo = 2"] }];
describeRefusals([
  { base: swigluBase, rows: [] },
  { base: swigluBackwardBase, rows: [], inPlace: ["dh=h"] },
  { base: addBase, rows: [{ name: "an infinite alpha", change: { alpha: -Infinity }, says: ["alpha"] }], inPlace: ["y=a", "y=b"] },
  {
    base: scaleBase,
    rows: [{ name: "an infinite factor", change: { factor: Infinity }, says: ["factor"] }],
    freeRows: ["x"],
    freeCols: ["x"],
  },
  { base: clampBase, rows: limits, inPlace: ["y=x"] },
  { base: clampBackwardBase, rows: limits, inPlace: ["dx=x", "dx=dy"] },
  {
    base: fillBase,
    freeDtype: ["x"],
    freeRows: ["x"],
    freeCols: ["x"],
    rows: [
      { name: "a fraction in an integer tensor", change: { value: 0.5 }, says: ["value", "integer"] },
      { name: "a value beyond i32", change: { value: 2147483648 }, says: ["value", "i32"] },
      { name: "a negative value in u8", change: { x: zeros("u8", [3, 5]), value: -1 }, says: ["value", "u8"] },
      { name: "an infinite i64", change: { x: zeros("i64", [3, 5]), value: Infinity }, says: ["value", "i64"] },
    ],
  },
  {
    base: castBase,
    rows: [
      { name: "f32 to i32", change: { y: out([3, 5], "i32") }, says: ["y", "f32 or bf16"] },
      { name: "i32 to f32", change: { x: zeros("i32", [3, 5]), y: out([3, 5]) }, says: ["y", "i32"] },
    ],
  },
  { base: columnSumBase, rows: [{ name: "sums of another length", change: { y: out([4]) }, says: ["y", "5 elements"] }], freeRows: ["x"] },
  {
    base: maskGradBase,
    freeRows: ["grad"],
    freeCols: ["grad"],
    rows: [
      { name: "an expert that does not exist", change: { keep: [0, 3] }, says: ["keep", "3 at position 1"] },
      { name: "a descending list", change: { keep: [2, 0] }, says: ["keep", "ascending"] },
      { name: "an expert twice", change: { keep: [1, 1] }, says: ["keep", "repeats"] },
      { name: "a vector", change: { grad: out([3]), keep: [0] }, says: ["grad", "rank 2"] },
    ],
  },
]);

it("swiglu_backward against finite differences", async () => {
  const random = new Random("swiglu");
  const [h, c] = [random.normal([4, 10], 2), random.normal([4, 5])];
  const dh = pick(await run(device("ref"), "swiglu_backward", { h, da: c, dh: out([4, 10]) }), "dh");
  await checkGradients({
    inputs: { h: Float32Array.from(h.values) },
    gradients: { h: dh },
    loss: async (i) => weighted(pick(await run(device("ref"), "swiglu", { h: f32([4, 10], i.h!), a: out([4, 5]) }), "a"), c.values),
  });
});
