// Cases of topk_route, route_backward, load_balance, expert_sort and count_experts (csrc/ops/topk_route.h, load_balance.h,
// expert_sort.h).

import { at, colsOf, f32, has, i32, number, offsetsOf, out, rowsOf, strided, tensor, zeros } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall, perfRow } from "../perf.ts";
import type { PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";

// ---- topk_route -------------------------------------------------------------------------------------------------------

export interface Rule {
  readonly score: number;
  readonly n_group: number;
  readonly topk_group: number;
  readonly group_score: number;
  readonly drop: number;
  readonly renormalize: number;
  readonly norm_eps: number;
  readonly scale: number;
  readonly jitter: number;
}
export const plain: Rule = {
  jitter: 0,
  score: 0,
  n_group: 1,
  topk_group: 1,
  group_score: 0,
  drop: 0,
  renormalize: 0,
  norm_eps: 0,
  scale: 1,
};

const softmax = (z: readonly number[]): number[] => {
  const top = Math.max(...z);
  const e = z.map((v) => Math.exp(v - top));
  const sum = e.reduce((x, y) => x + y, 0);
  return e.map((v) => Math.fround(v / sum));
};
/** Of score 3: softmax at the expert of slot k over those that were not chosen before it and are near it. */
function mixed(z: readonly number[], ids: readonly number[], k: number, jitter: number): number {
  const m = z[ids[k]!]!;
  const near = (v: number): boolean => !(Math.fround(Math.fround(m - v) / Math.max(Math.abs(v), m)) > Math.fround(2 * jitter));
  const sum = z.reduce((s, v, e) => s + (near(v) && !ids.slice(0, k).includes(e) ? Math.exp(v - m) : 0), 0);
  return Math.fround(1 / sum);
}
/** Indices by descending value; the lower index first on ties. */
const ranked = (v: readonly number[]): number[] => v.map((_, i) => i).sort((i, j) => (v[i] === v[j] ? i - j : v[j]! > v[i]! ? 1 : -1));

export function expectedRoute(a: Args): Record<string, number[]> {
  const logits = tensor(a, "logits");
  const E = colsOf(logits);
  const K = colsOf(tensor(a, "ids"));
  const G = number(a, "n_group");
  const size = E / G;
  const result = { ids: [] as number[], weights: [] as number[], probs: [] as number[] };
  for (let t = 0; t < rowsOf(logits); t++) {
    const z = Array.from({ length: E }, (_, e) => at(logits, t, e));
    const s = a.score === 0 ? softmax(z) : a.score === 1 ? z.map((x) => Math.fround(1 / (1 + Math.exp(-x)))) : z;
    const plain = a.score === 1 && G === 1 ? z : s;
    let c = has(a, "bias") ? s.map((v, e) => Math.fround(v + tensor(a, "bias").values[e]!)) : plain;
    if (G > 1) {
      const groups = Array.from({ length: G }, (_, g) => {
        const sorted = c.slice(g * size, (g + 1) * size).sort((x, y) => y - x);
        return a.group_score === 0 ? sorted[0]! : Math.fround(sorted[0]! + sorted[1]!);
      });
      const kept = ranked(groups).slice(0, number(a, "topk_group"));
      c = c.map((v, e) => (kept.includes(Math.floor(e / size)) ? v : a.drop === 1 ? -Infinity : 0));
    }
    const ids = ranked(c).slice(0, K);
    let w = ids.map((e) => s[e]!);
    if (a.score === 2) w = softmax(w);
    if (a.score === 3) w = ids.map((_, k) => mixed(z, ids, k, number(a, "jitter")));
    if (a.renormalize === 1) {
      const sum = w.reduce((x, y) => x + y, number(a, "norm_eps"));
      w = w.map((v) => v / sum);
    }
    result.ids.push(...ids);
    const by = (e: number): number => number(a, "scale") * (has(a, "expert_scale") ? tensor(a, "expert_scale").values[e]! : 1);
    result.weights.push(...w.map((v, k) => v * by(ids[k]!)));
    result.probs.push(...s);
  }
  return has(a, "probs") ? result : { ids: result.ids, weights: result.weights };
}

interface RouteOptions {
  readonly logits?: (r: Random) => HostTensor;
  readonly bias?: boolean;
  readonly expertScale?: "f32" | "bf16";
  readonly probs?: boolean;
  readonly strided?: boolean;
}
export function route(T: number, E: number, K: number, rule: Partial<Rule> = {}, o: RouteOptions = {}) {
  return (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    return {
      logits: wrap(o.logits?.(r) ?? r.normal([T, E], 2)),
      bias: o.bias ? r.normal([E], 0.3) : null,
      expert_scale: o.expertScale ? r.normal([E], 1, o.expertScale) : null,
      ids: wrap(out([T, K], "i32")),
      weights: wrap(out([T, K])),
      probs: o.probs === false ? null : wrap(out([T, E])),
      ...plain,
      ...rule,
    };
  };
}
const routeRow = (name: string, T: number, E: number, K: number, rule?: Partial<Rule>, o?: RouteOptions): OpCase => ({
  op: "topk_route",
  name: `${name}, T ${T} E ${E} K ${K}`,
  args: route(T, E, K, rule, o),
  k: E,
  expected: expectedRoute,
});

const repeated = (T: number, E: number, period: number) => (): HostTensor =>
  f32(
    [T, E],
    Array.from({ length: T * E }, (_, i) => ((i % E) % period) * 0.5),
  );

export const routeCases: readonly OpCase[] = [
  routeRow("softmax", 40, 64, 6),
  routeRow("softmax renormalised", 40, 60, 4, { renormalize: 1 }),
  routeRow("one token", 1, 8, 2),
  routeRow("no tokens", 0, 8, 2),
  routeRow("one expert", 5, 1, 1),
  routeRow("all experts chosen", 9, 7, 7, { renormalize: 1 }),
  routeRow("all logits equal", 5, 12, 5, {}, { logits: () => zeros("f32", [5, 12]) }),
  routeRow("many ties", 6, 37, 9, {}, { logits: repeated(6, 37, 3) }),
  routeRow("ties under sigmoid", 6, 37, 9, { score: 1 }, { logits: repeated(6, 37, 3) }),
  routeRow("ties between groups", 4, 16, 4, { n_group: 4, topk_group: 2 }, { logits: () => zeros("f32", [4, 16]) }),
  routeRow("-0 and 0 tie", 2, 4, 2, { score: 2 }, { logits: () => f32([2, 4], [-0, 0, -1, 0, 0, -0, -0, 0]) }),
  routeRow("large logits", 20, 33, 4, { renormalize: 1 }, { logits: (r) => r.normal([20, 33], 30) }),
  routeRow("sigmoid of large logits", 20, 33, 4, { score: 1 }, { logits: (r) => r.normal([20, 33], 30) }),
  routeRow("sigmoid of large logits, many experts", 3, 1500, 4, { score: 1 }, { logits: (r) => r.normal([3, 1500], 30) }),
  routeRow("equal huge logits", 3, 5, 2, {}, { logits: () => f32([3, 5], new Array<number>(15).fill(3e38)) }),
  routeRow(
    "sigmoid with bias, groups, top-2 sums, scaled",
    40,
    64,
    8,
    { score: 1, n_group: 8, topk_group: 4, group_score: 1, renormalize: 1, norm_eps: 1e-20, scale: 2.5 },
    { bias: true },
  ),
  routeRow(
    "sigmoid with bias, groups dropped to -inf",
    40,
    64,
    8,
    { score: 1, n_group: 8, topk_group: 2, group_score: 1, drop: 1, renormalize: 1, scale: 2.5 },
    { bias: true },
  ),
  routeRow("softmax groups by maximum", 40, 64, 6, { n_group: 8, topk_group: 3, scale: 16 }),
  routeRow("groups fill exactly", 10, 24, 6, { n_group: 8, topk_group: 2 }),
  routeRow("groups of one expert", 10, 6, 2, { n_group: 6, topk_group: 3 }),
  routeRow("softmax over the chosen", 40, 32, 4, { score: 2 }),
  routeRow("softmax over the chosen, bias", 40, 33, 4, { score: 2, renormalize: 1 }, { bias: true }),
  routeRow("softmax over the chosen, groups to 0", 20, 32, 4, { score: 2, n_group: 4, topk_group: 2 }),
  routeRow(
    "softmax over the chosen, negative logits, groups to 0",
    20,
    32,
    10,
    { score: 2, n_group: 4, topk_group: 2 },
    {
      logits: (r) =>
        f32(
          [20, 32],
          Array.from(r.normal([20, 32]).values, (x) => -5 - Math.abs(x)),
        ),
    },
  ),
  routeRow(
    "softmax over the chosen, negative logits, groups to -inf",
    20,
    32,
    10,
    { score: 2, n_group: 4, topk_group: 2, drop: 1 },
    {
      logits: (r) =>
        f32(
          [20, 32],
          Array.from(r.normal([20, 32]).values, (x) => -5 - Math.abs(x)),
        ),
    },
  ),
  routeRow("sigmoid with bias, fewer experts than lanes", 40, 7, 3, { score: 1 }, { bias: true }),
  routeRow("renormalised with a large eps", 20, 16, 4, { score: 1, renormalize: 1, norm_eps: 0.5 }),
  routeRow("strided, no probs", 17, 61, 6, { renormalize: 1 }, { strided: true, probs: false }),
  routeRow("strided", 17, 61, 6, { score: 1 }, { strided: true }),
  routeRow("SparseMixer", 40, 16, 2, { score: 3, jitter: 0.01 }),
  routeRow("SparseMixer, many are near", 40, 61, 2, { score: 3, jitter: 0.3 }),
  routeRow("SparseMixer, none is near", 20, 33, 2, { score: 3, jitter: 0 }),
  routeRow("SparseMixer, more than two, scaled", 20, 100, 5, { score: 3, jitter: 0.2, renormalize: 1, scale: 1.5 }, { expertScale: "f32" }),
  routeRow("SparseMixer, all logits 0", 3, 12, 2, { score: 3, jitter: 0.01 }, { logits: () => zeros("f32", [3, 12]) }),
  routeRow(
    "SparseMixer, negative logits",
    20,
    37,
    3,
    { score: 3, jitter: 0.2 },
    {
      logits: (r) =>
        f32(
          [20, 37],
          Array.from(r.normal([20, 37]).values, (x) => -0.1 - Math.abs(x)),
        ),
    },
  ),
  routeRow("SparseMixer, all experts chosen", 9, 7, 7, { score: 3, jitter: 0.4 }),
  routeRow("SparseMixer, many experts", 6, 1500, 2, { score: 3, jitter: 0.2 }),
  routeRow("factors of experts", 40, 61, 6, { renormalize: 1, scale: 2 }, { expertScale: "f32" }),
  routeRow("bf16 factors of experts, strided", 17, 61, 6, { score: 1 }, { expertScale: "bf16", strided: true }),
  routeRow("factors of many experts", 6, 1500, 40, {}, { expertScale: "bf16" }),
  routeRow("many tokens", 700, 64, 8, { renormalize: 1 }),
  routeRow("many experts", 12, 512, 10, {}),
];
export const routeBase: OpCase = {
  op: "topk_route",
  name: "base",
  args: (r) => route(5, 8, 3, { n_group: 4, topk_group: 2, group_score: 1 }, { bias: true, expertScale: "f32" })(r),
};

// ---- route_backward -----------------------------------------------------------------------------------------------------

/** What topk_route makes of a call. */
type RouteResults = (forward: Args, r: Random) => { readonly ids: HostTensor; readonly weights: HostTensor; readonly probs: HostTensor };
const exactRoute: RouteResults = (forward) => {
  const made = expectedRoute(forward);
  const [choices, scores] = [tensor(forward, "ids").shape, tensor(forward, "logits").shape];
  return { ids: i32(made.ids!, choices), weights: f32(choices, made.weights!), probs: f32(scores, made.probs!) };
};

interface BackwardOptions {
  readonly pos?: boolean;
  readonly strided?: boolean;
  readonly expertScale?: "f32" | "bf16";
  readonly dscale?: boolean;
  /** dexpert_scale is written, not added to. */
  readonly overwrite?: boolean;
  /** dweights are those of all experts. */
  readonly dense?: boolean;
}
export function routeBackward(T: number, E: number, K: number, rule: Partial<Rule> = {}, o: BackwardOptions = {}, results = exactRoute) {
  return (r: Random): Args => {
    const forward = route(T, E, K, rule, { expertScale: o.expertScale! })(r);
    const made = results(forward, r);
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    const full = { ...plain, ...rule };
    return {
      dweights: o.pos ? r.normal([T * K]) : wrap(r.normal([T, o.dense ? E : K])),
      pos: o.pos ? wrap(i32(r.permutation(T * K), [T, K])) : null,
      probs: full.score === 2 && !o.dense ? null : wrap(made.probs),
      ids: wrap(made.ids),
      weights: wrap(made.weights),
      expert_scale: forward.expert_scale,
      dlogits: wrap(out([T, E])),
      dexpert_scale: !o.expertScale || o.dscale === false ? null : o.overwrite ? out([E]) : r.normal([E]),
      accumulate: o.overwrite ? 0 : 1,
      jitter: full.jitter,
      score: full.score,
      renormalize: full.renormalize,
      norm_eps: full.norm_eps,
      scale: full.scale,
      dense: o.dense ? 1 : 0,
    };
  };
}
const backRow = (name: string, T: number, E: number, K: number, rule?: Partial<Rule>, o?: BackwardOptions): OpCase => ({
  op: "route_backward",
  name: `${name}, T ${T} E ${E} K ${K}`,
  args: routeBackward(T, E, K, rule, o),
  k: E * 4 + (o?.expertScale ? T : 0),
});
export const backwardRules: readonly (readonly [string, Partial<Rule>])[] = [
  ["softmax", {}],
  ["softmax renormalised, scaled", { renormalize: 1, scale: 2.5 }],
  ["sigmoid", { score: 1 }],
  ["sigmoid renormalised, eps, scaled", { score: 1, renormalize: 1, norm_eps: 0.125, scale: 2.5 }],
  ["softmax over the chosen", { score: 2 }],
  ["softmax over the chosen, renormalised with eps, scaled", { score: 2, renormalize: 1, norm_eps: 0.25, scale: 1.5 }],
  ["SparseMixer", { score: 3, jitter: 0.225 }],
  ["SparseMixer, renormalised, scaled", { score: 3, jitter: 0.225, renormalize: 1, norm_eps: 0.25, scale: 1.5 }],
];
export const routeBackwardCases: readonly OpCase[] = [
  ...backwardRules.flatMap(([name, rule]) => [
    backRow(name, 40, 61, 6, rule),
    backRow(`${name}, through pos`, 33, 16, 4, rule, { pos: true }),
  ]),
  ...backwardRules
    .filter(([, { score }]) => score !== 3)
    .map(([name, rule]) => backRow(`dense, ${name}`, 40, 61, 6, rule, { dense: true })),
  backRow("dense, one token", 1, 8, 2, { renormalize: 1 }, { dense: true }),
  backRow("dense, no tokens", 0, 8, 2, {}, { dense: true }),
  backRow("dense, one expert", 3, 1, 1, { score: 1 }, { dense: true }),
  backRow("dense, all experts chosen", 9, 7, 7, { renormalize: 1 }, { dense: true }),
  backRow("dense, strided", 20, 37, 5, { renormalize: 1, scale: 2 }, { dense: true, strided: true }),
  backRow("dense, factors of experts", 40, 61, 6, { renormalize: 1, scale: 2 }, { dense: true, expertScale: "f32" }),
  backRow("dense, bf16 factors of experts, overwritten", 33, 16, 4, { score: 1 }, { dense: true, expertScale: "bf16", overwrite: true }),
  backRow("dense, factors, no tokens, overwritten", 0, 8, 2, {}, { dense: true, expertScale: "f32", overwrite: true }),
  backRow("dense, many experts", 6, 1500, 40, { score: 2 }, { dense: true }),
  backRow("dense, many tokens", 700, 64, 8, { renormalize: 1 }, { dense: true }),
  backRow("SparseMixer, top-2", 40, 16, 2, { score: 3, jitter: 0.01 }, { pos: true }),
  backRow("SparseMixer, factors of experts", 40, 16, 2, { score: 3, jitter: 0.2 }, { expertScale: "f32" }),
  backRow("SparseMixer, many experts", 6, 1500, 2, { score: 3, jitter: 0.2 }),
  backRow("factors of experts", 40, 61, 6, { renormalize: 1, scale: 2 }, { expertScale: "f32", pos: true }),
  backRow(
    "bf16 factors of experts, overwritten, strided",
    33,
    16,
    4,
    { score: 1 },
    { expertScale: "bf16", overwrite: true, strided: true },
  ),
  backRow("factors of experts, frozen", 40, 61, 6, { renormalize: 1 }, { expertScale: "bf16", dscale: false }),
  backRow("factors of many experts", 6, 1500, 40, { renormalize: 1 }, { expertScale: "f32" }),
  backRow("factors of experts, many tokens", 700, 64, 8, { renormalize: 1 }, { expertScale: "f32" }),
  backRow("factors of experts, no tokens, overwritten", 0, 8, 2, {}, { expertScale: "f32", overwrite: true }),
  backRow("one token", 1, 8, 2),
  backRow("no tokens", 0, 8, 2),
  backRow("all experts chosen", 9, 7, 7, { renormalize: 1 }),
  backRow("strided", 20, 37, 5, { renormalize: 1 }, { strided: true, pos: true }),
  backRow("many tokens", 700, 64, 8, { score: 1, renormalize: 1 }),
];
export const routeBackwardBase: OpCase = {
  op: "route_backward",
  name: "base",
  args: routeBackward(5, 8, 3, {}, { pos: true, expertScale: "f32" }),
};

// ---- load_balance -------------------------------------------------------------------------------------------------------

/** loss = E · Σ_e f_e · P_e with f from offsets; its gradient through softmax as a product of Jacobians. */
function expectedBalance(a: Args): Record<string, ArrayLike<number>> {
  const probs = tensor(a, "probs");
  const o = tensor(a, "offsets").values;
  const [T, E, N] = [rowsOf(probs), colsOf(probs), o[o.length - 1]!];
  const dlogits = Float64Array.from(tensor(a, "dlogits").values);
  let loss = has(a, "loss") ? tensor(a, "loss").values[0]! : 0;
  if (N > 0 && T > 0)
    for (let e = 0; e < E; e++) {
      const f = (o[e + 1]! - o[e]!) / N;
      for (let t = 0; t < T; t++) {
        loss += (E * f * at(probs, t, e)) / T;
        for (let j = 0; j < E; j++)
          dlogits[t * E + j]! +=
            (has(a, "scale") ? tensor(a, "scale").values[0]! : number(a, "coefficient")) *
            E *
            f *
            at(probs, t, e) *
            ((j === e ? 1 : 0) - at(probs, t, j));
      }
    }
  return has(a, "loss") ? { dlogits, loss: [loss] } : { dlogits };
}
export function loadBalance(
  T: number,
  counts: readonly number[],
  o: { loss?: boolean; strided?: boolean; coefficient?: number; scale?: number } = {},
) {
  return (r: Random): Args => {
    const E = counts.length;
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    return {
      probs: wrap(f32([T, E], expectedRoute(route(T, E, 1)(r)).probs!)),
      offsets: offsetsOf(counts),
      dlogits: wrap(r.normal([T, E])),
      loss: o.loss === false ? null : { dtype: "f64", shape: [1], values: [1.5] },
      scale: o.scale === undefined ? null : { dtype: "f64", shape: [1], values: [o.scale] },
      coefficient: o.coefficient ?? 0.3,
    };
  };
}
const balanceRow = (name: string, T: number, counts: readonly number[], o?: Parameters<typeof loadBalance>[2]): OpCase => ({
  op: "load_balance",
  name,
  args: loadBalance(T, counts, o),
  k: counts.length,
  expected: expectedBalance,
  eps: { loss: "f32" },
});
export const balanceCases: readonly OpCase[] = [
  balanceRow("skewed", 20, [30, 1, 0, 9, 0, 0, 20]),
  balanceRow("balanced", 20, [5, 5, 5, 5]),
  balanceRow("all rows to one expert", 20, [0, 0, 40, 0, 0]),
  balanceRow("without the loss, strided", 20, [30, 1, 0, 9, 0, 0, 20], { loss: false, strided: true }),
  balanceRow("one expert", 7, [7]),
  balanceRow("one token", 1, [0, 1, 1, 0]),
  balanceRow("no tokens", 0, [0, 0, 0]),
  balanceRow("a scale on the device", 20, [30, 1, 0, 9, 0, 0, 20], { scale: 0.7, coefficient: 5 }),
  balanceRow("coefficient 0", 5, [3, 1, 1], { coefficient: 0 }),
  balanceRow(
    "many tokens",
    700,
    Array.from({ length: 61 }, (_, e) => e * 3),
  ),
];
export const balanceBase: OpCase = { op: "load_balance", name: "base", args: loadBalance(4, [2, 0, 6]), eps: { loss: "f32" } };

// ---- expert_sort, count_experts -------------------------------------------------------------------------------------------

function expectedSort(a: Args): Record<string, number[]> {
  const ids = tensor(a, "ids");
  const K = colsOf(ids);
  const E = tensor(a, "offsets").values.length - 1;
  const slots = Array.from(ids.values, (_, i) => i);
  const order = slots.sort((i, j) => ids.values[i]! - ids.values[j]! || i - j);
  const pos = new Array<number>(order.length).fill(0);
  order.forEach((slot, row) => (pos[slot] = row));
  const offsets = Array.from({ length: E + 1 }, (_, e) => order.filter((slot) => ids.values[slot]! < e).length);
  const tokens = order.map((slot) => Math.floor(slot / K));
  return has(a, "gate")
    ? { offsets, tokens, pos, gate: order.map((slot) => tensor(a, "weights").values[slot]!) }
    : { offsets, tokens, pos };
}
export function sort(T: number, K: number, E: number, o: { ids?: (r: Random) => HostTensor; weights?: boolean; strided?: boolean } = {}) {
  return (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    return {
      ids: wrap(o.ids?.(r) ?? r.routes(T, K, E)),
      weights: o.weights === false ? null : wrap(r.normal([T, K])),
      offsets: out([E + 1], "i32"),
      tokens: out([T * K], "i32"),
      pos: wrap(out([T, K], "i32")),
      gate: o.weights === false ? null : out([T * K]),
    };
  };
}
const sortRow = (name: string, T: number, K: number, E: number, o?: Parameters<typeof sort>[3]): OpCase => ({
  op: "expert_sort",
  name,
  args: sort(T, K, E, o),
  expected: expectedSort,
});
export const sortCases: readonly OpCase[] = [
  sortRow("64 experts", 100, 6, 64),
  sortRow("without weights", 33, 4, 10, { weights: false }),
  sortRow("one token", 1, 2, 8),
  sortRow("no tokens", 0, 2, 8),
  sortRow("one expert", 9, 1, 1),
  sortRow("all tokens to one expert", 21, 1, 8, { ids: () => i32(new Array<number>(21).fill(5), [21, 1]) }),
  sortRow("an expert twice for one token keeps its slots in order", 3, 2, 4, { ids: () => i32([2, 2, 1, 2, 2, 1], [3, 2]) }),
  sortRow("strided", 31, 3, 7, { strided: true }),
  sortRow("many tokens", 3000, 8, 64),
  sortRow("more experts than slots", 3, 2, 200),
  sortRow("several chunks, many experts", 700, 8, 600),
  sortRow("more slots than one launch takes", 8200, 8, 16),
];
export const sortBase: OpCase = { op: "expert_sort", name: "base", args: sort(5, 2, 4) };

function expectedCount(a: Args): Record<string, ArrayLike<number>> {
  const ids = tensor(a, "ids");
  const counts = Float64Array.from(tensor(a, "counts").values);
  const sums = Float64Array.from(tensor(a, "gate_sums").values);
  for (let i = 0; i < ids.values.length; i++) {
    if (has(a, "mask") && tensor(a, "mask").values[Math.floor(i / colsOf(ids))] === 0) continue;
    counts[ids.values[i]!]! += 1;
    sums[ids.values[i]!]! += Math.fround(tensor(a, "weights").values[i]!);
  }
  return { counts, gate_sums: sums };
}
export function count(T: number, K: number, E: number, o: { mask?: (r: Random) => HostTensor; strided?: boolean; started?: boolean } = {}) {
  return (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    return {
      ids: wrap(r.routes(T, K, E)),
      weights: wrap(r.normal([T, K])),
      mask: o.mask?.(r) ?? null,
      counts: o.started ? { dtype: "i64", shape: [E], values: Array.from({ length: E }, (_, e) => e * 1000) } : zeros("i64", [E]),
      gate_sums: o.started ? { dtype: "f64", shape: [E], values: Array.from({ length: E }, (_, e) => e / 3) } : zeros("f64", [E]),
    };
  };
}
const countRow = (name: string, T: number, K: number, E: number, o?: Parameters<typeof count>[3]): OpCase => ({
  op: "count_experts",
  name,
  args: count(T, K, E, o),
  expected: expectedCount,
});
export const countCases: readonly OpCase[] = [
  countRow("64 experts", 200, 6, 64),
  countRow("added to earlier counts", 50, 2, 8, { started: true }),
  countRow("masked tokens", 77, 3, 9, { mask: (r) => r.ints([77], 2), started: true }),
  countRow("all masked", 7, 3, 9, { mask: () => i32(new Array<number>(7).fill(0)) }),
  countRow("one token", 1, 1, 1),
  countRow("no tokens", 0, 2, 3),
  countRow("strided", 31, 3, 7, { strided: true }),
  countRow("many tokens", 5000, 8, 64),
];
export const countBase: OpCase = { op: "count_experts", name: "base", args: count(5, 2, 4, { mask: () => i32([1, 0, 1, 1, 0]) }) };

// ---- performance ------------------------------------------------------------------------------------------------------

const cpuSizes = { T: 4096, E: 64, K: 6 };
export const routingPerf: readonly PerfRow[] = [
  perfCall(
    "topk_route/4096x64/f32/fwd",
    "cpu",
    cpuSizes,
    "topk_route",
    (s, r) => route(s.T, s.E, s.K)(r),
    (s) => ({ tokens: s.T }),
  ),
  perfCall(
    "topk_route/4096x64/f32/bwd",
    "cpu",
    cpuSizes,
    "route_backward",
    (s, r) =>
      routeBackward(s.T, s.E, s.K, {}, { pos: true }, () => ({
        ids: r.routes(s.T, s.K, s.E),
        weights: r.normal([s.T, s.K], 0.1),
        probs: r.normal([s.T, s.E], 0.1),
      }))(r),
    (s) => ({ tokens: s.T }),
  ),
  perfCall(
    "topk_route/4096x64/f32/dense",
    "cpu",
    cpuSizes,
    "route_backward",
    (s, r) =>
      routeBackward(s.T, s.E, s.K, { renormalize: 1 }, { dense: true }, () => ({
        ids: r.routes(s.T, s.K, s.E),
        weights: r.normal([s.T, s.K], 0.1),
        probs: r.normal([s.T, s.E], 0.1),
      }))(r),
    (s) => ({ tokens: s.T }),
  ),
  perfCall(
    "expert_sort/4096x6/f32/fwd",
    "cpu",
    cpuSizes,
    "expert_sort",
    (s, r) => sort(s.T, s.K, s.E)(r),
    (s) => ({ tokens: s.T }),
  ),
  // Logits to everything the expert products and a profile need.
  perfRow("routing/T8192-E64-K6/bf16/fwd", "cuda", { T: 8192, E: 64, K: 6 }, (s, r) => {
    const chosen = route(s.T, s.E, s.K)(r);
    const { ids, weights } = chosen;
    return {
      calls: [
        { op: "topk_route", args: chosen },
        { op: "expert_sort", args: { ...sort(s.T, s.K, s.E)(r), ids, weights } },
        { op: "count_experts", args: { ...count(s.T, s.K, s.E)(r), ids, weights } },
      ],
      tokens: s.T,
    };
  }),
];
