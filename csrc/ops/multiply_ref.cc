// multiply and its backward as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_multiply(const esft_multiply_args& a) {
  for (int64_t r = 0; r < rows(a.a); r++)
    for (int64_t c = 0; c < cols(a.a); c++) {
      const double b = at(a.b, r, c);
      put(a.y, r, c, at(a.a, r, c) * (a.silu ? silu(b) : b));
    }
}

void ref_multiply_backward(const esft_multiply_backward_args& a) {
  for (int64_t r = 0; r < rows(a.a); r++)
    for (int64_t c = 0; c < cols(a.a); c++) {
      const double dy = at(a.dy, r, c), x = at(a.a, r, c), b = at(a.b, r, c);  // outputs may be inputs
      if (present(a.da)) put(a.da, r, c, dy * (a.silu ? silu(b) : b));
      if (present(a.db)) put(a.db, r, c, dy * x * (a.silu ? silu_grad(b) : 1));
    }
}

}  // namespace esft
