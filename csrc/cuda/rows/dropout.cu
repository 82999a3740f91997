// dropout: bound by bytes; a thread has two vectors of 16 bytes in flight and computes the mask of its elements from their places.
#include "../host/launch.h"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kUnroll = 2;

struct DropoutParams {
  const void* x;
  void* y;
  int64_t x_ld, y_ld, cols, per_row, groups;
  const double* counter;
  uint64_t seed;  // mixed
  uint32_t dropped;
  float factor;
};

__host__ __device__ __forceinline__ uint64_t mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
__device__ __forceinline__ uint32_t mix32(uint32_t z) {
  z = (z ^ (z >> 16)) * 0x7feb352du;
  z = (z ^ (z >> 15)) * 0x846ca68bu;
  return z ^ (z >> 16);
}

template <class T, int kVec>
__global__ void __launch_bounds__(kThreads) dropout_kernel(const EarlyStart early, const DropoutParams p) {
  early.wait();
  const uint64_t key = mix64(p.seed + uint64_t(*p.counter));
  const int64_t first = int64_t(blockIdx.x) * (kThreads * kUnroll) + threadIdx.x;
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    const int64_t g = first + u * kThreads;
    if (g >= p.groups) break;
    const Place at = place_of(g, p.per_row, kVec);
    const uint32_t row = uint32_t(mix64(key + uint64_t(at.row)) >> 32);
    const T* x = static_cast<const T*>(p.x) + at.row * p.x_ld;
    T* y = static_cast<T*>(p.y) + at.row * p.y_ld;
    if (at.col + kVec <= p.cols) {
      float f[kVec];
      to_floats(load_elements<kVec>(x + at.col), f);
#pragma unroll
      for (int j = 0; j < kVec; j++) f[j] = mix32(row + uint32_t(at.col + j) * 0x9e3779b9u) >= p.dropped ? f[j] * p.factor : 0.f;
      store_elements(y + at.col, from_floats<T>(f));
    } else {
      for (int64_t c = at.col; c < p.cols; c++)
        y[c] = from_float<T>(mix32(row + uint32_t(c) * 0x9e3779b9u) >= p.dropped ? to_float(x[c]) * p.factor : 0.f);
    }
  }
}

}  // namespace

void run_dropout(const esft_dropout_args& a, Context& context) {
  if (rows(a.x) == 0 || cols(a.x) == 0) return;
  DropoutParams p{};
  p.x = a.x.data, p.x_ld = a.x.ld, p.y = a.y.data, p.y_ld = a.y.ld;
  p.cols = cols(a.x);
  p.counter = data<double>(a.counter);
  p.seed = mix64(uint64_t(a.seed));
  p.dropped = uint32_t(a.p * 4294967296.0);
  p.factor = float(1 / (1 - a.p));
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int kVec = 16 / int(sizeof(T));
    const auto launch = [&](auto vec) {
      constexpr int kThisVec = decltype(vec)::value;
      p.per_row = ceil_div(p.cols, kThisVec);
      p.groups = p.per_row * rows(a.x);
      ESFT_LAUNCH((dropout_kernel<T, kThisVec>), context, grid_of(p.groups, kThreads * kUnroll), kThreads, 0, p);
    };
    if (rows_aligned16(a.x) && rows_aligned16(a.y))
      launch(Constant<kVec>{});
    else
      launch(Constant<1>{});
  });
}

}  // namespace esft::cuda
