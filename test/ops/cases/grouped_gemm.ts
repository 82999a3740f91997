// Cases of the three grouped products (csrc/ops/grouped_gemm.h).

import { at, colsOf, has, i32, ints, list, number, offsetsOf, out, rounded, rowsOf, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfRow } from "../perf.ts";
import type { Backend, PerfCalls, PerfRow } from "../perf.ts";
import { hottest, route, routingFacts } from "../routes.ts";
import type { OpCase } from "../support.ts";
import * as act from "./gated.ts";
import type { Gated } from "./gated.ts";

/** Every expert's weight as rows of numbers, segments stacked. */
function weightsOf(a: Args): number[][][] {
  const [S, w] = [number(a, "segments"), list(a, "w")];
  const matrix = (t: HostTensor): number[][] =>
    Array.from({ length: rowsOf(t) }, (_, m) => Array.from({ length: colsOf(t) }, (__, k) => at(t, m, k)));
  return Array.from({ length: w.length / S }, (_, e) => w.slice(e * S, (e + 1) * S).flatMap(matrix));
}
/** Every expert's bias, segments stacked; null without one. */
function biasesOf(a: Args): number[][] | null {
  if (!has(a, "bias")) return null;
  const [S, bias] = [number(a, "segments"), list(a, "bias")];
  return Array.from({ length: bias.length / S }, (_, e) => bias.slice(e * S, (e + 1) * S).flatMap((t) => Array.from(t.values)));
}
function rowOf(a: Args, name: string, index: string, r: number): number[] {
  const t = tensor(a, name);
  const i = has(a, index) ? tensor(a, index).values[r]! : r;
  return Array.from({ length: colsOf(t) }, (_, c) => at(t, i, c));
}
/** Calls f(expert, row) for every row of the experts asked for. */
function eachRow(a: Args, experts: readonly number[] | null, f: (e: number, r: number) => void): void {
  const o = tensor(a, "offsets").values;
  for (let e = 0; e + 1 < o.length; e++) if (!experts || experts.includes(e)) for (let r = o[e]!; r < o[e + 1]!; r++) f(e, r);
}

/** What the low-rank term of expert e adds to sum number i of row r: nt an output, nn a column; undefined where it has none. */
function termOf(a: Args, e: number, mode: "nt" | "nn"): ((r: number, i: number) => number) | undefined {
  const g = has(a, "terms") ? ints(a, "term_groups").indexOf(e) : -1;
  if (g < 0) return undefined;
  const [round, u, P] = [rounded(a), tensor(a, "u"), list(a, "terms").length / ints(a, "term_groups").length];
  const parts = list(a, "terms").slice(g * P, (g + 1) * P);
  const rank = colsOf(u) / P;
  const dot = (r: number, p: number, n: number, b: (j: number) => number): number =>
    Array.from({ length: n }, (_, j) => round(at(u, r, p * rank + j)) * round(b(j))).reduce((x, y) => x + y, 0);
  if (mode === "nn") return (r, k) => parts.reduce((sum, t, p) => sum + dot(r, p, rowsOf(t), (j) => at(t, j, k)), 0);
  return (r, m) => {
    let p = 0;
    while (m >= rowsOf(parts[p]!)) m -= rowsOf(parts[p++]!);
    return dot(r, p, colsOf(parts[p]!), (j) => at(parts[p]!, m, j));
  };
}

function expectedNt(a: Args): Record<string, Float64Array> {
  const round = rounded(a);
  const [groups, factor] = [ints(a, "groups"), number(a, "factor")];
  const y = Float64Array.from(tensor(a, "y").values);
  const h = has(a, "h") ? Float64Array.from(tensor(a, "h").values) : null;
  const [w, bias, f] = [weightsOf(a), biasesOf(a), act.gatedOf(a)];
  eachRow(a, groups.length ? groups : null, (e, r) => {
    const x = rowOf(a, "x", "rows", r);
    const term = termOf(a, e, "nt");
    const product = (row: number[], m: number): number => row.reduce((s, v, k) => s + round(v) * round(x[k]!), term?.(r, m) ?? 0);
    const z = w[e]!.map((row, m) => Math.fround(factor * product(row, m) + (bias?.[e]![m] ?? 0)));
    h?.set(z, r * z.length);
    const F = z.length / 2;
    const residual = has(a, "residual") ? rowOf(a, "residual", "", r) : null;
    const old = a.accumulate === 1 ? rowOf(a, "y", "", r) : residual;
    const out = f.act ? z.slice(0, F).map((g, i) => act.gated(f, g, z[F + i]!).a) : z.map((v, m) => v + (old?.[m] ?? 0));
    y.set(out, r * out.length);
  });
  return h ? { y, h } : { y };
}

function expectedNn(a: Args): Record<string, ArrayLike<number>> {
  const round = rounded(a);
  const groups = ints(a, "groups");
  const dx = tensor(a, "dx");
  const C = colsOf(dx);
  const [all, bias, f] = [weightsOf(a), biasesOf(a), act.gatedOf(a)];
  const result = Float64Array.from(dx.values);
  const dgate = has(a, "dgate") ? Float64Array.from(tensor(a, "dgate").values) : null;
  eachRow(a, groups.length ? groups : null, (e, r) => {
    const dy = rowOf(a, "dy", "rows", r);
    const w = all[e]!;
    const K = f.act ? C / 2 : C;
    const term = termOf(a, e, "nn");
    const g = Array.from({ length: K }, (_, k) => w.reduce((s, row, m) => s + round(row[k]!) * round(dy[m]!), term?.(r, k) ?? 0));
    if (!f.act)
      return result.set(
        g.map((v, k) => number(a, "factor") * v + (a.accumulate === 1 ? at(dx, r, k) : 0)),
        r * C,
      );
    const h = rowOf(a, "h", "", r);
    const scale = has(a, "gate") ? tensor(a, "gate").values[r]! : 1;
    const slopes = g.map((_, k) => act.gated(f, h[k]!, h[K + k]!));
    const byBias = bias ? bias[e]!.reduce((s, b, m) => s + b * dy[m]!, 0) : 0;
    if (dgate) dgate[r] = g.reduce((s, v, k) => s + v * slopes[k]!.a, byBias);
    g.forEach((v, k) => {
      result[r * C + k] = scale * v * slopes[k]!.byGate;
      result[r * C + K + k] = scale * v * slopes[k]!.byUp;
    });
  });
  return dgate ? { dx: result, dgate } : { dx: result };
}

