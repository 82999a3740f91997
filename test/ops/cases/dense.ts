// Cases of embedding, rms_norm, rope and the element-wise ops (csrc/ops/embedding.h, rms_norm.h, rope.h, elementwise.h).

import { at, colsOf, f32, has, i32, ints, number, out, rowsOf, strided, tensor, toBf16, zeros } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import type { OpCase } from "../support.ts";

type Row = (name: string, args: (r: Random) => Args, extra?: Partial<OpCase>) => OpCase;
const rowOf =
  (op: string, shared: Partial<OpCase> = {}): Row =>
  (name, args, extra = {}) => ({ op, name, args, ...shared, ...extra });

// ---- embedding ----------------------------------------------------------------------------------------------------------

const embed = rowOf("embedding", {
  expected: (a) => ({
    y: Array.from(tensor(a, "ids").values).flatMap((id) =>
      Array.from({ length: colsOf(tensor(a, "table")) }, (_, d) => at(tensor(a, "table"), id, d) * number(a, "scale")),
    ),
  }),
});
const embedBack = rowOf("embedding_backward", {
  k: 8,
  expected: (a) => {
    const D = colsOf(tensor(a, "dy"));
    const dtable = Float64Array.from(tensor(a, "dtable").values);
    Array.from(tensor(a, "ids").values).forEach((id, t) => {
      for (let d = 0; d < D; d++) dtable[id * D + d]! += number(a, "scale") * at(tensor(a, "dy"), t, d);
    });
    return { dtable };
  },
});
export const embedding =
  (T: number, V: number, D: number, dtype: "f32" | "bf16" = "f32", scale = 1, wrap = (t: HostTensor): HostTensor => t) =>
  (r: Random): Args => ({
    ids: r.ints([T], V),
    table: wrap(r.normal([V, D], 1, dtype)),
    y: wrap(out([T, D])),
    scale,
  });
export const embeddingBackward =
  (T: number, V: number, D: number, scale = 1, wrap = (t: HostTensor): HostTensor => t) =>
  (r: Random): Args => ({
    ids: r.ints([T], V),
    dy: wrap(r.normal([T, D])),
    dtable: wrap(r.normal([V, D])),
    scale,
  });
export const embeddingCases: readonly OpCase[] = [
  embed("f32 table", embedding(20, 50, 64)),
  embed("bf16 table, unaligned", embedding(20, 50, 37, "bf16")),
  embed("scaled", embedding(20, 50, 33, "f32", 7.5)),
  embed("bf16, scaled, strided", embedding(20, 50, 33, "bf16", 0.125, strided)),
  embed("one token", embedding(1, 3, 5)),
  embed("no tokens", embedding(0, 3, 5)),
  embed("many tokens", embedding(900, 400, 130)),
  embedBack("repeated ids", embeddingBackward(60, 7, 33)),
  embedBack("one id only", (r) => ({ ...embeddingBackward(40, 5, 20)(r), ids: i32(new Array<number>(40).fill(3)) }), { k: 40 }),
  embedBack("scaled, strided", embeddingBackward(60, 50, 33, 2.5, strided)),
  embedBack("one token", embeddingBackward(1, 3, 5)),
  embedBack("no tokens", embeddingBackward(0, 3, 5)),
  embedBack("many tokens", embeddingBackward(900, 300, 130)),
];
export const embeddingBase = embed("base", embedding(4, 6, 5));
export const embeddingBackwardBase = embedBack("base", embeddingBackward(4, 6, 5));

// ---- rms_norm -----------------------------------------------------------------------------------------------------------

const norm = rowOf("rms_norm", {
  expected: (a) => {
    const x = tensor(a, "x");
    const C = colsOf(x);
    const y: number[] = [];
    const rstd: number[] = [];
    for (let r = 0; r < rowsOf(x); r++) {
      const row = Array.from({ length: C }, (_, c) => at(x, r, c));
      rstd.push(1 / Math.sqrt(row.reduce((s, v) => s + v * v, 0) / C + number(a, "eps")));
      y.push(...row.map((v, c) => v * rstd[r]! * tensor(a, "weight").values[c]!));
    }
    return has(a, "rstd") ? { y, rstd } : { y };
  },
});
interface NormOptions {
  readonly w?: "f32" | "bf16";
  readonly wrap?: (t: HostTensor) => HostTensor;
  readonly rstd?: boolean;
  readonly scale?: number;
}
export const rmsNorm =
  (R: number, C: number, o: NormOptions = {}) =>
  (r: Random): Args => {
    const wrap = o.wrap ?? ((t: HostTensor): HostTensor => t);
    return {
      x: wrap(r.normal([R, C], o.scale ?? 1)),
      weight: r.normal([C], 1, o.w ?? "f32"),
      y: wrap(out([R, C])),
      rstd: o.rstd === false ? null : out([R]),
      eps: 1e-6,
    };
  };
