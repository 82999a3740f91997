// A group of gated experts y = down·(silu(gate·x) · (up·x)): the routed ones of a layer, or an MLP that every token visits, which
// is a group of one expert. The products and the activation are fused (grouped_gemm with its SwiGLU epilogues).
//
// Kept for backward: the pre-activation h (gate | up), which the backward overwrites with its gradient. Expert outputs are never
// needed again: the gradient of a gate weight is ⟨dy·W_down, a⟩, taken in the epilogue of the backward product.
// Sizes in names: N rows in expert order, F expert width.

import { LayoutError } from "../../errors.ts";
import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import { inputWeights } from "../spec.ts";
import type { RoutedExpertWeights } from "../spec.ts";
import type { ParameterList } from "../weights/parameter.ts";
import type { ExpertRows } from "./attachment.ts";
import type { Composer } from "./composer.ts";

/** The rows of experts and what their outputs are weighted with. */
export interface Routing extends ExpertRows {
  /** f32 [N]: gate weight of each row; null = 1. */
  readonly gate: Tensor | null;
  /** Token of each row of x where that is not as of dy; null: x is in row order. */
  readonly xTokens?: Tensor | null;
}

/** What a backward through experts is asked for beside the gradients of what trains. */
export interface ExpertsWanted {
  /** Gradient of the gate weights in row order, f32 [N]. */
  readonly dgate: Tensor | null;
  /** dh of all rows, because an input gradient or dgate is wanted; else only the rows of experts that train are touched. */
  readonly all: boolean;
}

const EVERY = new Int32Array(0);
const activation = { kind: "swiglu" } as const;

export class Experts {
  readonly trains: boolean;
  private readonly weights: ExpertMatrices;
  private readonly h_N2F: Slot;
  private readonly a_NF: Slot;

  /** @param rowsPerToken K where routed, 1 for an MLP */
  constructor(weights: ExpertMatrices, hidden: number, rowsPerToken: number, c: Composer) {
    this.weights = weights;
    this.trains = weights.trains;
    this.h_N2F = c.plan.saved(act(2 * hidden, rowsPerToken), "h");
    this.a_NF = c.plan.scratch(act(hidden, rowsPerToken), "a");
  }

  /** y [N, D] = each row's expert of x [T, D], not weighted; overwritten. True: the residual [N, D] is in y. */
  forward(run: Run, x: Tensor, { tokens, offsets }: ExpertRows, y: Tensor, residual: Tensor | null = null): boolean {
    const { device, precision } = run;
    const a = run.at(this.a_NF);
    const { segments } = this.weights;
    const w = this.weights.gateUp.tensors;
    ops.groupedGemmNt(device, { x, rows: tokens, w, segments, offsets, activation, h: run.saved(this.h_N2F), y: a, precision });
    ops.groupedGemmNt(device, { x: a, w: this.weights.down.tensors, offsets, residual, y, precision });
    return residual !== null;
  }

  /** dy: gradient of what the weighted rows are summed to [T, D]. Leaves dh in place of h. */
  backward(run: Run, dy: Tensor, x: Tensor, { tokens, offsets, gate, xTokens = tokens }: Routing, { dgate, all }: ExpertsWanted): void {
    const { device, precision, accumulate } = run;
    const h = run.at(this.h_N2F);
    const { down, gradDown, gradGateUp, segments, trainedDown, trainedGateUp } = this.weights;
    if (gradDown) {
      const dw = gradDown.tensors;
      const dyRows = { dy, dyRows: tokens, dyScale: gate };
      ops.groupedGemmTn(device, { ...dyRows, x: h, activation, offsets, dw, groups: trainedDown, accumulate, precision });
    }
    if (!all && !gradGateUp) return;
    const groups = all ? EVERY : trainedGateUp;
    ops.groupedGemmNn(device, { dy, rows: tokens, w: down.tensors, offsets, h, gate, dx: h, dgate, groups, activation, precision });
    if (gradGateUp) {
      const dw = gradGateUp.tensors;
      const groups = trainedGateUp;
      ops.groupedGemmTn(device, { dy: h, x, xRows: xTokens, offsets, dw, segments, groups, accumulate, precision });
    }
  }

  /** After `backward` with `all`: gradient of the gathered inputs [N, D], overwritten. */
  rowGradient(run: Run, { offsets }: ExpertRows, dx: Tensor): void {
    const { segments } = this.weights;
    const w = this.weights.gateUp.tensors;
    ops.groupedGemmNn(run.device, { dy: run.at(this.h_N2F), w, segments, offsets, dx, precision: run.precision });
  }
}

/** The matrices of a group of experts as operands, and which of them train. */
export class ExpertMatrices {
  /** Of each expert gate, then up, or both in one. */
  readonly gateUp: ParameterList;
  /** Weights of gateUp for each expert. */
  readonly segments: number;
  readonly down: ParameterList;
  readonly gradGateUp: ParameterList | null;
  readonly gradDown: ParameterList | null;
  /** Experts whose gate and up train, and whose down trains; ascending. */
  readonly trainedGateUp: Int32Array;
  readonly trainedDown: Int32Array;

  /** @throws LayoutError gate and up of an expert do not train together: their product is one */
  constructor(experts: readonly RoutedExpertWeights[], c: Composer) {
    const found = experts.map((e) => ({ input: inputWeights(e).map((ref) => c.parameter(ref)), down: c.parameter(e.down) }));
    for (const { input } of found)
      if (input.some((p) => p.trains !== input[0]?.trains))
        throw new LayoutError(`${input.map((p) => `"${p.key}"`).join(" and ")} train together or not at all: train both, or neither`, {
          where: { tensor: input[0]!.key },
        });
    const inputTrains = ({ input }: (typeof found)[number]): boolean => input[0]?.trains ?? false;
    this.segments = found[0]?.input.length ?? 2;
    this.gateUp = c.values(found.flatMap((e) => e.input));
    this.down = c.values(found.map((e) => e.down));
    this.trainedGateUp = Int32Array.from(found.flatMap((e, i) => (inputTrains(e) ? [i] : [])));
    this.trainedDown = Int32Array.from(found.flatMap((e, i) => (e.down.trains ? [i] : [])));
    this.gradGateUp = c.gradients(found.filter(inputTrains).flatMap((e) => e.input));
    this.gradDown = c.gradients(found.filter((e) => e.down.trains).map((e) => e.down));
  }

  get trains(): boolean {
    return this.gradGateUp !== null || this.gradDown !== null;
  }
}
