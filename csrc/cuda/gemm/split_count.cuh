// How a long contraction is cut when its output has too few tiles to fill the device.
#pragma once
#include "../types.cuh"

namespace esft::cuda {

// Into how many parts the contraction is cut: as many as fill `target` CTAs. The consumer of the partials calls it too.
__host__ __device__ __forceinline__ int split_count(int64_t target, int64_t tiles, int64_t steps) {
  if (tiles <= 0 || steps <= 1 || target <= tiles) return 1;
  return int(min_of(target / tiles, steps));
}

}  // namespace esft::cuda
