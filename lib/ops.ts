// One function per native op: names, types and defaults here, shapes and pointers in C++, no logic anywhere.
// The contract of each op (shapes, dtypes, accumulation, ties, errors) is its header csrc/ops/<stem>.h.

import { KernelError } from "./errors.ts";
import { native } from "./native.ts";
import type { Device, Tensor, TensorList } from "./tensor.ts";

/** "f32": exact; "bf16": operands of the products rounded to bf16, f32 sums. */
export type Precision = "f32" | "bf16";

const opIndex = new Map(native.ops.map((op, i) => [op.name, i]));
function index(name: string): number {
  const i = opIndex.get(name);
  if (i === undefined) throw new KernelError(`the addon has no op "${name}": rebuild it with "npm run build:native"`);
  return i;
}
const p = (precision: Precision | undefined): number => (precision === "bf16" ? 1 : 0);
const flag = (b: boolean | undefined): number => (b ? 1 : 0);
type Maybe<T> = T | null | undefined;

// ---- experts (csrc/ops/grouped_gemm.h, combine.h) -----------------------------------------------------------------------

export interface GroupedGemmNtArgs {
  x: Tensor;
  rows?: Maybe<Tensor>;
  w: TensorList;
  offsets: Tensor;
  h?: Maybe<Tensor>;
  y: Tensor;
  segments?: number;
  swiglu?: boolean;
  precision?: Maybe<Precision>;
}
const iNt = index("grouped_gemm_nt");
/** y[r] = x[r]·W_eᵀ per expert, optionally with SwiGLU; rows sorted by expert. */
export function groupedGemmNt(device: Device, a: GroupedGemmNtArgs): void {
  device.run(iNt, {
    x: a.x,
    rows: a.rows,
    w: a.w,
    offsets: a.offsets,
    h: a.h,
    y: a.y,
    segments: a.segments ?? 1,
    act: flag(a.swiglu),
    precision: p(a.precision ?? "f32"),
  });
}

export interface GroupedGemmNnArgs {
  dy: Tensor;
  rows?: Maybe<Tensor>;
  w: TensorList;
  offsets: Tensor;
  h?: Maybe<Tensor>;
  gate?: Maybe<Tensor>;
  dx: Tensor;
  dgate?: Maybe<Tensor>;
  groups?: readonly number[];
  segments?: number;
  swiglu?: boolean;
  precision?: Maybe<Precision>;
}
const iNn = index("grouped_gemm_nn");
/** dx[r] = dy[r]·W_e per expert, optionally through the SwiGLU backward with the gate-weight gradient. */
export function groupedGemmNn(device: Device, a: GroupedGemmNnArgs): void {
  device.run(iNn, {
    dy: a.dy,
    rows: a.rows,
    w: a.w,
    offsets: a.offsets,
    h: a.h,
    gate: a.gate,
    dx: a.dx,
    dgate: a.dgate,
    groups: a.groups,
    segments: a.segments ?? 1,
    act: flag(a.swiglu),
    precision: p(a.precision ?? "f32"),
  });
}

export interface GroupedGemmTnArgs {
  dy: Tensor;
  dyRows?: Maybe<Tensor>;
  dyScale?: Maybe<Tensor>;
  x: Tensor;
  xRows?: Maybe<Tensor>;
  offsets: Tensor;
  dw: TensorList;
  groups: readonly number[];
  segments?: number;
  swigluX?: boolean;
  precision?: Maybe<Precision>;
}
const iTn = index("grouped_gemm_tn");
/** dW[g] += dyᵀ·x over the rows of each listed expert; experts not listed are frozen. */
export function groupedGemmTn(device: Device, a: GroupedGemmTnArgs): void {
  device.run(iTn, {
    dy: a.dy,
    dy_rows: a.dyRows,
    dy_scale: a.dyScale,
    x: a.x,
    x_rows: a.xRows,
    offsets: a.offsets,
    dw: a.dw,
    groups: a.groups,
    segments: a.segments ?? 1,
    x_act: flag(a.swigluX),
    precision: p(a.precision ?? "f32"),
  });
}

const iCombine = index("combine");
/** y[t] (+)= Σ_k weights[t,k] · x[pos[t,k]]. */
export function combine(device: Device, a: { x: Tensor; pos: Tensor; weights?: Maybe<Tensor>; y: Tensor; accumulate?: boolean }): void {
  device.run(iCombine, { x: a.x, pos: a.pos, weights: a.weights, y: a.y, accumulate: flag(a.accumulate) });
}

