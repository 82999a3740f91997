// rope as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_rope(const esft_rope_args& a) {
  check_indices("rope", "positions", a.positions, rows(a.cos));
  const int64_t T = rows(a.x), C = cols(a.x), hd = C / a.heads, half = cols(a.cos);
  for (int64_t t = 0; t < T; t++) {
    if (a.y.data != a.x.data)
      for (int64_t c = 0; c < C; c++) put(a.y, t, c, at(a.x, t, c));
    const int64_t p = data<int32_t>(a.positions)[t];
    for (int64_t h = 0; h < a.heads; h++)
      for (int64_t i = 0; i < half; i++) {
        const int64_t first = h * hd + a.offset + (a.interleaved ? 2 * i : i);
        const int64_t second = first + (a.interleaved ? 1 : half);
        const double c = f32_row(a.cos, p)[i], s = (a.inverse ? -1.0 : 1.0) * f32_row(a.sin, p)[i];
        const double u = at(a.x, t, first), v = at(a.x, t, second);
        put(a.y, t, first, u * c - v * s);
        put(a.y, t, second, u * s + v * c);
      }
  }
}

}  // namespace esft
