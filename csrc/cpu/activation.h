// The activations of gated experts (ops/activation.h) and their derivatives, for the epilogues of the expert products and the ops that
// apply them alone.
#pragma once
#include "../ops/activation.h"
#include "simd.h"

namespace esft::cpu::ESFT_ISA {

// 1 / (1 + e^-x), relative error below 1e-6 for |x| < 16 (2e-7 near 0). One code path for whole and partial vectors, so
// bits do not depend on the tiling. The epilogues run it once per 32 multiply-adds at d 256: every instruction counts.
ESFT_INLINE vf sigmoid(vf x) {
#if defined(__AVX512F__)
  const __mmask16 kAll = 0xffff;  // see transpose()
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

// Comparisons with NaN are false: NaN passes.
ESFT_INLINE vf clamped_gate(vf gate, vf limit) { return gate > limit ? limit : gate; }
ESFT_INLINE vf clamped_up(vf up, vf limit) {
  const vf low = up < -limit ? -limit : up;
  return low > limit ? limit : low;
}

// tanh-GELU is x · sigmoid(gelu_inner(x)); beyond 10 the sigmoid is 0 or 1 in f32, and powers of x would overflow.
ESFT_INLINE vf gelu_bound(vf x) {
  const vf low = x < splat(-10.0f) ? splat(-10.0f) : x;
  return low > splat(10.0f) ? splat(10.0f) : low;
}
ESFT_INLINE vf gelu_inner(vf x) { return x * (splat(2 * kGeluScale) + splat(2 * kGeluScale * kGeluCube) * (x * x)); }
ESFT_INLINE vf gelu_inner_slope(vf x) { return splat(2 * kGeluScale) + splat(6 * kGeluScale * kGeluCube) * (x * x); }

template <int32_t kKind>
ESFT_INLINE vf gated(vf gate, vf up, vf alpha, vf limit) {
  if (kKind == ACT_CLAMPED_SWIGLU) {
    const vf g = clamped_gate(gate, limit);
    return g * sigmoid(alpha * g) * (clamped_up(up, limit) + splat(1.0f));
  }
  if (kKind == ACT_GELU_TANH) return gate * sigmoid(gelu_inner(gelu_bound(gate))) * up;
  return silu_times(gate, up);
}

// The value a, ∂a/∂gate and ∂a/∂up.
struct GatedSlopes {
  vf a, by_gate, by_up;
};
template <int32_t kKind>
ESFT_INLINE GatedSlopes gated_slopes(vf gate, vf up, vf alpha, vf limit) {
  const vf one = splat(1.0f);
  if (kKind == ACT_CLAMPED_SWIGLU) {
    const vf g = clamped_gate(gate, limit), u = clamped_up(up, limit) + one;
    const vf s = sigmoid(alpha * g), glu = g * s;
    const vf by_gate = u * (s + alpha * glu * (one - s));
    return {glu * u, (vf)((vi)by_gate & (gate <= limit)), (vf)((vi)glu & (up >= -limit) & (up <= limit))};
  }
  if (kKind == ACT_GELU_TANH) {
    const vf x = gelu_bound(gate), s = sigmoid(gelu_inner(x)), gelu = gate * s;
    return {gelu * up, up * (s + x * s * (one - s) * gelu_inner_slope(x)), gelu};
  }
  const vf s = sigmoid(gate), silu = gate * s;
  return {silu * up, up * (s + silu * (one - s)), silu};
}

// Calls f<kind> with the activation's kind as a constant.
#define ESFT_CHOOSE_ACTIVATION(kind, f)                    \
  switch (kind) {                                          \
    case ACT_CLAMPED_SWIGLU: f(ACT_CLAMPED_SWIGLU); break; \
    case ACT_GELU_TANH: f(ACT_GELU_TANH); break;           \
    default: f(ACT_SWIGLU);                                \
  }

}  // namespace esft::cpu::ESFT_ISA