function expectedTn(a: Args): Record<string, Float64Array[]> {
  const round = rounded(a);
  const groups = ints(a, "groups");
  const [S, f] = [number(a, "segments"), act.gatedOf(a, "x_act")];
  const dw = list(a, "dw").map((t) => (a.accumulate === 1 ? Float64Array.from(t.values) : new Float64Array(t.values.length)));
  eachRow(a, groups, (e, r) => {
    const scale = has(a, "dy_scale") ? tensor(a, "dy_scale").values[r]! : 1;
    const dy = rowOf(a, "dy", "dy_rows", r).map((v) => round(Math.fround(v * scale)));
    const raw = rowOf(a, "x", "x_rows", r);
    const x = (f.act ? raw.slice(0, raw.length / 2).map((g, k) => Math.fround(act.gated(f, g, raw[raw.length / 2 + k]!).a)) : raw).map(
      round,
    );
    let m = 0;
    for (let s = 0; s < S; s++) {
      const d = dw[groups.indexOf(e) * S + s]!;
      for (let i = 0; i < d.length / x.length; i++, m++) x.forEach((v, k) => (d[i * x.length + k]! += dy[m]! * v));
    }
  });
  return { dw };
}

/** Rows per expert: the distributions every grouped op must survive. */
const layouts = {
  even: [6, 6, 6, 6],
  "empty experts": [0, 9, 0, 5],
  "one token": [0, 0, 1, 0],
  "all rows to one expert": [0, 37, 0, 0],
  "uneven tail": [17, 1, 33, 8],
  "no rows": [0, 0, 0, 0],
  "one expert": [45],
  "many rows": [150, 3, 70, 129],
} as const;

interface Options {
  readonly gather?: boolean;
  readonly segments?: number;
  /** true: SwiGLU. */
  readonly act?: boolean | Gated;
  /** The dtypes of biases; "mixed": every other one. */
  readonly bias?: "f32" | "bf16" | "mixed";
  readonly w?: "f32" | "bf16" | "mixed";
  readonly bf16?: boolean;
  readonly strided?: boolean;
  readonly groups?: readonly number[];
  readonly gate?: boolean;
  readonly inPlace?: boolean;
  readonly keepH?: boolean;
  readonly residual?: boolean;
  /** Low-rank terms of some experts: P parts, u of R columns for each; `own`: ranks of their own, 0 among them. */
  readonly terms?: {
    readonly of: readonly number[];
    readonly rank: number;
    readonly parts?: number;
    readonly own?: boolean;
    readonly w?: "f32" | "bf16";
  };
  readonly factor?: number;
  readonly accumulate?: boolean;
  /** Rows behind the last expert's, full of what must not be read. */
  readonly behind?: number;
  /** Of the numbers in w. */
  readonly spread?: number;
}

const wrapper =
  (o: Options) =>
  (t: HostTensor): HostTensor =>
    o.strided ? strided(t) : t;
const kindOf = (o: Options, i: number): "f32" | "bf16" => (o.w === "mixed" ? (i % 3 === 1 ? "f32" : "bf16") : (o.w ?? "f32"));

/** E·S matrices with M rows in all, K columns. */
function weights(r: Random, E: number, M: number, K: number, o: Options): HostTensor[] {
  const S = o.segments ?? 1;
  const wrap = wrapper(o);
  return Array.from({ length: E * S }, (_, i) =>
    wrap(r.normal([segmentRows(M, S, i % S), K], o.spread ?? 1, kindOf(o, Math.floor(i / S) + (o.w === "mixed" ? i % S : 0)))),
  );
}
const gatedBy = (o: Options): Gated => (o.act === true ? act.swiglu : o.act || act.none);
/** E·S vectors, M elements per expert. */
function biases(r: Random, E: number, M: number, o: Options): HostTensor[] | null {
  const { segments: S = 1, bias } = o;
  if (!bias) return null;
  const kind = (i: number) => (bias === "mixed" ? (i % 2 ? "bf16" : "f32") : bias);
  return Array.from({ length: E * S }, (_, i) => r.normal([segmentRows(M, S, i % S)], 1, kind(i)));
}
/** The last `n` rows of inputs that are nobody's: no numbers, and rows that do not exist. */
function spoilt(t: HostTensor, n: number): HostTensor {
  if (n === 0) return t;
  const values = Float64Array.from(t.values);
  values.fill(t.dtype === "i32" ? 2 ** 31 - 1 : Number.NaN, values.length - n * (t.shape.length > 1 ? colsOf(t) : 1));
  return { ...t, values };
}

/** Segments share M evenly; the last takes the rest. */
const segmentRows = (M: number, S: number, s: number): number => (s < S - 1 ? Math.floor(M / S) : M - Math.floor(M / S) * (S - 1));

/** u and the terms of N rows; `shape` of part p of one of that rank. */
function termsOf(r: Random, N: number, o: Options, shape: (p: number, rank: number) => number[]) {
  if (!o.terms) return { u: null, terms: null, term_groups: [] };
  const { of, rank, parts = 1, own = false, w } = o.terms;
  const wrap = wrapper(o);
  const ranks = of.map((_, g) => (own ? [rank, 0, Math.ceil(rank / 2)][g % 3]! : rank));
  return {
    u: wrap(spoilt(r.normal([N, parts * rank]), o.behind ?? 0)),
    terms: of.flatMap((_, g) =>
      Array.from({ length: parts }, (__, p) => wrap(r.normal(shape(p, ranks[g]!), 1, w ?? (o.w === "bf16" ? "bf16" : "f32")))),
    ),
    term_groups: of,
  };
}

export function nt(counts: readonly number[], M: number, K: number, o: Options = {}) {
  return (r: Random): Args => {
    const { behind = 0 } = o;
    const N = counts.reduce((x, y) => x + y, behind);
    const T = o.gather ? Math.max(1, Math.ceil(N / 2)) : N;
    const wrap = wrapper(o);
    return {
      x: wrap(spoilt(r.normal([T, K]), o.gather ? 0 : behind)),
      rows: o.gather ? spoilt(r.ints([N], T), behind) : null,
      w: weights(r, counts.length, M, K, o),
      bias: biases(r, counts.length, M, o),
      offsets: offsetsOf(counts),
      ...termsOf(r, N, o, (p, rank) => [segmentRows(M, o.terms?.parts ?? 1, p), rank]),
      residual: o.residual ? wrap(spoilt(r.normal([N, M]), behind)) : null,
      h: o.act && o.keepH !== false ? wrap(out([N, M])) : null,
      y: wrap(o.accumulate ? spoilt(r.normal([N, M]), behind) : out([N, o.act ? M / 2 : M])),
      groups: o.groups ?? [],
      factor: o.factor ?? 1,
      segments: o.segments ?? 1,
      ...gatedBy(o),
      accumulate: o.accumulate ? 1 : 0,
      precision: o.bf16 ? 1 : 0,
    };
  };
}

