// Every op on shapes that matter: products by FLOP/s, the rest by bytes that must move.

import { f32ToBf16 } from "../lib/floats.ts";
import * as ops from "../lib/ops.ts";
import type { Precision } from "../lib/ops.ts";
import type { Device, DType, Tensor } from "../lib/tensor.ts";
import { softmaxRule, uniform } from "./case.ts";
import type { BenchCase, Running } from "./case.ts";

interface Bench {
  readonly device: Device;
  f32(shape: number[], scale?: number): Tensor;
  bf16(shape: number[], scale?: number): Tensor;
  empty(shape: number[], dtype?: DType): Tensor;
  i32(shape: number[], value: (i: number) => number): Tensor;
  hold<X extends { dispose(): void }>(x: X): X;
}

function start(device: Device): Bench & { dispose(): void } {
  const keep: { dispose(): void }[] = [];
  const hold = <X extends { dispose(): void }>(x: X): X => {
    keep.push(x);
    return x;
  };
  const size = (shape: number[]): number => shape.reduce((a, b) => a * b, 1);
  return {
    device,
    hold,
    f32: (shape, scale = 1) => hold(device.tensor("f32", shape, uniform(size(shape), scale))),
    bf16: (shape, scale = 1) => hold(device.tensor("bf16", shape, f32ToBf16(uniform(size(shape), scale)))),
    empty: (shape, dtype = "f32") => hold(device.empty(dtype, shape)),
    i32: (shape, value) =>
      hold(
        device.tensor(
          "i32",
          shape,
          Int32Array.from({ length: size(shape) }, (_, i) => value(i)),
        ),
      ),
    dispose: () => {
      for (const k of keep.toReversed()) k.dispose();
    },
  };
}

function op(
  id: string,
  precision: Precision,
  cost: Pick<BenchCase, "flops" | "bytes" | "tokens" | "product">,
  make: (b: Bench) => () => void,
): BenchCase {
  return {
    id,
    precision,
    ...cost,
    setup: async (device): Promise<Running> => {
      const b = start(device);
      const run = make(b);
      await device.synchronize();
      return { run, dispose: () => b.dispose() };
    },
  };
}

function gemmCases(): BenchCase[] {
  const cases: BenchCase[] = [];
  for (const [K, N] of [
    [2048, 1408],
    [1408, 2048],
    [2048, 2048],
    [512, 512],
    [256, 256],
    [256, 128],
  ] as const)
    for (const M of [16, 64, 192, 1024])
      for (const [precision, weights] of [
        ["f32", "f32"],
        ["f32", "bf16"],
        ["bf16", "bf16"],
      ] as const)
        cases.push(
          op(
            `gemm/${K}x${N}/${precision}${precision !== weights ? "-bf16w" : ""}/M${M}`,
            precision,
            { flops: 2 * M * N * K, ...(precision === "f32" ? { product: { M, N, K } } : {}) },
            (b) => {
              const a = b.f32([M, K]);
              const w = weights === "f32" ? b.f32([N, K]) : b.bf16([N, K]);
              const c = b.empty([M, N]);
              return () => ops.gemm(b.device, "nt", { a, b: w, c, precision });
            },
          ),
        );
  return cases;
}

function attentionCases(): BenchCase[] {
  const cases: BenchCase[] = [];
  for (const [hd, S] of [
    [64, 512],
    [64, 2048],
    [128, 512],
    [128, 2048],
  ] as const)
    for (const precision of ["f32", "bf16"] as const)
      for (const mode of ["fwd", "bwd"] as const) {
        const heads = 4;
        const T = 4096;
        const documents = T / S;
        const flops = documents * heads * 2 * S * S * hd * (mode === "fwd" ? 1 : 2.5);
        cases.push(
          op(`attention/hd${hd}-S${S}/${precision}/${mode}`, precision, { flops, tokens: T }, (b) => {
            const C = heads * hd;
            const [q, k, v, dout] = [b.f32([T, C]), b.f32([T, C]), b.f32([T, C]), b.f32([T, C])];
            const [out, lse, dq, dk, dv] = [b.empty([T, C]), b.empty([T, heads]), b.empty([T, C]), b.empty([T, C]), b.empty([T, C])];
            const docStart = b.i32([T], (t) => Math.floor(t / S) * S);
            const layout = {
              heads,
              kvHeads: heads,
              kDim: hd,
              kOffset: 0,
              kStride: hd,
              vDim: hd,
              vOffset: 0,
              vStride: hd,
              window: 0,
              scale: hd ** -0.5,
            };
            ops.attention(b.device, { q, k, v, docStart, out, lse, layout, precision });
            return mode === "fwd"
              ? () => ops.attention(b.device, { q, k, v, docStart, out, lse, layout, precision })
              : () => ops.attentionBackward(b.device, { dout, q, k, v, docStart, out, lse, dq, dk, dv, layout, precision });
          }),
        );
      }
  return cases;
}

