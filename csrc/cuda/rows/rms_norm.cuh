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
inline bool aligned16(const esft_tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }

}  // namespace esft::cuda