export function nn(counts: readonly number[], M: number, K: number, o: Options = {}) {
  return (r: Random): Args => {
    const { behind = 0 } = o;
    const N = counts.reduce((x, y) => x + y, behind);
    const T = o.gather ? Math.max(1, Math.ceil(N / 2)) : N;
    const wrap = wrapper(o);
    const C = o.act ? 2 * K : K;
    return {
      dy: wrap(spoilt(r.normal([T, M]), o.gather ? 0 : behind)),
      rows: o.gather ? spoilt(r.ints([N], T), behind) : null,
      w: weights(r, counts.length, M, K, o),
      bias: biases(r, counts.length, M, o),
      offsets: offsetsOf(counts),
      ...termsOf(r, N, o, (_, rank) => [rank, K]),
      h: o.act ? (o.inPlace ? { same: "dx" } : wrap(r.normal([N, C]))) : null,
      gate: o.act && o.gate !== false ? spoilt(r.normal([N]), behind) : null,
      dx: wrap(o.inPlace || o.accumulate ? r.normal([N, C]) : out([N, C])),
      dgate: o.act && o.gate !== false ? out([N]) : null,
      groups: o.groups ?? [],
      factor: o.factor ?? 1,
      segments: o.segments ?? 1,
      ...gatedBy(o),
      accumulate: o.accumulate ? 1 : 0,
      precision: o.bf16 ? 1 : 0,
    };
  };
}

interface TnOptions extends Options {
  readonly xGather?: boolean;
  readonly scale?: boolean;
  /** dw is written, not added to: what it holds must not show. */
  readonly overwrite?: boolean;
}

export function tn(counts: readonly number[], M: number, K: number, o: TnOptions = {}) {
  return (r: Random): Args => {
    const { behind = 0 } = o;
    const N = counts.reduce((x, y) => x + y, behind);
    const T = Math.max(1, Math.ceil(N / 2));
    const S = o.segments ?? 1;
    const groups = o.groups ?? counts.map((_, e) => e);
    const { act: x_act, alpha, limit } = gatedBy(o);
    const wrap = wrapper(o);
    return {
      dy: wrap(spoilt(r.normal([o.gather ? T : N, M]), o.gather ? 0 : behind)),
      dy_rows: o.gather ? spoilt(r.ints([N], T), behind) : null,
      dy_scale: o.scale ? spoilt(r.normal([N]), behind) : null,
      x: wrap(spoilt(r.normal([o.xGather ? T : N, o.act ? 2 * K : K]), o.xGather ? 0 : behind)),
      x_rows: o.xGather ? spoilt(r.ints([N], T), behind) : null,
      offsets: offsetsOf(counts),
      dw: groups.flatMap(() =>
        Array.from({ length: S }, (_, s) => {
          const shape = [segmentRows(M, S, s), K];
          return wrap(o.overwrite ? out(shape) : r.normal(shape));
        }),
      ),
      groups,
      segments: S,
      x_act,
      alpha,
      limit,
      accumulate: o.overwrite ? 0 : 1,
      precision: o.bf16 ? 1 : 0,
    };
  };
}

const counts = (name: keyof typeof layouts): readonly number[] => layouts[name];
const everyLayout = Object.keys(layouts) as (keyof typeof layouts)[];

const ntRow = (name: string, c: readonly number[], M: number, K: number, o?: Options): OpCase => ({
  op: "grouped_gemm_nt",
  name,
  args: nt(c, M, K, o),
  k: K,
  expected: expectedNt,
});
const nnRow = (name: string, c: readonly number[], M: number, K: number, o?: Options): OpCase => ({
  op: "grouped_gemm_nn",
  name,
  args: nn(c, M, K, o),
  k: M * (o?.act ? 4 : 1),
  expected: expectedNn,
});
const tnRow = (name: string, c: readonly number[], M: number, K: number, o: TnOptions = {}): OpCase => ({
  op: "grouped_gemm_tn",
  name,
  args: tn(c, M, K, o),
  k: Math.max(...c, 1),
  expected: expectedTn,
  // An activation or a scaled gradient that lands beside a rounding boundary moves by one bf16 unit.
  ...(o.bf16 && (o.act || o.scale) ? { eps: { dw: "bf16" as const } } : {}),
});

