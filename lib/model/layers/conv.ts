// Depthwise causal convolution over the documents of a batch, and SiLU behind it where asked for. Its input is what backward needs.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import type { ConvSpec } from "../spec.ts";
import type { StateHandle } from "../states.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { Composer } from "./composer.ts";

export class Conv {
  private readonly weight: Parameter;
  private readonly bias: Parameter | null;
  private readonly silu: boolean;
  private readonly kept: StateHandle;

  constructor(spec: ConvSpec, c: Composer, options: { silu: boolean }) {
    this.weight = c.parameter(spec.weight);
    this.bias = spec.bias ? c.parameter(spec.bias) : null;
    this.silu = options.silu;
    this.kept = c.state({ kind: "matrix", rows: spec.taps - 1, cols: spec.channels });
  }

  get trains(): boolean {
    return this.weight.trains || (this.bias?.trains ?? false);
  }

  forward(run: Run, x: Tensor, y: Tensor): void {
    ops.causalConv(run.device, { ...this.operands(run, x), states: run.state(this.kept), y });
  }

  /** dx: overwritten. Gradients of weight and bias (+)= where they train. */
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor): void {
    const gradients = { dweight: run.addable(this.weight.grad), dbias: run.addable(this.bias?.grad) };
    ops.causalConvBackward(run.device, { ...this.operands(run, x), dy, dx, ...gradients });
  }

  private operands(run: Run, x: Tensor) {
    const { weight, bias, silu } = this;
    return { x, weight: weight.value, bias: bias ? bias.value : null, docStart: run.batch.docStart, silu };
  }
}
