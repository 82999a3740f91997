// Cases of the element-wise ops (csrc/ops/elementwise.h).

import { at, colsOf, f32, has, ints, number, out, rowsOf, strided, tensor, toBf16, zeros } from "../host.ts";
import type { DType } from "../../../lib/tensor.ts";
import type { Args, HostTensor } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";
import { rowOf } from "./dense.ts";
import { clamped, every, gated, gatedOf, gelu, swiglu } from "./gated.ts";

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

/** f(gate, up, the element's number in [R, F]) for every element of h's halves. */
function mapGated(a: Args, f: (gate: number, up: number, i: number) => number): Float64Array {
  const h = tensor(a, "h");
  const F = colsOf(h) / 2;
  return Float64Array.from({ length: rowsOf(h) * F }, (_, i) =>
    f(at(h, Math.floor(i / F), i % F), at(h, Math.floor(i / F), F + (i % F)), i),
  );
}
const swigluRow = rowOf("swiglu", { k: 4, expected: (a) => ({ a: mapGated(a, (g, u) => gated(gatedOf(a), g, u).a) }) });
const swigluBackRow = rowOf("swiglu_backward", {
  k: 4,
  expected: (a) => {
    const da = tensor(a, "da").values;
    const F = colsOf(tensor(a, "da"));
    const dh = new Float64Array(2 * da.length);
    mapGated(a, (g, u, i) => {
      const [f, at] = [gated(gatedOf(a), g, u), 2 * F * Math.floor(i / F) + (i % F)];
      dh[at + F] = da[i]! * f.byUp;
      return (dh[at] = da[i]! * f.byGate);
    });
    return { dh };
  },
});
const addRow = rowOf("add", {
  expected: (a) => ({ y: map(tensor(a, "a"), (x, i) => x + number(a, "alpha") * tensor(a, "b").values[i]!) }),
});
const scaleRow = rowOf("scale", {
  expected: (a) => ({ x: map(tensor(a, "x"), (x) => x * number(a, "factor") * (has(a, "by") ? tensor(a, "by").values[0]! : 1)) }),
});
const capRow = rowOf("soft_cap", {
  k: 4,
  expected: (a) => ({ y: map(tensor(a, "x"), (x) => number(a, "cap") * Math.tanh(x / number(a, "cap"))) }),
});
const clampOne = (a: Args, x: number): number => (x < number(a, "lo") ? number(a, "lo") : x > number(a, "hi") ? number(a, "hi") : x);
const clampRow = rowOf("clamp", { eps: { y: "exact" }, expected: (a) => ({ y: map(tensor(a, "x"), (x) => clampOne(a, x)) }) });
const clampBackRow = rowOf("clamp_backward", {
  eps: { dx: "exact" },
  expected: (a) => ({ dx: map(tensor(a, "dy"), (d, i) => (clampOne(a, tensor(a, "x").values[i]!) === tensor(a, "x").values[i]! ? d : 0)) }),
});
const fillRow = rowOf("fill", {
  eps: { x: "exact" },
  expected: (a) => {
    const round = ({ f32: Math.fround, bf16: toBf16 } as Partial<Record<DType, (x: number) => number>>)[tensor(a, "x").dtype];
    return { x: map(tensor(a, "x"), () => round?.(number(a, "value")) ?? number(a, "value")) };
  },
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
    const start = (y: number): number => (a.accumulate === 1 ? y : 0);
    return { y: map(tensor(a, "y"), (y, c) => Array.from({ length: rowsOf(x) }, (_, r) => at(x, r, c)).reduce((s, v) => s + v, start(y))) };
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

const saturated = [100, -100, 88, -88, 30, -30, 9.5, -9.5, 1, 2, 3, 4, 5, 6, -7, 8];

export const elementwiseCases: readonly OpCase[] = [
  ...shapes.flatMap(([name, R, C, wrap]) => [
    ...Object.entries(every).flatMap(([kind, act]) => [
      swigluRow(`${name}, ${kind}`, (r) => ({ h: wrap(r.normal([R, 2 * C], 3)), a: wrap(out([R, C])), ...act })),
      swigluBackRow(`${name}, ${kind}`, (r) => ({
        h: wrap(r.normal([R, 2 * C], 3)),
        da: wrap(r.normal([R, C])),
        dh: wrap(out([R, 2 * C])),
        ...act,
      })),
      swigluBackRow(`${name}, ${kind}, in place`, (r) => ({
        h: { same: "dh" },
        da: wrap(r.normal([R, C])),
        dh: wrap(r.normal([R, 2 * C], 3)),
        ...act,
      })),
    ]),
    addRow(name, (r) => ({ a: wrap(r.normal([R, C])), b: wrap(r.normal([R, C])), y: wrap(out([R, C])), alpha: 0.3 })),
    addRow(`${name}, into a`, (r) => ({ a: { same: "y" }, b: wrap(r.normal([R, C])), y: wrap(r.normal([R, C])), alpha: -2 })),
    addRow(`${name}, into b`, (r) => ({ a: wrap(r.normal([R, C])), b: { same: "y" }, y: wrap(r.normal([R, C])), alpha: 1 })),
    scaleRow(name, (r) => ({ x: wrap(r.normal([R, C])), factor: -0.7 })),
    scaleRow(`${name}, by a number on the device`, (r) => ({ x: wrap(r.normal([R, C])), by: f32([1], [1.75]), factor: 0.5 })),
    capRow(name, (r) => ({ x: wrap(r.normal([R, C], 4)), y: wrap(out([R, C])), cap: 3 })),
    clampRow(name, (r) => ({ x: wrap(r.normal([R, C])), y: wrap(out([R, C])), lo: -0.5, hi: 1 })),
    sumRow(name, (r) => ({ x: wrap(r.normal([R, C])), y: r.normal([C]), accumulate: 1 }), { k: R }),
    sumRow(`${name}, overwritten`, (r) => ({ x: wrap(r.normal([R, C])), y: out([C]), accumulate: 0 }), { k: R }),
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
  ...Object.entries(every).flatMap(([kind, act]) => [
    swigluRow(`saturated gates, ${kind}`, () => ({ h: f32([1, 16], saturated), a: out([1, 8]), ...act })),
    swigluBackRow(`saturated gates, ${kind}`, () => ({
      h: f32([1, 16], saturated),
      da: f32([1, 8], new Array<number>(8).fill(1)),
      dh: out([1, 16]),
      ...act,
    })),
  ]),
  swigluRow("the largest gates, tanh-GELU", () => ({ h: f32([1, 8], [3e38, -3e38, 1e20, -1e20, 1, 1, 1, 1]), a: out([1, 4]), ...gelu })),
  swigluBackRow("the largest gates, tanh-GELU", () => ({
    h: f32([1, 8], [1e30, -1e30, 1e13, -1e13, 1, 1, 1, 1]),
    da: f32([1, 4], [1e-30, 1, 1e-13, 1]),
    dh: out([1, 8]),
    ...gelu,
  })),
  swigluBackRow("limits belong to the inside", () => ({
    h: f32([1, 12], [2.5, 2.75, 2.25, -9, 2.5, 2.5, 1, 1, 1, 2.5, -2.5, -2.75]),
    da: f32([1, 6], [1, 1, 1, 1, 1, 1]),
    dh: out([1, 12]),
    ...clamped,
  })),
  scaleRow("by a bf16 number", (r) => ({ x: r.normal([9, 37]), by: r.normal([1], 1, "bf16"), factor: 1 })),
  capRow("small values", (r) => ({ x: r.normal([9, 37], 1e-3), y: out([9, 37]), cap: 30 })),
  capRow("NaN stays, infinities are capped", () => ({ x: f32([1, 17], special), y: out([1, 17]), cap: 2 })),
  capRow("in place", (r) => ({ x: { same: "y" }, y: r.normal([9, 37], 2), cap: 1 })),
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
  ...[1.00390625, 1.01171875, -1.00390625, 1.0039063].map((value) =>
    fillRow(`bf16, ${value} rounded to nearest even`, () => ({ x: zeros("bf16", [3, 5]), value })),
  ),
  fillRow("infinity", () => ({ x: zeros("f32", [3, 5]), value: Infinity })),
  maskRow("some experts", (r) => ({ grad: r.normal([6, 5, 7]), keep: [1, 4] })),
  maskRow("none kept", (r) => ({ grad: r.normal([3, 5, 7]), keep: [] })),
  maskRow("all kept", (r) => ({ grad: r.normal([3, 5, 7]), keep: [0, 1, 2] })),
  maskRow("rank 2", (r) => ({ grad: r.normal([5, 37]), keep: [0, 4] })),
  maskRow("strided", (r) => ({ grad: strided(r.normal([5, 3, 37])), keep: [2] })),
  maskRow("no experts", () => ({ grad: zeros("f32", [0, 5, 7]), keep: [] })),
  maskRow("large", (r) => ({ grad: r.normal([16, 40, 130]), keep: [3, 5, 15] })),
];
export const swigluBase = swigluRow("base", (r) => ({ h: r.normal([3, 10]), a: out([3, 5]), ...swiglu }));
export const swigluBackwardBase = swigluBackRow("base", (r) => ({
  h: r.normal([3, 10]),
  da: r.normal([3, 5]),
  dh: out([3, 10]),
  ...swiglu,
}));
export const addBase = addRow("base", (r) => ({ a: r.normal([3, 5]), b: r.normal([3, 5]), y: out([3, 5]), alpha: 1 }));
export const scaleBase = scaleRow("base", (r) => ({ x: r.normal([3, 5]), by: f32([1], [1.5]), factor: 2 }));
export const softCapBase = capRow("base", (r) => ({ x: r.normal([3, 5]), y: out([3, 5]), cap: 2 }));
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
export const columnSumBase = sumRow("base", (r) => ({ x: r.normal([3, 5]), y: r.normal([5]), accumulate: 1 }));
export const maskGradBase = maskRow("base", (r) => ({ grad: r.normal([3, 2, 5]), keep: [0, 2] }));

// ---- performance ------------------------------------------------------------------------------------------------------

/** @param name what is not SwiGLU */
function swigluPerf(on: Backend, T: number, F: number, name = "", activation: Args = { ...swiglu }): PerfRow[] {
  const id = `swiglu/${T}x${F}${name && `-${name}`}/${on === "cuda" ? "bf16" : "f32"}`;
  return [
    perfCall(`${id}/fwd`, on, { T, F }, "swiglu", (s, r) => ({ h: r.normal([s.T, 2 * s.F]), a: out([s.T, s.F]), ...activation })),
    perfCall(`${id}/bwd`, on, { T, F }, "swiglu_backward", (s, r) => ({
      h: r.normal([s.T, 2 * s.F]),
      da: r.normal([s.T, s.F]),
      dh: out([s.T, 2 * s.F]),
      ...activation,
    })),
  ];
}
const addPerf = (on: Backend, T: number, D: number): PerfRow =>
  perfCall(`add/${T}x${D}/${on === "cuda" ? "bf16" : "f32"}/fwd`, on, { T, D }, "add", (s, r) => ({
    a: r.normal([s.T, s.D]),
    b: r.normal([s.T, s.D]),
    y: out([s.T, s.D]),
    alpha: 1,
  }));
const softCapPerf = (on: Backend, T: number, V: number): PerfRow =>
  perfCall(`soft_cap/${T}x${V}/${on === "cuda" ? "bf16" : "f32"}/fwd`, on, { T, V }, "soft_cap", (s, r) => ({
    x: r.normal([s.T, s.V]),
    y: out([s.T, s.V]),
    cap: 30,
  }));
export const elementwisePerf: readonly PerfRow[] = [
  ...swigluPerf("cpu", 4096, 1408),
  ...swigluPerf("cpu", 4096, 1408, "clamped", { act: 2, alpha: 1.702, limit: 7 }),
  ...swigluPerf("cpu", 4096, 1408, "gelu", { act: 3, alpha: 0, limit: 0 }),
  softCapPerf("cpu", 256, 32768),
  addPerf("cpu", 4096, 2048),
  // Our own copy: what the device moves without arithmetic.
  perfCall("copy/1GiB/bf16/copy", "cuda", { rows: 1024, cols: 524288 }, "cast", (s, r) => ({
    x: r.normal([s.rows, s.cols], 1, "bf16"),
    y: out([s.rows, s.cols], "bf16"),
  })),
  ...swigluPerf("cuda", 49152, 1408),
  ...swigluPerf("cuda", 49152, 1408, "clamped", { act: 2, alpha: 1.702, limit: 7 }),
  ...swigluPerf("cuda", 49152, 1408, "gelu", { act: 3, alpha: 0, limit: 0 }),
  softCapPerf("cuda", 256, 131072),
  addPerf("cuda", 8192, 2048),
];
