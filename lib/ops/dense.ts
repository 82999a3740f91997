// What every token passes: csrc/ops/gemm.h, embedding.h, layer_norm.h, rms_norm.h, rope.h.
import { KernelError } from "../errors.ts";
import type { Device, Tensor } from "../tensor.ts";
import { bind, flag, handleOf, precision, type Maybe, type Precision } from "./bind.ts";

export interface GemmArgs {
  a: Tensor;
  b: Tensor;
  bias?: Maybe<Tensor>;
  residual?: Maybe<Tensor>;
  c: Tensor;
  accumulate?: boolean;
  precision?: Maybe<Precision>;
}
const product = (mode: number) =>
  bind<GemmArgs>("gemm", { mode: () => mode, residual: (a) => handleOf(a.residual), accumulate: (a) => flag(a.accumulate), precision });
const products = { nt: product(0), nn: product(1), tn: product(2) };
/**
 * c (+)= a·bᵀ (nt: a [M, K], b [N, K], bias [N]), a·b (nn: b [K, N]) or aᵀ·b (tn: a [K, M], b [K, N]); c [M, N].
 * Operands, bias and result are f32 or bf16, each on its own. c shares memory with neither operand. nt: c = residual [M, N] + a·bᵀ (+ bias),
 * the residual of c's dtype and apart from it.
 */
export function gemm(device: Device, mode: "nt" | "nn" | "tn", args: GemmArgs): void {
  if (!Object.hasOwn(products, mode)) throw new KernelError(`gemm: mode must be "nt", "nn" or "tn", received ${String(mode)}`);
  products[mode](device, args);
}

/** y[t] = scale · table[ids[t]]. ids [T] i32 in [0, V), table [V, D] f32 or bf16, y [T, D] act. */
export const embedding = bind<{ ids: Tensor; table: Tensor; y: Tensor; scale?: number }>("embedding", { scale: 1 });

/** dtable[ids[t]] += scale · dy[t], in the order of t. dy [T, D] act, dtable [V, D] f32. */
export const embeddingBackward = bind<{ ids: Tensor; dy: Tensor; dtable: Tensor; scale?: number }>("embedding_backward", { scale: 1 });

/**
 * y = weight · x / sqrt(mean(x²) + eps) per row, or 1 + weight in its place where `zeroCentred`. x, y [R, C] act, weight [C] f32 or bf16,
 * none: the factor is 1; rstd [R], kept for the backward.
 */
export const rmsNorm = bind<{ x: Tensor; weight?: Maybe<Tensor>; y: Tensor; rstd?: Maybe<Tensor>; eps: number; zeroCentred?: boolean }>(
  "rms_norm",
  {
    zero_centred: (a) => flag(a.zeroCentred),
  },
);

/** dx (+)= gradient of the norm's input, dweight [C] f32 (+)=. dy, x, dx [R, C] act; dx may be dy. */
export const rmsNormBackward = bind<{
  dy: Tensor;
  x: Tensor;
  weight?: Maybe<Tensor>;
  rstd: Tensor;
  dx?: Maybe<Tensor>;
  dweight?: Maybe<Tensor>;
  /** Adds to dx. */
  accumulate?: boolean;
  /** Adds to dweight. */
  accumulateWeight?: boolean;
  zeroCentred?: boolean;
}>("rms_norm_backward", {
  accumulate: (a) => flag(a.accumulate),
  accumulate_weight: (a) => flag(a.accumulateWeight),
  zero_centred: (a) => flag(a.zeroCentred),
});

/**
 * y = (x − mean) / sqrt(variance + eps) · weight + bias per row. x, y [R, C] act, weight and bias [C] f32 or bf16; mean and rstd [R], kept
 * for the backward.
 */
export const layerNorm = bind<{
  x: Tensor;
  weight: Tensor;
  bias: Tensor;
  y: Tensor;
  mean?: Maybe<Tensor>;
  rstd?: Maybe<Tensor>;
  eps: number;
}>("layer_norm");

/** dx (+)= gradient of the norm's input, dweight and dbias [C] f32 (+)=. dy, x, dx [R, C] act; dx may be dy. */
export const layerNormBackward = bind<{
  dy: Tensor;
  x: Tensor;
  weight: Tensor;
  mean: Tensor;
  rstd: Tensor;
  dx?: Maybe<Tensor>;
  dweight?: Maybe<Tensor>;
  dbias?: Maybe<Tensor>;
  /** Adds to dx. */
  accumulate?: boolean;
  /** Adds to dweight and dbias. */
  accumulateWeight?: boolean;
}>("layer_norm_backward", { accumulate: (a) => flag(a.accumulate), accumulate_weight: (a) => flag(a.accumulateWeight) });

/**
 * Rotates 2·cos.columns dimensions of each head, from column `offset` of it on, by the angle of the token's position; the rest is
 * copied. `interleaved`: pairs (2i, 2i + 1) instead of (i, i + half); `inverse` rotates back (the backward).
 * x, y [T, H·dim] act (y may be x), positions [T] i32 in [0, P), cos and sin [P, half].
 */
export const rope = bind<{
  x: Tensor;
  positions: Tensor;
  cos: Tensor;
  sin: Tensor;
  y: Tensor;
  heads: number;
  offset?: number;
  interleaved?: boolean;
  inverse?: boolean;
}>("rope", { offset: 0, interleaved: (a) => flag(a.interleaved), inverse: (a) => flag(a.inverse) });
