// dropout: one pass over memory; the mask is integer arithmetic on the element's place, which vectorises as it is.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

ESFT_INLINE uint64_t mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
ESFT_INLINE uint32_t mix32(uint32_t z) {
  z = (z ^ (z >> 16)) * 0x7feb352du;
  z = (z ^ (z >> 15)) * 0x846ca68bu;
  return z ^ (z >> 16);
}

}  // namespace

void dropout(const esft_dropout_args& a, Context& ctx) {
  const uint64_t key = mix64(mix64(uint64_t(a.seed)) + uint64_t(*data<double>(a.counter)));
  const uint32_t dropped = uint32_t(a.p * 4294967296.0);
  const float factor = float(1 / (1 - a.p));
  for_segments(ctx, rows(a.x), cols(a.x), [&](int64_t r, int64_t first, int64_t n) {
    const uint32_t row = uint32_t(mix64(key + uint64_t(r)) >> 32);
    const float* x = row_of<float>(a.x, r);
    float* y = row_of<float>(a.y, r);
    for (int64_t c = first; c < first + n; c++) {
      const float kept = x[c] * factor;
      y[c] = mix32(row + uint32_t(c) * 0x9e3779b9u) >= dropped ? kept : 0.f;
    }
  });
}

}  // namespace esft::cpu::ESFT_ISA
