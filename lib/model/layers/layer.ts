// What every layer gets at run time, and the small pieces that layers share.
//
// The gradient protocol: parameter gradients accumulate (+=), activation gradients overwrite (=), only the residual stream
// adds. Freezing is three nulls: nothing saved, no input gradient wanted, no weight gradient (Parameter.grad === null).

import * as ops from "../../ops.ts";
import type { Precision } from "../../ops.ts";
import type { Device, Tensor } from "../../tensor.ts";
import type { Parameters } from "../weights/parameters.ts";
import type { SlotSpec } from "../slots.ts";
import type { LinearSpec, NormSpec } from "../spec.ts";

/** One micro-batch on the device: a flat sequence of T tokens; documents (and batch rows) are told apart by docStart. */
export interface Batch {
  readonly tokens: number;
  readonly ids: Tensor;
  readonly positions: Tensor;
  readonly docStart: Tensor;
  /** i32 (0, T): all tokens as the rows of one expert, for the MLPs that every token passes. */
  readonly bounds: Tensor;
}

export interface RunContext {
  readonly device: Device;
  readonly params: Parameters;
  readonly batch: Batch;
  readonly precision: Precision;
  /** True in a forward whose activations a backward will read. */
  readonly keep: boolean;
  /** Weight of the routers' load-balancing loss, already times the gradient scale; 0 = off. Acts on routers that train. */
  readonly balance: number;
}

/** An activation: f32 or bf16, as the device has them. */
export const act = (perToken: number, rowsPerToken = 1): SlotSpec => ({ dtype: "act", perToken, rowsPerToken });
export const f32 = (perToken: number, rowsPerToken = 1): SlotSpec => ({ dtype: "f32", perToken, rowsPerToken });
export const i32 = (perToken: number, rowsPerToken = 1): SlotSpec => ({ dtype: "i32", perToken, rowsPerToken });

/** The precision that is exact for these operands: bf16 ones are not changed by rounding them to bf16. */
export function exactPrecision(a: Tensor, b: Tensor): Precision {
  return a.dtype === "bf16" && b.dtype === "bf16" ? "bf16" : "f32";
}

/** y = x·Wᵀ + b. */
export function linearForward(run: RunContext, l: LinearSpec, x: Tensor, y: Tensor): void {
  ops.gemm(run.device, "nt", {
    a: x,
    b: run.params.value(l.weight),
    bias: l.bias ? run.params.value(l.bias) : null,
    c: y,
    precision: run.precision,
  });
}

/** dW += dyᵀ·x (when it trains), dx (+)= dy·W (when wanted). */
export function linearBackward(run: RunContext, l: LinearSpec, dy: Tensor, x: Tensor, dx: Tensor | null, accumulate = false): void {
  const { device, params, precision } = run;
  const dw = params.get(l.weight).grad;
  if (dw) ops.gemm(device, "tn", { a: dy, b: x, c: dw, accumulate: true, precision });
  const db = l.bias ? params.get(l.bias).grad : null;
  if (db) ops.columnSum(device, { x: dy, y: db });
  if (dx) ops.gemm(device, "nn", { a: dy, b: params.value(l.weight), c: dx, accumulate, precision });
}

export function normForward(run: RunContext, n: NormSpec, x: Tensor, y: Tensor, rstd: Tensor): void {
  ops.rmsNorm(run.device, { x, weight: run.params.value(n.weight), y, rstd, eps: n.eps });
}

/** dx (+)= backward of the norm; dweight += when it trains. */
export function normBackward(
  run: RunContext,
  n: NormSpec,
  dy: Tensor,
  x: Tensor,
  rstd: Tensor,
  dx: Tensor | null,
  accumulate: boolean,
): void {
  const dweight = run.params.get(n.weight).grad;
  if (!dx && !dweight) return;
  ops.rmsNormBackward(run.device, { dy, x, weight: run.params.value(n.weight), rstd, dx, dweight, accumulate });
}
