// Cases of linear_cross_entropy, grad_norm, saliency and adamw (csrc/ops/linear_cross_entropy.h, optimizer.h).

import { at, colsOf, f32, has, i32, list, number, out, rounded, rowsOf, strided, tensor, toBf16, zeros } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";

// ---- linear_cross_entropy -------------------------------------------------------------------------------------------------

function expectedLoss(a: Args): Record<string, ArrayLike<number>> {
  const [x, w, labels] = [tensor(a, "x"), tensor(a, "w"), tensor(a, "labels").values];
  const [D, V] = [colsOf(x), rowsOf(w)];
  const round = rounded(a);
  const rowLoss = new Float64Array(labels.length);
  const dx = new Float64Array(labels.length * D);
  const cap = number(a, "soft_cap");
  const dbias = has(a, "dbias") ? Float64Array.from(tensor(a, "dbias").values, (x) => (a.accumulate === 1 ? x : 0)) : null;
  const [u, b] = has(a, "u") ? [tensor(a, "u"), tensor(a, "b")] : [null, null];
  const R = u ? colsOf(u) : 0;
  const du = new Float64Array(labels.length * R);
  const db = has(a, "db") ? Float64Array.from(tensor(a, "db").values, (x) => (a.accumulate === 1 ? x : 0)) : null;
  const dw = has(a, "dw") ? Float64Array.from(tensor(a, "dw").values, (x) => (a.accumulate === 1 ? x : 0)) : null;
  let correct = 0;
  for (let t = 0; t < labels.length; t++) {
    if (labels[t] === -100) continue;
    const z = Array.from({ length: V }, (_, v) => {
      let s = 0;
      for (let d = 0; d < D; d++) s += round(at(x, t, d)) * round(at(w, v, d));
      for (let k = 0; k < R; k++) s += round(at(u!, t, k)) * round(at(b!, v, k));
      const y = (s + (has(a, "bias") ? tensor(a, "bias").values[v]! : 0)) * number(a, "logit_scale");
      return cap > 0 ? cap * Math.tanh(y / cap) : y;
    });
    const top = Math.max(...z);
    const lse = top + Math.log(z.reduce((s, v) => s + Math.exp(v - top), 0));
    rowLoss[t] = lse - z[labels[t]!]!;
    correct += z.indexOf(top) === labels[t] ? 1 : 0;
    z.forEach((v, i) => {
      const dz =
        (has(a, "scale") ? tensor(a, "scale").values[0]! : number(a, "grad_scale")) *
        number(a, "logit_scale") *
        (cap > 0 ? 1 - (v / cap) ** 2 : 1) *
        (Math.exp(v - lse) - (i === labels[t] ? 1 : 0));
      if (dbias) dbias[i]! += round(dz);
      for (let d = 0; d < D; d++) {
        dx[t * D + d]! += round(dz) * round(at(w, i, d));
        if (dw) dw[i * D + d]! += round(dz) * round(at(x, t, d));
      }
      for (let k = 0; k < R; k++) {
        du[t * R + k]! += round(dz) * round(at(b!, i, k));
        if (db) db[i * R + k]! += round(dz) * round(at(u!, t, k));
      }
    });
  }
  const all: Record<string, ArrayLike<number>> = {
    loss: [tensor(a, "loss").values[0]! + rowLoss.reduce((s, v) => s + v, 0)],
    row_loss: rowLoss,
    dx,
    du,
    ...(db ? { db } : {}),
    ...(dw ? { dw } : {}),
    ...(dbias ? { dbias } : {}),
    ...(has(a, "correct") ? { correct: [tensor(a, "correct").values[0]! + correct] } : {}),
  };
  return Object.fromEntries(Object.entries(all).filter(([name]) => has(a, name)));
}
const f64 = (...values: number[]): HostTensor => ({ dtype: "f64", shape: [values.length], values });
interface LossOptions {
  readonly w?: "f32" | "bf16";
  readonly labels?: (r: Random) => HostTensor;
  readonly correct?: boolean;
  readonly dx?: boolean;
  readonly dw?: boolean;
  /** dw is written, not added to. */
  readonly overwrite?: boolean;
  readonly rowLoss?: boolean;
  readonly strided?: boolean;
  readonly bf16?: boolean;
  readonly gradScale?: number;
  /** Where the device reads it from. */
  readonly scale?: number;
  readonly logitScale?: number;
  /** With its gradient, unless the call has none of the head. */
  readonly bias?: "f32" | "bf16";
  readonly dbias?: boolean;
  readonly softCap?: number;
  /** Rank of a term beside w, with its gradients unless the call has none of them. */
  readonly rank?: number;
  readonly b?: "f32" | "bf16";
  readonly du?: boolean;
  readonly db?: boolean;
  readonly spread?: number;
}
export function loss(T: number, V: number, D: number, o: LossOptions = {}) {
  return (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    return {
      x: wrap(r.normal([T, D], o.spread ?? 1)),
      w: wrap(r.normal([V, D], 0.5, o.w ?? "f32")),
      bias: o.bias ? r.normal([V], 0.5, o.bias) : null,
      u: o.rank === undefined ? null : wrap(r.normal([T, o.rank], o.spread ?? 1)),
      b: o.rank === undefined ? null : wrap(r.normal([V, o.rank], 0.5, o.b ?? "f32")),
      labels: o.labels?.(r) ?? i32(Array.from({ length: T }, () => (r.uniform() < 0.3 ? -100 : r.below(V)))),
      loss: { dtype: "f64", shape: [1], values: [2.5] },
      correct: o.correct === false ? null : { dtype: "i64", shape: [1], values: [7] },
      row_loss: o.rowLoss === false ? null : out([T]),
      dx: o.dx === false ? null : wrap(out([T, D])),
      dw: o.dw === false ? null : wrap(o.overwrite ? out([V, D]) : r.normal([V, D], 0.1)),
      du: o.rank === undefined || o.du === false ? null : wrap(out([T, o.rank])),
      db: o.rank === undefined || o.db === false ? null : wrap(o.overwrite ? out([V, o.rank]) : r.normal([V, o.rank], 0.1)),
      dbias: !o.bias || o.dbias === false ? null : o.overwrite ? out([V]) : r.normal([V], 0.1),
      scale: o.scale === undefined ? null : f64(o.scale),
      grad_scale: o.gradScale ?? 0.25,
      logit_scale: o.logitScale ?? 1,
      soft_cap: o.softCap ?? 0,
      accumulate: o.overwrite ? 0 : 1,
      precision: o.bf16 ? 1 : 0,
    };
  };
}
const lossRow = (name: string, T: number, V: number, D: number, o?: LossOptions): OpCase => ({
  op: "linear_cross_entropy",
  name,
  args: loss(T, V, D, o),
  k: D + V,
  expected: expectedLoss,
  eps: { loss: "f32", ...(o?.bf16 ? { dx: "bf16", dw: "bf16", du: "bf16", db: "bf16", dbias: "bf16" } : {}) },
});
const none = (T: number) => (): HostTensor => i32(new Array<number>(T).fill(-100));
const all =
  (T: number, V: number) =>
  (r: Random): HostTensor =>
    r.ints([T], V);
