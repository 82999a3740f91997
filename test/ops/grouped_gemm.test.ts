// The three grouped products on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/grouped_gemm.test.ts

import { describe, it } from "vitest";
import { groupedGemmCases, nn, nnBase, nt, ntBase, tn, tnBase } from "./cases/grouped_gemm.ts";
import { Random, f32, i32, list, offsetsOf, out, tensor } from "./host.ts";
import type { Args, HostTensor } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("grouped_gemm", groupedGemmCases);

const gather = (name: string) => [
  {
    name: `an index beyond the rows (${name})`,
    change: { [name]: i32([0, 1, 2, 3, 4, 0, 5]) },
    says: [`${name}[6]`, "0..4", "received 5"],
  },
  { name: `a negative index (${name})`, change: { [name]: i32([0, 1, -1, 3, 4, 0, 1]) }, says: [`${name}[2]`, "received -1"] },
  { name: `an index of the wrong length (${name})`, change: { [name]: i32([0, 1, 2]) }, says: ["must be"] },
];
const offsets = [
  { name: "offsets that do not start at 0", change: { offsets: i32([1, 3, 3, 7]) }, says: ["offsets[0]", "received 1"] },
  { name: "descending offsets", change: { offsets: i32([0, 4, 3, 7]) }, says: ["offsets[2]", "received 3"] },
  { name: "offsets beyond the rows", change: { offsets: i32([0, 3, 3, 8]) }, says: ["offsets[3]", "at most 7", "received 8"] },
  { name: "huge offsets", change: { offsets: i32([0, 2147483647, 2147483647, 7]) }, says: ["offsets[3]"] },
  { name: "negative offsets", change: { offsets: i32([0, -2147483648, 3, 7]) }, says: ["offsets[1]"] },
  { name: "offsets of no expert", change: { offsets: i32([0]) }, says: ["offsets"] },
];
const segments = [
  { name: "segments = 0", change: { segments: 0 }, says: ["segments", "received 0"] },
  { name: "segments = 65", change: { segments: 65 }, says: ["segments", "received 65"] },
];
const groups = [
  { name: "groups that descend", change: { groups: [2, 0] }, says: ["groups", "ascending"] },
  { name: "a group twice", change: { groups: [2, 2] }, says: ["groups", "repeats"] },
  { name: "a group beyond the experts", change: { groups: [0, 3] }, says: ["groups", "0..2", "3 at position 1"] },
  { name: "a negative group", change: { groups: [-1, 2] }, says: ["groups", "-1 at position 0"] },
];
describeRefusals([
  {
    base: ntBase,
    freeRows: ["x"],
    rows: [
      ...gather("rows"),
      ...offsets,
      ...segments,
      { name: "h without an activation", change: { act: 0 }, says: ["h", "absent"] },
      { name: "three segments with an activation", change: { segments: 3 }, says: ["segments", "1..2"] },
      { name: "gate and up of different heights", change: { w: [5, 3, 5, 3, 5, 3].map((m) => out([m, 6])) }, says: ["w[1]", "[5, *]"] },
      {
        name: "experts of different shapes",
        change: { w: [4, 4, 4, 4, 4, 3].map((m) => out([m, 6])) },
        says: ["w[5]", "[4, 6]", "[3, 6]"],
      },
      {
        name: "a matrix too many",
        change: { w: [4, 4, 4, 4, 4, 4, 4].map((m) => out([m, 6])) },
        says: ["w must be 3 x 2 matrices", "received 7"],
      },
      { name: "an odd fused height", change: { segments: 1, w: [7, 7, 7].map((m) => out([m, 6])) }, says: ["w", "even"] },
      { name: "act = 2", change: { act: 2 }, says: ["act"] },
      { name: "a residual with an activation", change: { residual: out([7, 8]) }, says: ["residual", "absent"] },
      {
        name: "a residual of another shape",
        change: { act: 0, h: null, y: out([7, 8]), residual: out([7, 4]) },
        says: ["residual", "[7, 8]"],
      },
      {
        name: "h in the memory of x",
        change: { rows: null, x: out([7, 8]), w: [4, 4, 4, 4, 4, 4].map((m) => out([m, 8])), h: { same: "x" } },
        says: ["h", "x"],
      },
    ],
  },
  {
    base: nnBase,
    freeRows: ["dy"],
    inPlace: ["dx=h"],
    rows: [
      ...gather("rows"),
      ...offsets,
      ...segments,
      ...groups,
      { name: "no h with an activation", change: { h: null }, says: ["h"] },
      { name: "h, gate or dgate without an activation", change: { act: 0, dx: out([7, 6]) }, says: ["h", "absent"] },
      { name: "a gate of the wrong length", change: { gate: out([6]) }, says: ["gate"] },
      { name: "an odd width of dx", change: { dx: out([7, 11]) }, says: ["dx", "even"] },
      { name: "gate as dgate", change: { gate: { same: "dgate" } }, says: ["dgate", "gate"] },
    ],
  },
  {
    base: tnBase,
    freeRows: ["x", "dy"],
    rows: [
      ...gather("dy_rows"),
      ...gather("x_rows"),
      ...offsets,
      ...segments,
      ...groups,
      { name: "bf16 gradients", change: { dw: [0, 1, 2, 3].map(() => out([4, 6], "bf16")) }, says: ["dw[0]", "f32", "bf16"] },
      {
        name: "too few gradients for its groups",
        change: { dw: [0, 1].map(() => out([4, 6])) },
        says: ["dw", "2 x 2 matrices", "received 2"],
      },
      { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
      { name: "x_act of an odd width", change: { x_act: 1, x: out([5, 7]) }, says: ["x", "even"] },
    ],
  },
]);

// One expert layer by hand: y = (silu(x·Wgᵀ) ∘ x·Wuᵀ) · W2ᵀ, weighted by gates, gathered and mixed in size.
describe("gradients against finite differences of the reference", () => {
  const random = new Random("expert layer");
  const counts = [3, 0, 4];
  const [D, F, N] = [5, 6, 7];
  const ref = () => device("ref");
  const up = nt(counts, 2 * F, D, { act: true, segments: 2, gather: true })(random);
  const down = nt(counts, D, F)(random);
  const flat = (ts: readonly HostTensor[]): Float32Array => Float32Array.from(ts.flatMap((t) => Array.from(t.values)));
  const split = (ts: readonly HostTensor[], values: Float32Array): HostTensor[] => {
    let at = 0;
    return ts.map((t) => f32(t.shape, values.slice(at, (at += t.values.length))));
  };
  const x = tensor(up, "x");
  const inputs = {
    x: Float32Array.from(x.values),
    w1: flat(list(up, "w")),
    w2: flat(list(down, "w")),
    gate: Float32Array.from({ length: N }, () => random.gauss()),
  };
  const c = Float32Array.from({ length: N * D }, () => random.gauss());
  type Inputs = Readonly<Record<string, Float32Array>>;

  async function forward(i: Inputs): Promise<{ h: Float64Array; a: Float64Array; y: Float64Array }> {
    const first: Args = { ...up, x: f32(x.shape, i.x!), w: split(list(up, "w"), i.w1!) };
    const made = await run(ref(), "grouped_gemm_nt", first);
    const [h, a] = [pick(made, "h"), pick(made, "y")];
    const y = pick(await run(ref(), "grouped_gemm_nt", { ...down, x: f32([N, F], a), w: split(list(down, "w"), i.w2!) }), "y");
    return { h, a, y };
  }
  const loss = async (i: Inputs): Promise<number> => {
    const { y } = await forward(i);
    return weighted(
      y.map((v, j) => v * i.gate![Math.floor(j / D)]!),
      c,
    );
  };

  it("x, gate, gate|up and down weights", async () => {
    const { h } = await forward(inputs);
    const dy = f32([N, D], c);
    const back: Args = {
      ...nn(counts, D, F, { act: true })(random),
      dy,
      w: split(list(down, "w"), inputs.w2),
      h: f32([N, 2 * F], h),
      gate: f32([N], inputs.gate),
    };
    const first = await run(ref(), "grouped_gemm_nn", back);
    const dh = f32([N, 2 * F], pick(first, "dx"));
    const dx_N = pick(
      await run(ref(), "grouped_gemm_nn", { ...nn(counts, 2 * F, D, { segments: 2 })(random), dy: dh, w: split(list(up, "w"), inputs.w1) }),
      "dx",
    );
    const rows = tensor(up, "rows").values;
    const dx = new Float64Array(inputs.x.length);
    dx_N.forEach((v, i) => (dx[rows[Math.floor(i / D)]! * D + (i % D)]! += v));
    const zero = (shapes: readonly HostTensor[]): HostTensor[] => shapes.map((t) => f32(t.shape, new Float32Array(t.values.length)));
    const dw1 = await run(ref(), "grouped_gemm_tn", {
      ...tn(counts, 2 * F, D, { segments: 2 })(random),
      dy: dh,
      x: f32(x.shape, inputs.x),
      x_rows: tensor(up, "rows"),
      dw: zero(list(up, "w")),
    });
    const dw2 = await run(ref(), "grouped_gemm_tn", {
      ...tn(counts, D, F, { act: true, scale: true })(random),
      dy,
      dy_scale: f32([N], inputs.gate),
      x: f32([N, 2 * F], h),
      dw: zero(list(down, "w")),
    });
    const joined = (outputs: readonly { values: Float64Array }[]): number[] => outputs.flatMap((o) => Array.from(o.values));
    await checkGradients({ inputs, loss, gradients: { x: dx, gate: pick(first, "dgate"), w1: joined(dw1), w2: joined(dw2) } });
  });

  it("without an activation the three products are adjoint: <c, y(x, W)> = <dx, x> = <dW, W>", async () => {
    const k = offsetsOf(counts);
    const w = [0, 1, 2].map(() => random.normal([4, D]));
    const cx = random.normal([N, 4]);
    const xs = random.normal([N, D]);
    const y = pick(await run(ref(), "grouped_gemm_nt", { x: xs, w, offsets: k, y: out([N, 4]), segments: 1, act: 0, precision: 0 }), "y");
    const dx = pick(
      await run(ref(), "grouped_gemm_nn", { dy: cx, w, offsets: k, dx: out([N, D]), segments: 1, act: 0, precision: 0 }),
      "dx",
    );
    const dw = await run(ref(), "grouped_gemm_tn", {
      dy: cx,
      x: xs,
      offsets: k,
      dw: w.map((t) => f32(t.shape, new Float32Array(t.values.length))),
      groups: [0, 1, 2],
      segments: 1,
      x_act: 0,
      accumulate: 1,
      precision: 0,
    });
    const value = weighted(y, cx.values);
    const byW = dw.reduce((s, o, e) => s + weighted(o.values, w[e]!.values), 0);
    for (const other of [weighted(dx, xs.values), byW])
      if (Math.abs(other - value) > 1e-5 * Math.max(1, Math.abs(value))) throw new Error(`${other} is not ${value}`);
  });
});