export const groupedGemmCases: readonly OpCase[] = [
  ...everyLayout.map((l) => ntRow(`${l}, M 24 K 20`, counts(l), 24, 20)),
  ...everyLayout.map((l) =>
    ntRow(`${l}, gathered SwiGLU, two bf16 segments`, counts(l), 28, 35, { gather: true, act: true, segments: 2, w: "bf16" }),
  ),
  ntRow("unaligned M 37 K 71", counts("uneven tail"), 37, 71),
  ntRow("three unequal segments", counts("uneven tail"), 38, 40, { segments: 3 }),
  ntRow("mixed f32 and bf16 experts", counts("uneven tail"), 50, 71, { w: "mixed", segments: 2 }),
  ntRow("mixed experts, SwiGLU", counts("uneven tail"), 50, 71, { w: "mixed", segments: 2, act: true }),
  ntRow("SwiGLU of a fused weight, h not kept", counts("uneven tail"), 50, 64, { act: true, keepH: false }),
  ntRow("strided views, gathered", counts("uneven tail"), 50, 71, { strided: true, gather: true, act: true, segments: 2 }),
  ntRow("blocks", counts("many rows"), 192, 160, { w: "bf16" }),
  ntRow("SwiGLU blocks", counts("many rows"), 260, 96, { act: true, segments: 2, gather: true }),
  ntRow("bf16 compute", counts("uneven tail"), 50, 71, { bf16: true }),
  ntRow("bf16 compute, bf16 weights, SwiGLU", counts("many rows"), 64, 128, {
    bf16: true,
    w: "bf16",
    act: true,
    segments: 2,
    gather: true,
  }),
  ntRow("bf16 compute, mixed weights", counts("empty experts"), 48, 66, { bf16: true, w: "mixed" }),
  ...everyLayout.map((l) => ntRow(`${l}, residual, M 32 K 20`, counts(l), 32, 20, { residual: true })),
  ntRow("residual, gathered, strided, two segments", counts("uneven tail"), 50, 71, {
    residual: true,
    gather: true,
    strided: true,
    segments: 2,
  }),
  ntRow("a sum of several passes, residual", [2, 0, 3], 33, 3000, { residual: true }),
  ntRow("rows that are nobody's", counts("uneven tail"), 24, 20, { behind: 9, residual: true }),
  ntRow("rows that are nobody's, gathered SwiGLU", counts("empty experts"), 28, 35, { behind: 3, gather: true, act: true, segments: 2 }),
  ntRow("no rows but nobody's", counts("no rows"), 24, 20, { behind: 3, gather: true }),
  ntRow("K = 1", counts("uneven tail"), 9, 1),
  ...Object.entries(act.every).flatMap(([name, f]) => [
    ntRow(`${name}, two segments, gathered`, counts("uneven tail"), 50, 35, { act: f, segments: 2, gather: true }),
    ntRow(`${name}, fused, bias, blocks`, counts("many rows"), 260, 40, { act: f, bias: "mixed" }),
    ntRow(`${name}, two segments, bias, bf16 weights, strided`, counts("empty experts"), 66, 33, {
      act: f,
      segments: 2,
      bias: "bf16",
      w: "bf16",
      strided: true,
    }),
    ntRow(`bf16 compute, ${name}, bias, h not kept`, counts("uneven tail"), 48, 64, { act: f, bias: "f32", bf16: true, keepH: false }),
  ]),
  ntRow("bias", counts("uneven tail"), 37, 20, { bias: "f32" }),
  ntRow("bias, residual, gathered, three unequal segments", counts("uneven tail"), 38, 40, {
    bias: "mixed",
    residual: true,
    gather: true,
    segments: 3,
  }),
  ntRow("a sum of several passes, bias, residual", [2, 0, 3], 33, 3000, { bias: "bf16", residual: true }),
  ntRow("rows that are nobody's, bias", counts("empty experts"), 24, 20, { bias: "mixed", behind: 5 }),
  ntRow("empty sum, bias", counts("even"), 8, 0, { bias: "f32" }),
  ntRow("added to, some experts", counts("uneven tail"), 37, 20, { accumulate: true, groups: [0, 3], gather: true, strided: true }),
  ntRow("added to, a factor, bias, blocks", counts("many rows"), 192, 40, { accumulate: true, factor: 0.5, bias: "f32" }),
  ntRow("added to, a sum of several passes, term", [2, 0, 3], 33, 3000, { accumulate: true, terms: { of: [0, 2], rank: 4 } }),
  ntRow("added to, rows that are nobody's", counts("uneven tail"), 24, 20, { accumulate: true, behind: 9 }),
  ntRow("bf16 compute, added to", counts("uneven tail"), 48, 16, { accumulate: true, bf16: true }),
  ntRow("some experts only", counts("uneven tail"), 37, 20, { groups: [0, 2], gather: true }),
  ntRow("some experts only, SwiGLU, bias", counts("uneven tail"), 28, 35, { groups: [1, 3], act: true, bias: "f32" }),
  ntRow("a factor, bias, residual", counts("uneven tail"), 37, 20, { factor: -0.5, bias: "mixed", residual: true }),
  ntRow("a factor, a sum of several passes, some experts", [2, 0, 3, 4], 70, 3000, { factor: 2.5, groups: [0, 3], w: "mixed" }),
  ...everyLayout.map((l) => ntRow(`${l}, terms`, counts(l), 37, 20, { terms: { of: counts(l).length > 1 ? [0, 1, 3] : [0], rank: 5 } })),
  ...everyLayout.map((l) =>
    ntRow(`${l}, gathered SwiGLU, two bf16 segments, a term for each`, counts(l), 28, 35, {
      gather: true,
      act: true,
      segments: 2,
      w: "bf16",
      terms: { of: counts(l).length > 1 ? [1, 2, 3] : [0], rank: 3, parts: 2, w: "f32" },
    }),
  ),
  ntRow("SwiGLU of two segments, a term for both, bias", counts("uneven tail"), 50, 71, {
    act: true,
    segments: 2,
    bias: "mixed",
    terms: { of: [0, 2], rank: 7, w: "bf16" },
  }),
  ntRow("terms of ranks of their own, two parts, blocks", counts("many rows"), 192, 160, {
    w: "bf16",
    terms: { of: [0, 1, 3], rank: 16, parts: 2, own: true },
  }),
  ntRow("terms, residual, bias, factor, strided, three unequal segments", counts("uneven tail"), 38, 40, {
    residual: true,
    bias: "mixed",
    factor: 0.75,
    strided: true,
    segments: 3,
    terms: { of: [0, 1, 2, 3], rank: 4, parts: 3 },
  }),
  ntRow("a sum of several passes, term, residual, some experts", [2, 0, 3, 5], 33, 3000, {
    residual: true,
    groups: [0, 3],
    terms: { of: [2, 3], rank: 9 },
  }),
  ntRow("rows that are nobody's, terms, SwiGLU", counts("empty experts"), 28, 35, {
    behind: 3,
    act: true,
    terms: { of: [1, 3], rank: 4, parts: 2 },
  }),
  ntRow("an empty sum beside a term", counts("even"), 8, 0, { terms: { of: [0, 2], rank: 3 } }),
  ntRow("a term longer than the sum", counts("uneven tail"), 40, 5, { terms: { of: [0, 2], rank: 70 } }),
  ntRow("bf16 compute, a term for each half, SwiGLU", counts("many rows"), 64, 128, {
    bf16: true,
    w: "bf16",
    act: true,
    segments: 2,
    gather: true,
    terms: { of: [0, 1, 3], rank: 5, parts: 2 },
  }),
  ntRow("bf16 compute, terms, mixed weights, factor", counts("uneven tail"), 48, 66, {
    bf16: true,
    w: "mixed",
    factor: 0.5,
    terms: { of: [0, 3], rank: 8 },
  }),
  ntRow("M = 1", counts("uneven tail"), 1, 9),
  ntRow("empty sum", counts("even"), 8, 0),
  ntRow("a sum of several passes, two segments", [2, 0, 3], 10, 3000, { segments: 2, w: "mixed" }),

  ...everyLayout.map((l) => nnRow(`${l}, M 24 K 20`, counts(l), 24, 20)),
  ...everyLayout.map((l) => nnRow(`${l}, gathered SwiGLU backward`, counts(l), 35, 28, { gather: true, act: true, w: "bf16" })),
  nnRow("unaligned M 37 K 71", counts("uneven tail"), 37, 71),
  nnRow("two segments, mixed experts", counts("uneven tail"), 50, 71, { segments: 2, w: "mixed" }),
  nnRow("some experts only", counts("uneven tail"), 50, 33, { groups: [0, 2] }),
  nnRow("some experts only, SwiGLU", counts("uneven tail"), 50, 33, { groups: [1, 3], act: true, gather: true }),
  nnRow("rows that are nobody's", counts("uneven tail"), 24, 20, { behind: 9 }),
  nnRow("rows that are nobody's, gathered SwiGLU", counts("empty experts"), 35, 28, { behind: 3, gather: true, act: true }),
  nnRow("rows that are nobody's, SwiGLU of some experts", counts("uneven tail"), 35, 28, { behind: 5, act: true, groups: [1, 3] }),
  nnRow("SwiGLU without gates", counts("uneven tail"), 50, 33, { act: true, gate: false }),
  nnRow("SwiGLU in place", counts("uneven tail"), 50, 33, { act: true, inPlace: true }),
  nnRow("SwiGLU in place, strided, blocks", counts("many rows"), 96, 130, { act: true, inPlace: true, strided: true, w: "mixed" }),
  nnRow("strided views, gathered", counts("uneven tail"), 50, 71, { strided: true, gather: true, segments: 2 }),
  nnRow("blocks", counts("many rows"), 160, 192, { w: "bf16" }),
  nnRow("bf16 compute", counts("uneven tail"), 50, 71, { bf16: true }),
  nnRow("bf16 compute, bf16 weights, SwiGLU", counts("many rows"), 64, 64, { bf16: true, w: "bf16", act: true, gather: true }),
  nnRow("bf16 compute, odd sum, mixed weights", counts("uneven tail"), 51, 34, { bf16: true, w: "mixed", segments: 3 }),
  nnRow("empty sum", counts("even"), 0, 8),
  nnRow("no columns, SwiGLU", counts("even"), 8, 0, { act: true }),
  nnRow("no columns, SwiGLU, bias", counts("uneven tail"), 8, 0, { act: true, bias: "mixed", gather: true }),
  ...Object.entries(act.every).flatMap(([name, f]) => [
    nnRow(`${name}, gathered`, counts("uneven tail"), 35, 28, { act: f, gather: true }),
    nnRow(`${name}, bias, in place, blocks`, counts("many rows"), 130, 96, { act: f, bias: "mixed", inPlace: true }),
    nnRow(`${name}, two segments, bias, gathered, strided, some experts`, counts("uneven tail"), 51, 33, {
      act: f,
      segments: 2,
      bias: "bf16",
      gather: true,
      strided: true,
      groups: [1, 2],
    }),
    nnRow(`bf16 compute, ${name}, bias`, counts("uneven tail"), 64, 40, { act: f, bias: "f32", bf16: true, w: "bf16" }),
  ]),
  nnRow("added to, some experts, two segments", counts("uneven tail"), 50, 33, { accumulate: true, groups: [0, 3], segments: 2 }),
  nnRow("added to, a factor, term, strided, blocks", counts("many rows"), 16, 192, {
    accumulate: true,
    factor: 0.5,
    strided: true,
    terms: { of: [0, 2], rank: 4 },
  }),
  nnRow("added to, a sum of several passes", [2, 0, 3], 3001, 7, { accumulate: true }),
  nnRow("a factor, some experts", counts("uneven tail"), 50, 33, { factor: 1.5, groups: [0, 3] }),
  ...everyLayout.map((l) =>
    nnRow(`${l}, terms, gathered SwiGLU backward`, counts(l), 35, 28, {
      gather: true,
      act: true,
      w: "bf16",
      terms: { of: counts(l).length > 1 ? [0, 1, 3] : [0], rank: 5, w: "f32" },
    }),
  ),
  nnRow("two segments, a term for each, mixed experts", counts("uneven tail"), 50, 71, {
    segments: 2,
    w: "mixed",
    terms: { of: [1, 2], rank: 6, parts: 2 },
  }),
  nnRow("terms of ranks of their own, two parts, strided, blocks", counts("many rows"), 96, 130, {
    strided: true,
    factor: -2,
    terms: { of: [0, 1, 3], rank: 16, parts: 2, own: true },
  }),
  nnRow("SwiGLU in place, bias, term, some experts", counts("uneven tail"), 50, 33, {
    act: true,
    inPlace: true,
    bias: "f32",
    groups: [0, 1, 3],
    terms: { of: [1, 2, 3], rank: 4 },
  }),
  nnRow("rows that are nobody's, terms", counts("empty experts"), 35, 28, { behind: 3, terms: { of: [1, 3], rank: 4 } }),
  nnRow("an empty sum beside a term", counts("even"), 0, 8, { terms: { of: [0, 2], rank: 3 } }),
  nnRow("a sum of several passes, terms", [2, 0, 3], 3001, 7, { terms: { of: [0, 1, 2], rank: 5, parts: 2 } }),
  nnRow("bf16 compute, term, SwiGLU", counts("many rows"), 64, 64, {
    bf16: true,
    w: "bf16",
    act: true,
    gather: true,
    terms: { of: [0, 2], rank: 5 },
  }),
  nnRow("bf16 compute, two terms, mixed weights", counts("uneven tail"), 51, 34, {
    bf16: true,
    w: "mixed",
    terms: { of: [0, 3], rank: 3, parts: 2 },
  }),
  nnRow("clamped SwiGLU without gates", counts("uneven tail"), 50, 33, { act: act.clamped, gate: false }),
  nnRow("rows that are nobody's, bias", counts("empty experts"), 35, 28, { behind: 3, gather: true, act: true, bias: "f32" }),
  nnRow("a sum of several passes, two segments", [2, 0, 3], 3001, 7, { segments: 2, w: "mixed" }),

  ...everyLayout.map((l) => tnRow(`${l}, M 24 K 20`, counts(l), 24, 20)),
  ...everyLayout.map((l) => tnRow(`${l}, both gathered, scaled`, counts(l), 35, 28, { gather: true, xGather: true, scale: true })),
  ...everyLayout.map((l) => tnRow(`${l}, overwritten`, counts(l), 24, 20, { overwrite: true, xGather: true, segments: 2 })),
  tnRow("unaligned M 37 K 71", counts("uneven tail"), 37, 71),
  tnRow("unaligned M 37 K 71, strided, overwritten", counts("empty experts"), 37, 71, { overwrite: true, strided: true }),
  tnRow("two trained experts of four, two segments", counts("uneven tail"), 50, 33, { groups: [0, 2], segments: 2 }),
  tnRow("an expert without rows keeps its gradient", counts("empty experts"), 20, 33, { groups: [0, 1] }),
  tnRow("nothing trained", counts("even"), 20, 33, { groups: [] }),
  tnRow("activation on load", counts("uneven tail"), 35, 50, { act: true, gather: true, scale: true, groups: [1, 2, 3] }),
  tnRow("rows that are nobody's", counts("uneven tail"), 24, 20, { behind: 9 }),
  tnRow("rows that are nobody's, both gathered, scaled", counts("uneven tail"), 35, 28, {
    behind: 5,
    gather: true,
    xGather: true,
    scale: true,
  }),
  tnRow("rows that are nobody's, activation on load", counts("empty experts"), 35, 28, {
    behind: 5,
    act: true,
    scale: true,
    overwrite: true,
  }),
  tnRow("strided views", counts("uneven tail"), 50, 33, { strided: true, segments: 2, xGather: true }),
  tnRow("blocks", counts("many rows"), 130, 160),
  tnRow("experts of several passes, gathered, scaled", [7, 2950, 2870], 5, 9, { gather: true, xGather: true, scale: true }),
  tnRow("experts of several passes, overwritten", [7, 2950, 0], 5, 9, { overwrite: true }),
  tnRow("an expert of several passes, activation on load, scaled", [2950], 5, 9, { act: true, scale: true }),
  tnRow("activation blocks", counts("many rows"), 128, 96, { act: true, gather: true, scale: true }),
  ...Object.entries(act.every).flatMap(([name, f]) => [
    tnRow(`${name} on load, scaled`, counts("uneven tail"), 35, 50, { act: f, gather: true, scale: true, groups: [1, 2, 3] }),
    tnRow(`${name} on load, gathered, overwritten`, counts("empty experts"), 20, 33, { act: f, xGather: true, overwrite: true }),
    tnRow(`bf16 compute, ${name} on load`, counts("uneven tail"), 33, 40, { act: f, bf16: true }),
  ]),
  tnRow("bf16 compute", counts("uneven tail"), 50, 71, { bf16: true }),
  tnRow("bf16 compute, gathered, two segments", counts("many rows"), 64, 96, { bf16: true, xGather: true, segments: 2, groups: [0, 3] }),
  tnRow("bf16 compute, activation on load, scaled", counts("many rows"), 64, 40, { bf16: true, act: true, gather: true, scale: true }),
];

