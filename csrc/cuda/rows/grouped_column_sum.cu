// grouped_column_sum. Bound by reading the rows of the experts that train once. A block owns 32 columns of one expert: warp w takes every
// eighth row from the w-th on, lanes own columns, and the eight sums are added in order.
#include <vector>

#include "../host/launch.h"
#include "index_check.cuh"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kWarps = 8;

struct GroupedSumParams {
  const void* x;
  const int32_t *index, *offsets, *groups;
  const float* scale;
  float* const* y;  // [G·S]
  const int32_t* sizes;  // [S]
  int64_t ld, columns, n;
  int32_t segments, accumulate;
  IndexCheck check;
};

template <class T>
__global__ void __launch_bounds__(kWarps * 32) grouped_sum_kernel(const EarlyStart early, const GroupedSumParams p) {
  early.wait();
  ESFT_SHARED(smem);
  float* sums = reinterpret_cast<float*>(smem);  // [warps][32]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t column = int64_t(blockIdx.y) * 32 + lane;
  const int e = p.groups[blockIdx.x];
  // Offsets that are wrong were reported; no row beyond x's is read for them.
  const int64_t begin = max_of<int64_t>(p.offsets[e], 0), end = min_of<int64_t>(p.offsets[e + 1], p.n);
  const T* x = static_cast<const T*>(p.x);
  float sum = 0.f;
  for (int64_t r = begin + warp; r < end; r += kWarps) {
    int64_t from = r;
    if (p.index) {
      const int32_t value = p.index[r];
      if (lane == 0 && blockIdx.y == 0 ? !p.check.ok(r, value) : value < 0 || value >= p.check.limit) continue;
      from = value;
    }
    if (column < p.columns) sum += (p.scale ? p.scale[r] : 1.f) * to_float(x[from * p.ld + column]);
  }
  sums[warp * 32 + lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= p.columns) return;
  float total = 0.f;
#pragma unroll
  for (int w = 0; w < kWarps; w++) total += sums[w * 32 + lane];
  int64_t at = column;
  int s = 0;
  while (at >= p.sizes[s]) at -= p.sizes[s++];
  float* y = p.y[int64_t(blockIdx.x) * p.segments + s] + at;
  *y = (p.accumulate ? *y : 0.f) + total;
}

}  // namespace

void run_grouped_column_sum(const esft_grouped_column_sum_args& a, Context& c) {
  const int64_t n = present(a.rows) ? numel(a.rows) : rows(a.x);
  check_offsets_on_device(c, ESFT_OP_grouped_column_sum, a.offsets, n);
  if (a.groups.count == 0 || cols(a.x) == 0) return;
  std::vector<float*> y(size_t(a.y.count));
  for (int64_t i = 0; i < a.y.count; i++) y[size_t(i)] = data<float>(a.y.items[i]);
  std::vector<int32_t> sizes(size_t(a.segments));
  for (int64_t s = 0; s < a.segments; s++) sizes[size_t(s)] = int32_t(numel(a.y.items[s]));
  GroupedSumParams p = {};
  p.x = a.x.data, p.ld = a.x.ld, p.columns = cols(a.x), p.n = n;
  p.index = present(a.rows) ? data<int32_t>(a.rows) : nullptr;
  p.scale = present(a.scale) ? data<float>(a.scale) : nullptr;
  p.offsets = data<int32_t>(a.offsets);
  p.groups = c.constant_of(a.groups.items, a.groups.count);
  p.y = c.constant_of(y.data(), a.y.count), p.sizes = c.constant_of(sizes.data(), a.segments);
  p.segments = int32_t(a.segments), p.accumulate = a.accumulate != 0;
  p.check = index_check(c, ESFT_OP_grouped_column_sum, kArgRows, a.rows, rows(a.x));
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    ESFT_LAUNCH((grouped_sum_kernel<T>), c, dim3(unsigned(a.groups.count), grid_of(p.columns, 32)), kWarps * 32,
                kWarps * 32 * sizeof(float), p);
  });
}

}  // namespace esft::cuda
