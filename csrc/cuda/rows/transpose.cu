// transpose. Bound by bytes: tiles of 32 × 32 go through shared memory, so that both sides are read and written along their rows.
#include "../host/launch.h"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kTile = 32, kRows = 8;  // a block of kTile × kRows threads
constexpr int kPitch = kTile + 1;     // the last column keeps a warp's column in banks of its own

struct TransposeParams {
  const void* x;
  void* y;
  int64_t R, C, x_ld, y_ld, across;  // tiles across a row of x
  int pairs;
};

template <class X, class Y>
__global__ void __launch_bounds__(kTile* kRows) transpose_kernel(TransposeParams p) {
  ESFT_SHARED(smem);
  float* const tile = reinterpret_cast<float*>(smem);
  const int64_t down = blockIdx.x / p.across, r0 = down * kTile, c0 = (blockIdx.x - down * p.across) * kTile;
  const int lane = threadIdx.x % kTile, first = threadIdx.x / kTile;
  const X* x = static_cast<const X*>(p.x);
  Y* y = static_cast<Y*>(p.y);
  for (int i = first; i < kTile; i += kRows)
    if (r0 + i < p.R && c0 + lane < p.C) tile[i * kPitch + lane] = to_float(x[(r0 + i) * p.x_ld + c0 + lane]);
  __syncthreads();
  const int64_t r = r0 + lane, half = p.R / 2;
  const int64_t col = p.pairs != 2 ? r : r < half ? 2 * r : 2 * (r - half) + 1;
  for (int i = first; i < kTile; i += kRows) {
    const int64_t c = c0 + i;
    if (c >= p.C || r >= p.R) continue;
    const int64_t row = p.pairs == 1 ? c / 2 + c % 2 * (p.C / 2) : c;
    y[row * p.y_ld + col] = from_float<Y>(tile[lane * kPitch + i]);
  }
}

}  // namespace

void run_transpose(const esft_transpose_args& a, Context& context) {
  TransposeParams p = {};
  p.x = a.x.data, p.x_ld = a.x.ld;
  p.y = a.y.data, p.y_ld = a.y.ld;
  p.R = rows(a.x), p.C = cols(a.x);
  p.across = ceil_div(p.C, kTile);
  p.pairs = int(a.pairs);
  const int64_t tiles = p.across * ceil_div(p.R, kTile);
  if (tiles == 0) return;
  by_float_type(a.x, [&](auto from) {
    by_float_type(a.y, [&](auto to) {
      using X = typename decltype(from)::type;
      using Y = typename decltype(to)::type;
      ESFT_LAUNCH((transpose_kernel<X, Y>), context, grid_of(tiles, 1), kTile * kRows, kTile * kPitch * sizeof(float), p);
    });
  });
}

}  // namespace esft::cuda
