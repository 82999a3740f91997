// Activations of trained experts' rows (activation_rows.cuh), and the sums of split contractions (split_sum.cuh): the row-wise
// companions of the products. Limit: bytes. A warp per row and 16 bytes per lane where rows allow it: expected at 80-90 % of the
// bandwidth.
#include "activation_rows.cuh"

#include "../host/launch.h"
#include "mma_epilogue.cuh"
#include "split_sum.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256;

struct RowParams {
  ActivationRows r;
  FaultRecord* faults;
};

template <bool kVector>
__global__ void __launch_bounds__(kThreads) activation_rows(const EarlyStart early, const RowParams params) {
  early.wait();
  const ActivationRows& p = params.r;
  const int lane = threadIdx.x % 32;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  for (int64_t r = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; r < p.n; r += warps) {
    if (!row_is_listed(p.offsets, p.experts, p.groups, p.group_count, r)) continue;
    int64_t from = p.x.index ? p.x.index[r] : r;
    float scale = p.scale ? p.scale[r] : 1.f;
    const bool valid = from >= 0 && from < p.x.count;
    if (!valid && lane == 0) report_fault(params.faults, kBadIndex, p.op, p.x.argument, r, from, p.x.count);
    const bf16* x = p.x.data + (valid ? from * p.x.ld : 0);
    bf16* out = p.out + r * p.out_ld;
    constexpr int kWidth = kVector ? 8 : 1;
    for (int64_t k = lane * kWidth; k < p.k; k += 32 * kWidth) {
      float a[8], up[8];
      if (!valid) {
        for (int i = 0; i < kWidth; i++) out[k + i].bits = 0;
      } else if constexpr (kVector) {
        unpack8(load16(x + k), a);
        if (p.act.kind) unpack8(load16(x + p.k + k), up);
#pragma unroll
        for (int i = 0; i < 8; i++) a[i] = scale * (p.act.kind ? gated_value<bf16>(p.act, a[i], up[i]) : a[i]);
        store16(out + k, pack8(a));
      } else {
        a[0] = to_float(x[k]);
        if (p.act.kind) a[0] = gated_value<bf16>(p.act, a[0], to_float(x[p.k + k]));
        out[k] = from_float<bf16>(scale * a[0]);
      }
    }
  }
}

template <bool kPairs>
__global__ void __launch_bounds__(kThreads) add_splits(const EarlyStart early, const SplitSum p) {
  early.wait();
  constexpr int kWidth = kPairs ? 2 : 1;
  const int64_t row_items = p.columns / kWidth, count = p.rows * row_items;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int64_t row = i / row_items, column = (i - row * row_items) * kWidth;
    const float* part = p.partials + row * p.columns + column;
    float v0 = 0.f, v1 = 0.f;
    for (int s = 0; s < p.splits; s++, part += p.stride) {
      if (kPairs) {
        const Pair x = *reinterpret_cast<const Pair*>(part);
        v0 += x.v[0], v1 += x.v[1];
      } else {
        v0 += part[0];
      }
    }
    if (p.bias) {
      v0 += p.bias_bf16 ? to_float(static_cast<const bf16*>(p.bias)[column]) : static_cast<const float*>(p.bias)[column];
      if (kPairs)
        v1 += p.bias_bf16 ? to_float(static_cast<const bf16*>(p.bias)[column + 1]) : static_cast<const float*>(p.bias)[column + 1];
    }
    add_residual(p.out, row, column, kWidth, v0, v1);
    finish_pair(p.out, p.out.data, row * p.out.ld + column, kWidth, v0, v1);
  }
}

}  // namespace

void make_activation_rows(const ActivationRows& rows, Context& c) {
  if (rows.n == 0 || rows.group_count == 0) return;
  const bool vector = vector_rows(rows.x.data, rows.x.ld, rows.k);
  const dim3 grid(unsigned(min_of<int64_t>(ceil_div(rows.n, kThreads / 32), c.sms * 8)));
  const RowParams p{rows, c.faults};
  if (vector)
    ESFT_LAUNCH((activation_rows<true>), c, grid, kThreads, 0, p);
  else
    ESFT_LAUNCH((activation_rows<false>), c, grid, kThreads, 0, p);
}

void sum_splits(const SplitSum& s, Context& c) {
  const bool pairs = s.columns % 2 == 0;
  const int64_t items = s.rows * s.columns / (pairs ? 2 : 1);
  const dim3 grid(unsigned(min_of<int64_t>(ceil_div(items, kThreads), c.sms * 16)));
  if (pairs)
    ESFT_LAUNCH((add_splits<true>), c, grid, kThreads, 0, s);
  else
    ESFT_LAUNCH((add_splits<false>), c, grid, kThreads, 0, s);
}

}  // namespace esft::cuda
