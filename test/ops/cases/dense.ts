// Cases of embedding, rms_norm, layer_norm and rope (csrc/ops/embedding.h, rms_norm.h, layer_norm.h, rope.h).

import { at, colsOf, f32, filled, has, i32, number, out, rowsOf, strided, tensor, zeros } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";

type Row = (name: string, args: (r: Random) => Args, extra?: Partial<OpCase>) => OpCase;
export const rowOf =
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
      y.push(...row.map((v, c) => v * rstd[r]! * (has(a, "weight") ? number(a, "zero_centred") + tensor(a, "weight").values[c]! : 1)));
    }
    return has(a, "rstd") ? { y, rstd } : { y };
  },
});
interface NormOptions {
  readonly w?: "f32" | "bf16" | "none";
  readonly wrap?: (t: HostTensor) => HostTensor;
  readonly rstd?: boolean;
  readonly scale?: number;
  readonly zeroCentred?: boolean;
}
export const rmsNorm =
  (R: number, C: number, o: NormOptions = {}) =>
  (r: Random): Args => {
    const wrap = o.wrap ?? ((t: HostTensor): HostTensor => t);
    return {
      x: wrap(r.normal([R, C], o.scale ?? 1)),
      weight: o.w === "none" ? null : r.normal([C], 1, o.w ?? "f32"),
      y: wrap(out([R, C])),
      rstd: o.rstd === false ? null : out([R]),
      eps: 1e-6,
      zero_centred: o.zeroCentred ? 1 : 0,
    };
  };
