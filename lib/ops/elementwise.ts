// csrc/ops/elementwise.h.
import type { Device, Tensor } from "../tensor.ts";
import { index } from "./call.ts";

const iSwiglu = index("swiglu");
/** a = silu(gate) · up for h = gate | up. */
export function swiglu(device: Device, a: { h: Tensor; a: Tensor }): void {
  device.run(iSwiglu, { h: a.h, a: a.a });
}
const iSwigluBackward = index("swiglu_backward");
/** dh = gradient of h = gate | up; may overwrite h. */
export function swigluBackward(device: Device, a: { h: Tensor; da: Tensor; dh: Tensor }): void {
  device.run(iSwigluBackward, { h: a.h, da: a.da, dh: a.dh });
}
const iAdd = index("add");
/** y = a + alpha·b. */
export function add(device: Device, a: { a: Tensor; b: Tensor; y: Tensor; alpha?: number }): void {
  device.run(iAdd, { a: a.a, b: a.b, y: a.y, alpha: a.alpha ?? 1 });
}
const iScale = index("scale");
/** x = factor · x. */
export function scale(device: Device, a: { x: Tensor; factor: number }): void {
  device.run(iScale, { x: a.x, factor: a.factor });
}
const iClamp = index("clamp");
/** y = x clamped to [lo, hi]. */
export function clamp(device: Device, a: { x: Tensor; y: Tensor; lo: number; hi: number }): void {
  device.run(iClamp, { x: a.x, y: a.y, lo: a.lo, hi: a.hi });
}
const iClampBackward = index("clamp_backward");
/** dx = dy where lo <= x <= hi, else 0. */
export function clampBackward(device: Device, a: { x: Tensor; dy: Tensor; dx: Tensor; lo: number; hi: number }): void {
  device.run(iClampBackward, { x: a.x, dy: a.dy, dx: a.dx, lo: a.lo, hi: a.hi });
}
const iFill = index("fill");
/** x = value. */
export function fill(device: Device, a: { x: Tensor; value: number }): void {
  device.run(iFill, { x: a.x, value: a.value });
}
const iCast = index("cast");
/** y = x in y's dtype (f32 → bf16 rounds to nearest even); equal dtypes copy. */
export function cast(device: Device, a: { x: Tensor; y: Tensor }): void {
  device.run(iCast, { x: a.x, y: a.y });
}
const iColumnSum = index("column_sum");
/** y[c] += Σ_rows x[:, c]: gradient of a bias. */
export function columnSum(device: Device, a: { x: Tensor; y: Tensor }): void {
  device.run(iColumnSum, { x: a.x, y: a.y });
}
const iMaskGrad = index("mask_grad");
/** grad[e] = 0 for every first index e that `keep` does not list. */
export function maskGrad(device: Device, a: { grad: Tensor; keep: readonly number[] }): void {
  device.run(iMaskGrad, { grad: a.grad, keep: a.keep });
}
