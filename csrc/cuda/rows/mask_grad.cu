// mask_grad: zeros in the slices of frozen experts. The host lists them (one table per keep list), so kept slices are neither read
// nor written. Bound by the bytes written: 4 per element, 16-byte stores where the slices allow it.
#include <vector>

#include "../host/launch.h"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kSpan = 16384;  // elements per block: 64 KB

struct MaskParams {
  float* grad;
  const int32_t* dropped;
  int64_t slice_rows, width, ld;  // a slice is slice_rows rows of width elements; one row when contiguous
  int64_t spans;                  // per row
};

template <int kVec>
__global__ void __launch_bounds__(kThreads) zero_slices(const EarlyStart early, const MaskParams p) {
  early.wait();
  const int64_t row = blockIdx.x / p.spans, slice = row / p.slice_rows;
  const int64_t begin = (blockIdx.x - row * p.spans) * kSpan, end = min_of(p.width, begin + kSpan);
  float* x = p.grad + (p.dropped[slice] * p.slice_rows + (row - slice * p.slice_rows)) * p.ld;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * kVec; i < end; i += kThreads * kVec) {
    if (kVec == 4)
      store16(x + i, Vec16{});
    else
      x[i] = 0;
  }
}

}  // namespace

void run_mask_grad(const esft_mask_grad_args& a, Context& c) {
  const esft_tensor& g = a.grad;
  const int64_t E = g.shape[0];
  if (numel(g) == 0 || a.keep.count == E) return;
  std::vector<int32_t> dropped;
  for (int64_t e = 0, kept = 0; e < E; e++) {
    if (kept < a.keep.count && a.keep.items[kept] == e)
      kept++;
    else
      dropped.push_back(int32_t(e));
  }
  MaskParams p{};
  p.grad = data<float>(g);
  p.dropped = c.constant_of(dropped.data(), int64_t(dropped.size()));
  const bool whole = contiguous(g);
  p.slice_rows = whole ? 1 : rows(g) / E;
  p.width = p.ld = whole ? numel(g) / E : cols(g);
  if (!whole) p.ld = g.ld;
  p.spans = ceil_div(p.width, kSpan);
  const int64_t blocks = int64_t(dropped.size()) * p.slice_rows * p.spans;
  if (p.width % 4 == 0 && p.ld % 4 == 0 && reinterpret_cast<uintptr_t>(p.grad) % 16 == 0)
    ESFT_LAUNCH((zero_slices<4>), c, dim3(unsigned(blocks)), kThreads, 0, p);
  else
    ESFT_LAUNCH((zero_slices<1>), c, dim3(unsigned(blocks)), kThreads, 0, p);
}

}  // namespace esft::cuda
