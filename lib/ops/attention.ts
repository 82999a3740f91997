// csrc/ops/attention.h.
import type { Device, Tensor } from "../tensor.ts";
import { index, precisionCode, type Maybe, type Precision } from "./call.ts";

/** Where heads lie in q, k, v (csrc/ops/attention.h). */
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
function layoutFields(l: AttentionLayout): Record<string, number> {
  return {
    heads: l.heads,
    kv_heads: l.kvHeads,
    k_dim: l.kDim,
    k_offset: l.kOffset,
    k_stride: l.kStride,
    v_dim: l.vDim,
    v_offset: l.vOffset,
    v_stride: l.vStride,
    window: l.window,
    scale: l.scale,
  };
}
const iAttention = index("attention");
/** Causal attention inside documents (docStart), blocked: no score matrix. lse for the backward. */
export function attention(
  device: Device,
  a: {
    q: Tensor;
    k: Tensor;
    v: Tensor;
    kShared?: Maybe<Tensor>;
    docStart: Tensor;
    out: Tensor;
    lse?: Maybe<Tensor>;
    layout: AttentionLayout;
    precision?: Maybe<Precision>;
  },
): void {
  device.run(iAttention, {
    q: a.q,
    k: a.k,
    v: a.v,
    k_shared: a.kShared,
    doc_start: a.docStart,
    out: a.out,
    lse: a.lse,
    ...layoutFields(a.layout),
    precision: precisionCode(a.precision ?? "f32"),
  });
}
const iAttentionBackward = index("attention_backward");
/** dq, dk, dv (and dkShared) = gradients of attention, overwritten; scores are recomputed from lse. */
export function attentionBackward(
  device: Device,
  a: {
    dout: Tensor;
    q: Tensor;
    k: Tensor;
    v: Tensor;
    kShared?: Maybe<Tensor>;
    docStart: Tensor;
    out: Tensor;
    lse: Tensor;
    dq: Tensor;
    dk: Tensor;
    dv: Tensor;
    dkShared?: Maybe<Tensor>;
    layout: AttentionLayout;
    precision?: Maybe<Precision>;
  },
): void {
  device.run(iAttentionBackward, {
    dout: a.dout,
    q: a.q,
    k: a.k,
    v: a.v,
    k_shared: a.kShared,
    doc_start: a.docStart,
    out: a.out,
    lse: a.lse,
    dq: a.dq,
    dk: a.dk,
    dv: a.dv,
    dk_shared: a.dkShared,
    ...layoutFields(a.layout),
    precision: precisionCode(a.precision ?? "f32"),
  });
}