/** For the CPU, whose narrow products they reach; in an emulation they take minutes each. */
export const groupedGemmNarrowCases: readonly OpCase[] = [
  // A side of a rank.
  ...(["f32", "bf16 compute"] as const).flatMap((compute) => {
    const bf16 = compute === "bf16 compute";
    return [16, 32, 20, 3].flatMap((rank) => [
      nnRow(`${compute}, few columns, ${rank}`, [29, 0, 7, 3], 1500, rank, { bf16, gather: true, factor: 0.5 }),
      nnRow(`${compute}, few columns, ${rank}, added to`, [13, 3], 300, rank, { bf16, w: "mixed", segments: 2, accumulate: true }),
      ntRow(`${compute}, few outputs, ${rank}`, [29, 0, 7, 3], rank, 1500, { bf16, gather: true, factor: 0.5 }),
      ntRow(`${compute}, few outputs, ${rank}, added to`, [13, 3], rank, 300, { bf16, w: "mixed", segments: 2, accumulate: true }),
    ]);
  }),
  // A side of a rank: more rows than are summed at once, more columns than are kept together, two tiles of the narrow side.
  ...(["f32", "bf16 compute"] as const).flatMap((compute) => {
    const bf16 = compute === "bf16 compute";
    return [
      tnRow(`${compute}, few rows`, [750, 0, 7, 33], 16, 300, { bf16, xGather: true, scale: true, segments: 2 }),
      tnRow(`${compute}, few rows, strided, overwritten`, [40, 3], 20, 4200, { bf16, strided: true, overwrite: true }),
      tnRow(`${compute}, few rows, activation on load`, counts("many rows"), 16, 96, { bf16, act: true, scale: true }),
      tnRow(`${compute}, few columns`, [750, 0, 7, 33], 300, 16, { bf16, gather: true, scale: true }),
      tnRow(`${compute}, few columns, strided, overwritten`, [40, 3], 4200, 20, { bf16, strided: true, segments: 2, overwrite: true }),
      tnRow(`${compute}, few columns, a few`, counts("empty experts"), 35, 5, { bf16, gather: true, scale: true }),
    ];
  }),
];

