// The activations a = f(gate, up) of gated experts and MLPs: what `act`, `alpha` and `limit` of ops mean. h = gate | up is never changed by
// an activation: clamps apply to what is read from it.
//
//   0  none
//   1  SwiGLU           silu(gate) · up
//   2  clamped SwiGLU   g · σ(alpha · g) · (u + 1),  g = min(gate, limit),  u = max(-limit, min(up, limit)).  Gradients pass where a value
//                       is not beyond its limits (the limits belong to the inside), and are 0 elsewhere
//   3  tanh-GELU gate   ½ gate (1 + tanh(√(2/π) (gate + 0.044715 gate³))) · up, which is gate · σ(2 √(2/π) (…)) · up
//
// alpha is finite, limit finite and > 0 with 2; both are 0 with the others.
// Source: gpt-oss (2), Gemma (3) in transformers. Checks: expect_activation in arg_checks.h.
#pragma once
#include <stdint.h>

namespace esft {

enum ActivationKind : int64_t { ACT_NONE = 0, ACT_SWIGLU = 1, ACT_CLAMPED_SWIGLU = 2, ACT_GELU_TANH = 3 };

constexpr float kGeluScale = 0.7978845608f, kGeluCube = 0.044715f;  // √(2/π)

// As kernels take it.
struct Activation {
  int32_t kind;
  float alpha, limit;
};

}  // namespace esft