const iCombineBackward = index("combine_backward");
/** dx[pos[t,k]] = weights[t,k] · dy[t]; dweights[t,k] = ⟨dy[t], x[pos[t,k]]⟩. */
export function combineBackward(
  device: Device,
  a: { dy: Tensor; x: Tensor; pos: Tensor; weights: Tensor; dx?: Maybe<Tensor>; dweights?: Maybe<Tensor> },
): void {
  device.run(iCombineBackward, { dy: a.dy, x: a.x, pos: a.pos, weights: a.weights, dx: a.dx, dweights: a.dweights });
}

// ---- routing (csrc/ops/topk_route.h, expert_sort.h) ---------------------------------------------------------------------

/** How a family turns logits into experts and weights. */
export interface RouteRule {
  readonly score: "softmax" | "sigmoid" | "softmaxTopk";
  readonly groups: number;
  readonly topkGroups: number;
  readonly groupScore: "max" | "top2Sum";
  readonly dropped: "zero" | "minusInfinity";
  readonly renormalize: boolean;
  readonly normEps: number;
  readonly scale: number;
}
const scoreCode = { softmax: 0, sigmoid: 1, softmaxTopk: 2 } as const;

const iTopk = index("topk_route");
/** Per token the K best experts (ids, ties to the lower id) and their weights by the rule; probs for the backward. */
export function topkRoute(
  device: Device,
  a: { logits: Tensor; bias?: Maybe<Tensor>; ids: Tensor; weights: Tensor; probs?: Maybe<Tensor>; rule: RouteRule },
): void {
  device.run(iTopk, {
    logits: a.logits,
    bias: a.bias,
    ids: a.ids,
    weights: a.weights,
    probs: a.probs,
    score: scoreCode[a.rule.score],
    n_group: a.rule.groups,
    topk_group: a.rule.topkGroups,
    group_score: a.rule.groupScore === "max" ? 0 : 1,
    drop: a.rule.dropped === "zero" ? 0 : 1,
    renormalize: flag(a.rule.renormalize),
    norm_eps: a.rule.normEps,
    scale: a.rule.scale,
  });
}

const iRouteBackward = index("route_backward");
/** dlogits from the gradient of the K weights (at `pos` when sorted by expert). */
export function routeBackward(
  device: Device,
  a: { dweights: Tensor; pos?: Maybe<Tensor>; probs?: Maybe<Tensor>; ids: Tensor; weights: Tensor; dlogits: Tensor; rule: RouteRule },
): void {
  device.run(iRouteBackward, {
    dweights: a.dweights,
    pos: a.pos,
    probs: a.probs,
    ids: a.ids,
    weights: a.weights,
    dlogits: a.dlogits,
    score: scoreCode[a.rule.score],
    renormalize: flag(a.rule.renormalize),
    norm_eps: a.rule.normEps,
    scale: a.rule.scale,
  });
}

const iBalance = index("load_balance");
/** dlogits += coefficient · T · gradient of the layer's load-balancing loss. */
export function loadBalance(
  device: Device,
  a: { probs: Tensor; offsets: Tensor; dlogits: Tensor; loss?: Maybe<Tensor>; coefficient: number },
): void {
  device.run(iBalance, { probs: a.probs, offsets: a.offsets, dlogits: a.dlogits, loss: a.loss, coefficient: a.coefficient });
}

const iSort = index("expert_sort");
/** Stable counting sort of the T·K slots by expert: offsets [E+1], token and gate of each sorted row, row of each slot. */
export function expertSort(
  device: Device,
  a: { ids: Tensor; weights?: Maybe<Tensor>; offsets: Tensor; tokens: Tensor; pos: Tensor; gate?: Maybe<Tensor> },
): void {
  device.run(iSort, { ids: a.ids, weights: a.weights, offsets: a.offsets, tokens: a.tokens, pos: a.pos, gate: a.gate });
}

const iCount = index("count_experts");
/** Affinity accumulators: counts (i64) and gateSums (f64) per expert += over the unmasked tokens. */
export function countExperts(
  device: Device,
  a: { ids: Tensor; weights: Tensor; mask?: Maybe<Tensor>; counts: Tensor; gateSums: Tensor },
): void {
  device.run(iCount, { ids: a.ids, weights: a.weights, mask: a.mask, counts: a.counts, gate_sums: a.gateSums });
}

