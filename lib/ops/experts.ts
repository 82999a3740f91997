// The experts of a layer: csrc/ops/grouped_gemm.h, combine.h.
import type { Device, Tensor, TensorList } from "../tensor.ts";
import { flag, index, precisionCode, type Maybe, type Precision } from "./call.ts";

export interface GroupedGemmNtArgs {
  x: Tensor;
  rows?: Maybe<Tensor>;
  w: TensorList;
  offsets: Tensor;
  h?: Maybe<Tensor>;
  y: Tensor;
  segments?: number;
  swiglu?: boolean;
  precision?: Maybe<Precision>;
}
const iNt = index("grouped_gemm_nt");
/** y[r] = x[r]·W_eᵀ per expert, optionally with SwiGLU; rows sorted by expert. */
export function groupedGemmNt(device: Device, a: GroupedGemmNtArgs): void {
  device.run(iNt, {
    x: a.x,
    rows: a.rows,
    w: a.w,
    offsets: a.offsets,
    h: a.h,
    y: a.y,
    segments: a.segments ?? 1,
    act: flag(a.swiglu),
    precision: precisionCode(a.precision ?? "f32"),
  });
}

export interface GroupedGemmNnArgs {
  dy: Tensor;
  rows?: Maybe<Tensor>;
  w: TensorList;
  offsets: Tensor;
  h?: Maybe<Tensor>;
  gate?: Maybe<Tensor>;
  dx: Tensor;
  dgate?: Maybe<Tensor>;
  groups?: readonly number[];
  segments?: number;
  swiglu?: boolean;
  precision?: Maybe<Precision>;
}
const iNn = index("grouped_gemm_nn");
/** dx[r] = dy[r]·W_e per expert, optionally through the SwiGLU backward with the gate-weight gradient. */
export function groupedGemmNn(device: Device, a: GroupedGemmNnArgs): void {
  device.run(iNn, {
    dy: a.dy,
    rows: a.rows,
    w: a.w,
    offsets: a.offsets,
    h: a.h,
    gate: a.gate,
    dx: a.dx,
    dgate: a.dgate,
    groups: a.groups,
    segments: a.segments ?? 1,
    act: flag(a.swiglu),
    precision: precisionCode(a.precision ?? "f32"),
  });
}

export interface GroupedGemmTnArgs {
  dy: Tensor;
  dyRows?: Maybe<Tensor>;
  dyScale?: Maybe<Tensor>;
  x: Tensor;
  xRows?: Maybe<Tensor>;
  offsets: Tensor;
  dw: TensorList;
  groups: readonly number[];
  segments?: number;
  swigluX?: boolean;
  precision?: Maybe<Precision>;
}
const iTn = index("grouped_gemm_tn");
/** dW[g] += dyᵀ·x over the rows of each listed expert; experts not listed are frozen. */
export function groupedGemmTn(device: Device, a: GroupedGemmTnArgs): void {
  device.run(iTn, {
    dy: a.dy,
    dy_rows: a.dyRows,
    dy_scale: a.dyScale,
    x: a.x,
    x_rows: a.xRows,
    offsets: a.offsets,
    dw: a.dw,
    groups: a.groups,
    segments: a.segments ?? 1,
    x_act: flag(a.swigluX),
    precision: precisionCode(a.precision ?? "f32"),
  });
}

const iCombine = index("combine");
/** y[t] (+)= Σ_k weights[t,k] · x[pos[t,k]]. */
export function combine(device: Device, a: { x: Tensor; pos: Tensor; weights?: Maybe<Tensor>; y: Tensor; accumulate?: boolean }): void {
  device.run(iCombine, { x: a.x, pos: a.pos, weights: a.weights, y: a.y, accumulate: flag(a.accumulate) });
}

const iCombineBackward = index("combine_backward");
/** dx[pos[t,k]] = weights[t,k] · dy[t]; dweights[t,k] = ⟨dy[t], x[pos[t,k]]⟩. */
export function combineBackward(
  device: Device,
  a: { dy: Tensor; x: Tensor; pos: Tensor; weights: Tensor; dx?: Maybe<Tensor>; dweights?: Maybe<Tensor> },
): void {
  device.run(iCombineBackward, { dy: a.dy, x: a.x, pos: a.pos, weights: a.weights, dx: a.dx, dweights: a.dweights });
}
