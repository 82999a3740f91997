// Element types and vector access that every kernel uses.
#pragma once
#include "ptx.cuh"

namespace esft::cuda {

// bf16 as bits: storage only, arithmetic is f32.
struct bf16 {
  uint16_t bits;
};

__host__ __device__ __forceinline__ float bits_to_float(uint32_t u) {
  union {
    uint32_t u;
    float f;
  } x;
  x.u = u;
  return x.f;
}
__host__ __device__ __forceinline__ uint32_t float_to_bits(float f) {
  union {
    float f;
    uint32_t u;
  } x;
  x.f = f;
  return x.u;
}

__host__ __device__ __forceinline__ float to_float(bf16 x) { return bits_to_float(uint32_t(x.bits) << 16); }
__host__ __device__ __forceinline__ float to_float(float x) { return x; }
// The two halves of a packed pair.
__host__ __device__ __forceinline__ float lo_float(uint32_t pair) { return bits_to_float(pair << 16); }
__host__ __device__ __forceinline__ float hi_float(uint32_t pair) { return bits_to_float(pair & 0xffff0000u); }

// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return bf16{uint16_t(ptx::pack_bf16x2(x, 0.f) & 0xffff)};
}

// Says that a pointer which a kernel reads from a table is to device memory: global accesses instead of generic ones.
template <class T>
__device__ __forceinline__ T* in_global(T* p) {
#if !defined(ESFT_EMU)
  __builtin_assume(__isGlobal(p));
#endif
  return p;
}

// Sixteen bytes at once: pointers must be 16-byte aligned.
struct alignas(16) Vec16 {
  uint32_t w[4];
};
__device__ __forceinline__ Vec16 load16(const void* p) { return *static_cast<const Vec16*>(p); }
__device__ __forceinline__ void store16(void* p, Vec16 v) { *static_cast<Vec16*>(p) = v; }
// Eight f32 from eight packed bf16, and back.
__device__ __forceinline__ void unpack8(Vec16 v, float (&f)[8]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    f[2 * i] = lo_float(v.w[i]);
    f[2 * i + 1] = hi_float(v.w[i]);
  }
}
__device__ __forceinline__ Vec16 pack8(const float (&f)[8]) {
  Vec16 v;
#pragma unroll
  for (int i = 0; i < 4; i++) v.w[i] = ptx::pack_bf16x2(f[2 * i], f[2 * i + 1]);
  return v;
}

__host__ __device__ __forceinline__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <class T>
__host__ __device__ __forceinline__ T min_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
__host__ __device__ __forceinline__ T max_of(T a, T b) {
  return a > b ? a : b;
}

}  // namespace esft::cuda
