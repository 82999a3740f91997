// The seams at which a method puts modules of its own into the model: Linear, Experts, MoeBlock and Head.
//
// A method hands its Attachments over when the model is composed; each layer asks for those of its place and keeps them. An
// attachment owns its parameters, slots and gradients, which it overwrites or adds to as `run.accumulate` says. Inputs are what the
// layer itself reads; sums (y, dx) are added to.

import { ConfigError } from "../../errors.ts";
import type { TensorSlice } from "../../files/slice.ts";
import type { Activation, LowRankTerms } from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import type { Planner, Slot } from "../slots.ts";
import type { LinearSpec, RoutedExpertWeights } from "../spec.ts";
import type { BalancedRouter, RouterSizes } from "./balance.ts";
import type { AttachedSpec, Parameter, ParameterList } from "../weights/parameter.ts";

/** What is attached at a place that takes one. @throws ConfigError there are more, of which all but one would be dropped */
export function only<T extends object>(found: readonly T[], place: string): T | null {
  if (found.length > 1)
    throw new ConfigError(`expected one thing of the method at ${place}, found ${found.length}; this is a defect of esft`);
  return found[0] ?? null;
}

/** Weights of load-balancing losses, pooled over layers: of the base's routers, and of those that the method brought. */
export interface BalanceWeights {
  readonly base: number;
  readonly added: number;
}

/** What an attachment is composed with. */
export interface AttachmentContext {
  readonly plan: Planner;
  /** The same, its slots named after a part. */
  named(part: string): AttachmentContext;
  /** One of the base's. */
  parameter(ref: TensorSlice): Parameter;
  /** One of the parameters that the method brought. */
  attached(key: string): Parameter;
  /** Several as one operand. */
  values(parameters: readonly Parameter[]): ParameterList;
  gradients(parameters: readonly Parameter[]): ParameterList | null;
  /** The load-balancing loss of one of several routers that a method brought, the same for all of them; null where it has no weight. */
  balanced(routers: RouterSizes): BalancedRouter | null;
}

/** Beside one linear layer y = W·x. */
export interface LinearAttachment {
  /** Some of its parameters train. */
  readonly trains: boolean;
  /** y += its term. x is the layer's input [T, in]. */
  forward(run: Run, x: Tensor, y: Tensor): void;
  /** Its gradients from dy [T, out] and x; dx += its part, where wanted. */
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null): void;
}

/** Factors of a term of the logits u·Bᵀ. */
export interface HeadTerm {
  /** [T, R]. */
  readonly u: Tensor;
  /** [V, R]. */
  readonly b: Tensor;
}

/** Beside the head, whose loss takes the term apart since it never stores the logits. */
export interface HeadAttachment {
  /** Of x [T, D]. */
  term(run: Run, x: Tensor): HeadTerm;
  /** Where the loss puts the gradients of the factors; null: not wanted. */
  gradients(run: Run): { readonly du: Tensor; readonly db: Tensor | null };
  /** After the loss: the other gradients from du; dx += its part, where wanted. */
  backward(run: Run, x: Tensor, dx: Tensor | null): void;
  /** y [n, V] += the term of n <= T rows x. */
  logits(run: Run, x: Tensor, y: Tensor): void;
}

/** One group of experts: the routed ones of a layer, or an MLP that every token visits (one expert). */
export interface ExpertsSite {
  readonly layer: number;
  readonly routed: boolean;
  readonly experts: readonly RoutedExpertWeights[];
  /** Model width D and expert width F. */
  readonly width: number;
  readonly hidden: number;
  /** Experts that a token visits. */
  readonly topK: number;
}

/** The pre-activation, or its gradient: both [N, F] halves and the whole [N, 2F]. */
export interface Hidden {
  readonly whole: Tensor;
  readonly gate: Tensor;
  readonly up: Tensor;
}

/** The rows that experts see: each token as often as it was routed, sorted by expert, or every token once. */
export interface ExpertRows {
  /** i32 [E + 1]: rows of expert e are offsets[e] … offsets[e + 1] − 1. */
  readonly offsets: Tensor;
  /** i32 [N]: token of each row; null = row r is token r. */
  readonly tokens: Tensor | null;
}

/**
 * Inside a group of experts. Rows are in expert order; x is [T, D] and gathered by rows.tokens. Called in this order: forward
 * `hidden`, `output`; backward `output`, `hidden`, `input`.
 */