/** Rows of experts that do not train are infinite or no numbers; those that train end inside a kernel's last step. */
function frozenInfinities(name: "dy" | "x", o: Options & { xGather?: boolean }): OpCase {
  const rows = [70, 50, 1, 3, 64];
  const by = name === "dy" ? o.gather : o.xGather;
  const title = `tiles, infinities in ${name} of frozen experts${o.gather ? ", dy gathered" : ""}${o.xGather ? ", x gathered" : ""}`;
  return {
    ...tnRow(title, rows, 136, 128, o),
    args: (r) => {
      const a = tn(rows, 136, 128, { ...o, groups: [0, 2, 4] })(r);
      const t = tensor(a, name);
      const [offsets, columns, values] = [tensor(a, "offsets").values, colsOf(t), Float32Array.from(t.values)];
      // Gathered rows are shared between experts: the infinite ones get two rows of their own.
      const own = rowsOf(t) - 2;
      const index = by ? Int32Array.from(tensor(a, `${name}_rows`).values, (row) => row % own) : null;
      for (const e of [1, 3])
        for (let i = offsets[e]!; i < offsets[e + 1]!; i++) {
          const row = index ? (index[i] = own + (i % 2)) : i;
          values.fill([Infinity, -Infinity, NaN][i % 3]!, row * columns, (row + 1) * columns);
        }
      return { ...a, [name]: { dtype: t.dtype, shape: t.shape, values }, ...(index ? { [`${name}_rows`]: i32([...index]) } : {}) };
    },
  };
}

