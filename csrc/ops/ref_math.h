// How the references read and round: strided rows, elements that are f32 or bf16, precision 1 = operands rounded to bf16.
#pragma once
#include <cmath>
#include <cstring>

#include "../core/check.h"
#include "activation.h"
#include "checks.h"

namespace esft::ref {

inline float from_bf16(uint16_t h) {
  const uint32_t u = uint32_t(h) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
// Round to nearest even; NaN stays a (quiet) NaN.
inline uint16_t to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
// An operand of a product at the given precision.
inline double operand(double x, int64_t precision) { return precision ? from_bf16(to_bf16(float(x))) : float(x); }

inline float* f32_row(const esft_tensor& t, int64_t r) { return data<float>(t) + r * t.ld; }
inline int32_t i32_at(const esft_tensor& t, int64_t r, int64_t c) { return data<int32_t>(t)[r * t.ld + c]; }
// Element of an f32 or bf16 matrix.
inline float at(const esft_tensor& t, int64_t r, int64_t c) {
  const int64_t i = r * t.ld + c;
  return t.dtype == ESFT_BF16 ? from_bf16(data<uint16_t>(t)[i]) : data<float>(t)[i];
}
// Element i of a vector, whatever its rank.
inline float vat(const esft_tensor& t, int64_t i) {
  return t.dtype == ESFT_BF16 ? from_bf16(data<uint16_t>(t)[i]) : data<float>(t)[i];
}

// Stores an element of an f32 or bf16 matrix, rounded once to its dtype.
inline void put(const esft_tensor& t, int64_t r, int64_t c, double value) {
  const int64_t i = r * t.ld + c;
  if (t.dtype == ESFT_BF16)
    data<uint16_t>(t)[i] = to_bf16(float(value));
  else
    data<float>(t)[i] = float(value);
}

// x as an element of t's dtype would hold it.
inline double held(const esft_tensor& t, double x) { return t.dtype == ESFT_BF16 ? from_bf16(to_bf16(float(x))) : float(x); }

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }
inline double silu_grad(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

// An activation of activation.h and its derivatives.
struct Gated {
  double a, by_gate, by_up;
};
inline Gated gated(int64_t act, double alpha, double limit, double gate, double up) {
  if (act == ACT_CLAMPED_SWIGLU) {
    limit = float(limit), alpha = float(alpha);
    const double g = gate > limit ? limit : gate, u = up > limit ? limit : up < -limit ? -limit : up;
    const double s = sigmoid(alpha * g), glu = g * s;
    return {glu * (u + 1), gate <= limit ? (u + 1) * (s + alpha * glu * (1 - s)) : 0.0, up >= -limit && up <= limit ? glu : 0.0};
  }
  if (act == ACT_GELU_TANH) {
    const double c = std::sqrt(2 / 3.14159265358979323846), cube = 0.044715;
    const double t = std::tanh(c * (gate + cube * gate * gate * gate)), half = 0.5 * (1 + t);
    const double slope = c * (1 + 3 * cube * gate * gate), bend = (1 - t) * (1 + t);
    return {gate * half * up, up * (half + (bend > 0 ? 0.5 * gate * bend * slope : 0.0)), gate * half};
  }
  return {silu(gate) * up, up * silu_grad(gate), silu(gate)};
}

}  // namespace esft::ref
