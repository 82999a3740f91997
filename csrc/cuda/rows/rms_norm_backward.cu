// rms_norm_backward. Bound by bytes: dy and x are read and dx is written once.
//
// A block takes a fixed chunk of rows and several of them at a time, so that one barrier serves several sums. Each thread owns
// the same columns of every row, sums their share of dweight in registers, and writes one partial row per chunk; column_sum.cuh
// adds those in order: no atomics, and no bit depends on the grid. Which lanes own a row: as in rms_norm.cu. A frozen norm, the
// usual one here, has a kernel of its own.
#include "column_sum.cuh"
#include "rms_norm.cuh"

namespace esft::cuda {

namespace {

constexpr int64_t kLeastChunk = 32;
constexpr int kDxThreads = 128;

struct NormBackwardParams {
  const void* dy;
  const void* x;
  const void* weight;  // or nullptr: offset is the factor
  const float* rstd;
  void* dx;        // or nullptr
  float* partial;  // [chunks, cols] or nullptr
  int64_t rows, cols, dy_ld, x_ld, dx_ld, chunk;
  float inv_cols, offset;  // offset: added to the weight
  bool accumulate;
};

// A group (kLanes lanes; 0: the block) takes kRows rows at a time: rows group, group + groups, … of the block's chunk.
template <class T, class W, int kVec, int kCount, int kLanes, int kRows>
__global__ void __launch_bounds__(kLanes ? kNormWarpThreads : kNormBlockThreads)
    rms_norm_backward_kernel(const EarlyStart early, NormBackwardParams p) {
  early.wait();
  ESFT_SHARED(smem);
  float* shared = reinterpret_cast<float*>(smem);
  const int lanes = kLanes ? kLanes : blockDim.x, lane = threadIdx.x % lanes;
  const int group = threadIdx.x / lanes, groups = blockDim.x / lanes;
  const int64_t begin = blockIdx.x * p.chunk, end = min_of(p.rows, begin + p.chunk);
  const W* weight = static_cast<const W*>(p.weight);
  float dweight[kCount][kVec];
  Elements<W, kVec> w[kCount];
#pragma unroll
  for (int k = 0; k < kCount; k++) {
    const int64_t c = int64_t(k * lanes + lane) * kVec;
    w[k] = load_weight<kVec>(weight, c, c < p.cols);
#pragma unroll
    for (int j = 0; j < kVec; j++) dweight[k][j] = 0.0f;
  }

  int turn = 0;
  for (int64_t first = begin; first < end; first += groups * kRows, turn ^= 1) {  // the same number of turns for all groups
    Elements<T, kVec> dy[kRows][kCount], x[kRows][kCount];
    float rstd[kRows], dot[kRows];
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      const int64_t row = first + i * groups + group;
      rstd[i] = row < end ? p.rstd[row] : 0.0f;
#pragma unroll
      for (int k = 0; k < kCount; k++) {
        const int64_t c = int64_t(k * lanes + lane) * kVec;
        const bool valid = row < end && c < p.cols;
        dy[i][k] = valid ? load_elements<kVec>(static_cast<const T*>(p.dy) + row * p.dy_ld + c) : zero_elements<T, kVec>();
        x[i][k] = valid ? load_elements<kVec>(static_cast<const T*>(p.x) + row * p.x_ld + c) : zero_elements<T, kVec>();
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      dot[i] = 0.0f;
#pragma unroll
      for (int k = 0; k < kCount; k++) {
        float f[kVec], g[kVec], wf[kVec];
        to_floats(dy[i][k], f);
        to_floats(x[i][k], g);
        to_floats(w[k], wf);
#pragma unroll
        for (int j = 0; j < kVec; j++) {
          const float product = f[j] * g[j];
          dot[i] += product * (p.offset + wf[j]);
          dweight[k][j] += product * rstd[i];
        }
      }
    }
    if (!p.dx) continue;
    if constexpr (kLanes != 0) {
#pragma unroll
      for (int i = 0; i < kRows; i++) dot[i] = lanes_sum<kLanes>(dot[i]);
    } else {  // two buffers in turn: one barrier per turn
      const int warps = blockDim.x / 32;
      float* sums = shared + turn * (warps * kRows);
#pragma unroll
      for (int i = 0; i < kRows; i++) {
        const float sum = warp_sum(dot[i]);
        if (threadIdx.x % 32 == 0) sums[(threadIdx.x / 32) * kRows + i] = sum;
        dot[i] = 0.0f;
      }
      __syncthreads();
      for (int s = 0; s < warps; s++)
#pragma unroll
        for (int i = 0; i < kRows; i++) dot[i] += sums[s * kRows + i];
    }
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      const int64_t row = first + i * groups + group;
      const float scaled = rstd[i] * (dot[i] * rstd[i] * p.inv_cols);
#pragma unroll
      for (int k = 0; k < kCount; k++) {
        const int64_t c = int64_t(k * lanes + lane) * kVec;
        if (row >= end || c >= p.cols) continue;
        float f[kVec], g[kVec], wf[kVec];
        to_floats(dy[i][k], f);
        to_floats(x[i][k], g);
        to_floats(w[k], wf);
#pragma unroll
        for (int j = 0; j < kVec; j++) f[j] = rstd[i] * (f[j] * (p.offset + wf[j]) - g[j] * scaled);
        T* dx = static_cast<T*>(p.dx) + row * p.dx_ld + c;
        if (p.accumulate) {
          to_floats(load_elements<kVec>(dx), g);
#pragma unroll
          for (int j = 0; j < kVec; j++) f[j] += g[j];
        }
        store_elements(dx, from_floats<T>(f));
      }
    }
  }

