// column_sum, and the second half of every sum over rows (column_sum.cuh).
// Bound by reading x once. First launch: 8 warps take every eighth row of a chunk, lanes own neighbouring columns, so every load
// is coalesced and several rows are in flight; second: one block per 32 columns over at most 1024 partial rows.
#include "column_sum.cuh"
#include "../host/launch.h"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kSumWarps = 8, kMergeWarps = 32;
constexpr int64_t kLeastRows = 64;

struct ColumnSumParams {
  const void* x;
  float* partial;  // [chunks, cols]
  int64_t rows, cols, ld, chunk;
};

template <class T, int kVec>
__global__ void __launch_bounds__(kSumWarps * 32) column_sum_kernel(const EarlyStart early, ColumnSumParams p) {
  early.wait();
  ESFT_SHARED(smem);
  float* sums = reinterpret_cast<float*>(smem);  // [warps][32 lanes · kVec]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t tile = int64_t(blockIdx.x) * (32 * kVec), col = tile + lane * kVec;
  const int64_t begin = blockIdx.y * p.chunk, end = min_of(p.rows, begin + p.chunk);
  const T* x = static_cast<const T*>(p.x);
  float sum[kVec];
#pragma unroll
  for (int j = 0; j < kVec; j++) sum[j] = 0.0f;
  if (col < p.cols) {
#pragma unroll 4
    for (int64_t r = begin + warp; r < end; r += kSumWarps) {
      float f[kVec];
      to_floats(load_elements<kVec>(x + r * p.ld + col), f);
#pragma unroll
      for (int j = 0; j < kVec; j++) sum[j] += f[j];
    }
  }
#pragma unroll
  for (int j = 0; j < kVec; j++) sums[(warp * kVec + j) * 32 + lane] = sum[j];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * kVec; i += kSumWarps * 32) {
    const int64_t c = tile + (i % 32) * kVec + i / 32;
    if (c >= p.cols) continue;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kSumWarps; w++) total += sums[w * (32 * kVec) + i];
    p.partial[blockIdx.y * p.cols + c] = total;
  }
}

// A block has 32 columns: warp w sums chunks w, w + 32, …, then the warps are added in order.
__global__ void __launch_bounds__(kMergeWarps * 32)
    add_partials_kernel(const EarlyStart early, const float* partial, int64_t chunks, int64_t cols, float* y, bool accumulate) {
  early.wait();
  ESFT_SHARED(smem);
  float* sums = reinterpret_cast<float*>(smem);  // [warps][32]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t col = int64_t(blockIdx.x) * 32 + lane;
  float sum = 0.0f;
  if (col < cols) {
#pragma unroll 8
    for (int64_t k = warp; k < chunks; k += kMergeWarps) sum += partial[k * cols + col];
  }
  sums[warp * 32 + lane] = sum;
  __syncthreads();
  if (warp != 0 || col >= cols) return;
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < kMergeWarps; w++) total += sums[w * 32 + lane];
  y[col] = (accumulate ? y[col] : 0.0f) + total;
}

}  // namespace

void add_partials(Context& context, const float* partial, int64_t chunks, int64_t cols, float* y, bool accumulate) {
  ESFT_LAUNCH((add_partials_kernel), context, grid_of(cols, 32), kMergeWarps * 32, kMergeWarps * 32 * sizeof(float), partial,
              chunks, cols, y, accumulate);
}

void run_column_sum(const esft_column_sum_args& a, Context& context) {
  const int64_t R = rows(a.x), C = cols(a.x);
  if (C == 0) return;
  const int64_t chunk = rows_per_chunk(R, kLeastRows), chunks = ceil_div(R, chunk);
  float* partial = context.scratch_of<float>(chunks * C);
  if (R > 0)
    by_float_type(a.x, [&](auto type) {
      using T = typename decltype(type)::type;
      constexpr int kVec = 16 / int(sizeof(T));
      const ColumnSumParams p{a.x.data, partial, R, C, a.x.ld, chunk};
      if (rows_aligned16(a.x) && C % kVec == 0)
        ESFT_LAUNCH((column_sum_kernel<T, kVec>), context, dim3(grid_of(C, 32 * kVec), unsigned(chunks)), kSumWarps * 32,
                    kSumWarps * 32 * kVec * sizeof(float), p);
      else
        ESFT_LAUNCH((column_sum_kernel<T, 1>), context, dim3(grid_of(C, 32), unsigned(chunks)), kSumWarps * 32,
                    kSumWarps * 32 * sizeof(float), p);
    });
  add_partials(context, partial, chunks, C, data<float>(a.y), a.accumulate != 0);
}

}  // namespace esft::cuda
