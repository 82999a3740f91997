// csrc/ops/attention.h, attention_cached.h, heads_gemm.h.
import type { Tensor, TensorList } from "../tensor.ts";
import { bind, code, precision, type From, type Maybe, type Precision } from "./bind.ts";

/** Where heads lie in q, k and v: kv-head g of k starts at column kOffset + g·kStride and is kDim wide, of v likewise. */
export interface AttentionLayout {
  readonly heads: number;
  readonly kvHeads: number;
  readonly kDim: number;
  readonly kOffset: number;
  readonly kStride: number;
  readonly vDim: number;
  readonly vOffset: number;
  readonly vStride: number;
  /** 0 = no sliding window. */
  readonly window: number;
  readonly scale: number;
}
const layout: From<{ readonly layout: AttentionLayout; readonly precision?: Maybe<Precision> }> = {
  heads: (a) => a.layout.heads,
  kv_heads: (a) => a.layout.kvHeads,
  k_dim: (a) => a.layout.kDim,
  k_offset: (a) => a.layout.kOffset,
  k_stride: (a) => a.layout.kStride,
  v_dim: (a) => a.layout.vDim,
  v_offset: (a) => a.layout.vOffset,
  v_stride: (a) => a.layout.vStride,
  window: (a) => a.layout.window,
  scale: (a) => a.layout.scale,
  precision,
};

/**
 * out = softmax(scale · q·kᵀ)·v, causal inside documents, in blocks: no score matrix.
 * q [T, H·(kDim + shared)] act; k, v [T, …] act as the layout says (two views of one buffer will do); kShared [T, shared] act: the last
 * dimensions of every key, one copy for all heads (MLA's rotary part); sinks [H]: a score per head that every query sees beside its
 * keys, without a value; docStart [T] i32: each token's first token, not after itself, never falling; out [T, H·vDim] act; lse [T, H],
 * kept for the backward.
 */
export const attention = bind<{
  q: Tensor;
  k: Tensor;
  v: Tensor;
  kShared?: Maybe<Tensor>;
  sinks?: Maybe<Tensor>;
  docStart: Tensor;
  out: Tensor;
  lse?: Maybe<Tensor>;
  layout: AttentionLayout;
  precision?: Maybe<Precision>;
}>("attention", layout);

/**
 * dq, dk, dv (and dkShared) = gradients of attention, overwritten where the layout has heads; dsinks += that of the sinks. Scores are
 * recomputed from lse. All laid out as in attention.
 */
export const attentionBackward = bind<{
  dout: Tensor;
  q: Tensor;
  k: Tensor;
  v: Tensor;
  kShared?: Maybe<Tensor>;
  sinks?: Maybe<Tensor>;
  docStart: Tensor;
  out: Tensor;
  lse: Tensor;
  dq: Tensor;
  dk: Tensor;
  dv: Tensor;
  dkShared?: Maybe<Tensor>;
  dsinks?: Maybe<Tensor>;
  layout: AttentionLayout;
  precision?: Maybe<Precision>;
}>("attention_backward", layout);

/**
 * attention of the newest tokens of several sequences over all that these have kept: first stores the new rows of k (with kShared behind
 * the heads) and v, position p in row p mod rows of the sequence's item. doc_start tells the sequences apart, positions [T] i32 count in each.
 * kCache: one [C_i, kvHeads·kDim + shared] each, vCache: one [C_i, kvHeads·vDim] each, or null with v: values are the first vDim columns
 * of the keys. Without `out` the rows are stored and that is all. `chunk`: attention begins anew at its multiples; 0 = never.
 */
export const attentionCached = bind<{
  q: Tensor;
  k: Tensor;
  v: Maybe<Tensor>;
  kShared?: Maybe<Tensor>;
  sinks?: Maybe<Tensor>;
  docStart: Tensor;
  positions: Tensor;
  kCache: TensorList;
  vCache: Maybe<TensorList>;
  out: Maybe<Tensor>;
  chunk: number;
  layout: AttentionLayout;
  precision?: Maybe<Precision>;
}>("attention_cached", layout);

const modes = { nt: 0, nn: 1 };
/**
 * A product per head with the head's own rows of w [H·wDim, C]: headRows of them from its row firstRow on. nt: y_h = x_h·W_hᵀ, nn:
 * y_h = x_h·W_h. x [T, H·xDim], y [T, H·yDim] act: a head's columns are the first of its share, what lies behind them in y stays.
 */
export const headsGemm = bind<{
  mode: "nt" | "nn";
  x: Tensor;
  w: Tensor;
  y: Tensor;
  heads: number;
  firstRow: number;
  headRows: number;
  precision?: Maybe<Precision>;
}>("heads_gemm", { mode: (a) => code(modes, a.mode), precision });
