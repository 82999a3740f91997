// A group of experts with modules of a method inside. The same mathematics as Experts in its plain form: what is attached adds to
// the pre-activation and to the output, so that activation and weighting are ops of their own.
//
// Kept for backward: the pre-activation h. Activation and outputs are recomputed from it.

import * as ops from "../../ops.ts";
import type { Activation } from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { ExpertRows, ExpertsAttachment, Hidden } from "./attachment.ts";
import type { Composer } from "./composer.ts";
import { SWIGLU } from "./experts.ts";
import type { ExpertMatrices, ExpertsSizes } from "./experts.ts";

export class AttachedExperts {
  /** What is attached trains. */
  readonly trains = true;
  private readonly weights: ExpertMatrices;
  private readonly attached: readonly ExpertsAttachment[];
  private readonly activation: Activation;
  private readonly h: { readonly whole: Slot; readonly gate: Slot; readonly up: Slot };
  private readonly a: Slot;
  private readonly backwardA: Slot;
  private readonly da: Slot;

  constructor(weights: ExpertMatrices, attached: readonly ExpertsAttachment[], sizes: ExpertsSizes, { plan }: Composer) {
    const { hidden: F, rowsPerToken, activation = SWIGLU } = sizes;
    this.weights = weights;
    this.activation = activation;
    this.attached = attached;
    const whole = plan.kept(act(2 * F, rowsPerToken), "h");
    this.h = { whole, gate: plan.columns(whole, 0, F), up: plan.columns(whole, F, 2 * F) };
    this.a = plan.scratch(act(F, rowsPerToken), "a");
    this.backwardA = plan.backward(act(F, rowsPerToken), "a");
    this.da = plan.backward(act(F, rowsPerToken), "da");
  }

  private hiddenOf(run: Run): Hidden {
    return { whole: run.at(this.h.whole), gate: run.at(this.h.gate), up: run.at(this.h.up) };
  }

  /** y [N, D], not weighted; overwritten. False: a residual is the caller's to add. */
  forward(run: Run, x: Tensor, rows: ExpertRows, y: Tensor): boolean {
    const { device, precision } = run;
    const { tokens, offsets } = rows;
    const h = this.hiddenOf(run);
    ops.groupedGemmNt(device, {
      x,
      rows: tokens,
      w: this.weights.gateUp.tensors,
      bias: this.weights.gateUpBias.value,
      segments: this.weights.segments,
      offsets,
      y: h.whole,
      precision,
    });
    for (const m of this.attached) m.forward.hidden(run, x, rows, h);
    const a = run.at(this.a);
    ops.swiglu(device, { h: h.whole, a, activation: this.activation });
    this.output(run, x, rows, a, y, "forward");
    return false;
  }

  private output(run: Run, x: Tensor, rows: ExpertRows, a: Tensor, y: Tensor, pass: "forward" | "backward"): void {
    const { device, precision } = run;
    const { down, downBias } = this.weights;
    ops.groupedGemmNt(device, { x: a, w: down.tensors, bias: downBias.value, offsets: rows.offsets, y, precision });
    for (const m of this.attached) m.forward.output(run, x, rows, a, y, pass);
  }

  /** The outputs of the forward once more, from the kept h. */
  recompute(run: Run, x: Tensor, rows: ExpertRows, y: Tensor): void {
    const a = run.at(this.backwardA);
    ops.swiglu(run.device, { h: run.at(this.h.whole), a, activation: this.activation });
    this.output(run, x, rows, a, y, "backward");
  }

  /** dy: gradient of the unweighted outputs, in row order [N, D]. Leaves dh in place of h. */
  backward(run: Run, dy: Tensor, x: Tensor, rows: ExpertRows): void {
    const { device, precision, accumulate } = run;
    const { tokens, offsets } = rows;
    const h = this.hiddenOf(run);
    const [a, da] = [run.at(this.backwardA), run.at(this.da)];
    const { activation } = this;
    const { down, downBias, gateUpBias, gradDown, gradGateUp, segments, trainedDown, trainedGateUp } = this.weights;
    ops.swiglu(device, { h: h.whole, a, activation });
    if (gradDown) {
      ops.groupedGemmTn(device, { dy, x: a, offsets, dw: gradDown.tensors, groups: trainedDown, accumulate, precision });
      downBias.backward(run, { x: dy, offsets, groups: trainedDown });
    }
    ops.groupedGemmNn(device, { dy, w: down.tensors, offsets, dx: da, precision });
    for (const m of this.attached) m.backward.output(run, dy, x, rows, a, da);
    ops.swigluBackward(device, { h: h.whole, da, dh: h.whole, activation });
    if (gradGateUp) {
      const dw = gradGateUp.tensors;
      const groups = trainedGateUp;
      ops.groupedGemmTn(device, { dy: h.whole, x, xRows: tokens, offsets, dw, segments, groups, accumulate, precision });
      gateUpBias.backward(run, { x: h.whole, offsets, groups });
    }
    for (const m of this.attached) m.backward.hidden(run, h, x, rows);
  }

  /** Gradient of the gathered inputs [N, D], overwritten. */
  rowGradient(run: Run, rows: ExpertRows, dx: Tensor): void {
    const { offsets } = rows;
    const dh = this.hiddenOf(run);
    const { segments } = this.weights;
    ops.groupedGemmNn(run.device, { dy: dh.whole, w: this.weights.gateUp.tensors, segments, offsets, dx, precision: run.precision });
    for (const m of this.attached) m.backward.input(run, dh, rows, dx);
  }
}
