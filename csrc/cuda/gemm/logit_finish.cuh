// How a sum of products becomes a logit: bias, scale and cap, in the epilogues of both generations (linear_cross_entropy.cuh).
#pragma once
#include "../activation.cuh"

namespace esft::cuda {

// cap(scale · (sum + bias)), cap(u) = cap · tanh(u / cap), or u where cap is 0.
struct LogitFinish {
  const void* bias;  // [V] or nullptr
  int32_t bias_bf16;
  float scale, cap;
};
__device__ __forceinline__ float bias_at(const LogitFinish& f, int64_t v) {
  return f.bias_bf16 ? to_float(static_cast<const bf16*>(f.bias)[v]) : static_cast<const float*>(f.bias)[v];
}
// tanh(u) = 2σ(2u) − 1: an absolute error near 1e-6, below what the logits are kept with.
__device__ __forceinline__ float capped(float u, float cap, float inverse) {
  return cap * (2.f * fast_sigmoid(2.f * u * inverse) - 1.f);
}

}  // namespace esft::cuda