export const lossCases: readonly OpCase[] = [
  lossRow("some rows unsupervised", 40, 61, 37),
  lossRow("all rows supervised", 33, 64, 32, { labels: all(33, 64) }),
  lossRow("no row supervised", 9, 20, 16, { labels: none(9) }),
  lossRow("one row supervised", 9, 20, 16, { labels: () => i32([-100, -100, -100, -100, 19, -100, -100, -100, -100]) }),
  lossRow("frozen head", 40, 61, 37, { dw: false }),
  lossRow("loss only", 40, 61, 37, { dw: false, dx: false, rowLoss: false, correct: false }),
  lossRow("dw only", 40, 61, 37, { dx: false }),
  lossRow("bf16 head, scaled logits", 40, 61, 37, { w: "bf16", logitScale: 0.3 }),
  lossRow("strided", 40, 61, 37, { strided: true, w: "bf16" }),
  lossRow("large logits", 20, 50, 33, { spread: 30 }),
  lossRow("bf16 compute", 40, 61, 37, { bf16: true }),
  lossRow("bf16 compute, bf16 head, blocks", 90, 600, 48, { bf16: true, w: "bf16" }),
  lossRow("vocabulary of one", 5, 1, 8, { labels: () => i32([0, 0, -100, 0, 0]) }),
  lossRow("a scale on the device", 40, 61, 37, { scale: 0.375, logitScale: 0.3 }),
  lossRow("one token", 1, 9, 5, { labels: () => i32([4]) }),
  lossRow("one token, a wide bf16 head, loss only", 1, 96, 2048, { labels: () => i32([5]), w: "bf16", dw: false, dx: false }),
  lossRow("no tokens", 0, 9, 5),
  lossRow("zero features: all logits equal", 4, 9, 0, { labels: () => i32([0, 8, -100, 1]) }),
  lossRow("several chunks", 900, 90, 12),
  lossRow("wide vocabulary", 12, 5000, 16),
  lossRow("a bias", 40, 61, 37, { bias: "f32" }),
  lossRow("a bf16 bias, scaled logits, overwritten", 40, 61, 37, { bias: "bf16", w: "bf16", logitScale: 0.3, overwrite: true }),
  lossRow("a bias, frozen", 40, 61, 37, { bias: "bf16", dw: false, dbias: false }),
  lossRow("the gradient of a bias alone", 40, 61, 37, { bias: "f32", dx: false, dw: false }),
  lossRow("a bias, no row supervised, overwritten", 9, 20, 16, { bias: "f32", labels: none(9), overwrite: true }),
  lossRow("a bias, no tokens, overwritten", 0, 9, 5, { bias: "f32", overwrite: true }),
  lossRow("a bias, several chunks", 900, 90, 12, { bias: "f32" }),
  lossRow("a bias, bf16 compute", 40, 61, 37, { bias: "f32", bf16: true }),
  lossRow("capped logits", 40, 61, 37, { softCap: 3 }),
  lossRow("capped logits, scaled, a bias", 40, 61, 37, { softCap: 2, logitScale: 0.3, bias: "bf16" }),
  lossRow("capped logits, bf16 compute", 40, 61, 37, { softCap: 3, bf16: true, w: "bf16" }),
  lossRow("capped logits, several chunks", 900, 90, 12, { softCap: 5 }),
  lossRow("a low-rank term", 40, 61, 37, { rank: 5 }),
  lossRow("a low-rank term, frozen head", 40, 61, 37, { rank: 4, dw: false, w: "bf16", logitScale: 0.3 }),
  lossRow("a low-rank term, its loss alone", 40, 61, 37, { rank: 4, dw: false, dx: false, du: false, db: false }),
  lossRow("a low-rank term, its gradients alone", 40, 61, 37, { rank: 1, dw: false, dx: false }),
  lossRow("a low-rank term, b alone trains", 40, 61, 37, { rank: 3, dw: false, dx: false, du: false, overwrite: true }),
  lossRow("a bf16 low-rank term, strided, a bias, capped", 40, 61, 37, { rank: 6, b: "bf16", strided: true, bias: "f32", softCap: 3 }),
  lossRow("a low-rank term, bf16 compute", 40, 61, 37, { rank: 8, bf16: true, w: "bf16", b: "bf16" }),
  lossRow("a low-rank term, several chunks, overwritten", 900, 90, 12, { rank: 16, overwrite: true, dw: false }),
  lossRow("a low-rank term, several chunks, added", 900, 90, 12, { rank: 16 }),
  lossRow("a low-rank term, no row supervised, overwritten", 9, 20, 16, { rank: 4, labels: none(9), overwrite: true }),
  lossRow("a low-rank term, no tokens, overwritten", 0, 9, 5, { rank: 2, overwrite: true }),
  lossRow("a low-rank term wider than x", 20, 61, 5, { rank: 40 }),
  lossRow("a low-rank term, wide vocabulary", 12, 5000, 16, { rank: 16, dw: false }),
  lossRow("dw overwritten", 40, 61, 37, { overwrite: true, strided: true, w: "bf16" }),
  lossRow("several chunks, dw overwritten", 900, 90, 12, { overwrite: true }),
  lossRow("no row supervised, dw overwritten", 9, 20, 16, { labels: none(9), overwrite: true }),
  lossRow("no tokens, dw overwritten", 0, 9, 5, { overwrite: true }),
];
/** Rows, vocabularies and features around the tiles of the CUDA kernels; bf16 operands. */
export const lossTileCases: readonly OpCase[] = [
  lossRow("tiles", 130, 1100, 128, { bf16: true, w: "bf16" }),
  lossRow("tiles, frozen head", 257, 520, 192, { bf16: true, w: "bf16", dw: false, logitScale: 0.5 }),
  lossRow("odd vocabulary", 64, 1025, 64, { bf16: true, w: "bf16" }),
  lossRow("tiles, a bias, capped", 130, 1100, 128, { bf16: true, w: "bf16", bias: "bf16", softCap: 6 }),
  lossRow("odd vocabulary, a bias", 64, 1025, 64, { bf16: true, w: "bf16", bias: "f32", logitScale: 0.5 }),
  lossRow("tiles, a low-rank term", 130, 1100, 128, { bf16: true, w: "bf16", rank: 16, dw: false }),
  lossRow("tiles, a low-rank term whose rows are no 16-byte pieces", 130, 1100, 128, { bf16: true, w: "bf16", b: "bf16", rank: 12 }),
  lossRow("tiles, a low-rank term of odd rank", 130, 1025, 128, { bf16: true, w: "bf16", rank: 5, bias: "f32", softCap: 6 }),
  lossRow("tiles, a low-rank term of more than a step", 257, 520, 192, { bf16: true, w: "bf16", rank: 72, overwrite: true }),
  lossRow("tiles, dw overwritten", 130, 1100, 128, { bf16: true, w: "bf16", overwrite: true }),
];
export const lossBase: OpCase = {
  op: "linear_cross_entropy",
  name: "base",
  args: loss(4, 6, 5, { labels: () => i32([1, -100, 5, 0]), bias: "f32", rank: 2 }),
  eps: { loss: "f32" },
};

