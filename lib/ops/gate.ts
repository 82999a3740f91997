// Gates: csrc/ops/gate.h.
import type { Tensor } from "../tensor.ts";
import { bind, type Maybe } from "./bind.ts";

/** y = x · σ(g). x, y [R, C] act (y may be x), g [R, G] act: each gate serves C / G neighbouring columns. */
export const sigmoidGate = bind<{ x: Tensor; g: Tensor; y: Tensor }>("sigmoid_gate");

/** dx = dy · σ(g) (may be dy), dg = σ(1 − σ) · Σ dy · x over the columns of a gate. dy, x, dx [R, C], g, dg [R, G] act. */
export const sigmoidGateBackward = bind<{ dy: Tensor; x: Tensor; g: Tensor; dx?: Maybe<Tensor>; dg?: Maybe<Tensor> }>(
  "sigmoid_gate_backward",
);

/** y[r] = x[r] · factors[positions[r]]; its own backward. x, y [R, C] act (y may be x), positions [R] i32 in [0, P), factors [P]. */
export const scaleRows = bind<{ x: Tensor; positions: Tensor; factors: Tensor; y: Tensor }>("scale_rows");
