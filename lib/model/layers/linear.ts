// A linear layer y = x·Wᵀ (+ b), with what a method attached to it: projections of attention, the router.

import * as ops from "../../ops.ts";
import type { Precision } from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import type { LinearSpec } from "../spec.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { LinearAttachment } from "./attachment.ts";
import type { Composer } from "./composer.ts";

export class Linear {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly attached: readonly LinearAttachment[];
  private readonly exact: boolean;

  /** @param options exact: f32 arithmetic of the operands as they are, whatever precision the model runs in (routers) */
  constructor(spec: LinearSpec, c: Composer, options: { exact?: boolean } = {}) {
    this.weight = c.parameter(spec.weight);
    this.bias = spec.bias ? c.parameter(spec.bias) : null;
    this.attached = c.attachedToLinear(spec);
    this.exact = options.exact ?? false;
  }

  /** Something of it trains, so that its backward reads its input. */
  get trains(): boolean {
    return this.weight.trains || (this.bias?.trains ?? false) || this.attached.some((a) => a.trains);
  }

  /** y = x·Wᵀ (+ b). True: the residual is in y; where something is attached, that adds first, and the residual is the caller's to add. */
  forward(run: Run, x: Tensor, y: Tensor, residual: Tensor | null = null): boolean {
    const last = this.attached.length === 0 ? residual : null;
    const w = this.weight.value;
    const precision = this.exact ? exactPrecision(x, w) : run.precision;
    ops.gemm(run.device, "nt", { a: x, b: w, bias: this.bias ? this.bias.value : null, residual: last, c: y, precision });
    for (const a of this.attached) a.forward(run, x, y);
    return last !== null;
  }

  /** dW (+)= dyᵀ·x (when it trains), dx (+)= dy·W (when wanted). */
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null, accumulate = false): void {
    const { device } = run;
    const precision = this.exact ? "f32" : run.precision;
    if (this.weight.grad) ops.gemm(device, "tn", { a: dy, b: x, c: this.weight.grad, accumulate: run.accumulate, precision });
    if (this.bias?.grad) ops.columnSum(device, { x: dy, y: this.bias.grad, accumulate: run.accumulate });
    if (dx) ops.gemm(device, "nn", { a: dy, b: this.weight.value, c: dx, accumulate, precision });
    for (const a of this.attached) a.backward(run, dy, x, dx);
  }
}

/** The precision that is exact for these operands: bf16 ones are not changed by rounding them to bf16. */
export function exactPrecision(a: Tensor, b: Tensor): Precision {
  return a.dtype === "bf16" && b.dtype === "bf16" ? "bf16" : "f32";
}