// ---- grad_norm, adamw -------------------------------------------------------------------------------------------------------

const tensors = (r: Random, shapes: readonly (readonly number[])[], scale = 1, positive = false): HostTensor[] =>
  shapes.map((s) => {
    const t = r.normal(s, scale);
    return positive ? f32(s, Array.from(t.values, Math.abs)) : t;
  });
const mixedShapes = [[3, 37], [5], [2, 3, 19], [0, 4], [1, 1], [64, 80]];

const normRow = (name: string, args: (r: Random) => Args): OpCase => ({
  op: "grad_norm",
  name,
  args,
  k: 300_000,
  expected: (a) => ({ norm: [Math.sqrt(list(a, "grads").reduce((s, t) => s + Array.from(t.values).reduce((x, v) => x + v * v, 0), 0))] }),
});
export const gradNormCases: readonly OpCase[] = [
  normRow("several tensors", (r) => ({ grads: tensors(r, mixedShapes), norm: out([1], "f64") })),
  normRow("no tensors", () => ({ grads: [], norm: out([1], "f64") })),
  normRow("large and small values", (r) => ({
    grads: [...tensors(r, [[50, 20]], 1e18), ...tensors(r, [[50, 20]], 1e-18)],
    norm: out([1], "f64"),
  })),
  normRow("strided", (r) => ({
    grads: tensors(r, [
      [9, 37],
      [4, 5],
    ]).map((t) => strided(t)),
    norm: out([1], "f64"),
  })),
  normRow("an infinite gradient", () => ({ grads: [f32([2], [1, Infinity])], norm: out([1], "f64") })),
  normRow("not a number", () => ({ grads: [f32([2], [1, NaN])], norm: out([1], "f64") })),
  normRow("many chunks", (r) => ({ grads: tensors(r, [[300, 700], [129, 130], [7]]), norm: out([1], "f64") })),
];
export const gradNormBase: OpCase = normRow("base", (r) => ({ grads: tensors(r, [[2, 3], [4]]), norm: out([1], "f64") }));

