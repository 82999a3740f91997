// regroup. Bound by bytes: a thread per element, neighbours of a part's run are neighbours in memory on both sides.
#include "../host/launch.h"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256;

struct RegroupParams {
  const void* x;
  void* y;
  int64_t elements, cols, x_ld, y_ld, groups, width;
  int32_t parts, widths[ESFT_REGROUP_PARTS];
  bool inverse;
};

template <class T>
__global__ void __launch_bounds__(kThreads) regroup_kernel(RegroupParams p) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.elements) return;
  const Place at = place_of(i, p.cols, 1);
  int64_t end = 0, before = 0, width = 1;  // of a group: columns up to here, those before the element's part, those of that part
#pragma unroll
  for (int part = 0; part < ESFT_REGROUP_PARTS; part++) {  // unrolled: an index of its own would put the widths on the stack
    if (at.col >= p.groups * end) before = end, width = p.widths[part];
    end += p.widths[part];
    if (part + 1 == p.parts) break;
  }
  const int64_t inside = at.col - p.groups * before, g = inside / width;
  const int64_t by_group = g * p.width + before + inside - g * width;
  const T* x = static_cast<const T*>(p.x) + at.row * p.x_ld;
  T* y = static_cast<T*>(p.y) + at.row * p.y_ld;
  y[p.inverse ? by_group : at.col] = x[p.inverse ? at.col : by_group];
}

}  // namespace

void run_regroup(const esft_regroup_args& a, Context& context) {
  RegroupParams p = {};
  p.x = a.x.data, p.x_ld = a.x.ld;
  p.y = a.y.data, p.y_ld = a.y.ld;
  p.elements = numel(a.x);
  p.cols = cols(a.x);
  p.groups = a.groups;
  p.parts = int32_t(a.widths.count);
  p.inverse = a.inverse != 0;
  for (int i = 0; i < p.parts; i++) p.width += p.widths[i] = int32_t(a.widths.items[i]);
  if (p.elements == 0) return;
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    ESFT_LAUNCH((regroup_kernel<T>), context, grid_of(p.elements, kThreads), kThreads, 0, p);
  });
}

}  // namespace esft::cuda