interface NormBackOptions extends NormOptions {
  readonly dx?: boolean;
  readonly dweight?: boolean;
  readonly accumulate?: boolean;
  readonly inPlace?: boolean;
}
export const rmsNormBackward =
  (R: number, C: number, o: NormBackOptions = {}) =>
  (r: Random): Args => {
    const forward = rmsNorm(R, C, o)(r);
    const wrap = o.wrap ?? ((t: HostTensor): HostTensor => t);
    const rstd = norm("", () => forward).expected!({ ...forward, rstd: 1 }).rstd as number[];
    return {
      dy: wrap(r.normal([R, C])),
      x: forward.x as HostTensor,
      weight: forward.weight as HostTensor,
      rstd: f32([R], rstd),
      dx: o.dx === false ? null : o.inPlace ? { same: "dy" } : wrap(o.accumulate ? r.normal([R, C]) : out([R, C])),
      dweight: o.dweight === false ? null : r.normal([C]),
      accumulate: o.accumulate ? 1 : 0,
    };
  };
const normBack = (name: string, R: number, C: number, o?: NormBackOptions): OpCase => ({
  op: "rms_norm_backward",
  name,
  args: rmsNormBackward(R, C, o),
  k: Math.max(R, C),
});
const normRow = (name: string, R: number, C: number, o?: NormOptions): OpCase => norm(name, rmsNorm(R, C, o), { k: C });
export const rmsNormCases: readonly OpCase[] = [
  normRow("64 columns", 20, 64),
  normRow("unaligned", 21, 37),
  normRow("bf16 weight", 21, 130, { w: "bf16" }),
  normRow("column slice of a wider buffer", 21, 37, { wrap: strided, w: "bf16" }),
  normRow("without rstd", 21, 37, { rstd: false }),
  normRow("one row, one column", 1, 1),
  normRow("no rows", 0, 8),
  normRow("tiny values", 5, 33, { scale: 1e-6 }),
  normRow("large values", 5, 33, { scale: 1e6 }),
  normRow("many rows", 700, 96),
  normRow("wide", 6, 2048),
  norm("zeros", () => ({
    x: zeros("f32", [3, 9]),
    weight: f32([9], new Array<number>(9).fill(1)),
    y: out([3, 9]),
    rstd: out([3]),
    eps: 1e-6,
  })),
  norm("in place", (r) => ({ ...rmsNorm(9, 37)(r), x: { same: "y" }, y: r.normal([9, 37]) }), { k: 37 }),
  normBack("64 columns", 20, 64),
  normBack("unaligned, bf16 weight", 21, 37, { w: "bf16" }),
  normBack("into the residual stream", 21, 37, { accumulate: true }),
  normBack("in place of dy", 21, 37, { inPlace: true }),
  normBack("in place of dy, accumulating", 21, 37, { inPlace: true, accumulate: true }),
  normBack("strided", 21, 37, { wrap: strided, w: "bf16" }),
  normBack("dx only", 21, 37, { dweight: false }),
  normBack("dweight only", 21, 37, { dx: false }),
  normBack("one row", 1, 5),
  normBack("no rows", 0, 5),
  normBack("many rows", 700, 96),
  normBack("wide", 6, 2048),
];
export const rmsNormBase = norm("base", rmsNorm(3, 5));
export const rmsNormBackwardBase: OpCase = normBack("base", 3, 5);

// ---- rope -----------------------------------------------------------------------------------------------------------------

