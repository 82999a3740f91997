// The head: logits = cap(x·Wᵀ + b), bias, cap and what a method attached as far as they are there, and the loss of a batch, which stores
// none of them.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import type { ModelSpec } from "../spec.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { HeadAttachment } from "./attachment.ts";
import type { Composer } from "./composer.ts";

/** What a loss adds to, what it is of, and where the gradient of x goes, if it is wanted. */
export interface LossArgs {
  readonly x: Tensor;
  readonly labels: Tensor;
  readonly loss: Tensor;
  readonly correct: Tensor;
  /** Absent: no gradient is wanted, neither x's nor the head's. */
  readonly backward?: { readonly dx: Tensor | null; readonly scale: Tensor };
}

export class Head {
  /** [V, D]; the embedding when tied. */
  readonly weight: Parameter;
  private readonly bias: Parameter | null;
  private readonly cap: number;
  private readonly attached: HeadAttachment | null;

  constructor(spec: Pick<ModelSpec, "head" | "headBias" | "logitsCap">, c: Composer) {
    this.weight = c.parameter(spec.head);
    this.bias = spec.headBias ? c.parameter(spec.headBias) : null;
    this.cap = spec.logitsCap ?? 0;
    this.attached = c.attachedToHead(spec.head);
  }

  /** Adds the summed loss of the supervised rows; gradients (+)= where something trains. */
  loss(run: Run, { x, labels, loss, correct, backward }: LossArgs): void {
    const { weight, bias, cap, attached } = this;
    const { accumulate, precision } = run;
    const term = attached?.term(run, x);
    const gradients = backward && { ...backward, accumulate, dw: weight.grad, dbias: bias?.grad, ...attached?.gradients(run) };
    const operands = { x, w: weight.value, ...term, bias: bias?.value, labels, loss, correct, softCap: cap, precision };
    ops.linearCrossEntropy(run.device, { ...operands, ...gradients });
    if (backward) attached?.backward(run, x, backward.dx);
  }

  /** Of rows of x, all or fewer, into y [n, V], f32. */
  logits(run: Run, x: Tensor, y: Tensor): void {
    const { weight, bias, cap } = this;
    const { device, precision } = run;
    ops.gemm(device, "nt", { a: x, b: weight.value, bias: bias?.value, c: y, precision });
    this.attached?.logits(run, x, y);
    if (cap > 0) ops.softCap(device, { x: y, y, cap });
  }
}
