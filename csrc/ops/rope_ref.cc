// rope as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_rope(const esft_rope_args& a) {
  check_indices("rope", "positions", a.positions, rows(a.cos));
  const int64_t T = rows(a.x), C = cols(a.x), hd = C / a.heads, half = cols(a.cos);
  for (int64_t t = 0; t < T; t++) {
    const float* x = f32_row(a.x, t);
    float* y = f32_row(a.y, t);
    if (y != x)
      for (int64_t c = 0; c < C; c++) y[c] = x[c];
    const int64_t p = data<int32_t>(a.positions)[t];
    for (int64_t h = 0; h < a.heads; h++)
      for (int64_t i = 0; i < half; i++) {
        const int64_t first = h * hd + a.offset + (a.interleaved ? 2 * i : i);
        const int64_t second = first + (a.interleaved ? 1 : half);
        const double c = f32_row(a.cos, p)[i], s = (a.inverse ? -1.0 : 1.0) * f32_row(a.sin, p)[i];
        const double u = x[first], v = x[second];
        y[first] = float(u * c - v * s);
        y[second] = float(u * s + v * c);
      }
  }
}

}  // namespace esft
