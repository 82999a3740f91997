// Vector steps of packing: W x W transposes, bf16 pairs, partial loads.
#pragma once
#include "../simd.h"

namespace esft::cpu::ESFT_ISA {

// *p in all lanes, as an operand of the multiply-add that uses it.
ESFT_INLINE vf broadcast(const float* p) {
#if defined(__AVX512F__)
  return (vf)_mm512_set1_ps(*p);
#elif defined(__AVX2__)
  return (vf)_mm256_broadcast_ss(p);
#else
  return splat(*p);
#endif
}

// sum + a·b in one rounding wherever it is compiled, where bits must not depend on that: a compiler that contracts an expression does not
// where product and sum end up in different blocks.
ESFT_INLINE vf fused(vf sum, vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(ESFT_NEON)
  return (vf)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
#else
  return sum + a * b;
#endif
}

// Σ a·b in a fixed order.
ESFT_INLINE float dot(const float* a, const float* b, int64_t n) {
  vf s0 = {}, s1 = {}, s2 = {}, s3 = {};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    s0 += load(a + i) * load(b + i);
    s1 += load(a + i + W) * load(b + i + W);
    s2 += load(a + i + 2 * W) * load(b + i + 2 * W);
    s3 += load(a + i + 3 * W) * load(b + i + 3 * W);
  }
  for (; i + W <= n; i += W) s0 += load(a + i) * load(b + i);
  if (i < n) s1 += load_part(a + i, n - i) * load_part(b + i, n - i);
  return hsum((s0 + s1) + (s2 + s3));
}

// In place: lane j of r[i] <-> lane i of r[j].
ESFT_INLINE void transpose(vf (&r)[W]) {
#if defined(__AVX512F__)
  // The zero-masking forms with full masks: the plain ones trip -Wmaybe-uninitialized inside g++ 12's own headers.
  const __mmask16 kAll16 = 0xffff;
  const __mmask8 kAll8 = 0xff;
  __m512 t[16], u[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_maskz_unpacklo_ps(kAll16, (__m512)r[i], (__m512)r[i + 1]);
    t[i + 1] = _mm512_maskz_unpackhi_ps(kAll16, (__m512)r[i], (__m512)r[i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 4) {
    u[i] = (__m512)_mm512_maskz_unpacklo_pd(kAll8, (__m512d)t[i], (__m512d)t[i + 2]);
    u[i + 1] = (__m512)_mm512_maskz_unpackhi_pd(kAll8, (__m512d)t[i], (__m512d)t[i + 2]);
    u[i + 2] = (__m512)_mm512_maskz_unpacklo_pd(kAll8, (__m512d)t[i + 1], (__m512d)t[i + 3]);
    u[i + 3] = (__m512)_mm512_maskz_unpackhi_pd(kAll8, (__m512d)t[i + 1], (__m512d)t[i + 3]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; i++) {
    const __m512 a = _mm512_maskz_shuffle_f32x4(kAll16, u[i], u[i + 4], 0x88),
                 b = _mm512_maskz_shuffle_f32x4(kAll16, u[i], u[i + 4], 0xdd);
    const __m512 c = _mm512_maskz_shuffle_f32x4(kAll16, u[i + 8], u[i + 12], 0x88),
                 d = _mm512_maskz_shuffle_f32x4(kAll16, u[i + 8], u[i + 12], 0xdd);
    r[i] = (vf)_mm512_maskz_shuffle_f32x4(kAll16, a, c, 0x88);
    r[i + 8] = (vf)_mm512_maskz_shuffle_f32x4(kAll16, a, c, 0xdd);
    r[i + 4] = (vf)_mm512_maskz_shuffle_f32x4(kAll16, b, d, 0x88);
    r[i + 12] = (vf)_mm512_maskz_shuffle_f32x4(kAll16, b, d, 0xdd);
  }
#elif defined(ESFT_NEON)
  const float32x4x2_t a = vtrnq_f32((float32x4_t)r[0], (float32x4_t)r[1]), b = vtrnq_f32((float32x4_t)r[2], (float32x4_t)r[3]);
  r[0] = (vf)vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  r[1] = (vf)vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  r[2] = (vf)vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  r[3] = (vf)vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
#else
  // log2(W) rounds of interleaving row i with row i + W/2.
#pragma GCC unroll 4
  for (int round = 1; round < W; round *= 2) {
    vf t[W];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; i++) {
#if defined(__AVX2__)
      t[2 * i] = ESFT_SHUFFLE(vi, r[i], r[i + W / 2], 0, 8, 1, 9, 2, 10, 3, 11);
      t[2 * i + 1] = ESFT_SHUFFLE(vi, r[i], r[i + W / 2], 4, 12, 5, 13, 6, 14, 7, 15);
#else
      t[2 * i] = ESFT_SHUFFLE(vi, r[i], r[i + W / 2], 0, 4, 1, 5);
      t[2 * i + 1] = ESFT_SHUFFLE(vi, r[i], r[i + W / 2], 2, 6, 3, 7);
#endif
    }
#pragma GCC unroll 8
    for (int i = 0; i < W; i++) r[i] = t[i];
  }
#endif
}

// W dwords = 2W consecutive bf16 of a row; n of them (the rest zero).
ESFT_INLINE vf load_pairs(const uint16_t* p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}
ESFT_INLINE vf load_pairs_part(const uint16_t* p, int64_t n) {
#if defined(__AVX512BW__)
  return (vf)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p);
#else
  vf v = {};
  memcpy(&v, p, n * 2);
  return v;
#endif
}
ESFT_INLINE vf low_half(vf pairs) { return (vf)((vu)pairs << 16); }
ESFT_INLINE vf high_half(vf pairs) { return (vf)((vu)pairs & 0xffff0000u); }

#if defined(__AVX512BF16__)
// 2W consecutive f32 as W pairs; two rows as W vertical pairs (lo in the low halves).
ESFT_INLINE vf round_pairs(vf first, vf second) { return (vf)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first); }
ESFT_INLINE vf zip_index() {
  vi i;
  for (int j = 0; j < W; j++) i[j] = j | (j + 16) << 16;
  return (vf)i;
}
ESFT_INLINE vf round_zip(vf lo, vf hi) {
  return (vf)_mm512_permutexvar_epi16((__m512i)zip_index(), (__m512i)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo));
}
#endif
#if defined(__AVX512BW__)
// Two rows of 2W bf16 as 2W vertical pairs.
ESFT_INLINE void zip_bf16(vf r0, vf r1, vf& first, vf& second) {
  vi a, b;
  for (int j = 0; j < W; j++) a[j] = j | (j + 32) << 16, b[j] = (j + 16) | (j + 48) << 16;
  first = (vf)_mm512_permutex2var_epi16((__m512i)r0, (__m512i)a, (__m512i)r1);
  second = (vf)_mm512_permutex2var_epi16((__m512i)r0, (__m512i)b, (__m512i)r1);
}
#elif defined(ESFT_NEON)
ESFT_INLINE void zip_bf16(vf r0, vf r1, vf& first, vf& second) {
  first = (vf)vzip1q_u16((uint16x8_t)r0, (uint16x8_t)r1);
  second = (vf)vzip2q_u16((uint16x8_t)r0, (uint16x8_t)r1);
}
#endif

}  // namespace esft::cpu::ESFT_ISA
