// Argument checks of combine and its backward (contract: combine.h).
#include "arg_checks.h"

namespace esft {

void check_combine(const esft_combine_args& a) {
  ESFT_BEGIN_CHECK(combine)
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_matrix(kOp, "y", a.y, -1, -1);
  expect_matrix(kOp, "x", a.x, -1, cols(a.y));
  expect_range(kOp, "x", rows(a.x), 0, kMaxI32);
  expect_dtype(kOp, "pos", a.pos, ESFT_I32);
  expect_matrix(kOp, "pos", a.pos, rows(a.y), -1);
  if (present(a.weights)) expect_f32(kOp, "weights", a.weights, rows(a.pos), cols(a.pos));
  if (present(a.residual)) expect_matrix(kOp, "residual", a.residual, rows(a.y), cols(a.y));
  expect_apart(kOp, {"y", a.y}, {{"x", a.x}, {"pos", a.pos}, {"weights", a.weights}, {"residual", a.residual}});
}

void check_combine_backward(const esft_combine_backward_args& a) {
  ESFT_BEGIN_CHECK(combine_backward)
  expect_matrix(kOp, "dy", a.dy, -1, -1);
  expect_matrix(kOp, "x", a.x, -1, cols(a.dy));
  expect_range(kOp, "x", rows(a.x), 0, kMaxI32);
  expect_dtype(kOp, "pos", a.pos, ESFT_I32);
  expect_matrix(kOp, "pos", a.pos, rows(a.dy), -1);
  expect_f32(kOp, "weights", a.weights, rows(a.pos), cols(a.pos));
  if (present(a.dx)) {
    if (numel(a.pos) != rows(a.x))
      fail(kOp, "pos", format("a permutation of %lld rows for dx", (long long)rows(a.x)), describe(a.pos));
    expect_matrix(kOp, "dx", a.dx, rows(a.x), cols(a.x));
    expect_apart(kOp, {"dx", a.dx}, {{"dy", a.dy}, {"x", a.x}, {"pos", a.pos}, {"weights", a.weights}, {"dweights", a.dweights}});
  }
  if (present(a.dweights)) {
    expect_f32(kOp, "dweights", a.dweights, rows(a.pos), cols(a.pos));
    expect_apart(kOp, {"dweights", a.dweights}, {{"dy", a.dy}, {"x", a.x}, {"pos", a.pos}, {"weights", a.weights}});
  }
}

}  // namespace esft