// ---- dense (csrc/ops/gemm.h, embedding.h, rms_norm.h, rope.h, attention.h, elementwise.h) ---------------------------------

const gemmMode = { nt: 0, nn: 1, tn: 2 } as const;
const iGemm = index("gemm");
/** c (+)= a·bᵀ (nt), a·b (nn) or aᵀ·b (tn). */
export function gemm(
  device: Device,
  mode: "nt" | "nn" | "tn",
  a: { a: Tensor; b: Tensor; bias?: Maybe<Tensor>; c: Tensor; accumulate?: boolean; precision?: Maybe<Precision> },
): void {
  device.run(iGemm, {
    a: a.a,
    b: a.b,
    bias: a.bias,
    c: a.c,
    mode: gemmMode[mode],
    accumulate: flag(a.accumulate),
    precision: p(a.precision ?? "f32"),
  });
}

const iEmbedding = index("embedding");
/** y[t] = scale · table[ids[t]]. */
export function embedding(device: Device, a: { ids: Tensor; table: Tensor; y: Tensor; scale?: number }): void {
  device.run(iEmbedding, { ids: a.ids, table: a.table, y: a.y, scale: a.scale ?? 1 });
}
const iEmbeddingBackward = index("embedding_backward");
/** dtable[ids[t]] += scale · dy[t], in the order of t. */
export function embeddingBackward(device: Device, a: { ids: Tensor; dy: Tensor; dtable: Tensor; scale?: number }): void {
  device.run(iEmbeddingBackward, { ids: a.ids, dy: a.dy, dtable: a.dtable, scale: a.scale ?? 1 });
}

const iRmsNorm = index("rms_norm");
/** y = weight · x / sqrt(mean(x²) + eps) per row; rstd [rows] for the backward. */
export function rmsNorm(device: Device, a: { x: Tensor; weight: Tensor; y: Tensor; rstd?: Maybe<Tensor>; eps: number }): void {
  device.run(iRmsNorm, { x: a.x, weight: a.weight, y: a.y, rstd: a.rstd, eps: a.eps });
}
const iRmsNormBackward = index("rms_norm_backward");
/** dx (+)= gradient of the norm's input; dweight +=. */
export function rmsNormBackward(
  device: Device,
  a: { dy: Tensor; x: Tensor; weight: Tensor; rstd: Tensor; dx?: Maybe<Tensor>; dweight?: Maybe<Tensor>; accumulate?: boolean },
): void {
  device.run(iRmsNormBackward, {
    dy: a.dy,
    x: a.x,
    weight: a.weight,
    rstd: a.rstd,
    dx: a.dx,
    dweight: a.dweight,
    accumulate: flag(a.accumulate),
  });
}

const iRope = index("rope");
/** Rotates pairs of each head from column `offset` on by the angle of the token's position; `inverse` rotates back (the backward). */
export function rope(
  device: Device,
  a: {
    x: Tensor;
    positions: Tensor;
    cos: Tensor;
    sin: Tensor;
    y: Tensor;
    heads: number;
    offset?: number;
    interleaved?: boolean;
    inverse?: boolean;
  },
): void {
  device.run(iRope, {
    x: a.x,
    positions: a.positions,
    cos: a.cos,
    sin: a.sin,
    y: a.y,
    heads: a.heads,
    offset: a.offset ?? 0,
    interleaved: flag(a.interleaved),
    inverse: flag(a.inverse),
  });
}

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
    precision: p(a.precision ?? "f32"),
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
    precision: p(a.precision ?? "f32"),
  });
}