const ropeRow = rowOf("rope", {
  expected: (a) => {
    const x = tensor(a, "x");
    const half = colsOf(tensor(a, "cos"));
    const hd = colsOf(x) / number(a, "heads");
    const y = Float64Array.from(x.values);
    for (let t = 0; t < rowsOf(x); t++)
      for (let h = 0; h < number(a, "heads"); h++)
        for (let i = 0; i < half; i++) {
          const start = t * colsOf(x) + h * hd + number(a, "offset");
          const [p, q] = a.interleaved === 1 ? [start + 2 * i, start + 2 * i + 1] : [start + i, start + half + i];
          const [u, v] = [x.values[p]!, x.values[q]!];
          const position = tensor(a, "positions").values[t]!;
          const c = at(tensor(a, "cos"), position, i);
          const s = at(tensor(a, "sin"), position, i) * (a.inverse === 1 ? -1 : 1);
          // the complex product (u + iv)(c + is)
          y[p] = u * c - v * s;
          y[q] = u * s + v * c;
        }
    return { y };
  },
});
interface RopeOptions {
  readonly offset?: number;
  readonly interleaved?: boolean;
  readonly inverse?: boolean;
  readonly wrap?: (t: HostTensor) => HostTensor;
  readonly inPlace?: boolean;
}
export const rope =
  (T: number, heads: number, hd: number, R: number, o: RopeOptions = {}) =>
  (r: Random): Args => {
    const wrap = o.wrap ?? ((t: HostTensor): HostTensor => t);
    const P = 50;
    const angle = (f: (x: number) => number): HostTensor =>
      f32(
        [P, R / 2],
        Array.from({ length: (P * R) / 2 }, (_, i) => f(Math.floor(i / (R / 2)) / 10 ** ((4 * (i % (R / 2))) / (R / 2)))),
      );
    const x = wrap(r.normal([T, heads * hd]));
    return {
      x: o.inPlace ? { same: "y" } : x,
      positions: r.ints([T], P),
      cos: angle(Math.cos),
      sin: angle(Math.sin),
      y: o.inPlace ? x : wrap(out([T, heads * hd])),
      heads,
      offset: o.offset ?? 0,
      interleaved: o.interleaved ? 1 : 0,
      inverse: o.inverse ? 1 : 0,
    };
  };
export const ropeCases: readonly OpCase[] = [
  ropeRow("whole head", rope(20, 4, 32, 32)),
  ropeRow("whole head, interleaved", rope(20, 4, 32, 32, { interleaved: true })),
  ropeRow("inverse", rope(20, 4, 32, 32, { inverse: true })),
  ropeRow("inverse, interleaved", rope(20, 3, 16, 16, { interleaved: true, inverse: true })),
  ropeRow("last part of each head", rope(20, 3, 24, 8, { offset: 16 })),
  ropeRow("middle part, interleaved", rope(20, 3, 29, 10, { offset: 7, interleaved: true })),
  ropeRow("first part, uneven", rope(20, 3, 37, 22)),
  ropeRow("in place", rope(20, 3, 24, 8, { offset: 16, inPlace: true })),
  ropeRow("in place, interleaved, strided", rope(20, 3, 24, 24, { inPlace: true, interleaved: true, wrap: strided })),
  ropeRow("strided", rope(20, 3, 24, 24, { wrap: strided })),
  ropeRow("one token, one head", rope(1, 1, 2, 2)),
  ropeRow("no tokens", rope(0, 2, 8, 8)),
  ropeRow("nothing rotated", rope(5, 2, 8, 0)),
  ropeRow("many tokens", rope(600, 8, 64, 64)),
];
export const ropeBase = ropeRow("base", rope(4, 2, 6, 4, { offset: 2 }));

// ---- element-wise -----------------------------------------------------------------------------------------------------------

const silu = (x: number): number => x / (1 + Math.exp(-x));
const same = (t: HostTensor): HostTensor => t;
const shapes: readonly (readonly [string, number, number, (t: HostTensor) => HostTensor])[] = [
  ["small", 3, 5, same],
  ["unaligned", 21, 37, same],
  ["strided", 21, 37, strided],
  ["one element", 1, 1, same],
  ["no rows", 0, 9, same],
  ["no columns", 9, 0, same],
  ["large", 600, 130, same],
];
const map = (t: HostTensor, f: (x: number, i: number) => number): Float64Array => Float64Array.from(t.values, f);

