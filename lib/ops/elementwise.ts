// csrc/ops/elementwise.h. All act [R, C]; an output may be an input of its shape.
import type { Tensor } from "../tensor.ts";
import { activationArgs, type Activation } from "./activation.ts";
import { bind, code, flag, type Ids, type Maybe } from "./bind.ts";

/** a = f(gate, up) of h = gate | up: SwiGLU, or the activation given. h [R, 2F] act, a [R, F] act. */
export const swiglu = bind<{ h: Tensor; a: Tensor; activation?: Maybe<Activation> }>("swiglu", activationArgs(1));

/** dh = gradient of h from that of a. h, dh [R, 2F] act, da [R, F] act; dh may be h. */
export const swigluBackward = bind<{ h: Tensor; da: Tensor; dh: Tensor; activation?: Maybe<Activation> }>(
  "swiglu_backward",
  activationArgs(1),
);

/** y = a + alpha·b. alpha: 1 unless given. */
export const add = bind<{ a: Tensor; b: Tensor; y: Tensor; alpha?: number }>("add", { alpha: 1 });

/** x = factor · by · x. by [1] f32 or bf16, read on the device; both 1 unless given. */
export const scale = bind<{ x: Tensor; by?: Maybe<Tensor>; factor?: number }>("scale", { factor: 1 });

/** y = cap · tanh(x / cap). cap > 0; y may be x. */
export const softCap = bind<{ x: Tensor; y: Tensor; cap: number }>("soft_cap");

/** y = x clamped to [lo, hi]; NaN stays NaN. */
export const clamp = bind<{ x: Tensor; y: Tensor; lo: number; hi: number }>("clamp");

/** dx = dy where lo <= x <= hi, else 0. */
export const clampBackward = bind<{ x: Tensor; dy: Tensor; dx: Tensor; lo: number; hi: number }>("clamp_backward");

/** y = a · b, or a · SiLU(b). a, b, y [R, C] act; y may be a or b. */
export const multiply = bind<{ a: Tensor; b: Tensor; y: Tensor; silu?: boolean }>("multiply", { silu: (x) => flag(x.silu) });

/** Gradients of both factors, each where wanted, overwritten. da may be dy or a, db may be dy or b. */
export const multiplyBackward = bind<{ dy: Tensor; a: Tensor; b: Tensor; da?: Maybe<Tensor>; db?: Maybe<Tensor>; silu?: boolean }>(
  "multiply_backward",
  { silu: (x) => flag(x.silu) },
);

/** x = value, any dtype. */
export const fill = bind<{ x: Tensor; value: number }>("fill");

/** y = x in y's dtype: f32 and bf16 into each other (f32 → bf16 rounds to nearest even), any dtype into itself. */
export const cast = bind<{ x: Tensor; y: Tensor }>("cast");

/** y[c] (+)= Σ_rows x[:, c], the gradient of a bias. x [R, C] act, y [C] f32. */
export const columnSum = bind<{ x: Tensor; y: Tensor; accumulate?: boolean }>("column_sum", { accumulate: (a) => flag(a.accumulate) });

/** grad[e] = 0 for every first index e that `keep` (ascending) does not list. grad [E, …] f32. */
export const maskGrad = bind<{ grad: Tensor; keep: Ids }>("mask_grad");

const pairCodes = { keep: 0, split: 1, join: 2 };
/**
 * y = xᵀ. pairs "split": even columns of x become the first half of y's rows, odd ones the second; "join" undoes it. x [R, C], y [C, R],
 * f32 or bf16 each. csrc/ops/transpose.h.
 */
export const transpose = bind<{ x: Tensor; y: Tensor; pairs?: keyof typeof pairCodes }>("transpose", {
  pairs: (a) => code(pairCodes, a.pairs ?? "keep"),
});

/**
 * y = x / (1 − p) where kept, else 0. What is kept is a function of seed, counter (f64 [1], read on the device) and the element's place:
 * the backward is the same call on dy. x, y [R, C] act; y may be x. csrc/ops/dropout.h.
 */
export const dropout = bind<{ x: Tensor; counter: Tensor; y: Tensor; seed: number; p: number }>("dropout");
