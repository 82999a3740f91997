// The vector type of the instruction set being compiled, over GCC/Clang vector extensions: W f32 lanes.
// One source serves AVX-512 (W = 16), AVX2 (8) and 128-bit machines (4: NEON, SSE2, anything).
// Compile with -ffp-contract=fast so that a*b+c becomes one FMA where the machine has it.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#define ESFT_NEON 1  // part of every ARMv8-A; its extensions (dot products, bf16) are not assumed
#endif

namespace esft::cpu::ESFT_ISA {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
// Vector registers: as many sums as fit stay in them.
#if defined(__AVX512F__) || defined(ESFT_NEON)
#define ESFT_REGISTERS 32
#else
#define ESFT_REGISTERS 16
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef float vfu __attribute__((vector_size(W * 4), aligned(4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef int32_t viu __attribute__((vector_size(W * 4), aligned(4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef uint16_t vhu __attribute__((vector_size(W * 2), aligned(2)));
typedef double vd __attribute__((vector_size(W * 4)));  // W/2 lanes

// Lanes of a and b, counted through both, by constants.
#if defined(__clang__)
#define ESFT_SHUFFLE(index, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ESFT_SHUFFLE(index, a, b, ...) __builtin_shuffle(a, b, (index){__VA_ARGS__})
#endif

#define ESFT_INLINE static inline __attribute__((always_inline))
#define ESFT_LAMBDA __attribute__((always_inline))  // after a lambda's parameters

ESFT_INLINE vf load(const float* p) { return *reinterpret_cast<const vfu*>(p); }
ESFT_INLINE void store(float* p, vf v) { *reinterpret_cast<vfu*>(p) = v; }
ESFT_INLINE vf splat(float x) { return x - vf{}; }  // x - 0 is x for every x, so this is a bare broadcast

// First n < W elements; the rest reads as 0 / is not written.
ESFT_INLINE vf load_part(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  vf v = {};
  for (int64_t i = 0; i < n; i++) v[i] = p[i];
  return v;
#endif
}
ESFT_INLINE void store_part(float* p, vf v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  for (int64_t i = 0; i < n; i++) p[i] = v[i];
#endif
}

ESFT_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
// With a NaN in either, the result is b.
ESFT_INLINE vf vmax(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);  // g++ makes a compare and a blend of the plain form
#else
  return a > b ? a : b;
#endif
}
ESFT_INLINE vf vmin(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#else
  return a < b ? a : b;
#endif
}

// n == W reads or writes a whole vector: with a constant n the choice folds away.
ESFT_INLINE vf load_n(const float* p, int64_t n) { return n == W ? load(p) : load_part(p, n); }
ESFT_INLINE void store_n(float* p, vf v, int64_t n) { n == W ? store(p, v) : store_part(p, v, n); }

ESFT_INLINE vf vsqrt(vf v) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps(0xffff, (__m512)v);  // the plain form warns with g++ 12
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
  return (vf)_mm_sqrt_ps((__m128)v);
#elif defined(ESFT_NEON)
  return (vf)vsqrtq_f32((float32x4_t)v);
#else
  for (int i = 0; i < W; i++) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

// Sum and maximum of the lanes: halves folded onto each other, in a fixed order.
typedef float v4f __attribute__((vector_size(16)));
typedef int32_t vi4 __attribute__((vector_size(16)));
#define ESFT_FOLD_LANES(v, OP)                                              \
  v4f q[W / 4];                                                             \
  memcpy(q, &v, sizeof q);                                                  \
  for (int s = W / 8; s > 0; s /= 2)                                        \
    for (int i = 0; i < s; i++) q[i] = OP(q[i], q[i + s]);                  \
  v4f t = OP(q[0], ESFT_SHUFFLE(vi4, q[0], q[0], 2, 3, 0, 1));            \
  return OP(t, ESFT_SHUFFLE(vi4, t, t, 1, 0, 3, 2))[0];
#define ESFT_ADD(a, b) ((a) + (b))
#define ESFT_MAX(a, b) ((a) > (b) ? (a) : (b))
ESFT_INLINE float hsum(vf v) { ESFT_FOLD_LANES(v, ESFT_ADD) }
ESFT_INLINE float hmax(vf v) { ESFT_FOLD_LANES(v, ESFT_MAX) }
#undef ESFT_FOLD_LANES
#undef ESFT_ADD
#undef ESFT_MAX

// Bit i = lane i of a comparison is true.
ESFT_INLINE uint32_t lane_bits(vi mask) {
#if defined(__AVX512F__)
  return _mm512_cmplt_epi32_mask((__m512i)mask, _mm512_setzero_si512());
#elif defined(__AVX2__)
  return (uint32_t)_mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
  return (uint32_t)_mm_movemask_ps((__m128)mask);
#elif defined(ESFT_NEON)
  return vaddvq_u32(vandq_u32(vcltzq_s32((int32x4_t)mask), (uint32x4_t){1, 2, 4, 8}));
#else
  uint32_t bits = 0;
  for (int i = 0; i < W; i++) bits |= (uint32_t)(mask[i] < 0) << i;
  return bits;
#endif
}

// Streaming store past the caches, for large outputs that are not read again soon; p must be aligned to the vector.
// A task that streams ends with stream_fence(): the stores are weakly ordered.
ESFT_INLINE void stream(float* p, vf v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE2__)
  _mm_stream_ps(p, (__m128)v);
#else
  *reinterpret_cast<vf*>(p) = v;
#endif
}
ESFT_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

ESFT_INLINE vf as_f(vi v) { return (vf)v; }
ESFT_INLINE vi as_i(vf v) { return (vi)v; }

// exp(x): 2^n · p(r), |relative error| < 2 ulp; 0 below -87.3 (no denormal is ever formed: they cost a hundred cycles),
// inf above 88.7, NaN stays NaN.
ESFT_INLINE vf vexp(vf x) {
  const vf lowest = splat(-87.33654f);
  vf xc = vmin(splat(89.0f), vmax(lowest, x));  // NaN passes
  vf shifted = xc * splat(1.44269504088896341f) + splat(12582912.0f);  // round to nearest by the 1.5·2^23 trick
  vf n = shifted - splat(12582912.0f);
  vf r = xc - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  vf p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * r * r + r + splat(1.0f);
#if defined(__AVX512F__)
  vf y = (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
  // two halves, because 2^128 itself has no f32
  vi e = as_i(shifted) - as_i(splat(12582912.0f)), half = e >> 1;
  vf y = p * as_f((half + 127) << 23) * as_f((e - half + 127) << 23);
#endif
  return x < lowest ? vf{} : y;
}

// tanh(x), |relative error| < 2 ulp: a polynomial below 0.625, 1 − 2/(e^{2x} + 1) above; NaN stays NaN.
ESFT_INLINE vf vtanh(vf x) {
  const vf z = x * x;
  vf p = splat(-5.70498872745e-3f);
  p = p * z + splat(2.06390887954e-2f);
  p = p * z + splat(-5.37397155531e-2f);
  p = p * z + splat(1.33314422036e-1f);
  p = p * z + splat(-3.33332819422e-1f);
  const vf near = p * z * x + x, far = splat(1.0f) - splat(2.0f) / (vexp(x + x) + splat(1.0f));
  return z < splat(0.625f * 0.625f) ? near : far;
}

ESFT_INLINE vf vsigmoid(vf x) { return splat(1.0f) / (splat(1.0f) + vexp(-x)); }

// bf16: the upper half of an f32, rounded to nearest even; NaN keeps its sign and becomes quiet.
ESFT_INLINE float bf16_to_f32(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
ESFT_INLINE uint16_t f32_to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
ESFT_INLINE vf load_bf16(const uint16_t* p) {
#if defined(__AVX512F__)  // g++ makes four shuffles of the plain form
  return (vf)_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#elif defined(ESFT_NEON)
  return (vf)vshll_n_u16(vld1_u16(p), 16);
#else
  vhu h = *reinterpret_cast<const vhu*>(p);
  vu u = __builtin_convertvector(h, vu);
  return (vf)(u << 16);
#endif
}
ESFT_INLINE vf load_bf16_part(const uint16_t* p, int64_t n) {
  uint16_t t[W] = {};
  memcpy(t, p, n * 2);
  return load_bf16(t);
}
ESFT_INLINE vhu to_bf16(vf v) {
  vu u = (vu)v;
  vu r = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  vu nan = (u >> 16) | 0x40;
  vu bits = (vi)(v == v) ? r : nan;
  return __builtin_convertvector(bits, vhu);
}
// To the bf16 nearest, as f32; as the conversion of the machine rounds, where it has one (denormals become 0).
ESFT_INLINE vf rounded_to_bf16(vf v) {
#if defined(__AVX512BF16__)
  const vhu h = (vhu)(vh)_mm512_cvtneps_pbh((__m512)v);
#else
  const vhu h = to_bf16(v);
#endif
  return (vf)(__builtin_convertvector(h, vu) << 16);
}
ESFT_INLINE void store_bf16(uint16_t* p, vf v) { *reinterpret_cast<vhu*>(p) = to_bf16(v); }
ESFT_INLINE void store_bf16_part(uint16_t* p, vf v, int64_t n) {
  vhu h = to_bf16(v);
  memcpy(p, &h, n * 2);
}

}  // namespace esft::cpu::ESFT_ISA