  if (!p.partial) return;
  float* partial = p.partial + blockIdx.x * p.cols;
  if constexpr (kLanes == 0) {
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      const int64_t c = int64_t(k * lanes + lane) * kVec;
#pragma unroll
      for (int j = 0; j < kVec; j++)
        if (c + j < p.cols) partial[c + j] = dweight[k][j];
    }
  } else {  // the groups in order; shared is [groups][kCount · kLanes · kVec]
    constexpr int kPitch = kCount * kLanes * kVec;
#pragma unroll
    for (int k = 0; k < kCount; k++)
#pragma unroll
      for (int j = 0; j < kVec; j++) shared[group * kPitch + (k * kVec + j) * kLanes + lane] = dweight[k][j];
    __syncthreads();
    for (int i = threadIdx.x; i < kPitch; i += blockDim.x) {
      const int64_t c = int64_t(i / (kVec * kLanes) * kLanes + i % kLanes) * kVec + i / kLanes % kVec;
      if (c >= p.cols) continue;
      float sum = 0.0f;
      for (int s = 0; s < groups; s++) sum += shared[s * kPitch + i];
      partial[c] = sum;
    }
  }
}

// dx alone, where the weight is frozen: a group of lanes owns a row, no block waits for its slowest warp.
template <class T, class W, int kVec, int kCount, int kLanes>
__global__ void __launch_bounds__(kDxThreads) rms_norm_dx_kernel(const EarlyStart early, NormBackwardParams p) {
  early.wait();
  const int lane = threadIdx.x % kLanes;
  const int64_t row = int64_t(blockIdx.x) * (kDxThreads / kLanes) + threadIdx.x / kLanes;
  const bool valid = row < p.rows;  // shuffles need whole warps
  const T* dy = static_cast<const T*>(p.dy) + (valid ? row : 0) * p.dy_ld;
  const T* x = static_cast<const T*>(p.x) + (valid ? row : 0) * p.x_ld;
  const W* weight = static_cast<const W*>(p.weight);
  T* dx = static_cast<T*>(p.dx) + (valid ? row : 0) * p.dx_ld;
  const float rstd = valid ? p.rstd[row] : 0.0f;
  const auto column = [&](int k) { return int64_t(k * kLanes + lane) * kVec; };
  Elements<T, kVec> e_dy[kCount], e_x[kCount];
#pragma unroll
  for (int k = 0; k < kCount; k++) {
    const bool inside = valid && column(k) < p.cols;
    e_dy[k] = inside ? load_elements<kVec>(dy + column(k)) : zero_elements<T, kVec>();
    e_x[k] = inside ? load_elements<kVec>(x + column(k)) : zero_elements<T, kVec>();
  }
  float dot = 0.0f;
#pragma unroll
  for (int k = 0; k < kCount; k++) {
    if (column(k) >= p.cols) continue;
    float f[kVec], g[kVec], w[kVec];
    to_floats(e_dy[k], f);
    to_floats(e_x[k], g);
    to_floats(load_weight<kVec>(weight, column(k), true), w);
#pragma unroll
    for (int j = 0; j < kVec; j++) dot += f[j] * g[j] * (p.offset + w[j]);
  }
  dot = lanes_sum<kLanes>(dot);
  if (!valid) return;
  const float scaled = rstd * (dot * rstd * p.inv_cols);
  constexpr int kBatch = kCount < 4 ? kCount : 4;  // read before the next store: the compiler keeps loads behind stores
#pragma unroll
  for (int first = 0; first < kCount; first += kBatch) {
    Elements<W, kVec> e_w[kBatch];
    Elements<T, kVec> old[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const bool inside = column(first + i) < p.cols;
      e_w[i] = load_weight<kVec>(weight, column(first + i), inside);
      old[i] = inside && p.accumulate ? load_elements<kVec>(dx + column(first + i)) : zero_elements<T, kVec>();
    }
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      if (column(first + i) >= p.cols) continue;
      float f[kVec], g[kVec], w[kVec];
      to_floats(e_dy[first + i], f);
      to_floats(e_x[first + i], g);
      to_floats(e_w[i], w);
#pragma unroll
      for (int j = 0; j < kVec; j++) f[j] = rstd * (f[j] * (p.offset + w[j]) - g[j] * scaled);
      if (p.accumulate) {
        to_floats(old[i], g);
#pragma unroll
        for (int j = 0; j < kVec; j++) f[j] += g[j];
      }
      store_elements(dx + column(first + i), from_floats<T>(f));
    }
  }
}

