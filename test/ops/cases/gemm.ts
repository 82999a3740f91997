// Cases of gemm (csrc/ops/gemm.h).

import { at, colsOf, f32, has, number, out, rounded, rowsOf, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";

/** The product as its definition, in f64. */
function expected(a: Args): Record<string, Float64Array> {
  const A = tensor(a, "a");
  const B = tensor(a, "b");
  const C = tensor(a, "c");
  const mode = number(a, "mode");
  const round = rounded(a);
  const [M, N] = [rowsOf(C), colsOf(C)];
  const K = mode === 2 ? rowsOf(A) : colsOf(A);
  const c = new Float64Array(M * N);
  for (let m = 0; m < M; m++)
    for (let n = 0; n < N; n++) {
      let s = a.accumulate === 1 ? at(C, m, n) : 0;
      for (let k = 0; k < K; k++) s += round(mode === 2 ? at(A, k, m) : at(A, m, k)) * round(mode === 0 ? at(B, n, k) : at(B, k, n));
      c[m * N + n] = s + (has(a, "bias") ? tensor(a, "bias").values[n]! : 0) + (has(a, "residual") ? at(tensor(a, "residual"), m, n) : 0);
    }
  return { c };
}

interface Options {
  readonly w?: "f32" | "bf16";
  readonly bias?: "f32" | "bf16";
  readonly residual?: boolean;
  readonly accumulate?: boolean;
  readonly bf16?: boolean;
  readonly strided?: boolean;
  /** Of the numbers in b. */
  readonly scale?: number;
}

function build(mode: 0 | 1 | 2, M: number, N: number, K: number, o: Options = {}) {
  return (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    return {
      a: wrap(r.normal(mode === 2 ? [K, M] : [M, K])),
      b: wrap(r.normal(mode === 0 ? [N, K] : [K, N], o.scale ?? 1, o.w ?? "f32")),
      bias: o.bias ? r.normal([N], 1, o.bias) : null,
      residual: o.residual ? wrap(r.normal([M, N])) : null,
      c: wrap(o.accumulate ? r.normal([M, N]) : out([M, N])),
      mode,
      accumulate: o.accumulate ? 1 : 0,
      precision: o.bf16 ? 1 : 0,
    };
  };
}

const row = (name: string, mode: 0 | 1 | 2, M: number, N: number, K: number, o: Options = {}): OpCase => ({
  op: "gemm",
  name: `${["nt", "nn", "tn"][mode]} ${M}x${N}x${K} ${name}`,
  args: build(mode, M, N, K, o),
  k: K,
  expected,
});

export const gemmCases: readonly OpCase[] = ([0, 1, 2] as const)
  .flatMap((mode) => [
    row("one element", mode, 1, 1, 1),
    row("one row", mode, 1, 67, 130),
    row("one column", mode, 67, 1, 33),
    row("uneven tails", mode, 37, 53, 71),
    row("several blocks", mode, 129, 150, 200),
    row("long sum", mode, 5, 18, 1500),
    row("wide", mode, 9, 700, 40),
    row("tall", mode, 700, 9, 40),
    row("bf16 weights", mode, 37, 53, 71, { w: "bf16" }),
    row("bf16 weights, blocks", mode, 100, 96, 128, { w: "bf16" }),
    row("bf16 compute", mode, 37, 53, 71, { bf16: true }),
    row("bf16 compute and weights", mode, 70, 64, 160, { w: "bf16", bf16: true }),
    row("bf16 compute, odd sum", mode, 19, 35, 129, { w: "bf16", bf16: true, accumulate: true }),
    row("accumulating", mode, 37, 53, 71, { accumulate: true }),
    row("accumulating, bf16 weights", mode, 33, 65, 100, { accumulate: true, w: "bf16" }),
    row("strided views", mode, 37, 53, 71, { strided: true }),
    row("strided, accumulating, bf16", mode, 37, 53, 71, { strided: true, accumulate: true, w: "bf16" }),
    row("no rows", mode, 0, 8, 8),
    row("no columns", mode, 8, 0, 8),
    row("empty sum", mode, 5, 7, 0),
    row("empty sum, accumulating", mode, 5, 7, 0, { accumulate: true }),
  ])
  .concat([
    row("bias", 0, 37, 53, 71, { bias: "f32" }),
    row("bf16 bias", 0, 37, 53, 71, { bias: "bf16", w: "bf16" }),
    row("bias, accumulating, strided", 0, 130, 33, 40, { bias: "f32", accumulate: true, strided: true }),
    row("bias of an empty sum", 0, 5, 7, 0, { bias: "f32" }),
    // Longer than a pass over the panels of B.
    row("several passes, bias", 0, 3, 35, 3000, { bias: "f32" }),
    row("several passes, accumulating, bf16 weights", 0, 3, 35, 2900, { accumulate: true, w: "bf16" }),
    row("residual", 0, 37, 53, 71, { residual: true }),
    row("residual, whole tiles", 0, 150, 128, 96, { residual: true, w: "bf16" }),
    row("residual, bias, strided", 0, 37, 53, 71, { residual: true, bias: "f32", strided: true }),
    row("residual of an empty sum", 0, 5, 7, 0, { residual: true }),
    row("several passes, residual", 0, 3, 64, 3000, { residual: true }),
    row("several passes, residual, bias, bf16 weights", 0, 9, 35, 2900, { residual: true, bias: "bf16", w: "bf16" }),
    row("several passes", 1, 3, 35, 3000),
    row("several passes", 2, 3, 35, 3000),
    row("several passes, bf16 compute", 2, 3, 35, 3001, { bf16: true }),
    // Groups of panels are larger in the last pass than in the first: their scratch is that of the largest.
    row("a short last pass", 0, 3, 64, 3073),
    row("a short last pass, bf16 weights", 0, 3, 96, 6145, { w: "bf16" }),
    row("a short last pass, bf16 compute", 0, 3, 96, 6145, { bf16: true }),
  ]);

/** Sizes around the tiles of the CUDA kernels (128 rows, 64 of the sum), aligned and just not; bf16 operands. */
export const gemmTileCases: readonly OpCase[] = ([0, 1, 2] as const).flatMap((mode) => [
  row("whole tiles", mode, 256, 256, 128, { bf16: true, w: "bf16" }),
  row("one past the tiles", mode, 136, 264, 200, { bf16: true, w: "bf16" }),
  row("one short of the tiles", mode, 120, 248, 184, { bf16: true, w: "bf16", accumulate: true }),
  row("odd sizes", mode, 129, 257, 193, { bf16: true, w: "bf16" }),
  row("one row, wide", mode, 1, 512, 256, { bf16: true, w: "bf16" }),
  row("long sum", mode, 72, 64, 2048, { bf16: true, w: "bf16" }),
  ...(mode === 0
    ? [
        row("whole tiles, residual", mode, 256, 256, 128, { bf16: true, w: "bf16", residual: true }),
        row("odd sizes, residual, bias", mode, 129, 257, 193, { bf16: true, w: "bf16", residual: true, bias: "f32" }),
        row("one past the tiles, residual", mode, 136, 264, 200, { bf16: true, w: "bf16", residual: true }),
        row("odd sizes apart, residual", mode, 136, 264, 200, { bf16: true, w: "bf16", residual: true, strided: true }),
        row("long sum, residual", mode, 72, 64, 2048, { bf16: true, w: "bf16", residual: true }),
      ]
    : []),
]);

/** Each operand of its own dtype, as a step with bf16 activations needs them; at precision 0 only f32 operands differ from bf16. */
const mixed = (
  name: string,
  mode: 0 | 1 | 2,
  M: number,
  N: number,
  K: number,
  dtypes: readonly ["f32" | "bf16", "f32" | "bf16", "f32" | "bf16"],
  o: { accumulate?: boolean; residual?: boolean; bias?: "f32" | "bf16"; precision?: 0 | 1 } = {},
): OpCase => ({
  op: "gemm",
  name: `${["nt", "nn", "tn"][mode]} ${M}x${N}x${K} ${name}, precision ${o.precision ?? 0}`,
  args: (r) => ({
    a: r.normal(mode === 2 ? [K, M] : [M, K], 1, dtypes[0]),
    b: r.normal(mode === 0 ? [N, K] : [K, N], 1, dtypes[1]),
    bias: o.bias ? r.normal([N], 1, o.bias) : null,
    residual: o.residual ? r.normal([M, N], 1, dtypes[2]) : null,
    c: o.accumulate ? r.normal([M, N], 1, dtypes[2]) : out([M, N], dtypes[2]),
    mode,
    accumulate: o.accumulate ? 1 : 0,
    precision: o.precision ?? 0,
  }),
  k: K,
  expected,
});
export const mixedGemmCases: readonly OpCase[] = ([0, 1] as const).flatMap((precision) => [
  mixed("router logits", 0, 40, 64, 128, ["bf16", "bf16", "f32"], { precision }),
  mixed("router logits, uneven", 0, 37, 61, 71, ["bf16", "bf16", "f32"], { precision }),
  mixed("router logits of an f32 router", 0, 40, 64, 128, ["bf16", "f32", "f32"], { precision }),
  mixed("router logits with a bias", 0, 40, 64, 128, ["bf16", "bf16", "f32"], { precision, bias: "f32" }),
  mixed("dx of the router into the residual stream", 1, 40, 128, 64, ["f32", "bf16", "bf16"], { precision, accumulate: true }),
  mixed("dx of an f32 router into the residual stream", 1, 40, 128, 64, ["f32", "f32", "bf16"], { precision, accumulate: true }),
  mixed("dx of the router, uneven", 1, 37, 71, 61, ["f32", "bf16", "bf16"], { precision, accumulate: true }),
  mixed("gradient of the router", 2, 64, 128, 40, ["f32", "bf16", "f32"], { precision, accumulate: true }),
  mixed("gradient of the router, uneven", 2, 61, 71, 37, ["f32", "bf16", "f32"], { precision, accumulate: true }),
  mixed("weight gradient", 2, 96, 128, 200, ["bf16", "bf16", "f32"], { precision, accumulate: true }),
  mixed("weight gradient, overwritten", 2, 96, 128, 200, ["bf16", "bf16", "f32"], { precision }),
  mixed("y with a bf16 bias", 0, 130, 136, 192, ["bf16", "bf16", "bf16"], { precision, bias: "bf16" }),
  mixed("y added to", 0, 130, 136, 192, ["bf16", "bf16", "bf16"], { precision, accumulate: true }),
  mixed("y beside a residual", 0, 130, 136, 192, ["bf16", "bf16", "bf16"], { precision, residual: true, bias: "bf16" }),
  mixed("f32 y beside a residual", 0, 130, 136, 192, ["bf16", "bf16", "f32"], { precision, residual: true }),
  mixed("exact y beside a residual", 0, 37, 61, 71, ["f32", "bf16", "f32"], { precision, residual: true }),
  mixed("dx added to", 1, 130, 136, 192, ["bf16", "bf16", "bf16"], { precision, accumulate: true }),
]);

export const gemmBase: OpCase = {
  op: "gemm",
  name: "base",
  args: (r) => ({ ...build(0, 4, 6, 5)(r), bias: f32([6], [1, 2, 3, 4, 5, 6]) }),
};

// ---- performance ------------------------------------------------------------------------------------------------------

type Dtype = "f32" | "f32-bf16w" | "bf16";

/** y_MN = x_MK · W_NKᵀ; "-nn" is its dx = dy · W, "-tn" its dW += dyᵀ · x. */
function product(on: Backend, dtype: Dtype, K: number, N: number, M: number, mode: "" | "-nn" | "-tn" = ""): PerfRow {
  const o = { bf16: dtype === "bf16", w: mode === "-tn" || dtype === "f32" ? "f32" : "bf16", accumulate: mode === "-tn" } as const;
  return perfCall(
    `gemm/${K}x${N}/${dtype}/M${M}${mode}`,
    on,
    { M, N, K },
    "gemm",
    (s, r) => {
      if (mode === "-nn") return build(1, s.M, s.K, s.N, { ...o, scale: s.N ** -0.5 })(r);
      if (mode === "-tn") return build(2, s.N, s.K, s.M, o)(r);
      return build(0, s.M, s.N, s.K, { ...o, scale: s.K ** -0.5 })(r);
    },
    (s) => ({ flops: 2 * s.M * s.N * s.K }),
  );
}

/** On the CPU small experts and the sizes of DeepSeek-V2-Lite; on cuda that model's projections with 8192 tokens, and 8192³. */
export const gemmPerf: readonly PerfRow[] = [
  ...(
    [
      [2048, 1408],
      [1408, 2048],
      [2048, 2048],
      [512, 512],
      [256, 256],
      [256, 128],
    ] as const
  ).flatMap(([K, N]) =>
    [16, 64, 192, 1024].flatMap((M) => (["f32", "f32-bf16w", "bf16"] as const).map((dtype) => product("cpu", dtype, K, N, M))),
  ),
  // One token and eight: bound by reading weights.
  ...[1, 8].flatMap((M) => (["f32-bf16w", "bf16"] as const).map((dtype) => product("cpu", dtype, 2048, 8192, M))),
  ...(["f32-bf16w", "bf16"] as const).flatMap((dtype) =>
    (["-nn", "-tn"] as const).map((mode) => product("cpu", dtype, 2048, 2048, 1024, mode)),
  ),
  ...(
    [
      [8192, 8192],
      [2048, 3072],
      [2048, 576],
      [512, 4096],
      [2048, 2048],
      [2048, 2816],
      [2816, 2048],
      [2048, 10944],
      [10944, 2048],
    ] as const
  ).flatMap(([K, N]) => (["", "-nn"] as const).map((mode) => product("cuda", "bf16", K, N, 8192, mode))),
];
