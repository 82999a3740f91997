// Argument checks of gemm (contract: gemm.h).
#include "arg_checks.h"

namespace esft {

void check_gemm(const esft_gemm_args& a) {
  ESFT_BEGIN_CHECK(gemm)
  expect_range(kOp, "mode", a.mode, 0, 2);
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_flag(kOp, "precision", a.precision);
  expect_float_weight(kOp, "c", a.c);
  expect_matrix(kOp, "c", a.c, -1, -1);
  const int64_t m = rows(a.c), n = cols(a.c);
  expect_float_weight(kOp, "a", a.a);
  expect_matrix(kOp, "a", a.a, a.mode == 2 ? -1 : m, a.mode == 2 ? m : -1);
  const int64_t k = a.mode == 2 ? rows(a.a) : cols(a.a);
  expect_float_weight(kOp, "b", a.b.tensor);
  expect_matrix(kOp, "b", a.b.tensor, a.mode == 0 ? n : k, a.mode == 0 ? k : n);
  if (present(a.bias)) {
    if (a.mode != 0) expect_absent(kOp, "bias", a.bias, "in modes 1 and 2");
    expect_float_weight(kOp, "bias", a.bias);
    expect_vector(kOp, "bias", a.bias, n);
  }
  if (present(a.residual)) {
    if (a.mode != 0) expect_absent(kOp, "residual", a.residual, "in modes 1 and 2");
    if (a.accumulate) expect_absent(kOp, "residual", a.residual, "with accumulate 1");
    expect_dtype(kOp, "residual", a.residual, a.c.dtype);
    expect_matrix(kOp, "residual", a.residual, m, n);
  }
  expect_apart(kOp, {"c", a.c}, {{"a", a.a}, {"b", a.b.tensor}, {"bias", a.bias}, {"residual", a.residual}});
}

}  // namespace esft
