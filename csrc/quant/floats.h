// Small floats as f32, bit by bit, and f32 rounded to them: to nearest, ties to even.
//
//   e2m1   1 sign, 2 exponent, 1 mantissa bit: 0 .5 1 1.5 2 3 4 6, the same negative; neither inf nor NaN
//   e4m3   "fn": bias 7, no inf, NaN = all seven low bits set
//   e8m0   2^(x - 127), 255 = NaN (OCP Microscaling Formats 1.0)
#pragma once
#include <stdint.h>
#include <string.h>

namespace esft {

static inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
template <class T>
static inline T load(const uint8_t* at) {  // checkpoints align nothing
  T x;
  memcpy(&x, at, sizeof x);
  return x;
}

constexpr uint32_t kNan = 0x7fc00000;

static inline float bf16_to_f32(uint16_t x) { return from_bits(uint32_t(x) << 16); }

static inline uint16_t f32_to_bf16(float x) {
  const uint32_t b = bits_of(x);
  if ((b & 0x7fffffff) > 0x7f800000) return uint16_t(b >> 16 | 0x40);  // NaN stays NaN
  return uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t x) {
  const uint32_t sign = uint32_t(x & 0x8000) << 16, exponent = x >> 10 & 31, mantissa = x & 0x3ff;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
  if (exponent != 0) return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float small = float(mantissa) * 0x1p-24f;
  return sign ? -small : small;
}

// The nearest f16, as f32.
static inline float round_f16(float x) {
  const uint32_t b = bits_of(x), sign = b & 0x80000000, size = b & 0x7fffffff;
  if (size > 0x7f800000) return x;
  if (size >= 0x477ff000) return from_bits(sign | 0x7f800000);  // 65520 and above
  if (size < 0x38800000) {                                      // subnormal: a multiple of 2^-24
    const float shifted = from_bits(size) + 0.5f;               // whose last bit in [0.5, 1) is 2^-24
    return from_bits(sign | bits_of(shifted - 0.5f));
  }
  return from_bits(sign | ((size + 0xfff + (size >> 13 & 1)) & ~uint32_t(0x1fff)));
}

static inline float e4m3_to_f32(uint8_t x) {
  const uint32_t sign = uint32_t(x & 0x80) << 24, exponent = x >> 3 & 15, mantissa = x & 7;
  if ((x & 0x7f) == 0x7f) return from_bits(sign | kNan);
  if (exponent != 0) return from_bits(sign | (exponent + 120) << 23 | mantissa << 20);
  const float small = float(mantissa) * 0x1p-9f;
  return sign ? -small : small;
}

// 2^(x - 127); 255 is infinite.
static inline float power_to_f32(uint8_t x) { return from_bits(x == 0 ? 0x00400000 : uint32_t(x) << 23); }

static const float kE2m1Values[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

}  // namespace esft
