// What rms_norm and its backward share: how rows are given to groups of lanes or to blocks.
#pragma once
#include "../host/launch.h"
#include "../reduce.cuh"
#include "rows.cuh"

namespace esft::cuda {

constexpr int kNormWarpThreads = 256;   // block size where groups are within warps
constexpr int kNormBlockThreads = 512;  // largest block that owns a row

// Sum over a group of kLanes neighbouring lanes of a warp.
template <int kLanes>
__device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step >>= 1) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

// Rows of vectors: whole vectors, 16-byte aligned.
template <class T>
inline bool whole_vectors(const esft_tensor& t) {
  return cols(t) % (16 / int64_t(sizeof(T))) == 0 && rows_aligned16(t);
}
// A vector of the weight; zeros where there is none: its offset is the factor then.
template <int kVec, class W>
__device__ __forceinline__ Elements<W, kVec> load_weight(const W* weight, int64_t c, bool inside) {
  return inside && weight ? load_elements<kVec>(weight + c) : zero_elements<W, kVec>();
}
template <class W>
__device__ __forceinline__ float weight_at(const W* weight, int64_t c) {
  return weight ? to_float(weight[c]) : 0.0f;
}

// f(Type<W>) by the dtype of a weight that may be absent.
template <class F>
void by_weight_type(const esft_tensor& weight, F f) {
  if (present(weight)) return by_float_type(weight, f);
  f(Type<bf16>{});
}
inline const void* weight_of(const esft_tensor& weight) { return present(weight) ? weight.data : nullptr; }
inline float offset_of(const esft_tensor& weight, int64_t zero_centred) { return zero_centred || !present(weight) ? 1.0f : 0.0f; }

inline bool aligned16(const esft_tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }

}  // namespace esft::cuda
