// Element-wise ops on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/elementwise.test.ts

import { expect, it } from "vitest";
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
  softCapBase,
  swigluBackwardBase,
  swigluBase,
} from "./cases/elementwise.ts";
import { clamped, every } from "./cases/gated.ts";
import { cast } from "../../lib/ops.ts";
import { Random, f32, out, strided, zeros } from "./host.ts";
import type { Args } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, instructionSets, pick, run, weighted } from "./support.ts";

describeCases("elementwise", elementwiseCases);

const limits = [{ name: "lo above hi", change: { lo: 2, hi: 1 }, says: ["hi", "at least lo = 2"] }];
const activations = [
  { name: "no activation", change: { act: 0 }, says: ["act", "1..3", "received 0"] },
  { name: "act = 4", change: { act: 4 }, says: ["act", "1..3", "received 4"] },
  { name: "a limit without clamps", change: { limit: 7 }, says: ["limit", "0 with act 1", "received 7"] },
  { name: "clamps without a limit", change: { ...clamped, limit: 0 }, says: ["limit", "> 0", "received 0"] },
  { name: "a negative limit", change: { ...clamped, limit: -1 }, says: ["limit", "> 0"] },
  { name: "an infinite alpha", change: { ...clamped, alpha: -Infinity }, says: ["alpha", "finite"] },
  { name: "an alpha that f32 does not hold", change: { ...clamped, alpha: 1e39 }, says: ["alpha", "finite in f32"] },
];
describeRefusals([
  { base: swigluBase, rows: activations },
  { base: swigluBackwardBase, rows: activations, inPlace: ["dh=h"] },
  { base: addBase, rows: [{ name: "an infinite alpha", change: { alpha: -Infinity }, says: ["alpha"] }], inPlace: ["y=a", "y=b"] },
  {
    base: scaleBase,
    rows: [
      { name: "an infinite factor", change: { factor: Infinity }, says: ["factor"] },
      { name: "two numbers to multiply by", change: { by: out([2]) }, says: ["by", "1"] },
    ],
    freeRows: ["x"],
    freeCols: ["x"],
  },
  {
    base: softCapBase,
    rows: [
      { name: "a cap of 0", change: { cap: 0 }, says: ["cap", "1e-30"] },
      { name: "a cap that f32 does not hold", change: { cap: 1e39 }, says: ["cap", "1e+39"] },
      { name: "a cap whose reciprocal f32 does not hold", change: { cap: 1e-46 }, says: ["cap", "1e-46"] },
      { name: "an infinite cap", change: { cap: Infinity }, says: ["cap"] },
    ],
    inPlace: ["y=x"],
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
  {
    base: columnSumBase,
    rows: [
      { name: "sums of another length", change: { y: out([4]) }, says: ["y", "5 elements"] },
      { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
    ],
    freeRows: ["x"],
  },
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

for (const [name, act] of Object.entries(every))
  it(`swiglu_backward against finite differences: ${name}`, async () => {
    const random = new Random("swiglu");
    const [h, c] = [random.normal([4, 10], 2), random.normal([4, 5])];
    const dh = pick(await run(device("ref"), "swiglu_backward", { h, da: c, dh: out([4, 10]), ...act }), "dh");
    await checkGradients({
      inputs: { h: Float32Array.from(h.values) },
      gradients: { h: dh },
      loss: async (i) =>
        weighted(pick(await run(device("ref"), "swiglu", { h: f32([4, 10], i.h!), a: out([4, 5]), ...act }), "a"), c.values),
    });
  });

it("every NaN stays one in bf16, whatever its bits", async () => {
  const bits = Uint32Array.from({ length: 37 }, (_, i) => [0x7fffffff, 0xffffffff, 0x7f800001, 0xff800001, 0x7fc00000][i % 5]!);
  for (const d of [device("ref"), ...instructionSets.map((isa) => device("cpu", 2, isa))]) {
    const x = d.tensor("f32", [37], new Float32Array(bits.buffer));
    const y = d.empty("bf16", [37]);
    cast(d, { x, y });
    for (const half of new Uint16Array(await y.readBytes())) expect(half & 0x7fff, half.toString(16)).toBeGreaterThan(0x7f80);
  }
});

it("outputs beyond the caches, rows that begin anywhere", async () => {
  const r = new Random("large");
  const [R, C] = [2100, 1001];
  const [a, b] = [r.normal([R, C]), r.normal([R, C])];
  const calls: readonly (readonly [string, Args])[] = [
    ["add", { a, b, y: strided(out([R, C])), alpha: 0.5 }],
    ["fill", { x: strided(out([R, C])), value: 1.5 }],
    ["cast", { x: a, y: strided(out([R, C])) }],
  ];
  for (const [op, args] of calls) {
    const [want] = await run(device("ref"), op, args);
    for (const isa of instructionSets) {
      const [got] = await run(device("cpu", 2, isa), op, args);
      expect(Buffer.compare(got!.bytes, want!.bytes), `${op} on ${isa}`).toBe(0);
    }
  }
}, 120_000);