// Rows of any length: the block reads its rows twice and keeps dweight in its partial row.
template <class T, class W>
__global__ void __launch_bounds__(kNormBlockThreads) rms_norm_backward_long_kernel(const EarlyStart early, NormBackwardParams p) {
  early.wait();
  ESFT_SHARED(smem);
  const int64_t begin = blockIdx.x * p.chunk, end = min_of(p.rows, begin + p.chunk);
  const W* weight = static_cast<const W*>(p.weight);
  float* partial = p.partial ? p.partial + blockIdx.x * p.cols : nullptr;
  for (int64_t row = begin; row < end; row++) {
    const T* dy = static_cast<const T*>(p.dy) + row * p.dy_ld;
    const T* x = static_cast<const T*>(p.x) + row * p.x_ld;
    const float rstd = p.rstd[row];
    float dot = 0.0f;
    for (int64_t c = threadIdx.x; c < p.cols; c += blockDim.x) {
      const float product = to_float(dy[c]) * to_float(x[c]);
      dot += product * (p.offset + weight_at(weight, c));
      if (partial) partial[c] = (row == begin ? 0.0f : partial[c]) + product * rstd;
    }
    if (!p.dx) continue;
    dot = block_sum(dot, reinterpret_cast<float*>(smem));
    const float scaled = rstd * (dot * rstd * p.inv_cols);
    T* dx = static_cast<T*>(p.dx) + row * p.dx_ld;
    for (int64_t c = threadIdx.x; c < p.cols; c += blockDim.x) {
      const float g = rstd * (to_float(dy[c]) * (p.offset + weight_at(weight, c)) - to_float(x[c]) * scaled);
      dx[c] = from_float<T>(p.accumulate ? to_float(dx[c]) + g : g);
    }
  }
}

