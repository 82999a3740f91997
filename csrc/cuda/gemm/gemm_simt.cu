// Exact products with f32 multiply-add: any mix of f32 and bf16 operands, all modes, precision 0 and 1. For router weights in f32,
// gradients of router logits and whatever the tensor cores do not take.
//
// Limit: FMA rate (67 TFLOP/s on an H200); tiles of 64 x 64, 4 x 4 sums per thread, the next 16 of the contraction fetched into
// registers while the current are multiplied: expected at 30-50 % of it. A router at T = 8192, D = 2048, E = 64 is 2.1 GFLOP.
// A contraction that is long beside few tiles is cut into parts that are summed in order (split_sum.cuh).
#include "../host/launch.h"
#include "gemm_paths.h"
#include "mma_epilogue.cuh"
#include "split_sum.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kTile = 64, kStep = 16, kPitch = kTile + 4;

struct Operand {
  const void* data;
  int64_t ld;
  int32_t is_bf16;
};

struct SimtParams {
  Operand a, b;
  int64_t m, n, k;
  Output out;
  const void* bias;
  int32_t bias_bf16;
  int32_t round;  // f32 operands are rounded to bf16 first
  int32_t splits;
  int64_t split_steps, split_stride;
};

__device__ __forceinline__ float element(const Operand& o, int64_t row, int64_t column, bool round) {
  const int64_t at = row * o.ld + column;
  if (o.is_bf16) return to_float(static_cast<const bf16*>(o.data)[at]);
  const float x = static_cast<const float*>(o.data)[at];
  return round ? to_float(from_float<bf16>(x)) : x;
}

// Four elements of a 64 x 16 tile. kContiguous: the contraction runs along the rows of the matrix.
template <bool kContiguous>
__device__ __forceinline__ void fetch(float (&v)[4], const Operand& o, int64_t first, int64_t limit, int64_t k0, int64_t k_end,
                                      bool round) {
  const int t = threadIdx.x;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int64_t row = first + (kContiguous ? t / kStep + i * 16 : t % kTile),
                  k = k0 + (kContiguous ? t % kStep : t / kTile + i * 4);
    const bool inside = row < limit && k < k_end;
    v[i] = inside ? element(o, kContiguous ? row : k, kContiguous ? k : row, round) : 0.f;
  }
}
template <bool kContiguous>
__device__ __forceinline__ void keep(float* tile, const float (&v)[4]) {
  const int t = threadIdx.x;
#pragma unroll
  for (int i = 0; i < 4; i++)
    tile[(kContiguous ? t % kStep : t / kTile + i * 4) * kPitch + (kContiguous ? t / kStep + i * 16 : t % kTile)] = v[i];
}

template <MmaMode kMode>
__global__ void __launch_bounds__(kThreads) multiply(const SimtParams p) {
  ESFT_SHARED(smem);
  float* a = reinterpret_cast<float*>(smem);  // [16][68]
  float* b = a + kStep * kPitch;
  const int64_t tiles_m = ceil_div(p.m, kTile), tiles = tiles_m * ceil_div(p.n, kTile);
  const int64_t tile = blockIdx.x % tiles, split = blockIdx.x / tiles;
  const int64_t m0 = tile % tiles_m * kTile, n0 = tile / tiles_m * kTile;
  const int64_t begin = split * p.split_steps * kStep, end = min_of(p.k, begin + p.split_steps * kStep);
  const int tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4;
  float sums[4][4] = {}, next_a[4], next_b[4];
  fetch<kMode != kTn>(next_a, p.a, m0, p.m, begin, end, p.round);
  fetch<kMode == kNt>(next_b, p.b, n0, p.n, begin, end, p.round);
  for (int64_t k0 = begin; k0 < end; k0 += kStep) {
    keep<kMode != kTn>(a, next_a);
    keep<kMode == kNt>(b, next_b);
    __syncthreads();
    fetch<kMode != kTn>(next_a, p.a, m0, p.m, k0 + kStep, end, p.round);
    fetch<kMode == kNt>(next_b, p.b, n0, p.n, k0 + kStep, end, p.round);
#pragma unroll
    for (int k = 0; k < kStep; k++) {
      const Vec16 va = load16(a + k * kPitch + ty), vb = load16(b + k * kPitch + tx);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] = fmaf(bits_to_float(va.w[i]), bits_to_float(vb.w[j]), sums[i][j]);
    }
    __syncthreads();
  }
  void* data = p.splits > 1 ? static_cast<float*>(p.out.data) + split * p.split_stride : p.out.data;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int64_t row = m0 + ty + i;
    if (row >= p.m) break;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      const int64_t column = n0 + tx + j;
      const int count = int(min_of<int64_t>(2, p.n - column));
      float v[2] = {sums[i][j], sums[i][j + 1]};
      if (kMode == kTn) v[0] += 0.f, v[1] += 0.f;  // as if added to zeros: no -0
#pragma unroll
      for (int q = 0; q < 2; q++)
        if (p.bias && q < count)
          v[q] +=
              p.bias_bf16 ? to_float(static_cast<const bf16*>(p.bias)[column + q]) : static_cast<const float*>(p.bias)[column + q];
      if (kMode == kNt) add_residual(p.out, row, column, count, v[0], v[1]);
      finish_pair(p.out, data, row * p.out.ld + column, count, v[0], v[1]);
    }
  }
}

void launch(MmaMode mode, const SimtParams& p, dim3 grid, Context& c) {
  constexpr size_t kShared = 2 * kStep * kPitch * sizeof(float);
  switch (mode) {
    case kNt: return ESFT_LAUNCH((multiply<kNt>), c, grid, kThreads, kShared, p);
    case kNn: return ESFT_LAUNCH((multiply<kNn>), c, grid, kThreads, kShared, p);
    case kTn: return ESFT_LAUNCH((multiply<kTn>), c, grid, kThreads, kShared, p);
  }
  no_kernel("mode", mode);
}

Operand operand(const esft_tensor& t) { return {t.data, t.ld, t.dtype == ESFT_BF16}; }

}  // namespace

void simt_gemm(const esft_gemm_args& args, Context& c) {
  SimtParams p = {operand(args.a),
                  operand(args.b.tensor),
                  rows(args.c),
                  cols(args.c),
                  args.mode == kTn ? rows(args.a) : cols(args.a),
                  output(args.c, args.accumulate != 0, args.residual),
                  nullptr,
                  0,
                  int32_t(args.precision),
                  1,
                  0,
                  0};
  if (p.m == 0 || p.n == 0) return;
  const Output out = p.out;
  const void* bias = present(args.bias) ? args.bias.data : nullptr;
  const int32_t bias_bf16 = bias && args.bias.dtype == ESFT_BF16;
  const int64_t tiles = ceil_div(p.m, kTile) * ceil_div(p.n, kTile), steps = ceil_div(p.k, kStep);
  p.splits = split_count(2 * c.sms, tiles, steps / 16);
  p.split_steps = ceil_div(steps, p.splits);
  if (p.splits > 1) {
    p.split_stride = p.m * p.n;
    p.out = {c.scratch_of<float>(p.splits * p.split_stride), p.n, 0, 0, p.n % 2 == 0};
  } else {
    p.bias = bias, p.bias_bf16 = bias_bf16;
  }
  launch(MmaMode(args.mode), p, dim3(unsigned(tiles * p.splits)), c);
  if (p.splits > 1) sum_splits({static_cast<float*>(p.out.data), p.split_stride, p.m, p.n, out, bias, bias_bf16, p.splits}, c);
}

}  // namespace esft::cuda