/** Experts around the tiles of the CUDA kernels (128 rows, 64 of the sum), columns aligned and just not; bf16 operands. */
const tiled = [128, 0, 129, 1, 255, 64];
const bf16 = { bf16: true, w: "bf16" } as const;
export const groupedGemmTileCases: readonly OpCase[] = [
  ntRow("tiles, gathered SwiGLU, a term for each half", tiled, 256, 192, {
    ...bf16,
    act: true,
    segments: 2,
    gather: true,
    terms: { of: [0, 1, 2, 3, 4, 5], rank: 16, parts: 2 },
  }),
  ntRow("tiles, SwiGLU of two segments, a term for both, some experts", tiled, 272, 136, {
    ...bf16,
    act: true,
    segments: 2,
    terms: { of: [0, 2, 4], rank: 72 },
  }),
  ntRow("tiles, fused SwiGLU, a term", tiled, 272, 136, { ...bf16, act: true, terms: { of: [2, 3, 4], rank: 8 } }),
  ntRow("tiles, terms, residual", tiled, 136, 128, { ...bf16, residual: true, terms: { of: [0, 2, 4, 5], rank: 16 } }),
  ntRow("tiles, two segments, a term for each", tiled, 528, 72, { ...bf16, segments: 2, terms: { of: [0, 2, 3], rank: 40, parts: 2 } }),
  ntRow("tiles, narrow, gathered, factor, some experts", tiled, 32, 192, {
    ...bf16,
    gather: true,
    segments: 2,
    factor: 0.5,
    groups: [0, 2, 5],
  }),
  ntRow("tiles, added to, some experts", tiled, 136, 72, { ...bf16, accumulate: true, groups: [0, 2, 5] }),
  ntRow("tiles, added to, a short sum", tiled, 256, 16, { ...bf16, accumulate: true }),
  nnRow("tiles, added to, factor", tiled, 16, 256, { ...bf16, accumulate: true, factor: 0.5 }),
  ntRow("tiles, narrow, factor, some experts", tiled, 16, 192, { ...bf16, factor: 2, groups: [2, 4] }),
  nnRow("tiles, gathered SwiGLU, term", tiled, 136, 128, { ...bf16, act: true, gather: true, terms: { of: [0, 1, 2, 3, 4, 5], rank: 16 } }),
  nnRow("tiles, SwiGLU in place, bias, term of some experts", tiled, 192, 72, {
    ...bf16,
    act: true,
    inPlace: true,
    bias: "mixed",
    terms: { of: [0, 4], rank: 8 },
  }),
  nnRow("tiles, two segments, a term for each", tiled, 256, 192, { ...bf16, segments: 2, terms: { of: [0, 2, 4], rank: 24, parts: 2 } }),
  nnRow("tiles, narrow, factor, some experts", tiled, 136, 16, { ...bf16, factor: 0.5, groups: [0, 2, 5] }),
  ntRow("tiles, gathered SwiGLU", tiled, 256, 192, { ...bf16, act: true, segments: 2, gather: true }),
  ntRow("tiles, fused SwiGLU, h not kept", tiled, 272, 136, { ...bf16, act: true, keepH: false }),
  ntRow("tiles", tiled, 136, 128, bf16),
  ntRow("tiles, residual", tiled, 136, 128, { ...bf16, residual: true }),
  ntRow("whole tiles, residual, two segments", tiled, 512, 72, { ...bf16, residual: true, segments: 2 }),
  ntRow("tiles, SwiGLU", tiled, 256, 72, { ...bf16, act: true, segments: 2 }),
  ntRow("tiles, gathered, two segments", tiled, 528, 72, { ...bf16, gather: true, segments: 2 }),
  ntRow(
    "many experts with few rows",
    new Array<number>(64).fill(0).map((_, e) => e % 5),
    64,
    64,
    { ...bf16, gather: true },
  ),
  nnRow("tiles, gathered SwiGLU", tiled, 136, 128, { ...bf16, act: true, gather: true }),
  nnRow("tiles, SwiGLU, bias, gathered", tiled, 136, 128, { ...bf16, act: true, bias: "mixed", gather: true }),
  nnRow("tiles, SwiGLU in place", tiled, 192, 72, { ...bf16, act: true, inPlace: true }),
  nnRow("tiles, gathered, two segments", tiled, 144, 264, { ...bf16, gather: true, segments: 2 }),
  nnRow("tiles, two segments", tiled, 256, 192, { ...bf16, segments: 2 }),
  nnRow("tiles, some experts only", tiled, 128, 136, { ...bf16, groups: [2, 4] }),
  tnRow("tiles", tiled, 136, 200, bf16),
  tnRow("tiles, gathered, two segments, some experts", tiled, 256, 128, { ...bf16, xGather: true, segments: 2, groups: [0, 1, 4] }),
  tnRow("tiles, activation on load, scaled", tiled, 128, 136, { ...bf16, act: true, gather: true, scale: true, groups: [0, 4] }),
  tnRow("tiles, clamped SwiGLU on load, scaled", tiled, 128, 136, { ...bf16, act: act.clamped, gather: true, scale: true, groups: [0, 4] }),
  tnRow("one long expert", [1000], 128, 128, bf16),
  ntRow("tiles, rows that are nobody's", tiled, 136, 128, { ...bf16, behind: 40, residual: true }),
  ntRow("tiles, rows that are nobody's, gathered SwiGLU", tiled, 256, 72, { ...bf16, behind: 40, act: true, segments: 2, gather: true }),
  nnRow("tiles, rows that are nobody's, gathered", tiled, 144, 264, { ...bf16, behind: 40, gather: true }),
  nnRow("tiles, rows that are nobody's, SwiGLU", tiled, 136, 128, { ...bf16, behind: 40, act: true }),
  tnRow("tiles, rows that are nobody's", tiled, 136, 200, { ...bf16, behind: 40 }),
  tnRow("tiles, rows that are nobody's, gathered, scaled", tiled, 136, 128, {
    ...bf16,
    behind: 40,
    gather: true,
    xGather: true,
    scale: true,
  }),
  tnRow("tiles, overwritten", tiled, 136, 200, { ...bf16, overwrite: true }),
  tnRow("whole tiles, overwritten, two segments, some experts", tiled, 256, 256, {
    ...bf16,
    overwrite: true,
    segments: 2,
    groups: [0, 1, 4],
  }),
  tnRow("whole tiles, two segments, some experts", tiled, 256, 256, { ...bf16, segments: 2, groups: [0, 1, 4] }),
  ntRow("tiles, clamped SwiGLU, bias, gathered", tiled, 272, 72, { ...bf16, act: act.clamped, bias: "mixed", gather: true }),
  ntRow("tiles, tanh-GELU gate, two segments", tiled, 256, 72, { ...bf16, act: act.gelu, segments: 2 }),
  ntRow("tiles, bias, residual", tiled, 136, 128, { ...bf16, bias: "mixed", residual: true }),
  nnRow("tiles, clamped SwiGLU, bias, gathered", tiled, 136, 128, { ...bf16, act: act.clamped, bias: "mixed", gather: true }),
  nnRow("tiles, tanh-GELU gate, bias, some experts", tiled, 192, 72, { ...bf16, act: act.gelu, bias: "bf16", groups: [0, 2, 4] }),
  ...(["dy", "x"] as const).flatMap((name) =>
    [{}, { gather: true }, { xGather: true }].map((o) => frozenInfinities(name, { ...bf16, ...o })),
  ),
];