const saliencyRow = (name: string, weights: (r: Random) => HostTensor[], wrap = (t: HostTensor): HostTensor => t): OpCase => ({
  op: "saliency",
  name: `saliency, ${name}`,
  args: (r) => {
    const w = weights(r);
    const grads = tensors(r, w.map((t) => t.shape)).map(wrap); // prettier-ignore
    return { weights: w.map(wrap), grads, squares: out([w.length], "f64") };
  },
  k: 300_000,
  expected: (a) => ({
    squares: list(a, "weights").map((w, i) => {
      const g = list(a, "grads")[i]!.values;
      return Array.from(w.values).reduce((s, v, j) => s + (v * g[j]!) ** 2, 0);
    }),
  }),
});
export const saliencyCases: readonly OpCase[] = [
  saliencyRow("several tensors", (r) => tensors(r, mixedShapes)),
  saliencyRow("bf16 beside f32", (r) => [
    r.normal([3, 37], 1, "bf16"),
    r.normal([64, 80]),
    r.normal([0, 4], 1, "bf16"),
    r.normal([5], 1, "bf16"),
  ]),
  saliencyRow("no tensors", () => []),
  saliencyRow(
    "strided",
    (r) => [r.normal([9, 37], 1, "bf16"), r.normal([4, 5])],
    (t) => strided(t),
  ),
  saliencyRow("large and small values", (r) => [...tensors(r, [[50, 20]], 1e18), ...tensors(r, [[50, 20]], 1e-18)]),
  saliencyRow("many chunks", (r) => [r.normal([300, 700], 1, "bf16"), ...tensors(r, [[129, 130], [7]])]),
];
export const saliencyBase: OpCase = saliencyRow("base", (r) => [r.normal([2, 3], 1, "bf16"), r.normal([4])]);

