// transpose as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_transpose(const esft_transpose_args& a) {
  const int64_t R = rows(a.x), C = cols(a.x);
  for (int64_t r = 0; r < R; r++)
    for (int64_t c = 0; c < C; c++) {
      const int64_t row = a.pairs == 1 ? c / 2 + c % 2 * (C / 2) : c;
      const int64_t col = a.pairs == 2 ? 2 * (r % (R / 2)) + r / (R / 2) : r;
      put(a.y, row, col, at(a.x, r, c));
    }
}

}  // namespace esft
