// The head and the update: csrc/ops/linear_cross_entropy.h, optimizer.h.
import type { Device, Tensor, TensorList } from "../tensor.ts";
import { index, precisionCode, type Maybe, type Precision } from "./call.ts";

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
    precision: precisionCode(a.precision ?? "f32"),
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
