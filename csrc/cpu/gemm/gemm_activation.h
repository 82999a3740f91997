// SiLU and its derivative for the epilogues of the expert products.
#pragma once
#include "../simd.h"

namespace esft::cpu::ESFT_ISA {

// 1 / (1 + e^-x), relative error below 1e-6 for |x| < 16 (2e-7 near 0). One code path for whole and partial vectors, so
// bits do not depend on the tiling. The epilogues run it once per 32 multiply-adds at d 256: every instruction counts.
ESFT_INLINE vf sigmoid(vf x) {
#if defined(__AVX512F__)
  const __mmask16 kAll = 0xffff;                                         // see transpose()
  x = (vf)_mm512_maskz_max_ps(kAll, (__m512)splat(-87.0f), (__m512)x);  // e^-x stays finite; NaN stays
  // e^-x = 2^n · 2^f with n an integer and |f| <= 1/2; the polynomial is 2^f to 1e-7 (minimax on that range)
  const vf t = x * splat(-1.44269504088896341f);
  const vf n = (vf)_mm512_maskz_roundscale_ps(kAll, (__m512)t, 0x08);
  const vf f = t - n;
  vf p = splat(9.671513264e-3f) + f * splat(1.326472784e-3f);
  p = splat(5.550733747e-2f) + p * f;
  p = splat(2.402224208e-1f) + p * f;
  p = splat(6.931469776e-1f) + p * f;
  p = splat(1.0f) + p * f;
  const vf d = splat(1.0f) + (vf)_mm512_maskz_scalef_ps(kAll, (__m512)p, (__m512)n);
  const vf r = (vf)_mm512_maskz_rcp14_ps(kAll, (__m512)d);  // 14 bits, then one Newton step
  return r + r * (splat(1.0f) - d * r);
#else
  return vsigmoid(x);
#endif
}

ESFT_INLINE vf silu_times(vf gate, vf up) { return gate * sigmoid(gate) * up; }

}  // namespace esft::cpu::ESFT_ISA
