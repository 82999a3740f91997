// Argument checks of linear_cross_entropy (contract: linear_cross_entropy.h).
#include "arg_checks.h"

namespace esft {

void check_linear_cross_entropy(const esft_linear_cross_entropy_args& a) {
  ESFT_BEGIN_CHECK(linear_cross_entropy)
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_flag(kOp, "precision", a.precision);
  expect_finite(kOp, "grad_scale", a.grad_scale);
  expect_finite(kOp, "logit_scale", a.logit_scale);
  if (a.soft_cap != 0) expect_cap(kOp, "soft_cap", a.soft_cap);
  expect_matrix(kOp, "x", a.x, -1, -1);
  const int64_t T = rows(a.x), D = cols(a.x);
  expect_float_weight(kOp, "w", a.w);
  expect_matrix(kOp, "w", a.w, -1, D);
  expect_range(kOp, "w", rows(a.w), 1, kMaxI32);
  if (present(a.bias)) {
    expect_float_weight(kOp, "bias", a.bias);
    expect_vector(kOp, "bias", a.bias, rows(a.w));
  } else {
    expect_absent(kOp, "dbias", a.dbias, "where there is no bias");
  }
  if (present(a.u)) {
    expect_matrix(kOp, "u", a.u, T, -1);
    expect_range(kOp, "u", cols(a.u), 1, kMaxI32);
    expect_present(kOp, "b", a.b);
    expect_float_weight(kOp, "b", a.b);
    expect_matrix(kOp, "b", a.b, rows(a.w), cols(a.u));
    if (present(a.du)) expect_matrix(kOp, "du", a.du, T, cols(a.u));
    if (present(a.db)) expect_f32(kOp, "db", a.db, rows(a.w), cols(a.u));
  } else {
    expect_absent(kOp, "b", a.b, "where there is no u");
    expect_absent(kOp, "du", a.du, "where there is no u");
    expect_absent(kOp, "db", a.db, "where there is no u");
  }
  expect_i32(kOp, "labels", a.labels, T);
  expect_scalar(kOp, "loss", a.loss, ESFT_F64);
  if (present(a.correct)) expect_scalar(kOp, "correct", a.correct, ESFT_I64);
  if (present(a.row_loss)) expect_f32_vector(kOp, "row_loss", a.row_loss, T);
  if (present(a.dx)) expect_matrix(kOp, "dx", a.dx, T, D);
  if (present(a.dw)) expect_f32(kOp, "dw", a.dw, rows(a.w), D);
  if (present(a.dbias)) expect_f32_vector(kOp, "dbias", a.dbias, rows(a.w));
  if (present(a.scale)) expect_scalar(kOp, "scale", a.scale, ESFT_F64);
  const Named outputs[] = {{"loss", a.loss}, {"correct", a.correct}, {"row_loss", a.row_loss}, {"dx", a.dx}, {"dw", a.dw},
                           {"du", a.du},     {"db", a.db},           {"dbias", a.dbias}};
  for (int i = 0; i < 8; i++) {
    expect_apart(kOp, outputs[i],
                 {{"x", a.x}, {"w", a.w}, {"u", a.u}, {"b", a.b}, {"bias", a.bias}, {"labels", a.labels}, {"scale", a.scale}});
    for (int j = i + 1; j < 8; j++) expect_no_alias(kOp, outputs[i].name, outputs[i].t, outputs[j].name, outputs[j].t);
  }
}

}  // namespace esft
