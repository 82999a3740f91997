// dropout as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

static uint64_t mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
static uint32_t mix32(uint32_t z) {
  z = (z ^ (z >> 16)) * 0x7feb352du;
  z = (z ^ (z >> 15)) * 0x846ca68bu;
  return z ^ (z >> 16);
}

void ref_dropout(const esft_dropout_args& a) {
  const uint64_t key = mix64(mix64(uint64_t(a.seed)) + uint64_t(*data<double>(a.counter)));
  const uint32_t dropped = uint32_t(a.p * 4294967296.0);
  const float factor = float(1 / (1 - a.p));
  for (int64_t r = 0; r < rows(a.x); r++) {
    const uint32_t row = uint32_t(mix64(key + uint64_t(r)) >> 32);
    for (int64_t c = 0; c < cols(a.x); c++)
      put(a.y, r, c, mix32(row + uint32_t(c) * 0x9e3779b9u) >= dropped ? at(a.x, r, c) * factor : 0.f);
  }
}

}  // namespace esft
