// RMSNorm. Its output is recomputed in backward, not kept; of the forward only 1/rms per row is.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { f32 } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { NormSpec } from "../spec.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { Composer } from "./composer.ts";

export class Norm {
  readonly weight: Parameter;
  private readonly eps: number;
  private readonly zeroCentred: boolean;
  private readonly rstd: Slot;

  /** @param rowsPerToken rows of each token that are normalised on their own: its heads */
  constructor(spec: NormSpec, c: Composer, rowsPerToken = 1) {
    this.weight = c.parameter(spec.weight);
    this.eps = spec.eps;
    this.zeroCentred = spec.zeroCentred ?? false;
    this.rstd = c.plan.saved(f32(0, rowsPerToken), "rstd");
  }

  get trains(): boolean {
    return this.weight.trains;
  }

  forward(run: Run, x: Tensor, y: Tensor): void {
    const { eps, zeroCentred } = this;
    ops.rmsNorm(run.device, { x, weight: this.weight.value, y, rstd: run.saved(this.rstd), eps, zeroCentred });
  }

  /** y again, for a backward. */
  recompute(run: Run, x: Tensor, y: Tensor): void {
    ops.rmsNorm(run.device, { x, weight: this.weight.value, y, eps: this.eps, zeroCentred: this.zeroCentred });
  }

  /** dx (+)= backward of the norm, where wanted; the weight's gradient (+)= when it trains. dx may be dy. */
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null, accumulate = false): void {
    const { weight, zeroCentred } = this;
    const dweight = weight.grad;
    if (!dx && !dweight) return;
    const operands = { dy, x, weight: weight.value, rstd: run.at(this.rstd) };
    ops.rmsNormBackward(run.device, { ...operands, dx, dweight, accumulate, accumulateWeight: run.accumulate, zeroCentred });
  }
}
