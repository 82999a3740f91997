// Cases of what layers of linear attention and short convolution compute: csrc/ops/causal_conv.h, delta_rule.h.

import { at, colsOf, f32, filled, has, i32, ints, list, number, out, rowsOf, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";
import { rowOf } from "./dense.ts";

/** First token of each token's document, from the documents' first tokens. */
const starts = (T: number, docs: readonly number[] = []): HostTensor =>
  i32(Array.from({ length: T }, (_, t) => Math.max(0, ...docs.filter((d) => d <= t))));
/** Document of each token, from the first tokens. */
const documentOf = (a: Args, t: number): number =>
  [...new Set(Array.from(tensor(a, "doc_start").values))].indexOf(tensor(a, "doc_start").values[t]!);
const documentsIn = (T: number, docs: readonly number[] = []): number => (T === 0 ? 0 : new Set([0, ...docs]).size);
const wrapOf = (o: { readonly strided?: boolean }): ((t: HostTensor) => HostTensor) => (o.strided ? (t) => strided(t) : (t) => t);

// ---- causal_conv --------------------------------------------------------------------------------------------------------

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
/** Before the activation: every tap that its document reaches, and its state before it. */
const convolved = (a: Args, t: number, c: number): number => {
  const [x, weight, start] = [tensor(a, "x"), tensor(a, "weight"), tensor(a, "doc_start").values[t]!];
  const w = colsOf(weight);
  let h = has(a, "bias") ? tensor(a, "bias").values[c]! : 0;
  for (let s = Math.max(start, t - w + 1); s <= t; s++) h += at(weight, c, w - 1 - (t - s)) * at(x, s, c);
  for (let s = t - w + 1; has(a, "states") && s < start; s++)
    h += at(weight, c, w - 1 - (t - s)) * at(list(a, "states")[documentOf(a, t)]!, w - 1 + s - start, c);
  return h;
};
/** The last rows of state and document. */
const convStates = (a: Args): Float64Array[] =>
  list(a, "states").map((state, i) => {
    const [x, C] = [tensor(a, "x"), colsOf(state)];
    const mine = Array.from({ length: rowsOf(x) }, (_, t) => t).filter((t) => documentOf(a, t) === i);
    return Float64Array.from(
      [...Array.from(state.values), ...mine.flatMap((t) => Array.from({ length: C }, (_, c) => at(x, t, c)))].slice(mine.length * C),
    );
  });
const conv = rowOf("causal_conv", {
  expected: (a) => {
    const [T, C] = [rowsOf(tensor(a, "x")), colsOf(tensor(a, "x"))];
    const h = Array.from({ length: T * C }, (_, i) => convolved(a, Math.floor(i / C), i % C));
    return { y: a.silu === 1 ? h.map((x) => x * sigmoid(x)) : h, ...(has(a, "states") ? { states: convStates(a) } : {}) };
  },
});
export interface ConvOptions {
  readonly docs?: readonly number[];
  readonly silu?: boolean;
  readonly bias?: boolean;
  readonly w?: "f32" | "bf16";
  readonly strided?: boolean;
  /** Documents go on where others ended. */
  readonly states?: boolean;
}
export const causalConv =
  (T: number, C: number, taps: number, o: ConvOptions = {}) =>
  (r: Random): Args => ({
    x: wrapOf(o)(r.normal([T, C])),
    weight: r.normal([C, 1, taps], 0.5, o.w ?? "f32"),
    bias: o.bias ? r.normal([C], 1, o.w ?? "f32") : null,
    doc_start: starts(T, o.docs),
    ...(o.states ? { states: Array.from({ length: documentsIn(T, o.docs) }, () => r.normal([taps - 1, C])) } : {}),
    y: wrapOf(o)(out([T, C])),
    silu: o.silu ? 1 : 0,
  });
export interface ConvBackOptions extends ConvOptions {
  /** Which outputs are wanted; all unless given. */
  readonly wants?: readonly ("dx" | "dweight" | "dbias")[];
}
export const causalConvBackward =
  (T: number, C: number, taps: number, o: ConvBackOptions = {}) =>
  (r: Random): Args => {
    const { y: _y, states: _states, ...operands } = causalConv(T, C, taps, o)(r);
    const wants = o.wants ?? ["dx", "dweight", "dbias"];
    return {
      ...operands,
      dy: wrapOf(o)(r.normal([T, C])),
      dx: wants.includes("dx") ? wrapOf(o)(out([T, C])) : null,
      dweight: wants.includes("dweight") ? r.normal([C, 1, taps]) : null,
      dbias: wants.includes("dbias") ? r.normal([C]) : null,
    };
  };
const convs: readonly (readonly [string, number, number, number, ConvOptions])[] = [
  ["four taps, SiLU", 30, 64, 4, { silu: true }],
  ["three taps, no activation", 30, 32, 3, {}],
  ["one tap", 9, 20, 1, { silu: true }],
  ["eight taps, bias", 40, 21, 8, { bias: true, silu: true }],
  ["documents, some shorter than the taps", 40, 37, 4, { docs: [0, 1, 2, 5, 7, 20], silu: true, bias: true }],
  ["every token its own document", 8, 16, 4, { docs: [0, 1, 2, 3, 4, 5, 6, 7], silu: true }],
  ["bf16 weight and bias", 30, 130, 4, { w: "bf16", bias: true, silu: true }],
  ["columns of a wider buffer", 30, 37, 3, { strided: true, w: "bf16", docs: [0, 11] }],
  ["fewer tokens than taps", 2, 19, 4, { silu: true }],
  ["one token, one channel", 1, 1, 4, {}],
  ["no tokens", 0, 8, 4, {}],
  ["many rows", 700, 96, 4, { docs: [0, 63, 64, 65, 300], silu: true }],
  ["many channels", 130, 1100, 4, { docs: [0, 50], silu: true }],
];
const convsOn: readonly (readonly [string, number, number, number, ConvOptions])[] = [
  ["one token that goes on", 1, 40, 4, { silu: true, bias: true, states: true }],
  ["as many tokens as the state has rows", 3, 16, 4, { states: true }],
  ["documents that go on, some shorter than the taps", 40, 37, 4, { docs: [0, 1, 2, 5, 7, 20], silu: true, bias: true, states: true }],
  ["tokens of many sequences", 8, 130, 3, { docs: [0, 1, 2, 3, 4, 5, 6, 7], w: "bf16", strided: true, states: true }],
  ["no taps before", 5, 12, 1, { states: true }],
  ["a hundred sequences", 100, 5, 3, { docs: Array.from({ length: 100 }, (_, i) => i), states: true }],
  ["eight taps, a long document that goes on", 70, 20, 8, { silu: true, states: true }],
];
const convBack = (name: string, T: number, C: number, taps: number, o: ConvBackOptions): OpCase => ({
  op: "causal_conv_backward",
  name,
  args: causalConvBackward(T, C, taps, o),
  k: Math.max(T, 8),
});
export const causalConvCases: readonly OpCase[] = [
  ...[...convs, ...convsOn].map(([name, T, C, taps, o]) => conv(name, causalConv(T, C, taps, o), { k: 8 })),
  ...convs.map(([name, T, C, taps, o]) => convBack(name, T, C, taps, o)),
  convBack("dx alone", 70, 37, 4, { silu: true, wants: ["dx"] }),
  convBack("dweight alone", 70, 37, 4, { silu: true, wants: ["dweight"] }),
  convBack("dbias alone", 70, 37, 4, { silu: true, wants: ["dbias"] }),
];
export const causalConvBase = conv("base", causalConv(5, 4, 3, { bias: true, docs: [0, 2], silu: true, states: true }));
export const causalConvBackwardBase = convBack("base", 5, 4, 3, { bias: true, docs: [0, 2], silu: true });

// ---- gated_delta_rule ---------------------------------------------------------------------------------------------------

export interface DeltaShape {
  readonly T: number;
  readonly keyHeads: number;
  readonly heads: number;
  readonly dk: number;
  readonly dv: number;
  readonly docs?: readonly number[];
  /** Size of the decays: g = −decay·e^N(0,1). */
  readonly decay?: number;
  /** Every seventh token forgets all but everything. */
  readonly drops?: boolean;
  /** The same β and g everywhere: described, not drawn. */
  readonly constant?: boolean;
  readonly strided?: boolean;
  /** Documents go on where others ended. */
  readonly states?: boolean;
}
export const deltaRule =
  (s: DeltaShape) =>
  (r: Random): Args => {
    const { T, keyHeads, heads, dk, dv, decay = 0.1 } = s;
    const gate = (f: (x: number, i: number) => number): HostTensor =>
      s.constant ? filled("f32", [T, heads], { constant: f(0, 0) }) : f32([T, heads], Array.from(r.normal([T, heads]).values, f));
    return {
      q: wrapOf(s)(r.normal([T, keyHeads * dk])),
      k: wrapOf(s)(r.normal([T, keyHeads * dk])),
      v: wrapOf(s)(r.normal([T, heads * dv])),
      beta: gate(sigmoid),
      g: gate((x, i) => (s.drops && Math.floor(i / heads) % 7 === 6 ? -150 : -decay * Math.exp(x))),
      doc_start: starts(T, s.docs),
      ...(s.states ? { states: Array.from({ length: documentsIn(T, s.docs) }, () => r.normal([heads * dk, dv], 0.3)) } : {}),
      o: wrapOf(s)(out([T, heads * dv])),
      key_heads: keyHeads,
      heads,
      eps: 1e-6,
    };
  };
/** Token by token, one value head after the other. */
function expectedDelta(a: Args): Record<string, Float64Array | Float64Array[]> {
  const kept = has(a, "states") ? list(a, "states").map((s) => Float64Array.from(s.values)) : null;
  const [q, k, v] = [tensor(a, "q"), tensor(a, "k"), tensor(a, "v")];
  const [T, H, K] = [rowsOf(q), number(a, "heads"), number(a, "key_heads")];
  const [dk, dv] = [colsOf(q) / K, colsOf(v) / H];
  const o = new Float64Array(T * H * dv);
  for (let h = 0; h < H; h++) {
    const key = Math.floor(h / (H / K));
    const unit = (x: HostTensor, t: number): number[] => {
      const row = Array.from({ length: dk }, (_, i) => at(x, t, key * dk + i));
      const size = Math.sqrt(row.reduce((s, y) => s + y * y, 0) + number(a, "eps"));
      return row.map((y) => y / size);
    };
    let S = Array.from({ length: dk }, () => new Array<number>(dv).fill(0));
    for (let t = 0; t < T; t++) {
      const opens = tensor(a, "doc_start").values[t] === t;
      const e = Math.exp(at(tensor(a, "g"), t, h));
      const mine = kept?.[documentOf(a, t)];
      if (opens) S = S.map((row, i) => row.map((_, j) => mine?.[(h * dk + i) * dv + j] ?? 0));
      S = S.map((row) => row.map((s) => e * s));
      const [kt, qt] = [unit(k, t), unit(q, t)];
      for (let j = 0; j < dv; j++) {
        const seen = kt.reduce((sum, x, i) => sum + x * S[i]![j]!, 0);
        const delta = at(tensor(a, "beta"), t, h) * (at(v, t, h * dv + j) - seen);
        for (let i = 0; i < dk; i++) S[i]![j]! += kt[i]! * delta;
        for (let i = 0; mine && i < dk; i++) mine[(h * dk + i) * dv + j] = S[i]![j]!;
        o[(t * H + h) * dv + j] = qt.reduce((sum, x, i) => sum + x * S[i]![j]!, 0) / Math.sqrt(dk);
      }
    }
  }
  return kept ? { o, states: kept } : { o };
}
export const deltaRuleBackward =
  (s: DeltaShape) =>
  (r: Random): Args => {
    const { o, states: _states, ...operands } = deltaRule(s)(r);
    const like = (name: string): HostTensor => wrapOf(s)(out(tensor(operands, name).shape));
    return {
      ...operands,
      dout: wrapOf(s)(r.normal((o as HostTensor).shape)),
      dq: like("q"),
      dk: like("k"),
      dv: like("v"),
      dbeta: out([s.T, s.heads]),
      dg: out([s.T, s.heads]),
    };
  };
const deltas: readonly (readonly [string, DeltaShape])[] = [
  ["one head, one chunk", { T: 30, keyHeads: 1, heads: 1, dk: 16, dv: 16 }],
  ["a whole chunk", { T: 64, keyHeads: 1, heads: 2, dk: 32, dv: 32 }],
  ["several chunks", { T: 200, keyHeads: 2, heads: 2, dk: 16, dv: 24 }],
  ["two value heads per key head", { T: 150, keyHeads: 2, heads: 4, dk: 24, dv: 16 }],
  ["four value heads per key head", { T: 70, keyHeads: 1, heads: 4, dk: 8, dv: 8 }],
  ["unaligned", { T: 77, keyHeads: 2, heads: 4, dk: 13, dv: 7 }],
  ["wide heads", { T: 130, keyHeads: 1, heads: 2, dk: 128, dv: 128 }],
  ["values wider than keys", { T: 90, keyHeads: 2, heads: 2, dk: 5, dv: 70 }],
  ["documents", { T: 230, keyHeads: 2, heads: 4, dk: 16, dv: 8, docs: [0, 1, 3, 40, 64, 128, 129, 200] }],
  ["documents, strided", { T: 100, keyHeads: 2, heads: 2, dk: 9, dv: 10, docs: [0, 33, 90], strided: true }],
  ["every token its own document", { T: 8, keyHeads: 1, heads: 2, dk: 8, dv: 8, docs: [0, 1, 2, 3, 4, 5, 6, 7] }],
  ["no decay", { T: 140, keyHeads: 1, heads: 2, dk: 16, dv: 16, decay: 0 }],
  ["strong decays", { T: 140, keyHeads: 1, heads: 2, dk: 16, dv: 16, decay: 30 }],
  ["strong decays among weak ones", { T: 140, keyHeads: 1, heads: 2, dk: 16, dv: 16, decay: 0.01, drops: true }],
  ["decays that leave nothing", { T: 140, keyHeads: 1, heads: 2, dk: 16, dv: 16, decay: 1e30 }],
  ["one token", { T: 1, keyHeads: 1, heads: 2, dk: 8, dv: 8 }],
  ["no tokens", { T: 0, keyHeads: 1, heads: 2, dk: 8, dv: 8 }],
  ["one dimension", { T: 20, keyHeads: 1, heads: 1, dk: 1, dv: 1 }],
];
const deltasOn: readonly (readonly [string, DeltaShape])[] = [
  ["one token that goes on", { T: 1, keyHeads: 1, heads: 2, dk: 16, dv: 16, states: true }],
  ["tokens of many sequences", { T: 6, keyHeads: 2, heads: 4, dk: 13, dv: 7, docs: [0, 1, 2, 3, 4, 5], states: true }],
  ["documents that go on", { T: 230, keyHeads: 2, heads: 4, dk: 16, dv: 8, docs: [0, 1, 3, 40, 64, 128, 129, 200], states: true }],
  ["wide heads that go on", { T: 70, keyHeads: 1, heads: 2, dk: 128, dv: 128, states: true }],
  ["a hundred sequences", { T: 100, keyHeads: 1, heads: 1, dk: 4, dv: 3, docs: Array.from({ length: 100 }, (_, i) => i), states: true }],
  ["strided, decays that leave nothing", { T: 90, keyHeads: 1, heads: 2, dk: 9, dv: 10, strided: true, decay: 1e30, states: true }],
];
/** Chunked sums against token by token: of all tokens of a document, in every dimension. */
const deltaSum = (s: DeltaShape): number => 16 * (s.T + s.dk);
const delta = rowOf("gated_delta_rule", { expected: expectedDelta });
const deltaBack = (name: string, s: DeltaShape): OpCase => ({
  op: "gated_delta_rule_backward",
  name,
  args: deltaRuleBackward(s),
  k: deltaSum(s),
  // What flows through the norm of q and k cancels, where a head has one dimension all of it.
  scale: s.dk === 1 ? 16 : 1,
});
export const deltaRuleCases: readonly OpCase[] = [
  ...[...deltas, ...deltasOn].map(([name, s]) => delta(name, deltaRule(s), { k: deltaSum(s) })),
  ...deltas.map(([name, s]) => deltaBack(name, s)),
];
const baseShape: DeltaShape = { T: 5, keyHeads: 2, heads: 4, dk: 3, dv: 2, docs: [0, 2] };
export const deltaRuleBase = delta("base", deltaRule({ ...baseShape, states: true }));
export const deltaRuleBackwardBase = deltaBack("base", baseShape);

// ---- delta_gates --------------------------------------------------------------------------------------------------------

const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const gates = rowOf("delta_gates", {
  expected: (a) => {
    const [b, x, H] = [tensor(a, "b"), tensor(a, "a"), colsOf(tensor(a, "b"))];
    const rate = (h: number): number => -Math.exp(tensor(a, "a_log").values[h]!);
    return {
      beta: Array.from(b.values, sigmoid),
      g: Array.from(x.values, (v, i) => rate(i % H) * softplus(v + tensor(a, "dt_bias").values[i % H]!)),
    };
  },
});
interface GateOptions {
  readonly w?: "f32" | "bf16";
  readonly strided?: boolean;
  readonly spread?: number;
  readonly sums?: boolean;
}
export const deltaGates =
  (T: number, H: number, o: GateOptions = {}) =>
  (r: Random): Args => ({
    b: wrapOf(o)(r.normal([T, H], o.spread ?? 1)),
    a: wrapOf(o)(r.normal([T, H], o.spread ?? 1)),
    a_log: r.normal([H], 1, o.w ?? "f32"),
    dt_bias: r.normal([H], 1, o.w ?? "f32"),
    beta: out([T, H]),
    g: out([T, H]),
  });
export const deltaGatesBackward =
  (T: number, H: number, o: GateOptions = {}) =>
  (r: Random): Args => {
    const { beta: _beta, g: _g, ...operands } = deltaGates(T, H, o)(r);
    return {
      ...operands,
      dbeta: r.normal([T, H]),
      dg: r.normal([T, H]),
      db: wrapOf(o)(out([T, H])),
      da: wrapOf(o)(out([T, H])),
      da_log: o.sums === false ? null : r.normal([H]),
      ddt_bias: o.sums === false ? null : r.normal([H]),
    };
  };
const gateRows: readonly (readonly [string, number, number, GateOptions])[] = [
  ["eight heads", 20, 8, {}],
  ["uneven, bf16 parameters", 21, 5, { w: "bf16" }],
  ["columns of a wider buffer", 21, 19, { strided: true }],
  ["large inputs", 20, 8, { spread: 40 }],
  ["one token, one head", 1, 1, {}],
  ["no tokens", 0, 4, {}],
  ["many tokens", 700, 33, {}],
];
const gatesBack = (name: string, T: number, H: number, o: GateOptions): OpCase => ({
  op: "delta_gates_backward",
  name,
  args: deltaGatesBackward(T, H, o),
  k: Math.max(T, 4),
});
export const deltaGatesCases: readonly OpCase[] = [
  ...gateRows.map(([name, T, H, o]) => gates(name, deltaGates(T, H, o), { k: 4 })),
  ...gateRows.map(([name, T, H, o]) => gatesBack(name, T, H, o)),
  gatesBack("without sums", 20, 8, { sums: false }),
];
export const deltaGatesBase = gates("base", deltaGates(5, 3));
export const deltaGatesBackwardBase = gatesBack("base", 5, 3, {});

// ---- regroup ------------------------------------------------------------------------------------------------------------

const regroupRow = rowOf("regroup", {
  expected: (a) => {
    const [x, G, widths] = [tensor(a, "x"), number(a, "groups"), ints(a, "widths")];
    const C = colsOf(x);
    /** Where each column of the layout by part lies in that by group. */
    const from = widths.flatMap((w, p) => {
      const before = widths.slice(0, p).reduce((s, n) => s + n, 0);
      return Array.from({ length: G * w }, (_, i) => Math.floor(i / w) * (C / G) + before + (i % w));
    });
    const y = Float64Array.from(x.values);
    for (let t = 0; t < rowsOf(x); t++)
      from.forEach((by, i) => {
        const [to, source] = a.inverse === 1 ? [by, i] : [i, by];
        y[t * C + to] = at(x, t, source);
      });
    return { y };
  },
});
export const regroup =
  (T: number, groups: number, widths: readonly number[], o: { readonly inverse?: boolean; readonly strided?: boolean } = {}) =>
  (r: Random): Args => {
    const C = groups * widths.reduce((s, n) => s + n, 0);
    return { x: wrapOf(o)(r.normal([T, C])), y: wrapOf(o)(out([T, C])), widths, groups, inverse: o.inverse ? 1 : 0 };
  };
const exact = { eps: { y: "exact" } } as const;
export const regroupCases: readonly OpCase[] = [
  regroupRow("four parts", regroup(20, 3, [8, 8, 16, 16]), exact),
  regroupRow("four parts, back", regroup(20, 3, [8, 8, 16, 16], { inverse: true }), exact),
  regroupRow("uneven, strided", regroup(21, 5, [1, 7, 2], { strided: true }), exact),
  regroupRow("one group", regroup(9, 1, [3, 4]), exact),
  regroupRow("one part", regroup(9, 4, [5]), exact),
  regroupRow("no tokens", regroup(0, 2, [3, 4]), exact),
  regroupRow("many rows", regroup(700, 4, [16, 16, 32, 32]), exact),
  regroupRow("many rows, back, strided", regroup(300, 2, [33, 100], { inverse: true, strided: true }), exact),
];
export const regroupBase = regroupRow("base", regroup(4, 2, [1, 3]), exact);

// ---- multiply -----------------------------------------------------------------------------------------------------------

const activated = (a: Args, b: number): number => (a.silu === 1 ? b * sigmoid(b) : b);
const slope = (a: Args, b: number): number => (a.silu === 1 ? sigmoid(b) * (1 + b * (1 - sigmoid(b))) : 1);
const product = rowOf("multiply", {
  k: 4,
  expected: (a) => ({ y: Array.from(tensor(a, "a").values, (x, i) => x * activated(a, tensor(a, "b").values[i]!)) }),
});
const productBack = rowOf("multiply_backward", {
  k: 4,
  expected: (a) => {
    const [dy, x, b] = [tensor(a, "dy").values, tensor(a, "a").values, tensor(a, "b").values];
    return {
      ...(has(a, "da") ? { da: Array.from(dy, (d, i) => d * activated(a, b[i]!)) } : {}),
      ...(has(a, "db") ? { db: Array.from(dy, (d, i) => d * x[i]! * slope(a, b[i]!)) } : {}),
    };
  },
});
interface ProductOptions {
  readonly silu?: boolean;
  readonly strided?: boolean;
  readonly wants?: readonly ("da" | "db")[];
}
const multiply =
  (R: number, C: number, o: ProductOptions = {}) =>
  (r: Random): Args => ({
    a: wrapOf(o)(r.normal([R, C])),
    b: wrapOf(o)(r.normal([R, C], 2)),
    y: wrapOf(o)(out([R, C])),
    silu: o.silu ? 1 : 0,
  });
const multiplyBackward =
  (R: number, C: number, o: ProductOptions = {}) =>
  (r: Random): Args => {
    const { y: _y, ...operands } = multiply(R, C, o)(r);
    const wants = o.wants ?? ["da", "db"];
    const made = (name: "da" | "db"): HostTensor | null => (wants.includes(name) ? wrapOf(o)(out([R, C])) : null);
    return { ...operands, dy: wrapOf(o)(r.normal([R, C])), da: made("da"), db: made("db") };
  };
const products: readonly (readonly [string, number, number, ProductOptions])[] = [
  ["plain", 21, 37, {}],
  ["SiLU", 20, 64, { silu: true }],
  ["SiLU, strided", 21, 37, { silu: true, strided: true }],
  ["one element", 1, 1, { silu: true }],
  ["no rows", 0, 8, {}],
  ["large", 600, 130, { silu: true }],
];
export const multiplyCases: readonly OpCase[] = [
  ...products.flatMap(([name, R, C, o]) => [
    product(name, multiply(R, C, o)),
    productBack(name, multiplyBackward(R, C, o)),
    productBack(`${name}, da alone`, multiplyBackward(R, C, { ...o, wants: ["da"] })),
    productBack(`${name}, db alone`, multiplyBackward(R, C, { ...o, wants: ["db"] })),
  ]),
  product("in place of a", (r) => ({ ...multiply(9, 37)(r), a: { same: "y" }, y: r.normal([9, 37]) })),
  product("in place of b, SiLU", (r) => ({ ...multiply(9, 37, { silu: true })(r), b: { same: "y" }, y: r.normal([9, 37]) })),
  productBack("da in place of dy, db of b", (r) => ({
    ...multiplyBackward(9, 37, { silu: true })(r),
    dy: { same: "da" },
    b: { same: "db" },
    da: r.normal([9, 37]),
    db: r.normal([9, 37]),
  })),
];
export const multiplyBase = product("base", multiply(3, 5, { silu: true }));
export const multiplyBackwardBase = productBack("base", multiplyBackward(3, 5, { silu: true }));

// ---- performance ------------------------------------------------------------------------------------------------------

const convPerf = (on: Backend, T: number, C: number): PerfRow[] => {
  const id = `causal_conv/${T}x${C}x4/${on === "cuda" ? "bf16" : "f32"}`;
  const options = { silu: true, w: "bf16" } as const;
  return [
    perfCall(`${id}/fwd`, on, { T, C }, "causal_conv", (s, r) => causalConv(s.T, s.C, 4, options)(r)),
    perfCall(`${id}/bwd`, on, { T, C }, "causal_conv_backward", (s, r) =>
      causalConvBackward(s.T, s.C, 4, { ...options, wants: ["dx"] })(r),
    ),
  ];
};
/**
 * Per token and value head, in multiply-adds: three products with the state and its n tokens of a chunk (half of them, for what is a
 * triangle) forwards; backwards those of a second pass over the states too, and six.
 */
const deltaPerf = (on: Backend, T: number, keyHeads: number, heads: number, d: number): PerfRow[] => {
  const id = `gated_delta_rule/T${T}h${heads}d${d}/${on === "cuda" ? "bf16" : "f32"}`;
  /** Key heads, and value heads of each. */
  const sizes = { T, heads: keyHeads, group: heads / keyHeads, dim: d };
  const shape = (s: typeof sizes): DeltaShape => ({
    T: s.T,
    keyHeads: s.heads,
    heads: s.heads * s.group,
    dk: s.dim,
    dv: s.dim,
    constant: true,
  });
  const flops = (s: typeof sizes, states: number, triangles: number, shared: number): number =>
    2 * s.T * s.heads * (s.group * (states * s.dim ** 2 + triangles * 32 * s.dim) + shared * 32 * s.dim);
  return [
    perfCall(
      `${id}/fwd`,
      on,
      sizes,
      "gated_delta_rule",
      (s, r) => deltaRule(shape(s))(r),
      (s) => ({ flops: flops(s, 3, 2, 2), tokens: s.T }),
    ),
    perfCall(
      `${id}/bwd`,
      on,
      sizes,
      "gated_delta_rule_backward",
      (s, r) => deltaRuleBackward(shape(s))(r),
      (s) => ({ flops: flops(s, 8, 9, 2), tokens: s.T }),
    ),
  ];
};
const restPerf = (on: Backend, T: number, H: number, C: number): PerfRow[] => {
  const dtype = on === "cuda" ? "bf16" : "f32";
  const gated = { silu: true } as const;
  return [
    perfCall(`delta_gates/${T}x${H}/${dtype}/fwd`, on, { T, H }, "delta_gates", (s, r) => deltaGates(s.T, s.H)(r)),
    perfCall(`delta_gates/${T}x${H}/${dtype}/bwd`, on, { T, H }, "delta_gates_backward", (s, r) =>
      deltaGatesBackward(s.T, s.H, { sums: false })(r),
    ),
    perfCall(`multiply/${T}x${C}/${dtype}/fwd`, on, { T, C }, "multiply", (s, r) => multiply(s.T, s.C, gated)(r)),
    perfCall(`multiply/${T}x${C}/${dtype}/bwd`, on, { T, C }, "multiply_backward", (s, r) => multiplyBackward(s.T, s.C, gated)(r)),
    perfCall(`regroup/${T}x${6 * C}/${dtype}/fwd`, on, { T, C }, "regroup", (s, r) =>
      regroup(
        s.T,
        16,
        [1, 1, 2, 2].map((n) => (n * s.C) / 16),
      )(r),
    ),
  ];
};
export const deltaPerfRows: readonly PerfRow[] = [
  ...convPerf("cpu", 4096, 4096),
  ...deltaPerf("cpu", 2048, 4, 8, 128),
  ...restPerf("cpu", 4096, 32, 2048),
  ...convPerf("cuda", 8192, 8192),
  ...deltaPerf("cuda", 8192, 16, 32, 128),
  ...restPerf("cuda", 8192, 32, 2048),
];