function expectedAdamw(a: Args): Record<string, Float64Array[]> {
  const norm = has(a, "norm") ? tensor(a, "norm").values[0]! : null;
  const skip = norm !== null && !Number.isFinite(norm);
  const clip = norm !== null && number(a, "max_norm") > 0 ? Math.min(1, number(a, "max_norm") / (norm + 1e-6)) : 1;
  const [lr, step] = has(a, "rates") ? Array.from(tensor(a, "rates").values) : [number(a, "lr"), number(a, "step")];
  const [b1, b2] = [number(a, "beta1"), number(a, "beta2")];
  const [p, m, v] = ["params", "m", "v"].map((name) => list(a, name).map((t) => Float64Array.from(t.values))) as [
    Float64Array[],
    Float64Array[],
    Float64Array[],
  ];
  if (!skip)
    list(a, "grads").forEach((g, i) => {
      for (let j = 0; j < g.values.length; j++) {
        const gj = clip * g.values[j]!;
        m[i]![j] = b1 * m[i]![j]! + (1 - b1) * gj;
        v[i]![j] = b2 * v[i]![j]! + (1 - b2) * gj * gj;
        const mHat = m[i]![j]! / (1 - b1 ** step!);
        const vHat = v[i]![j]! / (1 - b2 ** step!);
        p[i]![j] = p[i]![j]! * (1 - lr! * number(a, "weight_decay")) - (lr! * mHat) / (Math.sqrt(vHat) + number(a, "eps"));
      }
    });
  if (!has(a, "copies")) return { params: p, m, v };
  return { params: p, m, v, copies: skip ? list(a, "copies").map((t) => Float64Array.from(t.values)) : p.map((x) => x.map(toBf16)) };
}
interface AdamOptions {
  readonly norm?: number;
  readonly maxNorm?: number;
  readonly decay?: number;
  readonly step?: number;
  readonly strided?: boolean;
  readonly lr?: number;
  /** lr and step where the device reads them; the arguments then say something else. */
  readonly rates?: readonly [number, number];
  readonly copies?: boolean;
}
export function adamw(shapes: readonly (readonly number[])[], o: AdamOptions = {}) {
  return (r: Random): Args => {
    const wrap = (ts: HostTensor[]): HostTensor[] => (o.strided ? ts.map((t) => strided(t)) : ts);
    const first = (o.step ?? 1) === 1;
    return {
      params: wrap(tensors(r, shapes)),
      grads: wrap(tensors(r, shapes)),
      m: wrap(first ? shapes.map((s) => zeros("f32", s)) : tensors(r, shapes, 0.1)),
      v: wrap(first ? shapes.map((s) => zeros("f32", s)) : tensors(r, shapes, 0.1, true)),
      copies: o.copies ? wrap(shapes.map((s) => out(s, "bf16"))) : null,
      norm: o.norm === undefined ? null : { dtype: "f64", shape: [1], values: [o.norm] },
      rates: o.rates ? f64(...o.rates) : null,
      max_norm: o.maxNorm ?? 1,
      lr: o.lr ?? 1e-2,
      beta1: 0.9,
      beta2: 0.95,
      eps: 1e-8,
      weight_decay: o.decay ?? 0.1,
      step: o.step ?? 1,
    };
  };
}
const adamRow = (name: string, shapes: readonly (readonly number[])[], o?: AdamOptions): OpCase => ({
  op: "adamw",
  name,
  args: adamw(shapes, o),
  k: 4,
  expected: expectedAdamw,
  // A parameter beside a rounding boundary; that a copy is its own parameter rounded is a test of its own.
  ...(o?.copies ? { eps: { copies: "bf16" as const } } : {}),
});
export const adamwCases: readonly OpCase[] = [
  adamRow("first step", mixedShapes),
  adamRow("tenth step", mixedShapes, { step: 10 }),
  adamRow("late step", mixedShapes, { step: 100000 }),
  adamRow("clipped", mixedShapes, { norm: 12.5, step: 3 }),
  adamRow("norm below the limit", mixedShapes, { norm: 0.5, step: 3 }),
  adamRow("no limit", mixedShapes, { norm: 12.5, maxNorm: 0 }),
  adamRow("infinite norm skips the step", mixedShapes, { norm: Infinity, step: 3 }),
  adamRow("NaN norm skips the step, even without a limit", mixedShapes, { norm: NaN, step: 3, maxNorm: 0 }),
  adamRow("rates on the device", mixedShapes, { rates: [2e-3, 7], norm: 12.5, lr: 1 }),
  adamRow("no decay", mixedShapes, { decay: 0, step: 2 }),
  adamRow("lr 0 moves no parameter", mixedShapes, { lr: 0, step: 2 }),
  adamRow(
    "strided",
    [
      [9, 37],
      [2, 3, 5],
    ],
    { strided: true, step: 2, norm: 3 },
  ),
  adamRow("bf16 copies", mixedShapes, { copies: true, step: 2, norm: 3 }),
  adamRow(
    "bf16 copies, strided",
    [
      [9, 37],
      [2, 3, 5],
    ],
    { copies: true, strided: true },
  ),
  adamRow("bf16 copies stay when the step is skipped", mixedShapes, { copies: true, norm: NaN, step: 3 }),
  adamRow("bf16 copies, many chunks", [[300, 700], [129, 130], [7]], { copies: true, step: 5 }),
  adamRow("no tensors", []),
  adamRow("one element", [[1]]),
  adamRow("many chunks", [[300, 700], [129, 130], [7]], { step: 5, norm: 700 }),
];
export const adamwBase: OpCase = { op: "adamw", name: "base", args: adamw([[2, 3], [4]], { norm: 2, step: 2 }) };

