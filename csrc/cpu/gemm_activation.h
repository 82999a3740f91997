// SiLU and its derivative for the epilogues of the expert products.
#pragma once
#include "simd.h"

namespace esft::cpu::ESFT_ISA {

// 1 / (1 + e^-x), relative error < 4 ulp. One code path for whole and partial vectors, so bits do not depend on the tiling.
ESFT_INLINE vf sigmoid(vf x) {
#if defined(__AVX512F__)
  // e^-x = 2^n · p(r), n = round(-x·log2 e); scalef saturates to 0 and inf.
  const __mmask16 kAll = 0xffff;  // see transpose()
  x = (vf)_mm512_maskz_min_ps(kAll, (__m512)splat(104.0f), _mm512_maskz_max_ps(kAll, (__m512)splat(-104.0f), (__m512)x));  // keeps NaN
  const vf n = (vf)_mm512_maskz_roundscale_ps(kAll, (__m512)(x * splat(-1.44269504088896341f)), 0x08);
  vf r = n * splat(-0.693359375f) - x;
  r = n * splat(2.12194440e-4f) + r;
  vf p = splat(1.3981999507e-3f) + r * splat(1.9875691500e-4f);
  p = splat(8.3334519073e-3f) + p * r;
  p = splat(4.1665795894e-2f) + p * r;
  p = splat(1.6666665459e-1f) + p * r;
  p = splat(5.0000001201e-1f) + p * r;
  p = p * (r * r) + (r + splat(1.0f));
  const vf e = (vf)_mm512_maskz_scalef_ps(kAll, (__m512)p, (__m512)n);
  return splat(1.0f) / (splat(1.0f) + e);
#else
  return vsigmoid(x);
#endif
}

ESFT_INLINE vf silu_times(vf gate, vf up) { return gate * sigmoid(gate) * up; }

}  // namespace esft::cpu::ESFT_ISA
