// layer_norm and its backward: a warp per row, which it reads again from L1 for the second statistic and the output. The gradients of
// weight and bias are sums over rows: chunks of them first, then the chunks in order (column_sum.cuh).
#include <math.h>

#include "../host/launch.h"
#include "../reduce.cuh"
#include "column_sum.cuh"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int64_t kLeastChunk = 64;

struct LayerNormParams {
  const void* x;
  const void* weight;
  const void* bias;
  void* y;
  float* mean;  // or nullptr
  float* rstd;  // or nullptr
  int64_t rows, cols, x_ld, y_ld;
  float eps, inv_cols;
};

// f(column, x as floats) for a lane's vectors of a row.
template <int kVec, class T, class F>
__device__ __forceinline__ void each_vector(const T* row, int64_t cols, F f) {
#pragma unroll 4
  for (int64_t c = threadIdx.x % 32 * kVec; c < cols; c += 32 * kVec) {
    float x[kVec];
    to_floats(load_elements<kVec>(row + c), x);
    f(c, x);
  }
}

template <class T, class W, class B, int kVec>
__global__ void __launch_bounds__(32 * kWarps) layer_norm_kernel(const EarlyStart early, const LayerNormParams p) {
  early.wait();
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= p.rows) return;
  const T* x = static_cast<const T*>(p.x) + row * p.x_ld;
  float sum = 0.0f, squares = 0.0f;
  each_vector<kVec>(x, p.cols, [&](int64_t, const float (&v)[kVec]) {
#pragma unroll
    for (int j = 0; j < kVec; j++) sum += v[j];
  });
  const float mean = warp_sum(sum) * p.inv_cols;
  each_vector<kVec>(x, p.cols, [&](int64_t, const float (&v)[kVec]) {
#pragma unroll
    for (int j = 0; j < kVec; j++) squares += (v[j] - mean) * (v[j] - mean);
  });
  const float rstd = 1.0f / sqrtf(warp_sum(squares) * p.inv_cols + p.eps);
  if (threadIdx.x % 32 == 0) {
    if (p.mean) p.mean[row] = mean;
    if (p.rstd) p.rstd[row] = rstd;
  }
  T* y = static_cast<T*>(p.y) + row * p.y_ld;
  each_vector<kVec>(x, p.cols, [&](int64_t c, const float (&v)[kVec]) {
    float w[kVec], b[kVec];
    to_floats(load_elements<kVec>(static_cast<const W*>(p.weight) + c), w);
    to_floats(load_elements<kVec>(static_cast<const B*>(p.bias) + c), b);
#pragma unroll
    for (int j = 0; j < kVec; j++) w[j] = (v[j] - mean) * rstd * w[j] + b[j];
    store_elements(y + c, from_floats<T>(w));
  });
}

struct LayerNormBackwardParams {
  const void* dy;
  const void* x;
  const void* weight;
  const float* mean;
  const float* rstd;
  void* dx;
  float* partial;  // [chunks, cols] of the weight, then of the bias
  int64_t rows, cols, dy_ld, x_ld, dx_ld, chunk, chunks;
  float inv_cols;
  bool accumulate;
};

// dx may be dy: a lane reads its vector of both passes before it writes it.
template <class T, class W, int kVec>
__global__ void __launch_bounds__(32 * kWarps) layer_norm_dx_kernel(const EarlyStart early, const LayerNormBackwardParams p) {
  early.wait();
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= p.rows) return;
  const T* x = static_cast<const T*>(p.x) + row * p.x_ld;
  const T* dy = static_cast<const T*>(p.dy) + row * p.dy_ld;
  T* dx = static_cast<T*>(p.dx) + row * p.dx_ld;
  const float mean = p.mean[row], rstd = p.rstd[row];
  const auto scaled = [&](int64_t c, float (&g)[kVec]) {  // dy · weight
    float w[kVec];
    to_floats(load_elements<kVec>(dy + c), g);
    to_floats(load_elements<kVec>(static_cast<const W*>(p.weight) + c), w);
#pragma unroll
    for (int j = 0; j < kVec; j++) g[j] *= w[j];
  };
  float sum = 0.0f, dot = 0.0f;
  each_vector<kVec>(x, p.cols, [&](int64_t c, const float (&v)[kVec]) {
    float g[kVec];
    scaled(c, g);
#pragma unroll
    for (int j = 0; j < kVec; j++) sum += g[j], dot += g[j] * ((v[j] - mean) * rstd);
  });
  sum = warp_sum(sum) * p.inv_cols;
  dot = warp_sum(dot) * p.inv_cols;
  each_vector<kVec>(x, p.cols, [&](int64_t c, const float (&v)[kVec]) {
    float g[kVec];
    scaled(c, g);
#pragma unroll
    for (int j = 0; j < kVec; j++) g[j] = rstd * (g[j] - sum - (v[j] - mean) * rstd * dot);
    if (p.accumulate) {
      float old[kVec];
      to_floats(load_elements<kVec>(dx + c), old);
#pragma unroll
      for (int j = 0; j < kVec; j++) g[j] += old[j];
    }
    store_elements(dx + c, from_floats<T>(g));
  });
}

