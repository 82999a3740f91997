// Linear attention and short convolution: csrc/ops/causal_conv.h, delta_rule.h.

import type { Tensor, TensorList } from "../tensor.ts";
import { bind, flag } from "./bind.ts";
import type { Ids, Maybe } from "./bind.ts";

/**
 * y[t, c] = f(bias[c] + Σ_j weight[c, j] · x[t − w + 1 + j, c]) within the document of t, f SiLU or the identity. x, y [T, C] act,
 * weight [C, …, w] and bias [C] f32 or bf16, docStart [T] i32. states: f32 [w − 1, C] for each document, what stands before its rows;
 * then what stands before the next.
 */
export const causalConv = bind<{
  x: Tensor;
  weight: Tensor;
  bias?: Maybe<Tensor>;
  docStart: Tensor;
  states?: Maybe<TensorList>;
  y: Tensor;
  silu?: boolean;
}>("causal_conv", { silu: (a) => flag(a.silu) });

/** dx overwritten, dweight and dbias f32 +=, each where wanted. */
export const causalConvBackward = bind<{
  dy: Tensor;
  x: Tensor;
  weight: Tensor;
  bias?: Maybe<Tensor>;
  docStart: Tensor;
  dx?: Maybe<Tensor>;
  dweight?: Maybe<Tensor>;
  dbias?: Maybe<Tensor>;
  silu?: boolean;
}>("causal_conv_backward", { silu: (a) => flag(a.silu) });

interface DeltaOperands {
  /** [T, keyHeads · dk] act; divided by the norm of each head (eps), q by √dk too. */
  readonly q: Tensor;
  readonly k: Tensor;
  /** [T, heads · dv] act. */
  readonly v: Tensor;
  /** [T, heads] f32: how much of its error a token writes, and the log of the state's decay before it. */
  readonly beta: Tensor;
  readonly g: Tensor;
  readonly docStart: Tensor;
  readonly keyHeads: number;
  readonly heads: number;
  readonly eps: number;
}

/**
 * Gated delta rule: a state [dk, dv] per value head, anew at every document, or from `states`: f32 [heads · dk, dv] for each document,
 * which is then that behind it. o [T, heads · dv] act. Keeps nothing for the backward.
 */
export const gatedDeltaRule = bind<DeltaOperands & { readonly states?: Maybe<TensorList>; readonly o: Tensor }>("gated_delta_rule");

/** Gradients of all operands from dout, overwritten; the states are computed again. */
export const gatedDeltaRuleBackward = bind<
  DeltaOperands & {
    readonly dout: Tensor;
    readonly dq: Tensor;
    readonly dk: Tensor;
    readonly dv: Tensor;
    readonly dbeta: Tensor;
    readonly dg: Tensor;
  }
>("gated_delta_rule_backward");

interface GateOperands {
  /** [T, heads] act. */
  readonly b: Tensor;
  readonly a: Tensor;
  /** [heads] f32 or bf16. */
  readonly aLog: Tensor;
  readonly dtBias: Tensor;
}

/** beta = σ(b), g = −exp(aLog) · softplus(a + dtBias): [T, heads] f32. */
export const deltaGates = bind<GateOperands & { readonly beta: Tensor; readonly g: Tensor }>("delta_gates");

/** db, da overwritten; daLog, ddtBias f32 +=, where wanted. */
export const deltaGatesBackward = bind<
  GateOperands & {
    readonly dbeta: Tensor;
    readonly dg: Tensor;
    readonly db: Tensor;
    readonly da: Tensor;
    readonly daLog?: Maybe<Tensor>;
    readonly ddtBias?: Maybe<Tensor>;
  }
>("delta_gates_backward");

/**
 * Columns that lie by group (each of `groups` with parts of `widths` side by side), laid out part by part; `inverse` lays them back.
 * x, y [T, groups · Σ widths] act.
 */
export const regroup = bind<{ x: Tensor; y: Tensor; widths: Ids; groups: number; inverse?: boolean }>("regroup", {
  inverse: (a) => flag(a.inverse),
});
