// The experts of a layer: csrc/ops/grouped_gemm.h, grouped_column_sum.h, combine.h. Rows are sorted by expert: those of expert e are offsets[e] ..
// offsets[e + 1] − 1, offsets [E + 1] i32; rows from the last offset on are nobody's, neither read nor written. A list of weights holds E·S matrices, item e·S + s: S segments (gate and up apart: 2), each f32
// or bf16 on its own. Eq. 4–5 of arXiv 2407.01906; the backward by hand, checked by finite differences.
import type { Tensor, TensorList } from "../tensor.ts";
import { activationArgs, type Activation } from "./activation.ts";
import { bind, flag, handleOf, precision, type Ids, type Maybe, type Precision } from "./bind.ts";

/** A low-rank term inside of a product, in the same sum: u times the matrices of the experts that have one; the others cost nothing. */
export interface LowRankTerms {
  /** [N, P·R] act, in the order of the experts: R columns for each of an expert's P parts. */
  u?: Maybe<Tensor>;
  /** P matrices for each of termGroups. Each reads the first columns of its part of u, as many as its rank; R is the largest. */
  terms?: Maybe<TensorList>;
  termGroups?: Ids;
}

/** What products of some experts have in common. */
export interface SomeExperts {
  /** Experts to compute; absent or empty: all. Rows of the others are neither read nor written. */
  groups?: Ids;
  /** Of the product with its terms, before bias and residual; 1 unless given, and with an activation. */
  factor?: number;
  /** The output is added to; without an activation and a residual. */
  accumulate?: boolean;
}

export interface GroupedGemmNtArgs extends LowRankTerms, SomeExperts {
  x: Tensor;
  /** Row r reads x[rows[r]]; absent: x is in the order of the experts. */
  rows?: Maybe<Tensor>;
  w: TensorList;
  bias?: Maybe<TensorList>;
  offsets: Tensor;
  residual?: Maybe<Tensor>;
  h?: Maybe<Tensor>;
  y: Tensor;
  segments?: number;
  activation?: Maybe<Activation>;
  precision?: Maybe<Precision>;
}
/**
 * y[r] = x[r]·W_eᵀ (+ bias_e) per expert (+ residual[r]). x [*, C] act, rows [N] i32, w: matrices [M_s, C], bias: vectors [M_s], y, residual
 * [N, ΣM_s] act. terms: + u[r]·B_eᵀ, parts [M_p, rank] one above the other, ΣM_p = ΣM_s. activation: W is gate over up, y [N, F] = f(gate, up); h [N, 2F] act keeps gate | up for the backward.
 */
export const groupedGemmNt = bind<GroupedGemmNtArgs>("grouped_gemm_nt", {
  residual: (a) => handleOf(a.residual),
  factor: 1,
  segments: 1,
  ...activationArgs(0),
  accumulate: (a) => flag(a.accumulate),
  precision,
});

export interface GroupedGemmNnArgs extends LowRankTerms, SomeExperts {
  dy: Tensor;
  rows?: Maybe<Tensor>;
  w: TensorList;
  bias?: Maybe<TensorList>;
  offsets: Tensor;
  h?: Maybe<Tensor>;
  gate?: Maybe<Tensor>;
  dx: Tensor;
  dgate?: Maybe<Tensor>;
  segments?: number;
  activation?: Maybe<Activation>;
  precision?: Maybe<Precision>;
}
/**
 * dx[r] = dy[r]·W_e per expert (terms: + Σ_p u[r]·A_ep, parts [rank, C]). dy [*, ΣM_s] act (gathered by rows), dx [N, C] act.
 * activation: through it: h [N, 2F] as kept, gate [N] the weight of each row (absent: 1), dx = dh [N, 2F] (may be h), dgate [N] the
 * gradient of those weights, which multiply the bias too: vectors [M_s], with dgate alone.
 */
export const groupedGemmNn = bind<GroupedGemmNnArgs>("grouped_gemm_nn", {
  factor: 1,
  segments: 1,
  ...activationArgs(0),
  accumulate: (a) => flag(a.accumulate),
  precision,
});

export interface GroupedGemmTnArgs {
  dy: Tensor;
  dyRows?: Maybe<Tensor>;
  dyScale?: Maybe<Tensor>;
  x: Tensor;
  xRows?: Maybe<Tensor>;
  offsets: Tensor;
  dw: TensorList;
  /** The experts that dw is of. */
  groups: Ids;
  segments?: number;
  activation?: Maybe<Activation>;
  accumulate?: boolean;
  precision?: Maybe<Precision>;
}
const activationX = activationArgs<GroupedGemmTnArgs>(0);
/**
 * dW_e (+)= (dyScale · dy)ᵀ·x over the rows of each expert in `groups`, zeros where it has none; the others are frozen: no read, no write,
 * no memory.
 * dy [*, ΣM_s] act, dyScale [N], x [*, C] act, each gathered by its rows [N] i32; dw: groups·S f32 matrices [M_s, C].
 * activation: x is h [N, 2C], f(gate, up) is computed as it is read.
 */
export const groupedGemmTn = bind<GroupedGemmTnArgs>("grouped_gemm_tn", {
  segments: 1,
  x_act: activationX.act,
  alpha: activationX.alpha,
  limit: activationX.limit,
  accumulate: (a) => flag(a.accumulate),
  precision,
});

/**
 * y_e (+)= Σ scale[r] · x[rows[r]] over the rows r of each expert in `groups`, zeros where it has none: the gradient of a bias.
 * x [*, C] act, scale [N] (absent: 1), y: groups·S f32 vectors, C in all.
 */
export const groupedColumnSum = bind<{
  x: Tensor;
  rows?: Maybe<Tensor>;
  scale?: Maybe<Tensor>;
  offsets: Tensor;
  y: TensorList;
  groups: Ids;
  segments?: number;
  accumulate?: boolean;
}>("grouped_column_sum", { segments: 1, accumulate: (a) => flag(a.accumulate) });

/**
 * y[t] (+)= Σ_k weights[t,k] · x[pos[t,k]] (+ residual[t], added last). x [N, D] act, pos [T, K] i32 in [0, N), weights [T, K] (absent: 1),
 * y, residual [T, D] act.
 */
export const combine = bind<{
  x: Tensor;
  pos: Tensor;
  weights?: Maybe<Tensor>;
  residual?: Maybe<Tensor>;
  y: Tensor;
  accumulate?: boolean;
}>("combine", { residual: (a) => handleOf(a.residual), accumulate: (a) => flag(a.accumulate) });

/** dx[pos[t,k]] = weights[t,k] · dy[t], dweights[t,k] = ⟨dy[t], x[pos[t,k]]⟩. dy [T, D], x, dx [N, D] act, dweights [T, K]. */
export const combineBackward = bind<{
  dy: Tensor;
  x: Tensor;
  pos: Tensor;
  weights: Tensor;
  dx?: Maybe<Tensor>;
  dweights?: Maybe<Tensor>;
}>("combine_backward");
