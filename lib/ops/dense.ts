// What every token passes: csrc/ops/gemm.h, embedding.h, rms_norm.h, rope.h.
import type { Device, Tensor } from "../tensor.ts";
import { flag, index, precisionCode, type Maybe, type Precision } from "./call.ts";

const gemmMode = { nt: 0, nn: 1, tn: 2 } as const;
const iGemm = index("gemm");
/** c (+)= a·bᵀ (nt), a·b (nn) or aᵀ·b (tn). */
export function gemm(
  device: Device,
  mode: "nt" | "nn" | "tn",
  a: { a: Tensor; b: Tensor; bias?: Maybe<Tensor>; c: Tensor; accumulate?: boolean; precision?: Maybe<Precision> },
): void {
  device.run(iGemm, {
    a: a.a,
    b: a.b,
    bias: a.bias,
    c: a.c,
    mode: gemmMode[mode],
    accumulate: flag(a.accumulate),
    precision: precisionCode(a.precision ?? "f32"),
  });
}

const iEmbedding = index("embedding");
/** y[t] = scale · table[ids[t]]. */
export function embedding(device: Device, a: { ids: Tensor; table: Tensor; y: Tensor; scale?: number }): void {
  device.run(iEmbedding, { ids: a.ids, table: a.table, y: a.y, scale: a.scale ?? 1 });
}
const iEmbeddingBackward = index("embedding_backward");
/** dtable[ids[t]] += scale · dy[t], in the order of t. */
export function embeddingBackward(device: Device, a: { ids: Tensor; dy: Tensor; dtable: Tensor; scale?: number }): void {
  device.run(iEmbeddingBackward, { ids: a.ids, dy: a.dy, dtable: a.dtable, scale: a.scale ?? 1 });
}

const iRmsNorm = index("rms_norm");
/** y = weight · x / sqrt(mean(x²) + eps) per row; rstd [rows] for the backward. */
export function rmsNorm(device: Device, a: { x: Tensor; weight: Tensor; y: Tensor; rstd?: Maybe<Tensor>; eps: number }): void {
  device.run(iRmsNorm, { x: a.x, weight: a.weight, y: a.y, rstd: a.rstd, eps: a.eps });
}
const iRmsNormBackward = index("rms_norm_backward");
/** dx (+)= gradient of the norm's input; dweight +=. */
export function rmsNormBackward(
  device: Device,
  a: { dy: Tensor; x: Tensor; weight: Tensor; rstd: Tensor; dx?: Maybe<Tensor>; dweight?: Maybe<Tensor>; accumulate?: boolean },
): void {
  device.run(iRmsNormBackward, {
    dy: a.dy,
    x: a.x,
    weight: a.weight,
    rstd: a.rstd,
    dx: a.dx,
    dweight: a.dweight,
    accumulate: flag(a.accumulate),
  });
}

const iRope = index("rope");
/** Rotates pairs of each head from column `offset` on by the angle of the token's position; `inverse` rotates back (the backward). */
export function rope(
  device: Device,
  a: {
    x: Tensor;
    positions: Tensor;
    cos: Tensor;
    sin: Tensor;
    y: Tensor;
    heads: number;
    offset?: number;
    interleaved?: boolean;
    inverse?: boolean;
  },
): void {
  device.run(iRope, {
    x: a.x,
    positions: a.positions,
    cos: a.cos,
    sin: a.sin,
    y: a.y,
    heads: a.heads,
    offset: a.offset ?? 0,
    interleaved: flag(a.interleaved),
    inverse: flag(a.inverse),
  });
}
