// heads_gemm. Bound by reading the weights once, where few tokens are decoded: eight tokens at a time meet each of them, in f32 sums.
// The order of a sum is that of k alone, so a token's bits do not depend on the others. Long pieces of prompts read the weights from L2.
#include "../../ops/checks.h"
#include "../host/launch.h"
#include "../reduce.cuh"
#include "../rows/rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kWarps = 8, kTokens = 8;

struct HeadsParams {
  const void *x, *w;
  void* y;
  int64_t T, k, n, x_ld, w_ld, y_ld;
  int64_t x_dim, w_dim, y_dim, first_row;
  int64_t blocks;  // of a head's columns of y
  int32_t heads, round;
};

// An operand of the product.
template <class T>
__device__ __forceinline__ float factor(T x, bool round) {
  if constexpr (sizeof(T) == 2) return to_float(x);
  return round ? to_float(from_float<bf16>(to_float(x))) : to_float(x);
}

struct Share {
  int64_t head, column, token;
};
// Which head, columns and tokens are this block's.
__device__ __forceinline__ Share share_of(const HeadsParams& p, int columns) {
  const int64_t of_tokens = p.blocks * p.heads, token = blockIdx.x / of_tokens, rest = blockIdx.x - token * of_tokens;
  const int64_t head = rest / p.blocks;
  return {head, (rest - head * p.blocks) * columns, token * kTokens};
}

// y = x·Wᵀ: a warp has one row of W, its lanes share the sum.
template <class A, class B>
__global__ void __launch_bounds__(kWarps * 32) heads_nt_kernel(const EarlyStart early, const HeadsParams p) {
  early.wait();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Share s = share_of(p, kWarps);
  const int64_t column = s.column + warp;
  if (column >= p.n) return;
  const A* x = static_cast<const A*>(p.x) + s.head * p.x_dim;
  const B* w = static_cast<const B*>(p.w) + (s.head * p.w_dim + p.first_row + column) * p.w_ld;
  const int tokens = int(min_of<int64_t>(kTokens, p.T - s.token));
  float sums[kTokens] = {};
#pragma unroll 2
  for (int64_t k = lane; k < p.k; k += 32) {
    const float weight = factor(w[k], p.round);
#pragma unroll
    for (int i = 0; i < kTokens; i++)
      if (i < tokens) sums[i] = fmaf(factor(x[(s.token + i) * p.x_ld + k], p.round), weight, sums[i]);
  }
  A* y = static_cast<A*>(p.y) + s.head * p.y_dim + column;
#pragma unroll
  for (int i = 0; i < kTokens; i++) {
    const float sum = warp_sum(sums[i]);
    if (i < tokens && lane == 0) y[(s.token + i) * p.y_ld] = from_float<A>(sum);
  }
}

// y = x·W: lanes own columns, warp w takes every eighth row of W from the w-th on, and the eight sums are added in order.
template <class A, class B>
__global__ void __launch_bounds__(kWarps * 32) heads_nn_kernel(const EarlyStart early, const HeadsParams p) {
  early.wait();
  ESFT_SHARED(smem);
  float* parts = reinterpret_cast<float*>(smem);  // [warps][tokens][32]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Share s = share_of(p, 32);
  const int64_t column = s.column + lane;
  const A* x = static_cast<const A*>(p.x) + s.head * p.x_dim;
  const B* w = static_cast<const B*>(p.w) + (s.head * p.w_dim + p.first_row) * p.w_ld + column;
  const int tokens = int(min_of<int64_t>(kTokens, p.T - s.token));
  float sums[kTokens] = {};
  for (int64_t k = warp; k < p.k; k += kWarps) {
    const float weight = column < p.n ? factor(w[k * p.w_ld], p.round) : 0.f;
#pragma unroll
    for (int i = 0; i < kTokens; i++)
      if (i < tokens) sums[i] = fmaf(factor(x[(s.token + i) * p.x_ld + k], p.round), weight, sums[i]);
  }
#pragma unroll
  for (int i = 0; i < kTokens; i++) parts[(warp * kTokens + i) * 32 + lane] = sums[i];
  __syncthreads();
  // Warp i adds up token i.
  if (warp >= tokens || column >= p.n) return;
  float total = 0.f;
#pragma unroll
  for (int q = 0; q < kWarps; q++) total += parts[(q * kTokens + warp) * 32 + lane];
  static_cast<A*>(p.y)[(s.token + warp) * p.y_ld + s.head * p.y_dim + column] = from_float<A>(total);
}

static_assert(kTokens <= kWarps);

}  // namespace

void run_heads_gemm(const esft_heads_gemm_args& a, Context& c) {
  expect_plain("heads_gemm", "w", a.w.scaling);
  const esft_tensor& w = a.w.tensor;
  const bool nt = a.mode == 0;
  HeadsParams p = {};
  p.x = a.x.data, p.x_ld = a.x.ld, p.x_dim = cols(a.x) / a.heads;
  p.w = w.data, p.w_ld = w.ld, p.w_dim = rows(w) / a.heads;
  p.y = a.y.data, p.y_ld = a.y.ld, p.y_dim = cols(a.y) / a.heads;
  p.T = rows(a.x), p.k = nt ? cols(w) : a.head_rows, p.n = nt ? a.head_rows : cols(w);
  p.first_row = a.first_row, p.heads = int32_t(a.heads), p.round = int32_t(a.precision);
  p.blocks = ceil_div(p.n, nt ? kWarps : 32);
  const dim3 grid(unsigned(p.blocks * a.heads * ceil_div(p.T, kTokens)));
  by_float_type(a.x, [&](auto activation) {
    by_float_type(w, [&](auto weight) {
      using A = typename decltype(activation)::type;
      using B = typename decltype(weight)::type;
      if (nt)
        ESFT_LAUNCH((heads_nt_kernel<A, B>), c, grid, kWarps * 32, 0, p);
      else
        ESFT_LAUNCH((heads_nn_kernel<A, B>), c, grid, kWarps * 32, kWarps * kTokens * 32 * sizeof(float), p);
    });
  });
}

}  // namespace esft::cuda
