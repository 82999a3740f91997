// A group of gated experts y = down·f(gate·x, up·x), where they have biases with these: the routed ones of a layer, or an MLP that every
// token visits, which is a group of one expert. The products, biases and the activation f are fused (grouped_gemm with its epilogues).
//
// What a method puts inside the products (low-rank terms of some experts) is part of their sums.
// Kept for backward: the pre-activation h (gate | up), which the backward overwrites with its gradient. Expert outputs are never
// needed again: the gradient of a gate weight is ⟨dy·W_down, a⟩ (+ ⟨dy, bias of down⟩), taken in the epilogue of the backward product.
// Sizes in names: N rows in expert order, F expert width.

import { LayoutError } from "../../errors.ts";
import * as ops from "../../ops.ts";
import type { Activation } from "../../ops.ts";
import type { Tensor, TensorList } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import { biasesOf, inputWeights } from "../spec.ts";
import type { RoutedExpertWeights } from "../spec.ts";
import type { Parameter, ParameterList } from "../weights/parameter.ts";
import type { ExpertRows, ExpertsTerms } from "./attachment.ts";
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

/** The sizes of a group of experts. */
export interface ExpertsSizes {
  readonly hidden: number;
  /** K where routed, 1 for an MLP. */
  readonly rowsPerToken: number;
  /** SwiGLU unless given. */
  readonly activation?: Activation | undefined;
}
export const SWIGLU: Activation = { kind: "swiglu" };

export class Experts {
  readonly trains: boolean;
  private readonly weights: ExpertMatrices;
  private readonly activation: Activation;
  private readonly h_N2F: Slot;
  private readonly a_NF: Slot;
  private readonly terms: ExpertsTerms | null;
  /** Gate and up of h, which terms of their own read. */
  private readonly halves: readonly [gate: Slot, up: Slot] | null;
  /** Experts whose pre-activation has a gradient that is wanted, whatever the input's. */
  private readonly through: Int32Array;

  constructor(
    weights: ExpertMatrices,
    { hidden, rowsPerToken, activation = SWIGLU }: ExpertsSizes,
    c: Composer,
    terms: ExpertsTerms | null = null,
  ) {
    this.weights = weights;
    this.activation = activation;
    this.trains = weights.trains || terms !== null;
    const h = c.plan.saved(act(2 * hidden, rowsPerToken), "h");
    this.h_N2F = h;
    this.a_NF = c.plan.scratch(act(hidden, rowsPerToken), "a");
    this.terms = terms;
    this.halves = terms?.hidden ? [c.plan.columns(h, 0, hidden), c.plan.columns(h, hidden, 2 * hidden)] : null;
    this.through = Int32Array.from(new Set([...weights.trainedGateUp, ...(terms?.hidden?.groups ?? [])])).sort();
  }

  /** y [N, D] = each row's expert of x [T, D], not weighted; overwritten. True: the residual [N, D] is in y. */
  forward(run: Run, x: Tensor, { tokens, offsets }: ExpertRows, y: Tensor, residual: Tensor | null = null): boolean {
    const { device, precision } = run;
    const { activation } = this;
    const a = run.at(this.a_NF);
    const { segments, gateUp, gateUpBias, down, downBias } = this.weights;
    const inside = this.terms?.hidden?.forward(run, { x, rows: tokens }, offsets);
    const first = { w: gateUp.tensors, bias: gateUpBias.value, segments, activation, h: run.saved(this.h_N2F) };
    ops.groupedGemmNt(device, { x, rows: tokens, ...first, ...inside, offsets, y: a, precision });
    const behind = this.terms?.output?.forward(run, { x: a, rows: null }, offsets);
    ops.groupedGemmNt(device, { x: a, w: down.tensors, bias: downBias.value, ...behind, offsets, residual, y, precision });
    return residual !== null;
  }

