// Argument checks of transpose (contract: transpose.h).
#include "arg_checks.h"

namespace esft {

void check_transpose(const esft_transpose_args& a) {
  ESFT_BEGIN_CHECK(transpose)
  expect_range(kOp, "pairs", a.pairs, 0, 2);
  expect_float_weight(kOp, "x", a.x);
  expect_float_weight(kOp, "y", a.y);
  expect_matrix(kOp, "x", a.x, -1, -1);
  if (a.pairs == 1 && cols(a.x) % 2 != 0) fail(kOp, "x", "with an even number of columns, to split pairs", describe(a.x));
  if (a.pairs == 2 && rows(a.x) % 2 != 0) fail(kOp, "x", "with an even number of rows, to join pairs", describe(a.x));
  expect_matrix(kOp, "y", a.y, cols(a.x), rows(a.x));
  expect_apart(kOp, {"y", a.y}, {{"x", a.x}});
}

}  // namespace esft