const swigluRow = rowOf("swiglu", {
  k: 4,
  expected: (a) => {
    const h = tensor(a, "h");
    const F = colsOf(tensor(a, "a"));
    return {
      a: map(zeros("f32", tensor(a, "a").shape), (_, i) => silu(at(h, Math.floor(i / F), i % F)) * at(h, Math.floor(i / F), F + (i % F))),
    };
  },
});
const swigluBackRow = rowOf("swiglu_backward", { k: 4 });
const addRow = rowOf("add", {
  expected: (a) => ({ y: map(tensor(a, "a"), (x, i) => x + number(a, "alpha") * tensor(a, "b").values[i]!) }),
});
const scaleRow = rowOf("scale", { expected: (a) => ({ x: map(tensor(a, "x"), (x) => x * number(a, "factor")) }) });
const clampOne = (a: Args, x: number): number => (x < number(a, "lo") ? number(a, "lo") : x > number(a, "hi") ? number(a, "hi") : x);
const clampRow = rowOf("clamp", { eps: { y: "exact" }, expected: (a) => ({ y: map(tensor(a, "x"), (x) => clampOne(a, x)) }) });
const clampBackRow = rowOf("clamp_backward", {
  eps: { dx: "exact" },
  expected: (a) => ({ dx: map(tensor(a, "dy"), (d, i) => (clampOne(a, tensor(a, "x").values[i]!) === tensor(a, "x").values[i]! ? d : 0)) }),
});
const fillRow = rowOf("fill", {
  eps: { x: "exact" },
  expected: (a) => ({
    x: map(tensor(a, "x"), () => (tensor(a, "x").dtype === "f32" ? Math.fround(number(a, "value")) : number(a, "value"))),
  }),
});
const castRow = rowOf("cast", {
  eps: { y: "exact" },
  expected: (a) => ({ y: map(tensor(a, "x"), (x) => (tensor(a, "y").dtype === "bf16" ? toBf16(x) : x)) }),
});
const maskRow = rowOf("mask_grad", {
  eps: { grad: "exact" },
  expected: (a) => {
    const g = tensor(a, "grad");
    const per = g.values.length / g.shape[0]!;
    return { grad: map(g, (x, i) => (ints(a, "keep").includes(Math.floor(i / per)) ? x : 0)) };
  },
});
const sumRow = rowOf("column_sum", {
  expected: (a) => {
    const x = tensor(a, "x");
    return { y: map(tensor(a, "y"), (y, c) => Array.from({ length: rowsOf(x) }, (_, r) => at(x, r, c)).reduce((s, v) => s + v, y)) };
  },
});
const special = [NaN, Infinity, -Infinity, 0, -0, 1, -1, 2, -2, 1e38, 1e-40, 0.5, -0.5, 3, 7, 1e-30, -NaN];
// 1.00390625 lies halfway between two bf16 values and goes to the even one.
const halves = [
  1.00390625,
  1.01171875,
  -1.00390625,
  1.0039063,
  1.0039061,
  65535,
  3.4e38,
  1e-40,
  -1e-40,
  2 ** -133,
  2 ** -134,
  NaN,
  Infinity,
  -Infinity,
  -0,
  255.5,
  256.5,
];

