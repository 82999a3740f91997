// The head and the update: csrc/ops/linear_cross_entropy.h, optimizer.h.
import type { Tensor, TensorList } from "../tensor.ts";
import { bind, flag, handleOf, precision, type Maybe, type Precision } from "./bind.ts";

/**
 * loss [1] f64 += Σ over supervised rows of −log softmax(cap(logitScale · (x·Wᵀ + u·Bᵀ + bias)))[label], cap(y) = softCap · tanh(y / softCap),
 * y where that is 0; the logits are never stored whole.
 * x [T, D] act, w [V, D] f32 or bf16, labels [T] i32: −100 = not supervised, else in [0, V), shifted by one already. correct [1] i64 += rows
 * whose argmax is the label; rowLoss [T]; dx [T, D] act = and dw [V, D], dbias [V] f32 (+)= gradScale · gradient. u [T, R] act and b [V, R]
 * f32 or bf16, both or neither: a low-rank term, with du [T, R] act = and db [V, R] f32 (+)=.
 * `scale` [1] f64: read on the device in place of gradScale.
 */
export const linearCrossEntropy = bind<{
  x: Tensor;
  w: Tensor;
  u?: Maybe<Tensor>;
  b?: Maybe<Tensor>;
  bias?: Maybe<Tensor>;
  labels: Tensor;
  loss: Tensor;
  correct?: Maybe<Tensor>;
  rowLoss?: Maybe<Tensor>;
  dx?: Maybe<Tensor>;
  dw?: Maybe<Tensor>;
  du?: Maybe<Tensor>;
  db?: Maybe<Tensor>;
  dbias?: Maybe<Tensor>;
  /** Adds to dw, db and dbias. */
  accumulate?: boolean;
  scale?: Maybe<Tensor>;
  gradScale?: number;
  logitScale?: number;
  softCap?: number;
  precision?: Maybe<Precision>;
}>("linear_cross_entropy", {
  scale: (a) => handleOf(a.scale),
  grad_scale: 1,
  logit_scale: 1,
  soft_cap: 0,
  accumulate: (a) => flag(a.accumulate),
  precision,
});

/** norm [1] f64 = square root of the sum of all squared gradients (f32), in f64. */
export const gradNorm = bind<{ grads: TensorList; norm: Tensor }>("grad_norm");

/** squares [n] f64 = Σ (w · g)² of each item. weights f32 or bf16 each, grads f32, item by item of one shape. csrc/ops/optimizer.h. */
export const saliency = bind<{ weights: TensorList; grads: TensorList; squares: Tensor }>("saliency");

/**
 * One AdamW update (arXiv 1711.05101) after clipping to maxNorm (0 = none) as torch's clip_grad_norm_ does; a norm that is not finite
 * leaves everything as it was. params, grads, m, v: f32, item by item of one shape; norm [1] f64 is read on the device; step counts from 1.
 * `copies`: bf16 tensors shaped like params, refreshed from them after the update. `rates` [2] f64: lr and step, read on the device in place
 * of those two.
 */
export const adamw = bind<{
  params: TensorList;
  grads: TensorList;
  m: TensorList;
  v: TensorList;
  copies?: Maybe<TensorList>;
  norm?: Maybe<Tensor>;
  rates?: Maybe<Tensor>;
  maxNorm: number;
  lr?: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  step?: number;
}>("adamw", {
  // By name, so that an addon built before it had them is refused and does not take the defaults.
  rates: (a) => handleOf(a.rates),
  lr: (a) => a.lr ?? (a.rates ? 0 : undefined),
  step: (a) => a.step ?? (a.rates ? 1 : undefined),
});
