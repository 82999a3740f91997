// Argument checks of rms_norm and its backward (contract: rms_norm.h).
#include "arg_checks.h"

namespace esft {

namespace {

void check_weight(const char* op, const esft_tensor& weight, int64_t C, int64_t zero_centred) {
  if (!present(weight)) {
    if (zero_centred) fail(op, "zero_centred", "0 where there is no weight", "1");
    return;
  }
  expect_float_weight(op, "weight", weight);
  expect_vector(op, "weight", weight, C);
}

}  // namespace

void check_rms_norm(const esft_rms_norm_args& a) {
  ESFT_BEGIN_CHECK(rms_norm)
  expect_not_negative(kOp, "eps", a.eps);
  expect_flag(kOp, "zero_centred", a.zero_centred);
  expect_matrix(kOp, "x", a.x, -1, -1);
  const int64_t R = rows(a.x), C = cols(a.x);
  if (C < 1) fail(kOp, "x", "[R, C] with C >= 1", describe(a.x));
  check_weight(kOp, a.weight, C, a.zero_centred);
  expect_matrix(kOp, "y", a.y, R, C);
  if (present(a.rstd)) expect_f32_vector(kOp, "rstd", a.rstd, R);
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
  expect_apart(kOp, {"y", a.y}, {{"weight", a.weight}, {"rstd", a.rstd}});
  expect_apart(kOp, {"rstd", a.rstd}, {{"x", a.x}, {"weight", a.weight}});
}

void check_rms_norm_backward(const esft_rms_norm_backward_args& a) {
  ESFT_BEGIN_CHECK(rms_norm_backward)
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_flag(kOp, "zero_centred", a.zero_centred);
  expect_flag(kOp, "accumulate_weight", a.accumulate_weight);
  expect_matrix(kOp, "x", a.x, -1, -1);
  const int64_t R = rows(a.x), C = cols(a.x);
  if (C < 1) fail(kOp, "x", "[R, C] with C >= 1", describe(a.x));
  expect_matrix(kOp, "dy", a.dy, R, C);
  check_weight(kOp, a.weight, C, a.zero_centred);
  if (!present(a.weight)) expect_absent(kOp, "dweight", a.dweight, "where there is no weight");
  expect_f32_vector(kOp, "rstd", a.rstd, R);
  if (present(a.dx)) expect_matrix(kOp, "dx", a.dx, R, C);
  if (present(a.dweight)) expect_f32_vector(kOp, "dweight", a.dweight, C);
  expect_same_or_apart(kOp, "dx", a.dx, "dy", a.dy);
  expect_apart(kOp, {"dx", a.dx}, {{"x", a.x}, {"weight", a.weight}, {"rstd", a.rstd}, {"dweight", a.dweight}});
  expect_apart(kOp, {"dweight", a.dweight}, {{"dy", a.dy}, {"x", a.x}, {"weight", a.weight}, {"rstd", a.rstd}});
}

}  // namespace esft