template <class T, class W>
void norm_backward(Context& context, const NormBackwardParams& p, bool vectors) {
  constexpr int kVec = 16 / int(sizeof(T));
  const unsigned chunks = grid_of(p.rows, p.chunk);
  auto groups = [&](auto vec, auto count, auto lanes, auto rows) {
    constexpr int kV = decltype(vec)::value, kC = decltype(count)::value, kL = decltype(lanes)::value, kR = decltype(rows)::value;
    ESFT_LAUNCH((rms_norm_backward_kernel<T, W, kV, kC, kL, kR>), context, chunks, kNormWarpThreads,
                kNormWarpThreads * kC * kV * sizeof(float), p);
  };
  auto blocks = [&](auto vec, auto count, auto rows) {
    constexpr int kV = decltype(vec)::value, kC = decltype(count)::value, kR = decltype(rows)::value;
    const int threads = int(ceil_div(ceil_div(p.cols, kV * kC), 32) * 32);
    ESFT_LAUNCH((rms_norm_backward_kernel<T, W, kV, kC, 0, kR>), context, chunks, threads, 2 * threads / 32 * kR * sizeof(float),
                p);
  };
  auto dx_alone = [&](auto count, auto lanes) {
    constexpr int kC = decltype(count)::value, kL = decltype(lanes)::value;
    ESFT_LAUNCH((rms_norm_dx_kernel<T, W, kVec, kC, kL>), context, grid_of(p.rows, kDxThreads / kL), kDxThreads, 0, p);
  };
  const int64_t n = vectors ? p.cols / kVec : p.cols;
  if (vectors && !p.partial) {
    if (n <= 16) return dx_alone(Constant<1>{}, Constant<16>{});
    if (n <= 64) return dx_alone(Constant<2>{}, Constant<32>{});
    if (n <= 128) return dx_alone(Constant<4>{}, Constant<32>{});
    if (n <= 256) return dx_alone(Constant<8>{}, Constant<32>{});
  }
  if (vectors && n <= 16) return groups(Constant<kVec>{}, Constant<1>{}, Constant<16>{}, Constant<2>{});
  if (vectors && n <= 64) return groups(Constant<kVec>{}, Constant<2>{}, Constant<32>{}, Constant<2>{});
  if (vectors && n <= kNormBlockThreads) return blocks(Constant<kVec>{}, Constant<1>{}, Constant<4>{});
  if (vectors && n <= 2 * kNormBlockThreads) return blocks(Constant<kVec>{}, Constant<2>{}, Constant<2>{});
  if (vectors && n <= 4 * kNormBlockThreads) return blocks(Constant<kVec>{}, Constant<4>{}, Constant<1>{});
  if (!vectors && n <= 64) return groups(Constant<1>{}, Constant<2>{}, Constant<32>{}, Constant<2>{});
  if (!vectors && n <= 8 * kNormBlockThreads) return blocks(Constant<1>{}, Constant<8>{}, Constant<2>{});
  ESFT_LAUNCH((rms_norm_backward_long_kernel<T, W>), context, chunks, kNormBlockThreads, kNormBlockThreads / 32 * sizeof(float), p);
}

}  // namespace

void run_rms_norm_backward(const esft_rms_norm_backward_args& a, Context& context) {
  const int64_t R = rows(a.x), C = cols(a.x);
  const bool wants_x = present(a.dx), wants_w = present(a.dweight);
  if (C == 0 || (!wants_x && !wants_w)) return;
  // Without dweight chunks only share a barrier: short ones, so that every multiprocessor has several.
  const int64_t chunk = rows_per_chunk(R, wants_w ? kLeastChunk : kLeastChunk / 4), chunks = ceil_div(R, chunk);
  float* partial = wants_w ? context.scratch_of<float>(chunks * C) : nullptr;
  const NormBackwardParams p{a.dy.data,
                             a.x.data,
                             weight_of(a.weight),
                             data<float>(a.rstd),
                             wants_x ? a.dx.data : nullptr,
                             partial,
                             R,
                             C,
                             a.dy.ld,
                             a.x.ld,
                             wants_x ? a.dx.ld : 0,
                             chunk,
                             1.0f / float(C),
                             offset_of(a.weight, a.zero_centred),
                             a.accumulate != 0};
  if (R > 0)
    by_float_type(a.x, [&](auto type) {
      using T = typename decltype(type)::type;
      const bool vectors = whole_vectors<T>(a.x) && whole_vectors<T>(a.dy) && (!wants_x || whole_vectors<T>(a.dx)) &&
                           (!present(a.weight) || aligned16(a.weight));
      by_weight_type(a.weight, [&](auto weight) { norm_backward<T, typename decltype(weight)::type>(context, p, vectors); });
    });
  if (wants_w) add_partials(context, partial, chunks, C, data<float>(a.dweight), a.accumulate_weight != 0);
}

}  // namespace esft::cuda