export const elementwiseCases: readonly OpCase[] = [
  ...shapes.flatMap(([name, R, C, wrap]) => [
    swigluRow(name, (r) => ({ h: wrap(r.normal([R, 2 * C], 3)), a: wrap(out([R, C])) })),
    swigluBackRow(name, (r) => ({ h: wrap(r.normal([R, 2 * C], 3)), da: wrap(r.normal([R, C])), dh: wrap(out([R, 2 * C])) })),
    swigluBackRow(`${name}, in place`, (r) => ({ h: { same: "dh" }, da: wrap(r.normal([R, C])), dh: wrap(r.normal([R, 2 * C], 3)) })),
    addRow(name, (r) => ({ a: wrap(r.normal([R, C])), b: wrap(r.normal([R, C])), y: wrap(out([R, C])), alpha: 0.3 })),
    addRow(`${name}, into a`, (r) => ({ a: { same: "y" }, b: wrap(r.normal([R, C])), y: wrap(r.normal([R, C])), alpha: -2 })),
    addRow(`${name}, into b`, (r) => ({ a: wrap(r.normal([R, C])), b: { same: "y" }, y: wrap(r.normal([R, C])), alpha: 1 })),
    scaleRow(name, (r) => ({ x: wrap(r.normal([R, C])), factor: -0.7 })),
    clampRow(name, (r) => ({ x: wrap(r.normal([R, C])), y: wrap(out([R, C])), lo: -0.5, hi: 1 })),
    sumRow(name, (r) => ({ x: wrap(r.normal([R, C])), y: r.normal([C]) }), { k: R }),
    clampBackRow(name, (r) => ({ x: wrap(r.normal([R, C])), dy: wrap(r.normal([R, C])), dx: wrap(out([R, C])), lo: -0.5, hi: 1 })),
    castRow(`${name}, f32 to bf16`, (r) => ({ x: wrap(r.normal([R, C])), y: wrap(out([R, C], "bf16")) })),
    castRow(`${name}, bf16 to f32`, (r) => ({ x: wrap(r.normal([R, C], 1, "bf16")), y: wrap(out([R, C])) })),
    ...(["f32", "bf16", "i32", "i64", "f64", "u8"] as const).flatMap((dtype) => [
      fillRow(`${name}, ${dtype}`, () => ({ x: wrap(out([R, C], dtype)), value: dtype === "u8" ? 255 : -3 })),
      castRow(`${name}, ${dtype} copied`, (r) => ({
        x: wrap({ dtype, shape: [R, C], values: r.ints([R, C], 200).values }),
        y: wrap(out([R, C], dtype)),
      })),
    ]),
  ]),
  swigluRow("saturated gates", () => ({ h: f32([1, 12], [100, -100, 88, -88, 30, -30, 1, 2, 3, 4, 5, 6]), a: out([1, 6]) })),
  swigluBackRow("saturated gates", () => ({
    h: f32([1, 12], [100, -100, 88, -88, 30, -30, 1, 2, 3, 4, 5, 6]),
    da: f32([1, 6], [1, 1, 1, 1, 1, 1]),
    dh: out([1, 12]),
  })),
  clampRow("NaN stays, infinities are clamped", () => ({ x: f32([1, 17], special), y: out([1, 17]), lo: -1, hi: 1 })),
  clampRow("no limits", () => ({ x: f32([1, 17], special), y: out([1, 17]), lo: -Infinity, hi: Infinity })),
  clampRow("in place", (r) => ({ x: { same: "y" }, y: r.normal([9, 37]), lo: 0, hi: 0.25 })),
  clampBackRow("limits belong to the inside", () => ({
    x: f32([1, 5], [-1, 1, -1.5, 1.5, NaN]),
    dy: f32([1, 5], [1, 2, 3, 4, 5]),
    dx: out([1, 5]),
    lo: -1,
    hi: 1,
  })),
  clampBackRow("in place of dy", (r) => ({ x: r.normal([9, 37]), dy: { same: "dx" }, dx: r.normal([9, 37]), lo: 0, hi: 1 })),
  castRow("rounding to nearest even, subnormals, NaN, overflow", () => ({ x: f32([1, 17], halves), y: out([1, 17], "bf16") })),
  castRow("rank 3", (r) => ({ x: r.normal([3, 4, 19]), y: out([3, 4, 19], "bf16") })),
  fillRow("infinity", () => ({ x: zeros("f32", [3, 5]), value: Infinity })),
  maskRow("some experts", (r) => ({ grad: r.normal([6, 5, 7]), keep: [1, 4] })),
  maskRow("none kept", (r) => ({ grad: r.normal([3, 5, 7]), keep: [] })),
  maskRow("all kept", (r) => ({ grad: r.normal([3, 5, 7]), keep: [0, 1, 2] })),
  maskRow("rank 2", (r) => ({ grad: r.normal([5, 37]), keep: [0, 4] })),
  maskRow("strided", (r) => ({ grad: strided(r.normal([5, 3, 37])), keep: [2] })),
  maskRow("no experts", () => ({ grad: zeros("f32", [0, 5, 7]), keep: [] })),
  maskRow("large", (r) => ({ grad: r.normal([16, 40, 130]), keep: [3, 5, 15] })),
];
export const swigluBase = swigluRow("base", (r) => ({ h: r.normal([3, 10]), a: out([3, 5]) }));
export const swigluBackwardBase = swigluBackRow("base", (r) => ({ h: r.normal([3, 10]), da: r.normal([3, 5]), dh: out([3, 10]) }));
export const addBase = addRow("base", (r) => ({ a: r.normal([3, 5]), b: r.normal([3, 5]), y: out([3, 5]), alpha: 1 }));
export const scaleBase = scaleRow("base", (r) => ({ x: r.normal([3, 5]), factor: 2 }));
export const clampBase = clampRow("base", (r) => ({ x: r.normal([3, 5]), y: out([3, 5]), lo: -1, hi: 1 }));
export const clampBackwardBase = clampBackRow("base", (r) => ({
  x: r.normal([3, 5]),
  dy: r.normal([3, 5]),
  dx: out([3, 5]),
  lo: -1,
  hi: 1,
}));
export const fillBase = fillRow("base", () => ({ x: zeros("i32", [3, 5]), value: 2 }));
export const castBase = castRow("base", (r) => ({ x: r.normal([3, 5]), y: out([3, 5], "bf16") }));
export const columnSumBase = sumRow("base", (r) => ({ x: r.normal([3, 5]), y: r.normal([5]) }));
export const maskGradBase = maskRow("base", (r) => ({ grad: r.normal([3, 2, 5]), keep: [0, 2] }));