// Shares of dweight and dbias of a chunk of rows: a warp takes every eighth of them, lanes own neighbouring columns.
template <class T, int kVec>
__global__ void __launch_bounds__(32 * kWarps) layer_norm_sums_kernel(const EarlyStart early, const LayerNormBackwardParams p) {
  early.wait();
  ESFT_SHARED(smem);
  constexpr int kTile = 32 * kVec;
  float* sums = reinterpret_cast<float*>(smem);  // [2][warps][tile]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t tile = int64_t(blockIdx.x) * kTile, col = tile + lane * kVec;
  const int64_t begin = blockIdx.y * p.chunk, end = min_of(p.rows, begin + p.chunk);
  float dweight[kVec] = {}, dbias[kVec] = {};
  if (col < p.cols) {
#pragma unroll 2
    for (int64_t r = begin + warp; r < end; r += kWarps) {
      float dy[kVec], x[kVec];
      to_floats(load_elements<kVec>(static_cast<const T*>(p.dy) + r * p.dy_ld + col), dy);
      to_floats(load_elements<kVec>(static_cast<const T*>(p.x) + r * p.x_ld + col), x);
      const float mean = p.mean[r], rstd = p.rstd[r];
#pragma unroll
      for (int j = 0; j < kVec; j++) dweight[j] += dy[j] * ((x[j] - mean) * rstd), dbias[j] += dy[j];
    }
  }
#pragma unroll
  for (int j = 0; j < kVec; j++) {
    sums[(warp * kVec + j) * 32 + lane] = dweight[j];
    sums[((kWarps + warp) * kVec + j) * 32 + lane] = dbias[j];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * kTile; i += 32 * kWarps) {
    const int which = i / kTile, within = i % kTile;
    const int64_t c = tile + (within % 32) * kVec + within / 32;
    if (c >= p.cols) continue;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) total += sums[(which * kWarps + w) * kTile + within];
    p.partial[(which * p.chunks + blockIdx.y) * p.cols + c] = total;
  }
}

// The view's rows can be read in vectors of T.
template <class T>
bool in_vectors(const esft_tensor& t) {
  return cols(t) % (16 / int64_t(sizeof(T))) == 0 && rows_aligned16(t);
}
bool aligned(const esft_tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }

float* data_or_null(const esft_tensor& t) { return present(t) ? data<float>(t) : nullptr; }

}  // namespace

void run_layer_norm(const esft_layer_norm_args& a, Context& context) {
  const int64_t R = rows(a.x), C = cols(a.x);
  if (R == 0) return;
  const LayerNormParams p{a.x.data, a.weight.data, a.bias.data, a.y.data,     data_or_null(a.mean), data_or_null(a.rstd), R,
                          C,        a.x.ld,        a.y.ld,      float(a.eps), 1.0f / float(C)};
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int kVec = 16 / int(sizeof(T));
    const bool vectors = in_vectors<T>(a.x) && in_vectors<T>(a.y) && aligned(a.weight) && aligned(a.bias);
    by_float_type(a.weight, [&](auto weight) {
      by_float_type(a.bias, [&](auto bias) {
        using W = typename decltype(weight)::type;
        using B = typename decltype(bias)::type;
        if (vectors)
          ESFT_LAUNCH((layer_norm_kernel<T, W, B, kVec>), context, grid_of(R, kWarps), 32 * kWarps, 0, p);
        else
          ESFT_LAUNCH((layer_norm_kernel<T, W, B, 1>), context, grid_of(R, kWarps), 32 * kWarps, 0, p);
      });
    });
  });
}

void run_layer_norm_backward(const esft_layer_norm_backward_args& a, Context& context) {
  const int64_t R = rows(a.x), C = cols(a.x);
  const bool wants_x = present(a.dx), wants_sums = present(a.dweight) || present(a.dbias);
  if (C == 0 || (!wants_x && !wants_sums)) return;
  const int64_t chunk = rows_per_chunk(R, kLeastChunk), chunks = ceil_div(R, chunk);
  float* partial = wants_sums ? context.scratch_of<float>(2 * chunks * C) : nullptr;
  LayerNormBackwardParams p{};
  p.dy = a.dy.data, p.x = a.x.data, p.weight = a.weight.data;
  p.mean = data<float>(a.mean), p.rstd = data<float>(a.rstd);
  p.dx = wants_x ? a.dx.data : nullptr, p.partial = partial;
  p.rows = R, p.cols = C, p.dy_ld = a.dy.ld, p.x_ld = a.x.ld, p.dx_ld = wants_x ? a.dx.ld : 0;
  p.chunk = chunk, p.chunks = chunks, p.inv_cols = 1.0f / float(C), p.accumulate = a.accumulate != 0;
  if (R > 0)
    by_float_type(a.x, [&](auto type) {
      using T = typename decltype(type)::type;
      constexpr int kVec = 16 / int(sizeof(T));
      const bool vectors = in_vectors<T>(a.x) && in_vectors<T>(a.dy);
      const auto sums = [&](auto vec) {  // first: dx may be dy
        constexpr int kV = decltype(vec)::value;
        ESFT_LAUNCH((layer_norm_sums_kernel<T, kV>), context, dim3(grid_of(C, 32 * kV), unsigned(chunks)), 32 * kWarps,
                    2 * kWarps * 32 * kV * sizeof(float), p);
      };
      if (wants_sums && vectors) sums(Constant<kVec>{});
      if (wants_sums && !vectors) sums(Constant<1>{});
      if (!wants_x) return;
      by_float_type(a.weight, [&](auto weight) {
        using W = typename decltype(weight)::type;
        if (vectors && in_vectors<T>(a.dx) && aligned(a.weight))
          ESFT_LAUNCH((layer_norm_dx_kernel<T, W, kVec>), context, grid_of(R, kWarps), 32 * kWarps, 0, p);
        else
          ESFT_LAUNCH((layer_norm_dx_kernel<T, W, 1>), context, grid_of(R, kWarps), 32 * kWarps, 0, p);
      });
    });
  if (present(a.dweight)) add_partials(context, partial, chunks, C, data<float>(a.dweight), a.accumulate_weight != 0);
  if (present(a.dbias)) add_partials(context, partial + chunks * C, chunks, C, data<float>(a.dbias), a.accumulate_weight != 0);
}

}  // namespace esft::cuda
