// Activation functions of the kernels.
#pragma once
#include <math.h>

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

}  // namespace esft::cuda
