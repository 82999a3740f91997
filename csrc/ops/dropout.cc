// Argument checks of dropout (contract: dropout.h).
#include "arg_checks.h"

namespace esft {

void check_dropout(const esft_dropout_args& a) {
  ESFT_BEGIN_CHECK(dropout)
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_matrix(kOp, "y", a.y, rows(a.x), cols(a.x));
  expect_scalar(kOp, "counter", a.counter, ESFT_F64);
  expect_range(kOp, "seed", a.seed, 0, (int64_t(1) << 52) - 1);
  if (!(a.p >= 0 && a.p < 1)) fail(kOp, "p", "a number in [0, 1)", format("%g", a.p));
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
  expect_apart(kOp, {"y", a.y}, {{"counter", a.counter}});
}

}  // namespace esft