const [E, N, T, K, M] = [3, 7, 5, 6, 8];
export const ntBase: OpCase = {
  op: "grouped_gemm_nt",
  name: "base",
  args: (r) => ({
    ...nt([3, 0, 4], M, K, { act: true, segments: 2, bias: "f32", terms: { of: [0, 2], rank: 2, parts: 2 } })(r),
    x: r.normal([T, K]),
    rows: i32([0, 1, 2, 3, 4, 0, 1]),
  }),
};
export const nnBase: OpCase = {
  op: "grouped_gemm_nn",
  name: "base",
  args: (r) => ({
    ...nn([3, 0, 4], M, K, { act: true, groups: [0, 2], bias: "f32", terms: { of: [0, 2], rank: 2 } })(r),
    dy: r.normal([T, M]),
    rows: i32([0, 1, 2, 3, 4, 0, 1]),
  }),
};
export const tnBase: OpCase = {
  op: "grouped_gemm_tn",
  name: "base",
  args: (r) => ({
    ...tn([3, 0, 4], M, K, { groups: [0, 2], scale: true, segments: 2 })(r),
    dy: r.normal([T, M]),
    dy_rows: i32([0, 1, 2, 3, 4, 0, 1]),
    x: r.normal([T, K]),
    x_rows: i32([4, 3, 2, 1, 0, 0, 1]),
  }),
};
export const baseSizes = { E, N, T, K, M };

// ---- performance ------------------------------------------------------------------------------------------------------

/** D model, F expert, E experts, K experts per token, and how many of the hottest experts train where not all do. */
export interface MoeSizes extends Record<string, number | string> {
  readonly D: number;
  readonly F: number;
  readonly E: number;
  readonly K: number;
  readonly trained: number;
}
export const moeSizes = {
  d256: { D: 256, F: 128, E: 64, K: 6, trained: 8 },
  d2048: { D: 2048, F: 1408, E: 64, K: 6, trained: 8 },
  "dsv2-lite": { D: 2048, F: 1408, E: 64, K: 6, trained: 5 },
  olmoe: { D: 2048, F: 1024, E: 64, K: 8, trained: 5 },
  "qwen3-30b": { D: 2048, F: 768, E: 128, K: 8, trained: 10 },
  mixtral: { D: 4096, F: 14336, E: 8, K: 2, trained: 1 },
} as const satisfies Record<string, MoeSizes>;

const modes = ["up", "down", "down-bwd", "up-bwd", "dw-down-esft", "dw-up-esft", "dw-down-all", "dw-up-all"] as const;
type PerfSizes = MoeSizes & { readonly T: number; readonly routing: string };

/** One product of an expert layer, h kept as training does. `item`: bytes of an activation. */
function perfCalls(mode: (typeof modes)[number], s: PerfSizes, bf16: boolean, item: number, r: Random): PerfCalls {
  const { T, D, F, E, K } = s;
  const N = T * K;
  const { counts: c, tokens } = route(s.routing, T, E, K);
  const trained = mode.endsWith("esft") ? hottest(c, s.trained) : c.map((_, e) => e);
  const shared = { bf16, w: "bf16" } as const;
  const rows: HostTensor = { dtype: "i32", shape: [N], values: tokens };
  const x = r.normal([T, D]);
  const flops = 2 * N * D * F;
  // Weights that are met, and of the gradients every row of a trained expert once.
  const matrix = 2 * c.filter((n) => n > 0).length * D * F;
  const n = trained.reduce((sum, e) => sum + c[e]!, 0);
  const inputs = item * (Math.min(T, n) * D + 2 * n * F);
  const facts = routingFacts(c, mode.startsWith("dw") ? trained : []);
  const call = (op: string, args: Args): PerfCalls["calls"] => [{ op, args }];
  switch (mode) {
    case "up": {
      const args = { ...nt(c, 2 * F, D, { ...shared, act: true, segments: 2, spread: D ** -0.5 })(r), x, rows };
      return { calls: call("grouped_gemm_nt", args), flops: 2 * flops, bytes: 2 * matrix + item * (T * D + 3 * N * F), facts };
    }
    case "down":
      return {
        calls: call("grouped_gemm_nt", nt(c, D, F, { ...shared, spread: F ** -0.5 })(r)),
        flops,
        bytes: matrix + item * N * (F + D),
        facts,
      };
    case "down-bwd": {
      const args = { ...nn(c, D, F, { ...shared, act: true, spread: D ** -0.5 })(r), dy: x, rows };
      return { calls: call("grouped_gemm_nn", args), flops, bytes: matrix + item * (T * D + 4 * N * F) + 8 * N, facts };
    }
    case "up-bwd": {
      const args = nn(c, 2 * F, D, { ...shared, segments: 2, spread: (2 * F) ** -0.5 })(r);
      return { calls: call("grouped_gemm_nn", args), flops: 2 * flops, bytes: 2 * matrix + item * N * (2 * F + D), facts };
    }
    case "dw-down-esft":
    case "dw-down-all": {
      const args = { ...tn(c, D, F, { bf16, act: true, scale: true, groups: trained })(r), dy: x, dy_rows: rows };
      return { calls: call("grouped_gemm_tn", args), flops: 2 * n * D * F, bytes: 8 * trained.length * D * F + inputs, facts };
    }
    default: {
      const args = { ...tn(c, 2 * F, D, { bf16, segments: 2, groups: trained })(r), x, x_rows: rows };
      return { calls: call("grouped_gemm_tn", args), flops: 4 * n * D * F, bytes: 16 * trained.length * D * F + inputs, facts };
    }
  }
}

function groupedRows(
  on: Backend,
  model: keyof typeof moeSizes,
  T: number,
  dtype: "f32" | "bf16",
  names: readonly (typeof modes)[number][],
) {
  return names.map((mode): PerfRow => {
    const routing = mode.endsWith("esft") ? "lognormal0.7" : "uniform";
    const sizes: PerfSizes = { ...moeSizes[model], T, routing };
    return perfRow(`grouped/${model}-T${T}-${routing}/${dtype}/${mode}`, on, sizes, (s, r) =>
      perfCalls(mode, s, dtype === "bf16", on === "cuda" ? 2 : 4, r),
    );
  });
}
export const groupedPerf: readonly PerfRow[] = [
  ...(["f32", "bf16"] as const).flatMap((dtype) => [
    ...groupedRows("cpu", "d256", 4096, dtype, modes),
    ...groupedRows("cpu", "d2048", 2048, dtype, modes.slice(0, 6)),
    ...[1, 8].flatMap((T) => groupedRows("cpu", "olmoe", T, dtype, ["up", "down"])),
  ]),
  ...[8192, 32768].flatMap((T) => groupedRows("cuda", "dsv2-lite", T, "bf16", modes)),
];
