// Cases of attention and its backward (csrc/ops/attention.h).

import { at, colsOf, f32, filled, has, i32, number, out, rounded, rowsOf, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";

/** The S×S form: all scores, a mask, a softmax (over the sink too), a product; of all tokens, or those from `from` on. */
export function expectedAttention(a: Args, from = 0): { out: Float64Array; lse: Float64Array } {
  const [q, k, v, start] = [tensor(a, "q"), tensor(a, "k"), tensor(a, "v"), tensor(a, "doc_start").values];
  const [T, H] = [rowsOf(q), number(a, "heads")];
  const [kd, vd] = [number(a, "k_dim"), number(a, "v_dim")];
  const dq = T === 0 ? 0 : colsOf(q) / H;
  const round = rounded(a);
  const result = { out: new Float64Array(T * H * vd), lse: new Float64Array(T * H) };
  for (let h = 0; h < H; h++) {
    const g = Math.floor(h / (H / number(a, "kv_heads")));
    const key = (j: number, i: number): number =>
      i < kd ? at(k, j, number(a, "k_offset") + g * number(a, "k_stride") + i) : at(tensor(a, "k_shared"), j, i - kd);
    for (let t = from; t < T; t++) {
      const visible = (j: number): boolean => j <= t && j >= start[t]! && (a.window === 0 || t - j < number(a, "window"));
      const z = Array.from({ length: T }, (_, j) => {
        if (!visible(j)) return -Infinity;
        let s = 0;
        for (let i = 0; i < dq; i++) s += round(at(q, t, h * dq + i)) * round(key(j, i));
        return s * number(a, "scale");
      });
      const sink = has(a, "sinks") ? tensor(a, "sinks").values[h]! : -Infinity;
      const top = Math.max(...z, sink);
      const lse = top + Math.log([...z, sink].reduce((s, x) => s + Math.exp(x - top), 0));
      result.lse[t * H + h] = lse;
      z.forEach((x, j) => {
        const p = Math.exp(x - lse);
        if (p > 0)
          for (let i = 0; i < vd; i++)
            result.out[(t * H + h) * vd + i]! += p * round(at(v, j, number(a, "v_offset") + g * number(a, "v_stride") + i));
      });
    }
  }
  return result;
}

export interface Shape {
  readonly T: number;
  readonly heads: number;
  readonly kvHeads?: number;
  readonly kDim: number;
  readonly vDim?: number;
  readonly shared?: number;
  readonly window?: number;
  /** First tokens of the documents; one document when absent. */
  readonly docs?: readonly number[];
  /** k and v are columns of one buffer, heads interleaved as MLA's up-projection makes them; "whole": it has no other columns. */
  readonly joint?: boolean | "whole";
  readonly bf16?: boolean;
  readonly strided?: boolean;
  readonly lse?: boolean;
  readonly scale?: number;
  readonly spread?: number;
  /** A score of each head beside those of its keys: their dtype, or what they all are. */
  readonly sinks?: "f32" | "bf16" | number;
}

export function attention(s: Shape) {
  return (r: Random): Args => {
    const { T, heads, kDim, kvHeads = heads, vDim = kDim, shared = 0, window = 0 } = s;
    const wrap = (t: HostTensor): HostTensor => (s.strided ? strided(t) : t);
    const start: number[] = [];
    for (let t = 0; t < T; t++) start.push(Math.max(0, ...(s.docs ?? []).filter((d) => d <= t)));
    const spread = s.spread ?? 1;
    const [before, after] = s.joint === true ? [2, 1] : [0, 0];
    return {
      q: wrap(r.normal([T, heads * (kDim + shared)], spread)),
      k: wrap(r.normal([T, s.joint ? before + kvHeads * (kDim + vDim) + after : kvHeads * kDim], spread)),
      v: s.joint ? { same: "k" } : wrap(r.normal([T, kvHeads * vDim])),
      k_shared: shared ? wrap(r.normal([T, shared], spread)) : null,
      sinks: typeof s.sinks === "number" ? filled("f32", [heads], { constant: s.sinks }) : s.sinks ? r.normal([heads], 2, s.sinks) : null,
      doc_start: i32(start),
      out: wrap(out([T, heads * vDim])),
      lse: s.lse === false ? null : out([T, heads]),
      heads,
      kv_heads: kvHeads,
      k_dim: kDim,
      k_offset: before,
      k_stride: s.joint ? kDim + vDim : kDim,
      v_dim: vDim,
      v_offset: s.joint ? before + kDim : 0,
      v_stride: s.joint ? kDim + vDim : vDim,
      window,
      scale: s.scale ?? 1 / Math.sqrt(kDim + shared),
      precision: s.bf16 ? 1 : 0,
    };
  };
}

/** `results`: out and lse of the forward. */
type Results = (forward: Args, r: Random) => { readonly out: HostTensor; readonly lse: HostTensor };
const exactResults: Results = (forward) => {
  const made = expectedAttention(forward);
  return { out: f32((forward.out as HostTensor).shape, made.out), lse: f32((forward.lse as HostTensor).shape, made.lse) };
};

export function attentionBackward(s: Shape, results = exactResults) {
  return (r: Random): Args => {
    const forward = attention(s)(r);
    const wrap = (t: HostTensor): HostTensor => (s.strided ? strided(t) : t);
    const { lse: _lse, out: o, ...shared } = forward;
    const dout = wrap(r.normal((o as HostTensor).shape));
    const made = results(forward, r);
    return {
      ...shared,
      dout,
      out: wrap(made.out),
      lse: made.lse,
      dq: wrap(out(tensor(forward, "q").shape)),
      dk: wrap(out(tensor(forward, "k").shape)),
      dv: s.joint ? { same: "dk" } : wrap(out(tensor(forward, "v").shape)),
      dk_shared: has(forward, "k_shared") ? wrap(out(tensor(forward, "k_shared").shape)) : null,
      dsinks: s.sinks ? r.normal([s.heads]) : null,
    };
  };
}

const shapes: readonly (readonly [string, Shape])[] = [
  ["one head", { T: 17, heads: 1, kDim: 16 }],
  ["several heads", { T: 33, heads: 4, kDim: 32 }],
  ["grouped heads", { T: 40, heads: 6, kvHeads: 2, kDim: 20 }],
  ["one kv head", { T: 21, heads: 5, kvHeads: 1, kDim: 8 }],
  ["v wider than k", { T: 25, heads: 2, kDim: 8, vDim: 24 }],
  ["k wider than v", { T: 25, heads: 3, kDim: 40, vDim: 17 }],
  ["shared rotary keys", { T: 30, heads: 4, kDim: 16, vDim: 16, shared: 8 }],
  ["shared rotary keys, k and v in one buffer", { T: 37, heads: 4, kDim: 24, vDim: 16, shared: 10, joint: true }],
  ["k and v in one buffer, grouped", { T: 19, heads: 4, kvHeads: 2, kDim: 12, vDim: 9, joint: true }],
  ["window", { T: 50, heads: 2, kDim: 16, window: 7 }],
  ["window of one", { T: 9, heads: 2, kDim: 16, window: 1 }],
  ["window wider than the sequence", { T: 9, heads: 2, kDim: 16, window: 1000 }],
  ["documents", { T: 60, heads: 2, kDim: 16, docs: [0, 1, 20, 21, 47] }],
  ["documents and window, grouped", { T: 70, heads: 4, kvHeads: 2, kDim: 16, docs: [0, 11, 40], window: 9 }],
  ["every token its own document", { T: 8, heads: 2, kDim: 8, docs: [0, 1, 2, 3, 4, 5, 6, 7] }],
  ["one token", { T: 1, heads: 2, kDim: 8 }],
  ["no tokens", { T: 0, heads: 2, kDim: 8 }],
  ["unaligned", { T: 35, heads: 3, kDim: 13, vDim: 7 }],
  ["one dimension", { T: 11, heads: 2, kDim: 1 }],
  ["strided", { T: 35, heads: 3, kDim: 13, vDim: 7, strided: true, shared: 3 }],
  ["peaked scores", { T: 40, heads: 2, kDim: 16, spread: 6, scale: 1 }],
  ["negative scale", { T: 40, heads: 2, kDim: 16, scale: -0.4 }],
  ["more keys than a block holds", { T: 600, heads: 1, kDim: 8 }],
  ["several blocks", { T: 200, heads: 2, kvHeads: 1, kDim: 64 }],
  ["several blocks, documents, shared keys", { T: 260, heads: 2, kDim: 32, vDim: 48, shared: 16, docs: [0, 70, 75, 190] }],
  ["several blocks, window", { T: 220, heads: 2, kDim: 24, window: 65 }],
  ["window wider than a block of keys", { T: 160, heads: 1, kDim: 320, window: 130 }],
  ["window, whole panels of keys", { T: 300, heads: 2, kDim: 64, window: 100 }],
  ["several blocks, narrow window, grouped", { T: 450, heads: 3, kvHeads: 1, kDim: 16, window: 40 }],
  ["window, more heads than a tile has rows", { T: 50, heads: 33, kvHeads: 1, kDim: 8, window: 9 }],
  ["more heads than a step has rows, documents", { T: 24, heads: 62, kvHeads: 1, kDim: 4, docs: [0, 5] }],
  ["512 wide, grouped, documents", { T: 75, heads: 2, kvHeads: 1, kDim: 512, docs: [0, 30] }],
  ["512 wide, whole tiles", { T: 128, heads: 2, kDim: 512 }],
  ["320 wide, all but a tile", { T: 240, heads: 1, kDim: 320 }],
  ["values wider than 256, unaligned", { T: 37, heads: 2, kDim: 40, vDim: 301 }],
  ["keys wider than 256, shared ones too", { T: 37, heads: 1, kDim: 256, vDim: 24, shared: 64, window: 20 }],
  ["bf16 compute", { T: 40, heads: 4, kvHeads: 2, kDim: 32, bf16: true }],
  ["bf16 compute, unaligned, shared keys, documents", { T: 90, heads: 3, kDim: 21, vDim: 15, shared: 6, bf16: true, docs: [0, 33] }],
  ["bf16 compute, odd group, window", { T: 150, heads: 3, kvHeads: 1, kDim: 32, bf16: true, window: 41 }],
  ["bf16 compute, blocks, window", { T: 150, heads: 2, kDim: 32, bf16: true, window: 70 }],
];

const sinkShapes: readonly (readonly [string, Shape])[] = [
  ["sinks", { T: 33, heads: 3, kDim: 16, sinks: "f32" }],
  ["sinks, grouped heads, documents", { T: 60, heads: 4, kvHeads: 2, kDim: 20, docs: [0, 1, 20, 21, 47], sinks: "bf16" }],
  ["sinks, window, several blocks", { T: 220, heads: 2, kvHeads: 1, kDim: 24, window: 65, sinks: "f32" }],
  ["sinks, shared rotary keys, strided", { T: 35, heads: 3, kDim: 13, vDim: 7, shared: 3, strided: true, sinks: "f32" }],
  ["sinks above all scores", { T: 40, heads: 2, kDim: 16, sinks: 10 }],
  ["sinks that leave nothing", { T: 40, heads: 2, kDim: 16, sinks: 300 }],
  ["sinks below all scores", { T: 40, heads: 2, kDim: 16, sinks: -500 }],
  ["sinks that are not there", { T: 40, heads: 2, kDim: 16, sinks: -Infinity }],
  ["sinks, negative scale", { T: 40, heads: 2, kDim: 16, scale: -0.4, sinks: "f32" }],
  ["sinks, scale 0", { T: 40, heads: 2, kDim: 16, scale: 0, sinks: "f32" }],
  ["sinks, 320 wide", { T: 45, heads: 2, kDim: 320, sinks: "f32" }],
  ["sinks, one token", { T: 1, heads: 2, kDim: 8, sinks: "f32" }],
  ["sinks, no tokens", { T: 0, heads: 2, kDim: 8, sinks: "f32" }],
  ["sinks, bf16 compute", { T: 90, heads: 4, kvHeads: 2, kDim: 32, bf16: true, docs: [0, 33], window: 20, sinks: "bf16" }],
];

// Rounding of the probabilities to bf16 happens against another running maximum in every implementation.
const bf16Out = { out: "bf16", dq: "bf16", dk: "bf16", dv: "bf16", dk_shared: "bf16" } as const;
export const attentionCases: readonly OpCase[] = [
  ...[...shapes, ...sinkShapes].map(
    ([name, s]): OpCase =>
      ({
        op: "attention",
        name,
        args: attention(s),
        k: s.kDim + (s.shared ?? 0) + s.T,
        expected: s.lse === false ? undefined : (a) => ({ ...expectedAttention(a) }),
        ...(s.sinks === 300 ? { scale: 1 } : {}),
        ...(s.bf16 ? { eps: bf16Out } : {}),
      }) as OpCase,
  ),
  { op: "attention", name: "without lse", args: attention({ T: 20, heads: 2, kDim: 16, lse: false }), k: 36 },
];
const backwardRow = (name: string, s: Shape, change: Args = {}): OpCase => ({
  op: "attention_backward",
  name,
  args: (r) => ({ ...attentionBackward(s)(r), ...change }),
  // p·(dp − Δ) cancels: a few units more than the sums alone.
  k: 4 * (s.kDim + (s.shared ?? 0) + s.T),
  // p = exp(score − lse): rounding a score of size 300 moves p by 300 units.
  scale: s.spread ? 300 : 1,
  ...(s.bf16 ? { eps: bf16Out } : {}),
});
const sharedKeys: Shape = { T: 19, heads: 4, kDim: 12, vDim: 9, shared: 6 };
export const attentionBackwardCases: readonly OpCase[] = [
  ...[...shapes, ...sinkShapes].map(([name, s]) => backwardRow(name, s)),
  backwardRow("shared keys whose gradient nobody wants", sharedKeys, { dk_shared: null }),
  backwardRow("shared keys whose gradient nobody wants, one kv head", { ...sharedKeys, kvHeads: 1 }, { dk_shared: null }),
  backwardRow("sinks whose gradient nobody wants", { T: 19, heads: 4, kDim: 12, sinks: "f32" }, { dsinks: null }),
];
/** Head sizes and lengths around the tiles of the CUDA kernels. */
const tiled: readonly (readonly [string, Shape])[] = [
  ["64 wide, grouped, documents", { T: 300, heads: 4, kvHeads: 2, kDim: 64, docs: [0, 128, 129, 200], bf16: true }],
  ["64 wide, seven blocks of keys", { T: 850, heads: 1, kDim: 64, docs: [0, 60, 330, 331, 640], bf16: true }],
  ["64 wide, grouped, window", { T: 520, heads: 3, kvHeads: 1, kDim: 64, window: 300, bf16: true }],
  ["128 wide", { T: 257, heads: 2, kDim: 128, bf16: true }],
  ["128 wide, window", { T: 270, heads: 2, kvHeads: 1, kDim: 128, window: 130, bf16: true }],
  ["64 wide, grouped, documents, sinks", { T: 300, heads: 4, kvHeads: 2, kDim: 64, docs: [0, 128, 129, 200], sinks: "bf16", bf16: true }],
  ["64 wide, window, sinks", { T: 260, heads: 2, kvHeads: 1, kDim: 64, window: 128, sinks: "f32", bf16: true }],
  ["128 wide, sinks above all scores", { T: 140, heads: 2, kDim: 128, sinks: 30, bf16: true }],
  ["latent: 128 and 64 shared", { T: 150, heads: 2, kDim: 128, vDim: 128, shared: 64, docs: [0, 40], bf16: true }],
  ["latent: 128 and 64 shared, four blocks of keys", { T: 450, heads: 1, kDim: 128, vDim: 128, shared: 64, docs: [0, 190], bf16: true }],
  ["latent: 128 and 64 shared, one buffer", { T: 150, heads: 2, kDim: 128, vDim: 128, shared: 64, joint: true, bf16: true }],
];
export const attentionTileCases: readonly OpCase[] = tiled.flatMap(([name, s]): OpCase[] => [
  { op: "attention", name, args: attention(s), k: s.kDim + (s.shared ?? 0) + s.T, eps: bf16Out },
  backwardRow(name, s),
]);
export const attentionBase: OpCase = {
  op: "attention",
  name: "base",
  args: attention({ T: 5, heads: 4, kvHeads: 2, kDim: 3, vDim: 2, shared: 1, docs: [0, 2], sinks: "f32" }),
};
export const attentionBackwardBase: OpCase = {
  op: "attention_backward",
  name: "base",
  args: attentionBackward({ T: 5, heads: 4, kvHeads: 2, kDim: 3, vDim: 2, shared: 1, docs: [0, 2], sinks: "f32" }),
};

// ---- performance ------------------------------------------------------------------------------------------------------

interface PerfSizes extends Record<string, number> {
  /** Width of queries and keys, of values; where they differ, `shared` of every key are one copy (MLA). */
  readonly qk: number;
  readonly v: number;
  readonly shared: number;
  /** Documents and their length. */
  readonly B: number;
  readonly S: number;
  readonly heads: number;
  /** Query heads that share a kv-head. */
  readonly group: number;
  /** Keys that a query sees; 0 = all. */
  readonly window: number;
  /** 1: with them. */
  readonly sinks: number;
}
const shapeOf = ({ qk, v, shared, B, S, heads, group, window, sinks }: PerfSizes, bf16: boolean): Shape => ({
  T: B * S,
  heads,
  kvHeads: Math.max(1, heads / group), // a row in small may have fewer heads than a group
  kDim: qk - shared,
  vDim: v,
  shared,
  docs: Array.from({ length: B }, (_, i) => i * S),
  ...(shared > 0 ? { joint: "whole" } : {}),
  window,
  ...(sinks > 0 ? { sinks: "f32" } : {}),
  bf16,
});
/** Of the size that scores of normal numbers give; what the backward computes does not depend on how exact they are. */
const likely =
  (S: number): Results =>
  (forward, r) => ({
    out: r.normal((forward.out as HostTensor).shape, 0.1),
    lse: filled("f32", (forward.lse as HostTensor).shape, { constant: Math.log(S / 2) + 0.5 }),
  });

/** Causal: half of S² for the scores and half for the values, of those in the window; backward: the scores again, dV, dP, dQ and dK. */
function perf(on: Backend, dtype: "f32" | "bf16", sizes: PerfSizes): PerfRow[] {
  const { qk, v, S, group, window, sinks } = sizes;
  const variant = `${group > 1 ? `-G${group}` : ""}${window > 0 ? `-W${window}` : ""}${sinks > 0 ? "-sinks" : ""}`;
  const id = `attention/hd${qk}${qk === v ? "" : `v${v}`}-S${S}${variant}/${dtype}`;
  const seen = (s: PerfSizes): number => (s.window > 0 && s.window < s.S ? s.window * (2 * s.S - s.window) : s.S * s.S);
  const pairs = (s: PerfSizes): number => s.B * s.heads * seen(s);
  const bf16 = dtype === "bf16";
  return [
    perfCall(
      `${id}/fwd`,
      on,
      sizes,
      "attention",
      (s, r) => attention(shapeOf(s, bf16))(r),
      (s) => ({ flops: pairs(s) * (s.qk + s.v), tokens: s.B * s.S }),
    ),
    perfCall(
      `${id}/bwd`,
      on,
      sizes,
      "attention_backward",
      (s, r) => attentionBackward(shapeOf(s, bf16), likely(s.S))(r),
      (s) => ({ flops: pairs(s) * (3 * s.qk + 2 * s.v), tokens: s.B * s.S }),
    ),
  ];
}

const plain = { shared: 0, group: 1, window: 0, sinks: 0 } as const;
const variants = [{ sinks: 1 }, { window: 512 }, { window: 128, sinks: 1 }] as const;
/** On the CPU 4096 tokens of 4 heads, and of eight over one kv-head as windows are published (GPT-OSS); on cuda DeepSeek-V2-Lite's 192/128 and the usual widths, 2 × 4096 tokens of 16 heads. */
export const attentionPerf: readonly PerfRow[] = [
  ...[64, 128].flatMap((hd) =>
    [512, 2048].flatMap((S) =>
      (["f32", "bf16"] as const).flatMap((dtype) => perf("cpu", dtype, { ...plain, qk: hd, v: hd, B: 4096 / S, S, heads: 4 })),
    ),
  ),
  ...[{}, ...variants].flatMap((variant) => perf("cpu", "f32", { ...plain, qk: 64, v: 64, B: 2, S: 2048, heads: 8, group: 8, ...variant })),
  // As many keys for a query as a window of 128 shows it.
  ...perf("cpu", "f32", { ...plain, qk: 64, v: 64, B: 16, S: 256, heads: 8, group: 8 }),
  ...(
    [
      [64, 64, 0],
      [128, 128, 0],
      [192, 128, 64],
    ] as const
  ).flatMap(([qk, v, shared]) => perf("cuda", "bf16", { ...plain, qk, v, shared, B: 2, S: 4096, heads: 16 })),
  ...variants.flatMap((variant) => perf("cuda", "bf16", { ...plain, qk: 64, v: 64, B: 2, S: 4096, heads: 16, ...variant })),
];
