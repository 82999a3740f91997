// RMSNorm and LayerNorm. The output is recomputed in backward, not kept; of the forward only 1/deviation per row is, and of LayerNorm the
// mean.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { f32 } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { NormSpec } from "../spec.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { Composer } from "./composer.ts";

export class Norm {
  private readonly spec: NormSpec;
  private readonly weight: Parameter | null;
  private readonly rstd: Slot;
  /** What a LayerNorm has besides. */
  private readonly centre: { readonly bias: Parameter; readonly mean: Slot } | null;

  /** @param rowsPerToken rows of each token that are normalised on their own: its heads */
  constructor(spec: NormSpec, c: Composer, rowsPerToken = 1) {
    this.spec = spec;
    this.weight = spec.weight ? c.parameter(spec.weight) : null;
    this.rstd = c.plan.saved(f32(0, rowsPerToken), "rstd");
    this.centre = spec.kind === "layer" ? { bias: c.parameter(spec.bias), mean: c.plan.saved(f32(0, rowsPerToken), "mean") } : null;
  }

  get trains(): boolean {
    return (this.weight?.trains ?? false) || (this.centre?.bias.trains ?? false);
  }

  forward(run: Run, x: Tensor, y: Tensor): void {
    this.apply(run, x, y, run.saved(this.rstd), this.centre && run.saved(this.centre.mean));
  }

  /** y again, for a backward. */
  recompute(run: Run, x: Tensor, y: Tensor): void {
    this.apply(run, x, y, null, null);
  }

  private apply(run: Run, x: Tensor, y: Tensor, rstd: Tensor | null, mean: Tensor | null): void {
    const { spec, weight, centre } = this;
    const { eps } = spec;
    if (centre && weight) ops.layerNorm(run.device, { x, weight: weight.value, bias: centre.bias.value, y, mean, rstd, eps });
    else ops.rmsNorm(run.device, { x, weight: weight?.value, y, rstd, eps, zeroCentred: zeroCentred(spec) });
  }

  /** dx (+)= backward of the norm, where wanted; the parameters' gradients (+)= when they train. dx may be dy. */
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null, accumulate = false): void {
    const { spec, weight, centre } = this;
    const [dweight, dbias] = [weight?.grad, centre?.bias.grad];
    if (!dx && !dweight && !dbias) return;
    const common = { dy, x, rstd: run.at(this.rstd), dx, dweight, accumulate, accumulateWeight: run.accumulate };
    if (centre && weight) ops.layerNormBackward(run.device, { ...common, weight: weight.value, mean: run.at(centre.mean), dbias });
    else ops.rmsNormBackward(run.device, { ...common, weight: weight?.value, zeroCentred: zeroCentred(spec) });
  }
}

const zeroCentred = (spec: NormSpec): boolean => spec.kind === "rms" && (spec.zeroCentred ?? false);