interface NormBackOptions extends NormOptions {
  readonly dx?: boolean;
  readonly dweight?: boolean;
  readonly accumulate?: boolean;
  /** dweight is written, not added to. */
  readonly overwrite?: boolean;
  readonly inPlace?: boolean;
}
const exactRstd = (forward: Args): HostTensor => {
  const rstd = norm("", () => forward).expected!({ ...forward, rstd: 1 }).rstd as number[];
  return f32([rstd.length], rstd);
};
export const rmsNormBackward =
  (R: number, C: number, o: NormBackOptions = {}, rstdOf = exactRstd) =>
  (r: Random): Args => {
    const forward = rmsNorm(R, C, o)(r);
    const wrap = o.wrap ?? ((t: HostTensor): HostTensor => t);
    const rstd = rstdOf(forward);
    return {
      dy: wrap(r.normal([R, C])),
      x: forward.x as HostTensor,
      weight: forward.weight as HostTensor | null,
      rstd,
      dx: o.dx === false ? null : o.inPlace ? { same: "dy" } : wrap(o.accumulate ? r.normal([R, C]) : out([R, C])),
      dweight: o.dweight === false || o.w === "none" ? null : o.overwrite ? out([C]) : r.normal([C]),
      accumulate: o.accumulate ? 1 : 0,
      accumulate_weight: o.overwrite ? 0 : 1,
      zero_centred: o.zeroCentred ? 1 : 0,
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
  normRow("zero-centred", 21, 37, { zeroCentred: true }),
  normRow("zero-centred, bf16 weight", 9, 130, { zeroCentred: true, w: "bf16" }),
  normRow("no weight", 21, 37, { w: "none" }),
  normRow("no weight, heads as rows, wide", 6, 2048, { w: "none", wrap: strided }),
  norm("zeros", () => ({
    x: zeros("f32", [3, 9]),
    weight: f32([9], new Array<number>(9).fill(1)),
    y: out([3, 9]),
    rstd: out([3]),
    eps: 1e-6,
    zero_centred: 0,
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
  normBack("zero-centred", 21, 37, { zeroCentred: true }),
  normBack("zero-centred, bf16 weight, into the residual stream", 9, 130, { zeroCentred: true, w: "bf16", accumulate: true }),
  normBack("zero-centred, dx only", 20, 64, { zeroCentred: true, dweight: false }),
  normBack("no weight", 21, 37, { w: "none" }),
  normBack("no weight, in place of dy", 20, 64, { w: "none", inPlace: true }),
  normBack("no weight, wide, into the residual stream", 6, 2048, { w: "none", accumulate: true }),
  normBack("dweight overwritten", 21, 37, { overwrite: true, accumulate: true }),
  normBack("dweight only, overwritten", 700, 64, { overwrite: true, dx: false }),
  normBack("no rows, dweight overwritten", 0, 5, { overwrite: true }),
  normBack("one row", 1, 5),
  normBack("no rows", 0, 5),
  normBack("many rows", 700, 96),
  normBack("wide", 6, 2048),
];
export const rmsNormBase = norm("base", rmsNorm(3, 5));
export const rmsNormBackwardBase: OpCase = normBack("base", 3, 5);

// ---- layer_norm ---------------------------------------------------------------------------------------------------------

const layer = rowOf("layer_norm", {
  expected: (a) => {
    const x = tensor(a, "x");
    const C = colsOf(x);
    const [y, mean, rstd]: [number[], number[], number[]] = [[], [], []];
    for (let r = 0; r < rowsOf(x); r++) {
      const row = Array.from({ length: C }, (_, c) => at(x, r, c));
      const m = row.reduce((s, v) => s + v, 0) / C;
      const d = 1 / Math.sqrt(row.reduce((s, v) => s + (v - m) ** 2, 0) / C + number(a, "eps"));
      mean.push(m);
      rstd.push(d);
      y.push(...row.map((v, c) => (v - m) * d * tensor(a, "weight").values[c]! + tensor(a, "bias").values[c]!));
    }
    return { y, ...(has(a, "mean") ? { mean } : {}), ...(has(a, "rstd") ? { rstd } : {}) };
  },
});
interface LayerNormOptions {
  readonly w?: "f32" | "bf16";
  readonly wrap?: (t: HostTensor) => HostTensor;
  /** Kept for the backward. */
  readonly statistics?: boolean;
  readonly scale?: number;
  /** Added to x. */
  readonly offset?: number;
}
export const layerNorm =
  (R: number, C: number, o: LayerNormOptions = {}) =>
  (r: Random): Args => {
    const { wrap = (t: HostTensor): HostTensor => t, offset = 0, statistics = true } = o;
    const x = r.normal([R, C], o.scale ?? 1);
    return {
      x: wrap(
        offset === 0
          ? x
          : f32(
              [R, C],
              Array.from(x.values, (v) => v + offset),
            ),
      ),
      weight: r.normal([C], 1, o.w ?? "f32"),
      bias: r.normal([C], 1, o.w ?? "f32"),
      y: wrap(out([R, C])),
      mean: statistics ? out([R]) : null,
      rstd: statistics ? out([R]) : null,
      eps: 1e-5,
    };
  };
interface LayerNormBackOptions extends LayerNormOptions {
  readonly dx?: boolean;
  readonly dweight?: boolean;
  readonly dbias?: boolean;
  readonly accumulate?: boolean;
  /** dweight and dbias are written, not added to. */
  readonly overwrite?: boolean;
  readonly inPlace?: boolean;
}
const exactStatistics = (forward: Args): { readonly mean: HostTensor; readonly rstd: HostTensor } => {
  const made = layer("", () => forward).expected!({ ...forward, mean: 1, rstd: 1 });
  const vector = (name: string): HostTensor => f32([(made[name] as number[]).length], made[name] as number[]);
  return { mean: vector("mean"), rstd: vector("rstd") };
};
export const layerNormBackward =
  (R: number, C: number, o: LayerNormBackOptions = {}, statistics = exactStatistics) =>
  (r: Random): Args => {
    const forward = layerNorm(R, C, o)(r);
    const { wrap = (t: HostTensor): HostTensor => t } = o;
    const sum = (wanted: boolean | undefined): HostTensor | null => (wanted === false ? null : o.overwrite ? out([C]) : r.normal([C]));
    return {
      dy: wrap(r.normal([R, C])),
      x: forward.x as HostTensor,
      weight: forward.weight as HostTensor,
      ...statistics(forward),
      dx: o.dx === false ? null : o.inPlace ? { same: "dy" } : wrap(o.accumulate ? r.normal([R, C]) : out([R, C])),
      dweight: sum(o.dweight),
      dbias: sum(o.dbias),
      accumulate: o.accumulate ? 1 : 0,
      accumulate_weight: o.overwrite ? 0 : 1,
    };
  };
const layerRow = (name: string, R: number, C: number, o?: LayerNormOptions): OpCase =>
  layer(name, layerNorm(R, C, o), { k: C, ...(o?.offset ? { scale: 100 * o.offset } : {}) });
const layerBack = (name: string, R: number, C: number, o?: LayerNormBackOptions): OpCase => ({
  op: "layer_norm_backward",
  name,
  args: layerNormBackward(R, C, o),
  k: Math.max(R, C),
});
export const layerNormCases: readonly OpCase[] = [
  layerRow("64 columns", 20, 64),
  layerRow("unaligned", 21, 37),
  layerRow("bf16 weight and bias", 21, 130, { w: "bf16" }),
  layerRow("column slice of a wider buffer", 21, 37, { wrap: strided, w: "bf16" }),
  layerRow("without statistics", 21, 37, { statistics: false }),
  layerRow("one row, one column", 1, 1),
  layerRow("no rows", 0, 8),
  layerRow("tiny values", 5, 33, { scale: 1e-6 }),
  layerRow("large values", 5, 33, { scale: 1e6 }),
  layerRow("far from 0", 5, 33, { offset: 10 }),
  layerRow("many rows", 700, 96),
  layerRow("wide", 6, 2048),
  layer("in place", (r) => ({ ...layerNorm(9, 37)(r), x: { same: "y" }, y: r.normal([9, 37]) }), { k: 37 }),
  layerBack("64 columns", 20, 64),
  layerBack("unaligned, bf16 weight", 21, 37, { w: "bf16" }),
  layerBack("into the residual stream", 21, 37, { accumulate: true }),
  layerBack("in place of dy", 21, 37, { inPlace: true }),
  layerBack("in place of dy, accumulating", 20, 64, { inPlace: true, accumulate: true }),
  layerBack("strided", 21, 37, { wrap: strided, w: "bf16" }),
  layerBack("dx only", 21, 37, { dweight: false, dbias: false }),
  layerBack("dweight only", 21, 37, { dx: false, dbias: false }),
  layerBack("dbias only, overwritten", 21, 37, { dx: false, dweight: false, overwrite: true }),
  layerBack("overwritten", 700, 64, { overwrite: true, accumulate: true }),
  layerBack("no rows, overwritten", 0, 5, { overwrite: true }),
  layerBack("one row", 1, 5),
  layerBack("no rows", 0, 5),
  layerBack("many rows", 700, 96),
  layerBack("wide", 6, 2048),
];
export const layerNormBase = layer("base", layerNorm(3, 5));
export const layerNormBackwardBase: OpCase = layerBack("base", 3, 5);

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
  /** Angles in the tables: a token has any of them, or its own when there are as many as tokens. */
  readonly positions?: number;
}
export const rope =
  (T: number, heads: number, hd: number, R: number, o: RopeOptions = {}) =>
  (r: Random): Args => {
    const wrap = o.wrap ?? ((t: HostTensor): HostTensor => t);
    const P = o.positions ?? 50;
    const angle = (f: (x: number) => number): HostTensor =>
      f32(
        [P, R / 2],
        Array.from({ length: (P * R) / 2 }, (_, i) => f(Math.floor(i / (R / 2)) / 10 ** ((4 * (i % (R / 2))) / (R / 2)))),
      );
    const x = wrap(r.normal([T, heads * hd]));
    return {
      x: o.inPlace ? { same: "y" } : x,
      positions: o.positions === T ? i32(Array.from({ length: T }, (_, t) => t)) : r.ints([T], P),
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

// ---- performance ------------------------------------------------------------------------------------------------------

/** rstd of numbers from N(0, 1). */
const likelyRstd = (forward: Args): HostTensor => filled("f32", [rowsOf(tensor(forward, "x"))], { constant: 1 });

function norms(on: Backend, T: number, D: number, options: NormBackOptions): PerfRow[] {
  const id = `rms_norm/${T}x${D}/${on === "cuda" ? "bf16" : "f32"}`;
  const back = { ...options, dweight: false };
  return [
    perfCall(`${id}/fwd`, on, { T, D }, "rms_norm", (s, r) => rmsNorm(s.T, s.D, options)(r)),
    perfCall(`${id}/bwd`, on, { T, D }, "rms_norm_backward", (s, r) => rmsNormBackward(s.T, s.D, back, likelyRstd)(r)),
  ];
}
function layerNorms(on: Backend, T: number, D: number): PerfRow[] {
  const id = `layer_norm/${T}x${D}/${on === "cuda" ? "bf16" : "f32"}`;
  const back = { w: "bf16", dweight: false, dbias: false } as const;
  const likely = (forward: Args) => ({ mean: filled("f32", [rowsOf(tensor(forward, "x"))], { constant: 0 }), rstd: likelyRstd(forward) });
  return [
    perfCall(`${id}/fwd`, on, { T, D }, "layer_norm", (s, r) => layerNorm(s.T, s.D, { w: "bf16" })(r)),
    perfCall(`${id}/bwd`, on, { T, D }, "layer_norm_backward", (s, r) => layerNormBackward(s.T, s.D, back, likely)(r)),
  ];
}
const ropePerf = (on: Backend, T: number, heads: number, dim: number, inPlace: boolean): PerfRow =>
  perfCall(`rope/${T}x${heads}x${dim}/${on === "cuda" ? "bf16" : "f32"}/fwd`, on, { T, heads, dim }, "rope", (s, r) =>
    rope(s.T, s.heads, s.dim, s.dim, { inPlace, positions: s.T })(r),
  );
export const densePerf: readonly PerfRow[] = [
  ...norms("cpu", 4096, 2048, { accumulate: true }),
  ...layerNorms("cpu", 4096, 2048),
  ropePerf("cpu", 4096, 16, 128, true),
  perfCall(
    "embedding/4096x2048/f32/fwd",
    "cpu",
    { T: 4096, D: 2048, V: 32768 },
    "embedding",
    (s, r) => embedding(s.T, s.V, s.D, "bf16")(r),
    (s) => ({ bytes: 6 * s.T * s.D }), // rows of the table that are met
  ),
  ...norms("cuda", 8192, 2048, { w: "bf16" }),
  ...layerNorms("cuda", 8192, 2048),
  ropePerf("cuda", 8192, 16, 64, false),
];