export interface ExpertsAttachment {
  readonly forward: {
    /** h += its term, before the activation. */
    hidden(run: Run, x: Tensor, rows: ExpertRows, h: Hidden): void;
    /**
     * y [N, D] += its term, after down and before the rows are combined. a is the activation [N, F]. A backward computes outputs once
     * more, to weigh their gradients: scratch of the forward is not to be used in that `pass`.
     */
    output(run: Run, x: Tensor, rows: ExpertRows, a: Tensor, y: Tensor, pass: "forward" | "backward"): void;
  };
  readonly backward: {
    /** Gradients of `output` from dy [N, D]; da [N, F] += its part. */
    output(run: Run, dy: Tensor, x: Tensor, rows: ExpertRows, a: Tensor, da: Tensor): void;
    /** Gradients of `hidden` from dh. */
    hidden(run: Run, dh: Hidden, x: Tensor, rows: ExpertRows): void;
    /** dx += what `hidden` and `output` took from x: rows of [N, D] where routed, else [T, D]. */
    input(run: Run, dh: Hidden, rows: ExpertRows, dx: Tensor): void;
  };
}

/** Rows that a product of experts reads: x[rows[r]], or f(gate, up) of them where x is a pre-activation. */
export interface ProductInput {
  readonly x: Tensor;
  readonly rows: Tensor | null;
  readonly activation?: Activation | null;
}

/** The gradient of what a product makes: dy[rows[r]], times gate[r] for parameters, where that is the weight of a row. */
export interface ProductGradient {
  readonly dy: Tensor;
  readonly rows: Tensor | null;
  readonly gate: Tensor | null;
  /** dy by gate and up, where the product is of both. */
  readonly halves?: readonly [gate: Tensor, up: Tensor];
}

/** A low-rank term inside a product of some experts (ops/experts.ts: LowRankTerms). offsets: of the rows. */
export interface ProductTerms {
  /** Experts that have one, ascending. */
  readonly groups: Int32Array;
  /** What the product is given. */
  forward(run: Run, input: ProductInput, offsets: Tensor): LowRankTerms;
  /** Gradients of its parameters, and what `gradient` gives. */
  backward(run: Run, dy: ProductGradient, input: ProductInput, offsets: Tensor): void;
  /** What the product of the input's gradient is given: of rows not weighted by their gate. */
  gradient(run: Run): LowRankTerms;
}

/** Inside the products of a group of experts, which stays fused: gate and up, and down. */
export interface ExpertsTerms {
  readonly hidden: ProductTerms | null;
  readonly output: ProductTerms | null;
}

export interface MoeSite {
  readonly layer: number;
  readonly width: number;
  readonly experts: number;
  readonly topK: number;
  /** Weights of the block's router, best choice first: f32 [T, K]. */
  readonly weights: Slot;
}

/** Beside a whole Mixture-of-Experts block; may bring a router of its own. */
export interface MoeAttachment {
  /** Gradient of the block's own weights [T, K], where the term reads them: there after `backward`. */
  readonly dweights?: Slot | null;
  /** y [T, D] += its term from the block's normalised input x. */
  forward(run: Run, x: Tensor, y: Tensor): void;
  /** Its gradients from dy; dx += its part, where wanted. */
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null): void;
}

/** What a method adds to a model. */
export interface Attachments {
  /** Every parameter that it brings, in a fixed order; all of them train. */
  readonly parameters: readonly AttachedSpec[];
  readonly balance?: BalanceWeights | undefined;
  /** Passes of training drop out: masks are functions of `Run.dropout`. */
  readonly dropsOut?: boolean | undefined;
  /**
   * Its terms see a row at a time, beside linear layers or inside MLPs that every token visits: adapters of others may stand beside it, each
   * on rows of its own (mixture.ts).
   */
  readonly rowwise?: boolean | undefined;
  /** The backward gives the base's routers the straight-through gradient of a dense mixture (straight_through.ts). */
  readonly straightThrough?: boolean | undefined;
  /** Lowest layer whose backward it reads, where it brings no parameter that says so. */
  readonly lowestLayer?: number | undefined;
  head?(weight: TensorSlice, context: AttachmentContext): HeadAttachment | null;
  linear?(target: LinearSpec, context: AttachmentContext): LinearAttachment | null;
  /** f32 [E], added to the scores (and a family's own selection bias) for choosing alone. */
  selectionBias?(layer: number, context: AttachmentContext): Parameter | null;
  experts?(site: ExpertsSite, context: AttachmentContext): ExpertsAttachment | ExpertsTerms | null;
  moe?(site: MoeSite, context: AttachmentContext): MoeAttachment | null;
}
