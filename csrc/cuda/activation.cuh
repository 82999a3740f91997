// Activation functions of the kernels.
#pragma once
#include <math.h>

#include "../ops/activation.h"
#include "types.cuh"

namespace esft::cuda {

// 1 / (1 + e^-x) for results that are rounded to bf16: errors near 1e-6, far below its spacing. The power overflows to infinity below
// x = -88, and the quotient is 0 as it should be.
__device__ __forceinline__ float fast_sigmoid(float x) { return __fdividef(1.f, 1.f + ptx::exp2_approx(-1.44269504f * x)); }

// 1 / (1 + e^-x) for a result of type T.
template <class T>
__device__ __forceinline__ float sigmoid(float x) {
  if constexpr (sizeof(T) == 2)
    return fast_sigmoid(x);
  else
    return 1.0f / (1.0f + expf(-x));
}

// ---- the activations of gated experts, for a result of type T (ops/activation.h) ----------------------------------------------

// The value a, ∂a/∂gate and ∂a/∂up.
struct Gated {
  float a, by_gate, by_up;
};

// tanh-GELU is x · sigmoid(gelu_inner(x)); beyond 10 the sigmoid is 0 or 1, and powers of x would overflow.
__device__ __forceinline__ float gelu_bound(float x) { return x > 10.f ? 10.f : x < -10.f ? -10.f : x; }
__device__ __forceinline__ float gelu_inner(float x) { return 2 * kGeluScale * x * (1.f + kGeluCube * x * x); }

// Comparisons with NaN are false: NaN passes.
template <class T>
__device__ __forceinline__ float gated_value(const Activation& f, float gate, float up) {
  if (f.kind == ACT_CLAMPED_SWIGLU) {
    const float g = gate > f.limit ? f.limit : gate, u = up > f.limit ? f.limit : up < -f.limit ? -f.limit : up;
    return g * sigmoid<T>(f.alpha * g) * (u + 1.f);
  }
  if (f.kind == ACT_GELU_TANH) return gate * sigmoid<T>(gelu_inner(gelu_bound(gate))) * up;
  return gate * sigmoid<T>(gate) * up;
}

template <class T>
__device__ __forceinline__ Gated gated(const Activation& f, float gate, float up) {
  if (f.kind == ACT_CLAMPED_SWIGLU) {
    const float g = gate > f.limit ? f.limit : gate, u = (up > f.limit ? f.limit : up < -f.limit ? -f.limit : up) + 1.f;
    const float s = sigmoid<T>(f.alpha * g), glu = g * s;
    return {glu * u, gate <= f.limit ? u * (s + f.alpha * glu * (1.f - s)) : 0.f, up >= -f.limit && up <= f.limit ? glu : 0.f};
  }
  if (f.kind == ACT_GELU_TANH) {
    const float x = gelu_bound(gate), s = sigmoid<T>(gelu_inner(x)), gelu = gate * s;
    return {gelu * up, up * (s + x * s * (1.f - s) * 2 * kGeluScale * (1.f + 3 * kGeluCube * x * x)), gelu};
  }
  const float s = sigmoid<T>(gate), silu = gate * s;
  return {silu * up, up * (s * (1.f + gate * (1.f - s))), silu};
}

}  // namespace esft::cuda