// ---- performance ------------------------------------------------------------------------------------------------------

/** Loss and dX of a frozen head; every row is supervised. */
/** With a rank, a low-rank term beside the frozen head, its gradients included; the peer has the head alone, the bound of what it may cost. */
const head = (on: Backend, dtype: "f32" | "bf16", T: number, D: number, V: number, R = 0): PerfRow =>
  perfCall(
    `head/d${D}-V${V}${R > 0 ? `-r${R}` : ""}/${dtype}/train`,
    on,
    { T, D, V, ...(R > 0 ? { R } : {}) },
    "linear_cross_entropy",
    (s, r) => ({
      ...loss(s.T, s.V, s.D, {
        w: "bf16",
        labels: all(s.T, s.V),
        dw: false,
        rowLoss: false,
        bf16: dtype === "bf16",
        ...(R > 0 ? { rank: s.R!, b: on === "cuda" ? "bf16" : "f32" } : {}),
      })(r),
      w: r.normal([s.V, s.D], s.D ** -0.5, "bf16"),
      grad_scale: 1 / s.T,
    }),
    (s) => ({ flops: (4 * s.D + (R > 0 ? 6 * s.R! : 0)) * s.T * s.V, tokens: s.T }),
  );
/** Master, gradient and two moments in f32: 28 bytes per parameter, 30 with the bf16 copy that products read on cuda. */
function state(on: Backend, name: string, sizes: { matrices: number; rows: number; cols: number }): PerfRow[] {
  const shapes = (s: typeof sizes): number[][] => Array.from({ length: s.matrices }, () => [s.rows, s.cols]);
  const dtype = on === "cuda" ? "bf16" : "f32";
  return [
    perfCall(`adamw/${name}/${dtype}/step`, on, sizes, "adamw", (s, r) => adamw(shapes(s), { copies: on === "cuda", lr: 1e-5 })(r)),
    perfCall(`saliency/${name}/${dtype}/squares`, on, sizes, "saliency", (s, r) => ({
      weights: shapes(s).map((shape) => r.normal(shape, 0.02, "bf16")),
      grads: tensors(r, shapes(s)),
      squares: out([s.matrices], "f64"),
    })),
    perfCall(`grad_norm/${name}/${dtype}/norm`, on, sizes, "grad_norm", (s, r) => ({
      grads: tensors(r, shapes(s)),
      norm: out([1], "f64"),
    })),
  ];
}
export const trainingPerf: readonly PerfRow[] = [
  ...(["f32", "bf16"] as const).flatMap((dtype) => [head("cpu", dtype, 4096, 256, 8192), head("cpu", dtype, 1024, 2048, 32768)]),
  head("cpu", "f32", 1024, 2048, 32768, 16),
  ...state("cpu", "16777216", { matrices: 1, rows: 4096, cols: 4096 }),
  head("cuda", "bf16", 8192, 2048, 102400),
  head("cuda", "bf16", 8192, 2048, 102400, 16),
  ...state("cuda", "1.07B", { matrices: 372, rows: 2048, cols: 1408 }),
];