function headCases(): BenchCase[] {
  const cases: BenchCase[] = [];
  for (const [T, D, V] of [
    [4096, 256, 8192],
    [1024, 2048, 32768],
  ] as const)
    for (const precision of ["f32", "bf16"] as const)
      cases.push(
        op(`head/d${D}-V${V}/${precision}/train`, precision, { flops: 4 * T * D * V, tokens: T }, (b) => {
          const x = b.f32([T, D]);
          const w = b.bf16([V, D], 0.05);
          const labels = b.i32([T], (t) => (t * 7919) % V);
          const loss = b.empty([1], "f64");
          const dx = b.empty([T, D]);
          return () => ops.linearCrossEntropy(b.device, { x, w, labels, loss, dx, gradScale: 1 / T, precision });
        }),
      );
  return cases;
}

function memoryCases(): BenchCase[] {
  const T = 4096;
  const D = 2048;
  const [E, K, F] = [64, 6, 1408];
  const n = 16 * 1024 * 1024;
  return [
    op(`rms_norm/${T}x${D}`, "f32", { bytes: T * D * 8 }, (b) => {
      const [x, weight, y, rstd] = [b.f32([T, D]), b.f32([D]), b.empty([T, D]), b.empty([T])];
      return () => ops.rmsNorm(b.device, { x, weight, y, rstd, eps: 1e-6 });
    }),
    op(`rms_norm_backward/${T}x${D}`, "f32", { bytes: T * D * 16 }, (b) => {
      const [x, weight, y, rstd, dy, dx] = [b.f32([T, D]), b.f32([D]), b.empty([T, D]), b.empty([T]), b.f32([T, D]), b.empty([T, D])];
      ops.rmsNorm(b.device, { x, weight, y, rstd, eps: 1e-6 });
      return () => ops.rmsNormBackward(b.device, { dy, x, weight, rstd, dx, accumulate: true });
    }),
    op(`rope/${T}x16x128`, "f32", { bytes: T * 2048 * 8 }, (b) => {
      const [x, cos, sin] = [b.f32([T, 2048]), b.f32([T, 64]), b.f32([T, 64])];
      const positions = b.i32([T], (t) => t);
      return () => ops.rope(b.device, { x, positions, cos, sin, y: x, heads: 16 });
    }),
    op(`swiglu/${T}x${F}`, "f32", { bytes: T * F * 12 }, (b) => {
      const [h, a] = [b.f32([T, 2 * F]), b.empty([T, F])];
      return () => ops.swiglu(b.device, { h, a });
    }),
    op(`add/${T}x${D}`, "f32", { bytes: T * D * 12 }, (b) => {
      const [x, z, y] = [b.f32([T, D]), b.f32([T, D]), b.empty([T, D])];
      return () => ops.add(b.device, { a: x, b: z, y });
    }),
    op(`embedding/${T}x${D}`, "f32", { bytes: T * D * 6 }, (b) => {
      const table = b.bf16([32768, D]);
      const ids = b.i32([T], (t) => (t * 7919) % 32768);
      const y = b.empty([T, D]);
      return () => ops.embedding(b.device, { ids, table, y });
    }),
    op(`topk_route/${T}x${E}`, "f32", { bytes: T * E * 8, tokens: T }, (b) => {
      const logits = b.f32([T, E]);
      const [ids, weights, probs] = [b.empty([T, K], "i32"), b.empty([T, K]), b.empty([T, E])];
      return () => ops.topkRoute(b.device, { logits, ids, weights, probs, rule: softmaxRule });
    }),
    op(`expert_sort/${T}x${K}`, "f32", { bytes: T * K * 20, tokens: T }, (b) => {
      const ids = b.i32([T, K], (i) => (i * 7919 + Math.floor(i / 6) * 31) % E);
      const weights = b.f32([T, K]);
      const [offsets, tokens, pos, gate] = [b.empty([E + 1], "i32"), b.empty([T * K], "i32"), b.empty([T, K], "i32"), b.empty([T * K])];
      return () => ops.expertSort(b.device, { ids, weights, offsets, tokens, pos, gate });
    }),
    op(`combine/${T}x${K}x${D}`, "f32", { bytes: T * D * 4 * (K + 1), tokens: T }, (b) => {
      const x = b.f32([T * K, D]);
      const pos = b.i32([T, K], (i) => (i * 7919) % (T * K));
      const [weights, y] = [b.f32([T, K]), b.empty([T, D])];
      return () => ops.combine(b.device, { x, pos, weights, y });
    }),
    op(`adamw/${n}`, "f32", { bytes: n * 28 }, (b) => {
      const [p, g, m, v] = [b.f32([n]), b.f32([n]), b.empty([n]), b.empty([n])].map((t) => b.hold(b.device.list([t])));
      return () =>
        ops.adamw(b.device, {
          params: p!,
          grads: g!,
          m: m!,
          v: v!,
          maxNorm: 0,
          lr: 1e-5,
          beta1: 0.9,
          beta2: 0.95,
          eps: 1e-8,
          weightDecay: 0.1,
          step: 1,
        });
    }),
    op(`grad_norm/${n}`, "f32", { bytes: n * 4 }, (b) => {
      const grads = b.hold(b.device.list([b.f32([n])]));
      const norm = b.empty([1], "f64");
      return () => ops.gradNorm(b.device, { grads, norm });
    }),
  ];
}

export function opCases(): BenchCase[] {
  return [...gemmCases(), ...attentionCases(), ...headCases(), ...memoryCases()];
}
