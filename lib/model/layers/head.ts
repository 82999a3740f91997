// The head: logits = cap(x·Wᵀ + b), bias and cap as far as they are there, and the loss of a batch, which stores none of them.

import * as ops from "../../ops.ts";
import type { Precision } from "../../ops.ts";
import type { Device, Tensor } from "../../tensor.ts";
import type { ModelSpec } from "../spec.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { Composer } from "./composer.ts";

/** What a loss adds to, what it is of, and where the gradient of x goes, if it is wanted. */
export interface LossArgs {
  readonly x: Tensor;
  readonly labels: Tensor;
  readonly loss: Tensor;
  readonly correct: Tensor;
  readonly precision: Precision;
  /** Absent: no gradient is wanted, neither x's nor the head's. */
  readonly backward?: { readonly dx: Tensor | null; readonly scale: Tensor; readonly accumulate: boolean };
}

export class Head {
  /** [V, D]; the embedding when tied. */
  readonly weight: Parameter;
  private readonly bias: Parameter | null;
  private readonly cap: number;

  constructor(spec: Pick<ModelSpec, "head" | "headBias" | "logitsCap">, c: Composer) {
    this.weight = c.parameter(spec.head);
    this.bias = spec.headBias ? c.parameter(spec.headBias) : null;
    this.cap = spec.logitsCap ?? 0;
  }

  /** Adds the summed loss of the supervised rows; gradients (+)= where something trains. */
  loss(device: Device, { x, labels, loss, correct, precision, backward }: LossArgs): void {
    const { weight, bias, cap } = this;
    const gradients = backward && { ...backward, dw: weight.grad, dbias: bias?.grad };
    ops.linearCrossEntropy(device, { x, w: weight.value, bias: bias?.value, labels, loss, correct, softCap: cap, precision, ...gradients });
  }

  /** Of x [T, D] into y [T, V], f32. */
  logits(device: Device, x: Tensor, y: Tensor, precision: Precision): void {
    const { weight, bias, cap } = this;
    ops.gemm(device, "nt", { a: x, b: weight.value, bias: bias?.value, c: y, precision });
    if (cap > 0) ops.softCap(device, { x: y, y, cap });
  }
}