  /** dy: gradient of what the weighted rows are summed to [T, D]. Leaves dh in place of h. */
  backward(run: Run, dy: Tensor, x: Tensor, { tokens, offsets, gate, xTokens = tokens }: Routing, { dgate, all }: ExpertsWanted): void {
    const { device, precision, accumulate } = run;
    const { activation } = this;
    const h = run.at(this.h_N2F);
    const { down, downBias, gradDown, gateUpBias, gradGateUp, segments, trainedDown, trainedGateUp } = this.weights;
    if (gradDown) {
      const dw = gradDown.tensors;
      const dyRows = { dy, dyRows: tokens, dyScale: gate };
      ops.groupedGemmTn(device, { ...dyRows, x: h, activation, offsets, dw, groups: trainedDown, accumulate, precision });
      downBias.backward(run, { x: dy, rows: tokens, scale: gate, offsets, groups: trainedDown });
    }
    const { terms, halves, through: wanted } = this;
    // Before h is its gradient.
    terms?.output?.backward(run, { dy, rows: tokens, gate }, { x: h, rows: null, activation }, offsets);
    if (!all && wanted.length === 0) return;
    const groups = all ? EVERY : wanted;
    const through = { w: down.tensors, bias: dgate ? downBias.value : null, h, gate, dgate, activation };
    const behind = terms?.output?.gradient(run);
    ops.groupedGemmNn(device, { dy, rows: tokens, ...through, ...behind, offsets, dx: h, groups, precision });
    if (gradGateUp) {
      const dw = gradGateUp.tensors;
      const groups = trainedGateUp;
      ops.groupedGemmTn(device, { dy: h, x, xRows: xTokens, offsets, dw, segments, groups, accumulate, precision });
      gateUpBias.backward(run, { x: h, offsets, groups });
    }
    if (terms?.hidden && halves) {
      const gradient = { dy: h, rows: null, gate: null, halves: [run.at(halves[0]), run.at(halves[1])] as const };
      terms.hidden.backward(run, gradient, { x, rows: xTokens }, offsets);
    }
  }

  /** After `backward` with `all`: gradient of the gathered inputs [N, D], overwritten. */
  rowGradient(run: Run, { offsets }: ExpertRows, dx: Tensor): void {
    const { segments } = this.weights;
    const w = this.weights.gateUp.tensors;
    const inside = this.terms?.hidden?.gradient(run);
    ops.groupedGemmNn(run.device, { dy: run.at(this.h_N2F), w, segments, ...inside, offsets, dx, precision: run.precision });
  }
}

/** Biases of a group of experts, one vector for each, where they have some. */
class ExpertBiases {
  private readonly values: ParameterList | null;
  private readonly grads: ParameterList | null;

  /** @throws LayoutError one trains without its matrix, or the other way round: their gradients come from one set of rows */
  constructor(biases: readonly Parameter[], matrices: readonly Parameter[], c: Composer) {
    biases.forEach(({ key, trains }, i) => {
      const matrix = matrices[i]!;
      if (trains !== matrix.trains)
        throw new LayoutError(`"${key}" and "${matrix.key}" train together or not at all: train both, or neither`, {
          where: { tensor: key },
        });
    });
    this.values = biases.length > 0 ? c.values(biases) : null;
    this.grads = c.gradients(biases.filter((p) => p.trains));
  }

  get value(): TensorList | null {
    return this.values?.tensors ?? null;
  }

  /** Adds up rows of the gradient at the product. */
  backward(run: Run, rows: Omit<Parameters<typeof ops.groupedColumnSum>[1], "y" | "accumulate">): void {
    if (this.grads) ops.groupedColumnSum(run.device, { ...rows, y: this.grads.tensors, accumulate: run.accumulate });
  }
}

/** The matrices of a group of experts as operands, and which of them train. */
export class ExpertMatrices {
  /** Of each expert gate, then up, or both in one. */
  readonly gateUp: ParameterList;
  /** Weights of gateUp for each expert. */
  readonly segments: number;
  readonly down: ParameterList;
  readonly gateUpBias: ExpertBiases;
  readonly downBias: ExpertBiases;
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
    const biases = experts.flatMap((e) => biasesOf(e) ?? []);
    const of = (part: "gateUp" | "down"): Parameter[] => biases.map((b) => c.parameter(b[part]));
    this.gateUpBias = new ExpertBiases(
      of("gateUp"),
      found.flatMap((e) => e.input),
      c,
    );
    this.downBias = new ExpertBiases(
      of("down"),
      found.map((e) => e.down),
      c,
    );
  }

  get trains(): boolean {
    return this.gradGateUp !== null || this.gradDown !== null;
  }
}
