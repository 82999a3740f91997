// The experts of a layer: csrc/ops/grouped_gemm.h, combine.h. Rows are sorted by expert: those of expert e are offsets[e] ..
// offsets[e + 1] − 1, offsets [E + 1] i32; rows from the last offset on are nobody's, neither read nor written. A list of weights holds E·S matrices, item e·S + s: S segments (gate and up apart: 2), each f32
// or bf16 on its own. Eq. 4–5 of arXiv 2407.01906; the backward by hand, checked by finite differences.
import type { Tensor, TensorList } from "../tensor.ts";
import { bind, flag, handleOf, precision, type Ids, type Maybe, type Precision } from "./bind.ts";

export interface GroupedGemmNtArgs {
  x: Tensor;
  /** Row r reads x[rows[r]]; absent: x is in the order of the experts. */
  rows?: Maybe<Tensor>;
  w: TensorList;
  offsets: Tensor;
  residual?: Maybe<Tensor>;
  h?: Maybe<Tensor>;
  y: Tensor;
  segments?: number;
  swiglu?: boolean;
  precision?: Maybe<Precision>;
}
/**
 * y[r] = x[r]·W_eᵀ per expert (+ residual[r]). x [*, C] act, rows [N] i32, w: matrices [M_s, C], y, residual [N, ΣM_s] act.
 * swiglu: W is gate over up, y [N, F] = silu(gate) · up; h [N, 2F] act keeps gate | up for the backward.
 */
export const groupedGemmNt = bind<GroupedGemmNtArgs>("grouped_gemm_nt", {
  residual: (a) => handleOf(a.residual),
  segments: 1,
  act: (a) => flag(a.swiglu),
  precision,
});

export interface GroupedGemmNnArgs {
  dy: Tensor;
  rows?: Maybe<Tensor>;
  w: TensorList;
  offsets: Tensor;
  h?: Maybe<Tensor>;
  gate?: Maybe<Tensor>;
  dx: Tensor;
  dgate?: Maybe<Tensor>;
  /** Experts to compute; absent or empty: all. Rows of the others are neither read nor written. */
  groups?: Ids;
  segments?: number;
  swiglu?: boolean;
  precision?: Maybe<Precision>;
}
/**
 * dx[r] = dy[r]·W_e per expert. dy [*, ΣM_s] act (gathered by rows), dx [N, C] act.
 * swiglu: through the activation: h [N, 2F] as kept, gate [N] the weight of each row (absent: 1), dx = dh [N, 2F] (may be h),
 * dgate [N] the gradient of those weights.
 */
export const groupedGemmNn = bind<GroupedGemmNnArgs>("grouped_gemm_nn", { segments: 1, act: (a) => flag(a.swiglu), precision });

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
  swigluX?: boolean;
  accumulate?: boolean;
  precision?: Maybe<Precision>;
}
/**
 * dW_e (+)= (dyScale · dy)ᵀ·x over the rows of each expert in `groups`, zeros where it has none; the others are frozen: no read, no write,
 * no memory.
 * dy [*, ΣM_s] act, dyScale [N], x [*, C] act, each gathered by its rows [N] i32; dw: groups·S f32 matrices [M_s, C].
 * swigluX: x is h [N, 2C], silu(gate) · up is computed as it is read.
 */
export const groupedGemmTn = bind<GroupedGemmTnArgs>("grouped_gemm_tn", {
  segments: 1,
  x_act: (a) => flag(a.swigluX),
  accumulate: (a) => flag(a.accumulate),
  precision,
});

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
