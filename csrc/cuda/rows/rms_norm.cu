// rms_norm. Bound by bytes: each row is read and written once.
//
// A group of lanes owns a row and keeps it in registers between the sum and the output: 16 or 32 lanes where eight vectors per
// lane hold the row, else a block. A lane has its row's loads in flight together. Rows that cannot be read in 16-byte vectors
// use the same kernels with one element per vector; rows too long for registers a kernel that reads them twice.
#include <math.h>

#include "rms_norm.cuh"

namespace esft::cuda {

namespace {

struct NormParams {
  const void* x;
  const void* weight;  // or nullptr: offset is the factor
  void* y;
  float* rstd;  // or nullptr
  int64_t rows, cols, x_ld, y_ld;
  float eps, inv_cols, offset;  // offset: added to the weight
};

// kLanes = 0: the block owns a row.
template <class T, class W, int kVec, int kCount, int kLanes>
__global__ void __launch_bounds__(kLanes ? kNormWarpThreads : kNormBlockThreads)
    rms_norm_kernel(const EarlyStart early, NormParams p) {
  early.wait();
  ESFT_SHARED(smem);
  const int lanes = kLanes ? kLanes : blockDim.x, lane = threadIdx.x % lanes;
  const int64_t row = int64_t(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  const bool valid = row < p.rows;  // shuffles need whole warps
  const T* x = static_cast<const T*>(p.x) + (valid ? row : 0) * p.x_ld;
  Elements<T, kVec> e[kCount];
#pragma unroll
  for (int k = 0; k < kCount; k++) {
    const int64_t c = int64_t(k * lanes + lane) * kVec;
    e[k] = valid && c < p.cols ? load_elements<kVec>(x + c) : zero_elements<T, kVec>();
  }
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kCount; k++) {
    float f[kVec];
    to_floats(e[k], f);
#pragma unroll
    for (int j = 0; j < kVec; j++) sum += f[j] * f[j];
  }
  if constexpr (kLanes != 0)
    sum = lanes_sum<kLanes>(sum);
  else
    sum = block_sum(sum, reinterpret_cast<float*>(smem));
  if (!valid) return;
  const float rstd = 1.0f / sqrtf(sum * p.inv_cols + p.eps);
  if (p.rstd && lane == 0) p.rstd[row] = rstd;
  T* y = static_cast<T*>(p.y) + row * p.y_ld;
  const W* weight = static_cast<const W*>(p.weight);
  constexpr int kBatch = kCount < 4 ? kCount : 4;  // weights read before the next store: the compiler keeps loads behind stores
#pragma unroll
  for (int first = 0; first < kCount; first += kBatch) {
    Elements<W, kVec> w[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const int64_t c = int64_t((first + i) * lanes + lane) * kVec;
      w[i] = load_weight<kVec>(weight, c, c < p.cols);
    }
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const int64_t c = int64_t((first + i) * lanes + lane) * kVec;
      if (c >= p.cols) continue;
      float f[kVec], g[kVec];
      to_floats(e[first + i], f);
      to_floats(w[i], g);
#pragma unroll
      for (int j = 0; j < kVec; j++) f[j] = f[j] * rstd * (p.offset + g[j]);
      store_elements(y + c, from_floats<T>(f));
    }
  }
}

// Rows of any length: the block reads its row twice.
template <class T, class W>
__global__ void __launch_bounds__(kNormBlockThreads) rms_norm_long_kernel(const EarlyStart early, NormParams p) {
  early.wait();
  ESFT_SHARED(smem);
  const T* x = static_cast<const T*>(p.x) + blockIdx.x * p.x_ld;
  T* y = static_cast<T*>(p.y) + blockIdx.x * p.y_ld;
  const W* weight = static_cast<const W*>(p.weight);
  float sum = 0.0f;
  for (int64_t c = threadIdx.x; c < p.cols; c += blockDim.x) {
    const float f = to_float(x[c]);
    sum += f * f;
  }
  const float rstd = 1.0f / sqrtf(block_sum(sum, reinterpret_cast<float*>(smem)) * p.inv_cols + p.eps);
  if (p.rstd && threadIdx.x == 0) p.rstd[blockIdx.x] = rstd;
  for (int64_t c = threadIdx.x; c < p.cols; c += blockDim.x)
    y[c] = from_float<T>(to_float(x[c]) * rstd * (p.offset + weight_at(weight, c)));
}

template <class T, class W>
void norm(Context& context, const NormParams& p, bool vectors) {
  constexpr int kVec = 16 / int(sizeof(T));
  auto groups = [&](auto vec, auto count, auto lanes) {
    constexpr int kV = decltype(vec)::value, kC = decltype(count)::value, kL = decltype(lanes)::value;
    ESFT_LAUNCH((rms_norm_kernel<T, W, kV, kC, kL>), context, grid_of(p.rows, kNormWarpThreads / kL), kNormWarpThreads, 0, p);
  };
  auto blocks = [&](auto vec, auto count) {
    constexpr int kV = decltype(vec)::value, kC = decltype(count)::value;
    const int threads = int(ceil_div(ceil_div(p.cols, kV * kC), 32) * 32);
    ESFT_LAUNCH((rms_norm_kernel<T, W, kV, kC, 0>), context, unsigned(p.rows), threads, threads / 32 * sizeof(float), p);
  };
  const int64_t n = vectors ? p.cols / kVec : p.cols;  // vectors of a row
  if (vectors && n <= 16) return groups(Constant<kVec>{}, Constant<1>{}, Constant<16>{});
  if (vectors && n <= 32) return groups(Constant<kVec>{}, Constant<1>{}, Constant<32>{});
  if (vectors && n <= 64) return groups(Constant<kVec>{}, Constant<2>{}, Constant<32>{});
  if (vectors && n <= 128) return groups(Constant<kVec>{}, Constant<4>{}, Constant<32>{});
  if (vectors && n <= 256) return groups(Constant<kVec>{}, Constant<8>{}, Constant<32>{});
  if (vectors && n <= 4 * kNormBlockThreads) return blocks(Constant<kVec>{}, Constant<4>{});
  if (vectors && n <= 8 * kNormBlockThreads) return blocks(Constant<kVec>{}, Constant<8>{});
  if (!vectors && n <= 256) return groups(Constant<1>{}, Constant<8>{}, Constant<32>{});
  if (!vectors && n <= 8 * kNormBlockThreads) return blocks(Constant<1>{}, Constant<8>{});
  ESFT_LAUNCH((rms_norm_long_kernel<T, W>), context, unsigned(p.rows), kNormBlockThreads, kNormBlockThreads / 32 * sizeof(float),
              p);
}

}  // namespace

void run_rms_norm(const esft_rms_norm_args& a, Context& context) {
  const int64_t R = rows(a.x), C = cols(a.x);
  if (R == 0) return;
  const NormParams p{a.x.data,
                     weight_of(a.weight),
                     a.y.data,
                     present(a.rstd) ? data<float>(a.rstd) : nullptr,
                     R,
                     C,
                     a.x.ld,
                     a.y.ld,
                     float(a.eps),
                     1.0f / float(C),
                     offset_of(a.weight, a.zero_centred)};
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    const bool vectors = whole_vectors<T>(a.x) && whole_vectors<T>(a.y) && (!present(a.weight) || aligned16(a.weight));
    by_weight_type(a.weight, [&](auto weight) { norm<T, typename decltype(weight)::type>(context, p, vectors); });
  });
}

}  // namespace esft::cuda
