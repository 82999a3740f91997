// Performance rows: the ops of one MoE layer's training step at a model's sizes, with the work they do.
//
// flops counts multiply-adds as two; bytes counts every operand once, as it is stored (what a perfect cache would move).

import { i32, offsetsOf, out, sizeOf, strided, tensor, zeros } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { attention, attentionBackward } from "./attention.ts";
import { rmsNorm, rmsNormBackward, rope } from "./dense.ts";
import { combine } from "./combine.ts";
import { route, routeBackward, sort } from "./routing.ts";
import { adamw, loss } from "./training.ts";

/** Sizes of a Mixture-of-Experts model, in the letters of the op contracts. */
export interface ModelSizes {
  readonly name: string;
  /** Tokens per call. */
  readonly T: number;
  readonly D: number;
  readonly F: number;
  readonly E: number;
  readonly K: number;
  readonly V: number;
  readonly heads: number;
  readonly headDim: number;
  /** Experts that train. */
  readonly trained: number;
  /** Of frozen weights. */
  readonly weights: "f32" | "bf16";
}

export interface PerfRow {
  readonly op: string;
  readonly name: string;
  readonly args: (random: Random) => Args;
  readonly flops: number;
  readonly bytes: number;
}

export const modelSizes: readonly ModelSizes[] = [
  { name: "d256", T: 2048, D: 256, F: 128, E: 64, K: 6, V: 8192, heads: 8, headDim: 32, trained: 8, weights: "f32" },
  { name: "olmoe", T: 512, D: 2048, F: 1024, E: 64, K: 8, V: 50304, heads: 16, headDim: 128, trained: 8, weights: "bf16" },
  { name: "v2lite", T: 512, D: 2048, F: 1408, E: 64, K: 6, V: 102400, heads: 16, headDim: 128, trained: 8, weights: "bf16" },
];

const bytesOf = { f32: 4, bf16: 2, i32: 4, i64: 8, f64: 8, u8: 1 } as const;

/** A routing like a trained model's: some experts twice as busy as others, none empty for long. */
function routing(s: ModelSizes, r: Random): { offsets: HostTensor; rows: HostTensor } {
  const counts = new Array<number>(s.E).fill(0);
  for (let t = 0; t < s.T; t++) {
    const chosen = new Set<number>();
    while (chosen.size < s.K) chosen.add(Math.min(s.E - 1, Math.floor(s.E * r.uniform() ** 1.3)));
    for (const e of chosen) counts[e]! += 1;
  }
  return { offsets: offsetsOf(counts), rows: r.ints([s.T * s.K], s.T) };
}

/** A block of normal numbers, repeated: quick to make. */
function quick(r: Random, shape: readonly number[], scale = 1, dtype: "f32" | "bf16" = "f32"): HostTensor {
  const block = r.normal([Math.min(65536, sizeOf(shape))], scale, dtype).values as Float32Array;
  const values = new Float32Array(sizeOf(shape));
  for (let i = 0; i < values.length; i += block.length) values.set(block.subarray(0, Math.min(block.length, values.length - i)), i);
  return { dtype, shape, values };
}

