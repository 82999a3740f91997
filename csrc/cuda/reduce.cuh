// Sums and maxima over warps and blocks in a fixed order: the same bits in every run.
#pragma once
#include "types.cuh"

namespace esft::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

// Every lane gets the result (butterfly: the same tree for every lane, so the same bits).
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}
template <class T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x = max_of(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}

// Every thread of the block gets the sum. `scratch`: one T per warp in shared memory; blockDim.x a multiple of 32. Ends with a
// barrier, so scratch may be used again at once.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* scratch) {
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[warp] = x;
  __syncthreads();
  T total = T(0);
  for (int w = 0; w < warps; w++) total += scratch[w];
  __syncthreads();
  return total;
}

}  // namespace esft::cuda
