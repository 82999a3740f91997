// Floats as integers of the same order, which warps and atomics can compare.
#pragma once
#include "../types.cuh"

namespace esft::cuda {

constexpr uint32_t kKeyOfMinusInf = 0x007fffffu;

// −0 and 0 alike; never 0.
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t u = float_to_bits(x + 0.0f);
  return max_of(u >> 31 ? ~u : u | 0x80000000u, 1u);
}
__device__ __forceinline__ float value_of(uint32_t key) { return bits_to_float(key >> 31 ? key & 0x7fffffffu : ~key); }

}  // namespace esft::cuda