export function perfRows(s: ModelSizes): readonly PerfRow[] {
  const { T, D, F, E, K, V } = s;
  const N = T * K;
  const size = bytesOf[s.weights];
  const mats = (r: Random, count: number, rows: number, cols: number): HostTensor[] =>
    Array.from({ length: count }, () => quick(r, [rows, cols], 0.05, s.weights));
  const grouped = { segments: 1, act: 0, precision: 0 };
  const upWeights = 2 * E * F * D * size;
  const downWeights = E * D * F * size;
  const groups = Array.from({ length: s.trained }, (_, i) => Math.floor((i * E) / s.trained));
  const trainedShare = s.trained / E;
  const row = (op: string, name: string, flops: number, bytes: number, args: (r: Random) => Args): PerfRow => ({
    op,
    name: `${s.name} ${name}`,
    args,
    flops,
    bytes,
  });
  const dense = (mode: 0 | 1 | 2, name: string): PerfRow => {
    const [m, n, k] = mode === 2 ? [D, D, T] : [T, D, D];
    return row("gemm", name, 2 * m * n * k, 4 * (T * D * 2) + D * D * (mode === 2 ? 4 : size), (r) => ({
      a: quick(r, [T, D]),
      b: mode === 2 ? quick(r, [T, D]) : quick(r, [D, D], 0.05, s.weights),
      c: out([m, n]),
      mode,
      accumulate: 0,
      precision: 0,
    }));
  };
  const heads = { T, heads: s.heads, kDim: s.headDim };
  const pairs = (T * (T + 1)) / 2;
  return [
    row("grouped_gemm_nt", "gate and up, gathered, SwiGLU", 4 * N * D * F, 4 * (T * D + N * 3 * F) + upWeights, (r) => {
      const g = routing(s, r);
      return {
        ...grouped,
        x: quick(r, [T, D]),
        rows: g.rows,
        w: mats(r, 2 * E, F, D),
        offsets: g.offsets,
        h: out([N, 2 * F]),
        y: out([N, F]),
        segments: 2,
        act: 1,
      };
    }),
    row("grouped_gemm_nt", "down", 2 * N * D * F, 4 * N * (D + F) + downWeights, (r) => ({
      ...grouped,
      x: quick(r, [N, F]),
      w: mats(r, E, D, F),
      offsets: routing(s, r).offsets,
      y: out([N, D]),
    })),
    row("grouped_gemm_nn", "down backward with SwiGLU and gate", 2 * N * D * F, 4 * (T * D + N * 4 * F) + downWeights, (r) => {
      const g = routing(s, r);
      return {
        ...grouped,
        dy: quick(r, [T, D]),
        rows: g.rows,
        w: mats(r, E, D, F),
        offsets: g.offsets,
        h: quick(r, [N, 2 * F]),
        gate: quick(r, [N]),
        dx: out([N, 2 * F]),
        dgate: out([N]),
        groups: [],
        act: 1,
      };
    }),
    row("grouped_gemm_nn", "gate and up backward", 4 * N * D * F, 4 * N * (D + 2 * F) + upWeights, (r) => ({
      ...grouped,
      dy: quick(r, [N, 2 * F]),
      w: mats(r, 2 * E, F, D),
      offsets: routing(s, r).offsets,
      dx: out([N, D]),
      groups: [],
      segments: 2,
    })),
    row(
      "grouped_gemm_tn",
      `gate and up gradients of ${s.trained}/${E} experts`,
      4 * N * D * F * trainedShare,
      4 * (N * 2 * F + T * D) * trainedShare + 16 * s.trained * F * D,
      (r) => {
        const g = routing(s, r);
        return {
          dy: quick(r, [N, 2 * F]),
          x: quick(r, [T, D]),
          x_rows: g.rows,
          offsets: g.offsets,
          dw: groups.flatMap(() => [zeros("f32", [F, D]), zeros("f32", [F, D])]),
          groups,
          segments: 2,
          x_act: 0,
          precision: 0,
        };
      },
    ),
    row(
      "grouped_gemm_tn",
      `down gradients of ${s.trained}/${E} experts`,
      2 * N * D * F * trainedShare,
      4 * (T * D + N * 2 * F) * trainedShare + 8 * s.trained * F * D,
      (r) => {
        const g = routing(s, r);
        return {
          dy: quick(r, [T, D]),
          dy_rows: g.rows,
          dy_scale: quick(r, [N]),
          x: quick(r, [N, 2 * F]),
          offsets: g.offsets,
          dw: groups.map(() => zeros("f32", [D, F])),
          groups,
          segments: 1,
          x_act: 1,
          precision: 0,
        };
      },
    ),
    row("combine", "weighted, into the residual stream", 2 * N * D, 4 * (N * D + 2 * T * D), combine(T, K, D, { accumulate: true })),
    row("topk_route", "softmax", 0, 8 * T * E, route(T, E, K)),
    row("route_backward", "softmax", 0, 8 * T * E, routeBackward(T, E, K, {}, { pos: true })),
    row("expert_sort", "", 0, 20 * N, sort(T, K, E)),
    dense(0, "projection"),
    dense(1, "projection backward"),
    dense(2, "projection gradient"),
    row("rms_norm", "", 4 * T * D, 8 * T * D, rmsNorm(T, D)),
    row(
      "rms_norm_backward",
      "into the residual stream",
      8 * T * D,
      16 * T * D,
      rmsNormBackward(T, D, { accumulate: true, dweight: false }),
    ),
    row("rope", "", 3 * T * s.heads * s.headDim, 8 * T * s.heads * s.headDim, (r) => ({ ...rope(T, s.heads, s.headDim, s.headDim)(r) })),
    row("attention", "causal", 4 * pairs * s.heads * s.headDim, 16 * T * s.heads * s.headDim, attention(heads)),
    // Softmax statistics by the cheap way: what the backward computes does not depend on their values.
    row("attention_backward", "causal", 10 * pairs * s.heads * s.headDim, 32 * T * s.heads * s.headDim, (r) => {
      const small = attentionBackward({ ...heads, T: 1 })(r);
      const forward = attention(heads)(r);
      const like = (name: string): HostTensor => out(tensor(forward, name).shape);
      const { out: _out, lse: _lse, ...rest } = forward;
      return {
        ...small,
        ...rest,
        dout: quick(r, like("out").shape),
        out: quick(r, like("out").shape),
        lse: quick(r, [T, s.heads]),
        dq: like("q"),
        dk: like("k"),
        dv: like("v"),
      };
    }),
    row("linear_cross_entropy", "frozen head", 4 * T * V * D, 8 * T * D + V * D * size, (r) => ({
      ...loss(1, 2, 1, { dw: false, labels: () => i32([0]) })(r),
      x: quick(r, [T, D]),
      w: quick(r, [V, D], 0.05, s.weights),
      labels: r.ints([T], V),
      row_loss: out([T]),
      dx: out([T, D]),
    })),
    row(
      "adamw",
      `${s.trained} experts`,
      12 * 3 * s.trained * F * D,
      28 * 3 * s.trained * F * D,
      adamw(
        groups.flatMap(() => [
          [F, D],
          [F, D],
          [D, F],
        ]),
      ),
    ),
    row("add", "strided", T * D, 12 * T * D, (r) => ({ a: strided(quick(r, [T, D])), b: quick(r, [T, D]), y: out([T, D]), alpha: 1 })),
  ];
}
