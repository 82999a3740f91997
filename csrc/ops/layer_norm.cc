// Argument checks of layer_norm and its backward (contract: layer_norm.h).
#include "arg_checks.h"

namespace esft {

void check_layer_norm(const esft_layer_norm_args& a) {
  ESFT_BEGIN_CHECK(layer_norm)
  expect_not_negative(kOp, "eps", a.eps);
  expect_matrix(kOp, "x", a.x, -1, -1);
  const int64_t R = rows(a.x), C = cols(a.x);
  if (C < 1) fail(kOp, "x", "[R, C] with C >= 1", describe(a.x));
  expect_float_weight(kOp, "weight", a.weight);
  expect_vector(kOp, "weight", a.weight, C);
  expect_float_weight(kOp, "bias", a.bias);
  expect_vector(kOp, "bias", a.bias, C);
  expect_matrix(kOp, "y", a.y, R, C);
  if (present(a.mean)) expect_f32_vector(kOp, "mean", a.mean, R);
  if (present(a.rstd)) expect_f32_vector(kOp, "rstd", a.rstd, R);
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
  expect_apart(kOp, {"y", a.y}, {{"weight", a.weight}, {"bias", a.bias}, {"mean", a.mean}, {"rstd", a.rstd}});
  expect_apart(kOp, {"mean", a.mean}, {{"x", a.x}, {"weight", a.weight}, {"bias", a.bias}, {"rstd", a.rstd}});
  expect_apart(kOp, {"rstd", a.rstd}, {{"x", a.x}, {"weight", a.weight}, {"bias", a.bias}});
}

void check_layer_norm_backward(const esft_layer_norm_backward_args& a) {
  ESFT_BEGIN_CHECK(layer_norm_backward)
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_flag(kOp, "accumulate_weight", a.accumulate_weight);
  expect_matrix(kOp, "x", a.x, -1, -1);
  const int64_t R = rows(a.x), C = cols(a.x);
  if (C < 1) fail(kOp, "x", "[R, C] with C >= 1", describe(a.x));
  expect_matrix(kOp, "dy", a.dy, R, C);
  expect_float_weight(kOp, "weight", a.weight);
  expect_vector(kOp, "weight", a.weight, C);
  expect_f32_vector(kOp, "mean", a.mean, R);
  expect_f32_vector(kOp, "rstd", a.rstd, R);
  if (present(a.dx)) expect_matrix(kOp, "dx", a.dx, R, C);
  if (present(a.dweight)) expect_f32_vector(kOp, "dweight", a.dweight, C);
  if (present(a.dbias)) expect_f32_vector(kOp, "dbias", a.dbias, C);
  expect_same_or_apart(kOp, "dx", a.dx, "dy", a.dy);
  const Named read[] = {{"x", a.x}, {"weight", a.weight}, {"mean", a.mean}, {"rstd", a.rstd}};
  for (const Named& in : read) {
    expect_apart(kOp, {"dx", a.dx}, {in});
    expect_apart(kOp, {"dweight", a.dweight}, {in});
    expect_apart(kOp, {"dbias", a.dbias}, {in});
  }
  expect_apart(kOp, {"dx", a.dx}, {{"dweight", a.dweight}, {"dbias", a.dbias}});
  expect_apart(kOp, {"dweight", a.dweight}, {{"dy", a.dy}, {"dbias", a.dbias}});
  expect_apart(kOp, {"dbias", a.dbias}, {{"dy", a.dy}});
}

}  // namespace esft