const iSwiglu = index("swiglu");
/** a = silu(gate) · up for h = gate | up. */
export function swiglu(device: Device, a: { h: Tensor; a: Tensor }): void {
  device.run(iSwiglu, { h: a.h, a: a.a });
}
const iSwigluBackward = index("swiglu_backward");
/** dh = gradient of h = gate | up; may overwrite h. */
export function swigluBackward(device: Device, a: { h: Tensor; da: Tensor; dh: Tensor }): void {
  device.run(iSwigluBackward, { h: a.h, da: a.da, dh: a.dh });
}
const iAdd = index("add");
/** y = a + alpha·b. */
export function add(device: Device, a: { a: Tensor; b: Tensor; y: Tensor; alpha?: number }): void {
  device.run(iAdd, { a: a.a, b: a.b, y: a.y, alpha: a.alpha ?? 1 });
}
const iScale = index("scale");
/** x = factor · x. */
export function scale(device: Device, a: { x: Tensor; factor: number }): void {
  device.run(iScale, { x: a.x, factor: a.factor });
}
const iClamp = index("clamp");
/** y = x clamped to [lo, hi]. */
export function clamp(device: Device, a: { x: Tensor; y: Tensor; lo: number; hi: number }): void {
  device.run(iClamp, { x: a.x, y: a.y, lo: a.lo, hi: a.hi });
}
const iClampBackward = index("clamp_backward");
/** dx = dy where lo <= x <= hi, else 0. */
export function clampBackward(device: Device, a: { x: Tensor; dy: Tensor; dx: Tensor; lo: number; hi: number }): void {
  device.run(iClampBackward, { x: a.x, dy: a.dy, dx: a.dx, lo: a.lo, hi: a.hi });
}
const iFill = index("fill");
/** x = value. */
export function fill(device: Device, a: { x: Tensor; value: number }): void {
  device.run(iFill, { x: a.x, value: a.value });
}
const iCast = index("cast");
/** y = x in y's dtype (f32 → bf16 rounds to nearest even); equal dtypes copy. */
export function cast(device: Device, a: { x: Tensor; y: Tensor }): void {
  device.run(iCast, { x: a.x, y: a.y });
}
const iColumnSum = index("column_sum");
/** y[c] += Σ_rows x[:, c]: gradient of a bias. */
export function columnSum(device: Device, a: { x: Tensor; y: Tensor }): void {
  device.run(iColumnSum, { x: a.x, y: a.y });
}
const iMaskGrad = index("mask_grad");
/** grad[e] = 0 for every first index e that `keep` does not list. */
export function maskGrad(device: Device, a: { grad: Tensor; keep: readonly number[] }): void {
  device.run(iMaskGrad, { grad: a.grad, keep: a.keep });
}

// ---- head and training (csrc/ops/linear_cross_entropy.h, optimizer.h) -----------------------------------------------------

const iLoss = index("linear_cross_entropy");
/** loss += Σ over supervised rows of −log softmax(logitScale · x·Wᵀ)[label]; the logits are never stored. dx overwritten, dw +=. */
export function linearCrossEntropy(
  device: Device,
  a: {
    x: Tensor;
    w: Tensor;
    labels: Tensor;
    loss: Tensor;
    correct?: Maybe<Tensor>;
    rowLoss?: Maybe<Tensor>;
    dx?: Maybe<Tensor>;
    dw?: Maybe<Tensor>;
    gradScale?: number;
    logitScale?: number;
    precision?: Maybe<Precision>;
  },
): void {
  device.run(iLoss, {
    x: a.x,
    w: a.w,
    labels: a.labels,
    loss: a.loss,
    correct: a.correct,
    row_loss: a.rowLoss,
    dx: a.dx,
    dw: a.dw,
    grad_scale: a.gradScale ?? 1,
    logit_scale: a.logitScale ?? 1,
    precision: p(a.precision ?? "f32"),
  });
}

const iGradNorm = index("grad_norm");
/** norm = square root of the sum of all squared gradients, f64. */
export function gradNorm(device: Device, a: { grads: TensorList; norm: Tensor }): void {
  device.run(iGradNorm, { grads: a.grads, norm: a.norm });
}
const iAdamw = index("adamw");
/**
 * One AdamW update after clipping to maxNorm (0 = none); a non-finite norm leaves everything as it was.
 * `copies`: bf16 tensors shaped like params, refreshed from them after the update.
 */
export function adamw(
  device: Device,
  a: {
    params: TensorList;
    grads: TensorList;
    m: TensorList;
    v: TensorList;
    copies?: Maybe<TensorList>;
    norm?: Maybe<Tensor>;
    maxNorm: number;
    lr: number;
    beta1: number;
    beta2: number;
    eps: number;
    weightDecay: number;
    step: number;
  },
): void {
  device.run(iAdamw, {
    params: a.params,
    grads: a.grads,
    m: a.m,
    v: a.v,
    copies: a.copies,
    norm: a.norm,
    max_norm: a.maxNorm,
    lr: a.lr,
    beta1: a.beta1,
    beta2: a.beta2,
    eps: a.eps,
    weight_decay: a.weightDecay,
    step: a.step,
  });
}
