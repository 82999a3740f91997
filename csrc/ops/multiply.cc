// Argument checks of multiply and its backward (contract: multiply.h).
#include "arg_checks.h"

namespace esft {

void check_multiply(const esft_multiply_args& a) {
  ESFT_BEGIN_CHECK(multiply)
  expect_flag(kOp, "silu", a.silu);
  expect_matrix(kOp, "a", a.a, -1, -1);
  expect_matrix(kOp, "b", a.b, rows(a.a), cols(a.a));
  expect_matrix(kOp, "y", a.y, rows(a.a), cols(a.a));
  expect_same_or_apart(kOp, "y", a.y, "a", a.a);
  expect_same_or_apart(kOp, "y", a.y, "b", a.b);
}

void check_multiply_backward(const esft_multiply_backward_args& a) {
  ESFT_BEGIN_CHECK(multiply_backward)
  expect_flag(kOp, "silu", a.silu);
  expect_matrix(kOp, "a", a.a, -1, -1);
  expect_matrix(kOp, "b", a.b, rows(a.a), cols(a.a));
  expect_matrix(kOp, "dy", a.dy, rows(a.a), cols(a.a));
  if (present(a.da)) expect_matrix(kOp, "da", a.da, rows(a.a), cols(a.a));
  if (present(a.db)) expect_matrix(kOp, "db", a.db, rows(a.a), cols(a.a));
  expect_same_or_apart(kOp, "da", a.da, "dy", a.dy);
  expect_same_or_apart(kOp, "da", a.da, "a", a.a);
  expect_same_or_apart(kOp, "db", a.db, "dy", a.dy);
  expect_same_or_apart(kOp, "db", a.db, "b", a.b);
  expect_apart(kOp, {"da", a.da}, {{"b", a.b}, {"db", a.db}});
  expect_apart(kOp, {"db", a.db}, {{"a", a.a}});
}

}  // namespace esft
