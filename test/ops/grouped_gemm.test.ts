// The three grouped products on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/grouped_gemm.test.ts

import { describe, it } from "vitest";
import { groupedGemmCases, groupedGemmNarrowCases, nn, nnBase, nt, ntBase, tn, tnBase } from "./cases/grouped_gemm.ts";
import { clamped, every, none } from "./cases/gated.ts";
import { Random, f32, i32, list, offsetsOf, out, tensor } from "./host.ts";
import type { Args, HostTensor } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("grouped_gemm", [...groupedGemmCases, ...groupedGemmNarrowCases]);

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
/** Of an op whose call has SwiGLU. */
const activations = [
  { name: "act = 4", change: { act: 4 }, says: ["act", "0..3", "received 4"] },
  { name: "a limit without clamps", change: { limit: 7 }, says: ["limit", "0 with act 1", "received 7"] },
  { name: "an alpha without clamps", change: { alpha: 1.7 }, says: ["alpha", "0 with act 1", "received 1.7"] },
  { name: "clamps without a limit", change: { ...clamped, limit: 0 }, says: ["limit", "> 0", "received 0"] },
  { name: "an infinite limit", change: { ...clamped, limit: Infinity }, says: ["limit", "finite"] },
  { name: "an infinite alpha", change: { ...clamped, alpha: Infinity }, says: ["alpha", "finite"] },
];
const biases = [{ name: "a bias too few", change: { bias: [out([4])] }, says: ["bias", "one per matrix", "received 1"] }];
const groups = [
  { name: "groups that descend", change: { groups: [2, 0] }, says: ["groups", "ascending"] },
  { name: "a group twice", change: { groups: [2, 2] }, says: ["groups", "repeats"] },
  { name: "a group beyond the experts", change: { groups: [0, 3] }, says: ["groups", "0..2", "3 at position 1"] },
  { name: "a negative group", change: { groups: [-1, 2] }, says: ["groups", "-1 at position 0"] },
];
/** Of calls with terms of experts 0 and 2, u [7, 2 per part]. */
const terms = [
  { name: "term groups that descend", change: { term_groups: [2, 0] }, says: ["term_groups", "ascending"] },
  { name: "a term group twice", change: { term_groups: [2, 2] }, says: ["term_groups", "repeats"] },
  { name: "a term group beyond the experts", change: { term_groups: [0, 3] }, says: ["term_groups", "0..2", "3 at position 1"] },
  { name: "terms without groups", change: { term_groups: [] }, says: ["terms", "0 experts"] },
  { name: "terms without u", change: { u: null }, says: ["u"] },
  { name: "u and groups without terms", change: { terms: null }, says: ["u", "absent without terms"] },
  { name: "groups without terms", change: { terms: null, u: null }, says: ["term_groups", "empty without terms", "2 ids"] },
  { name: "u of too few rows", change: { u: out([6, 4]) }, says: ["u", "[7, *]"] },
  { name: "a factor that is no number", change: { factor: Infinity }, says: ["factor", "finite"] },
  { name: "added to with an activation", change: { accumulate: 1 }, says: ["accumulate", "0 with an activation"] },
  { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
  { name: "a factor with an activation", change: { factor: 2 }, says: ["factor", "1 with an activation", "received 2"] },
];
describeRefusals([
  {
    base: ntBase,
    freeRows: ["x"],
    rows: [
      ...gather("rows"),
      ...offsets,
      ...segments,
      ...groups,
      ...terms,
      { name: "a term too few", change: { terms: [4, 4, 4].map((m) => out([m, 2])) }, says: ["terms", "2 experts", "received 3"] },
      {
        name: "three parts with an activation",
        change: { terms: new Array<number>(6).fill(4).map((m) => out([m, 1])) },
        says: ["terms", "at most 2"],
      },
      { name: "u of odd halves", change: { u: out([7, 3]) }, says: ["u", "2 equal parts"] },
      {
        name: "a rank above u's",
        change: { terms: [2, 2, 3, 2].map((rank) => out([4, rank])) },
        says: ["terms[2]", "at most 2", "[4, 3]"],
      },
      { name: "terms of another height", change: { terms: [4, 4, 4, 3].map((m) => out([m, 2])) }, says: ["terms[3]", "[4, *]"] },
      {
        name: "terms that are too low",
        change: { u: out([7, 2]), terms: [7, 7].map((m) => out([m, 2])) },
        says: ["terms", "8 rows", "received 7"],
      },
      {
        name: "a term of integers",
        change: { terms: [4, 4, 4, 4].map((m) => ({ ...i32(new Array<number>(m * 2).fill(0)), shape: [m, 2] })) },
        says: ["terms[0]", "f32 or bf16"],
      },
      { name: "u in the memory of y", change: { u: { same: "y" } }, says: ["y", "u"] },
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
      ...activations,
      ...biases,
      {
        name: "a bias of another length",
        change: { bias: [4, 4, 4, 4, 4, 5].map((m) => out([m])) },
        says: ["bias[5]", "4 elements"],
      },
      {
        name: "a bias of integers",
        change: { bias: [4, 4, 4, 4, 4, 4].map((m) => i32(new Array<number>(m).fill(0))) },
        says: ["bias[0]", "f32 or bf16"],
      },
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
      ...terms,
      { name: "a term too few", change: { terms: [out([2, 6]), out([2, 6]), out([2, 6])] }, says: ["terms", "2 experts", "received 3"] },
      { name: "a rank above u's", change: { terms: [out([2, 6]), out([3, 6])] }, says: ["terms[1]", "at most 2", "[3, 6]"] },
      { name: "terms of another width", change: { terms: [out([2, 6]), out([2, 5])] }, says: ["terms[1]", "[*, 6]"] },
      ...activations,
      ...biases,
      { name: "a bias without dgate", change: { dgate: null }, says: ["bias", "absent without dgate", "received 3 vectors"] },
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
      { name: "x_act = 4", change: { x_act: 4 }, says: ["x_act", "0..3"] },
      { name: "a limit without clamps on load", change: { limit: 7 }, says: ["limit", "0 with x_act 0"] },
      { name: "x_act of an odd width", change: { x_act: 1, x: out([5, 7]) }, says: ["x", "even"] },
    ],
  },
]);

// One expert layer by hand: y = f(x·W1ᵀ + b1)·W2ᵀ + b2, weighted by gates, gathered and mixed in size.
describe("gradients against finite differences of the reference", () => {
  const random = new Random("expert layer");
  const counts = [3, 0, 4];
  const [D, F, N] = [5, 6, 7];
  const ref = () => device("ref");
  const flat = (ts: readonly HostTensor[]): Float32Array => Float32Array.from(ts.flatMap((t) => Array.from(t.values)));
  const split = (ts: readonly HostTensor[], values: Float32Array): HostTensor[] => {
    let at = 0;
    return ts.map((t) => f32(t.shape, values.slice(at, (at += t.values.length))));
  };
  const zero = (shapes: readonly HostTensor[]): HostTensor[] => shapes.map((t) => f32(t.shape, new Float32Array(t.values.length)));
  const joined = (outputs: readonly { values: Float64Array }[]): number[] => outputs.flatMap((o) => Array.from(o.values));
  type Inputs = Readonly<Record<"x" | "w1" | "b1" | "w2" | "b2" | "gate", Float32Array>>;

  for (const [name, act] of Object.entries(every))
    it(`${name}: x, gate, weights and biases`, async () => {
      const up = nt(counts, 2 * F, D, { act, segments: 2, gather: true, bias: "f32" })(random);
      const down = nt(counts, D, F, { bias: "f32" })(random);
      const x = tensor(up, "x");
      const offsets = offsetsOf(counts);
      const inputs: Inputs = {
        x: Float32Array.from(x.values),
        w1: flat(list(up, "w")),
        b1: flat(list(up, "bias")),
        w2: flat(list(down, "w")),
        b2: flat(list(down, "bias")),
        gate: Float32Array.from({ length: N }, () => random.gauss()),
      };
      const c = Float32Array.from({ length: N * D }, () => random.gauss());
      const first = (i: Inputs): Args => ({
        ...up,
        x: f32(x.shape, i.x),
        w: split(list(up, "w"), i.w1),
        bias: split(list(up, "bias"), i.b1),
      });
      const loss = async (i: Inputs): Promise<number> => {
        const a = pick(await run(ref(), "grouped_gemm_nt", first(i)), "y");
        const second = { ...down, x: f32([N, F], a), w: split(list(down, "w"), i.w2), bias: split(list(down, "bias"), i.b2) };
        const y = pick(await run(ref(), "grouped_gemm_nt", second), "y");
        return weighted(
          y.map((v, j) => v * i.gate[Math.floor(j / D)]!),
          c,
        );
      };
      const h = f32([N, 2 * F], pick(await run(ref(), "grouped_gemm_nt", first(inputs)), "h"));
      const dy = f32([N, D], c);
      const gate = f32([N], inputs.gate);
      const through = await run(ref(), "grouped_gemm_nn", {
        ...nn(counts, D, F, { act })(random),
        dy,
        w: split(list(down, "w"), inputs.w2),
        bias: split(list(down, "bias"), inputs.b2),
        h,
        gate,
      });
      const dh = f32([N, 2 * F], pick(through, "dx"));
      const dx_N = pick(
        await run(ref(), "grouped_gemm_nn", {
          ...nn(counts, 2 * F, D, { segments: 2 })(random),
          dy: dh,
          w: split(list(up, "w"), inputs.w1),
        }),
        "dx",
      );
      const rows = tensor(up, "rows").values;
      const dx = new Float64Array(inputs.x.length);
      dx_N.forEach((v, i) => (dx[rows[Math.floor(i / D)]! * D + (i % D)]! += v));
      const dw1 = await run(ref(), "grouped_gemm_tn", {
        ...tn(counts, 2 * F, D, { segments: 2 })(random),
        dy: dh,
        x: f32(x.shape, inputs.x),
        x_rows: tensor(up, "rows"),
        dw: zero(list(up, "w")),
      });
      const dw2 = await run(ref(), "grouped_gemm_tn", {
        ...tn(counts, D, F, { act, scale: true })(random),
        dy,
        dy_scale: gate,
        x: h,
        dw: zero(list(down, "w")),
      });
      const sum = { offsets, groups: [0, 1, 2], accumulate: 0 };
      const db1 = await run(ref(), "grouped_column_sum", { ...sum, x: dh, y: zero(list(up, "bias")), segments: 2 });
      const db2 = await run(ref(), "grouped_column_sum", { ...sum, x: dy, scale: gate, y: zero(list(down, "bias")), segments: 1 });
      const gradients = { x: dx, gate: pick(through, "dgate"), w1: joined(dw1), b1: joined(db1), w2: joined(dw2), b2: joined(db2) };
      await checkGradients({ inputs, loss: (i) => loss(i as Inputs), gradients });
    });

  it("without an activation the three products are adjoint: <c, y(x, W)> = <dx, x> = <dW, W>", async () => {
    const k = offsetsOf(counts);
    const w = [0, 1, 2].map(() => random.normal([4, D]));
    const cx = random.normal([N, 4]);
    const xs = random.normal([N, D]);
    const y = pick(
      await run(ref(), "grouped_gemm_nt", {
        x: xs,
        w,
        offsets: k,
        y: out([N, 4]),
        factor: 1,
        segments: 1,
        ...none,
        accumulate: 0,
        precision: 0,
      }),
      "y",
    );
    const dx = pick(
      await run(ref(), "grouped_gemm_nn", {
        dy: cx,
        w,
        offsets: k,
        dx: out([N, D]),
        factor: 1,
        segments: 1,
        ...none,
        accumulate: 0,
        precision: 0,
      }),
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
      alpha: 0,
      limit: 0,
      accumulate: 1,
      precision: 0,
    });
    const value = weighted(y, cx.values);
    const byW = dw.reduce((s, o, e) => s + weighted(o.values, w[e]!.values), 0);
    for (const other of [weighted(dx, xs.values), byW])
      if (Math.abs(other - value) > 1e-5 * Math.max(1, Math.abs(value))) throw new Error(`${other} is not ${value}`);
  });
});
