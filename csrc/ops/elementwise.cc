// Argument checks of the element-wise ops (contract: elementwise.h).
#include "arg_checks.h"

namespace esft {

void check_swiglu(const esft_swiglu_args& a) {
  ESFT_BEGIN_CHECK(swiglu)
  expect_activation(kOp, "act", a.act, a.alpha, a.limit, ACT_SWIGLU);
  expect_matrix(kOp, "a", a.a, -1, -1);
  expect_matrix(kOp, "h", a.h, rows(a.a), 2 * cols(a.a));
  expect_apart(kOp, {"a", a.a}, {{"h", a.h}});
}

void check_swiglu_backward(const esft_swiglu_backward_args& a) {
  ESFT_BEGIN_CHECK(swiglu_backward)
  expect_activation(kOp, "act", a.act, a.alpha, a.limit, ACT_SWIGLU);
  expect_matrix(kOp, "da", a.da, -1, -1);
  expect_matrix(kOp, "h", a.h, rows(a.da), 2 * cols(a.da));
  expect_matrix(kOp, "dh", a.dh, rows(a.h), cols(a.h));
  expect_same_or_apart(kOp, "dh", a.dh, "h", a.h);
  expect_apart(kOp, {"dh", a.dh}, {{"da", a.da}});
}

void check_add(const esft_add_args& a) {
  ESFT_BEGIN_CHECK(add)
  expect_finite(kOp, "alpha", a.alpha);
  expect_matrix(kOp, "y", a.y, -1, -1);
  expect_matrix(kOp, "a", a.a, rows(a.y), cols(a.y));
  expect_matrix(kOp, "b", a.b, rows(a.y), cols(a.y));
  expect_same_or_apart(kOp, "y", a.y, "a", a.a);
  expect_same_or_apart(kOp, "y", a.y, "b", a.b);
}

void check_scale(const esft_scale_args& a) {
  ESFT_BEGIN_CHECK(scale)
  expect_finite(kOp, "factor", a.factor);
  expect_matrix(kOp, "x", a.x, -1, -1);
  if (!present(a.by)) return;
  expect_float_weight(kOp, "by", a.by);
  expect_vector(kOp, "by", a.by, 1);
  expect_apart(kOp, {"x", a.x}, {{"by", a.by}});
}

void check_soft_cap(const esft_soft_cap_args& a) {
  ESFT_BEGIN_CHECK(soft_cap)
  expect_cap(kOp, "cap", a.cap);
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_matrix(kOp, "y", a.y, rows(a.x), cols(a.x));
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
}

static void expect_limits(const char* op, double lo, double hi) {
  if (std::isnan(lo)) fail(op, "lo", "a number", "NaN");
  if (!(hi >= lo)) fail(op, "hi", format("at least lo = %g", lo), format("%g", hi));
}

void check_clamp(const esft_clamp_args& a) {
  ESFT_BEGIN_CHECK(clamp)
  expect_limits(kOp, a.lo, a.hi);
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_matrix(kOp, "y", a.y, rows(a.x), cols(a.x));
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
}

void check_clamp_backward(const esft_clamp_backward_args& a) {
  ESFT_BEGIN_CHECK(clamp_backward)
  expect_limits(kOp, a.lo, a.hi);
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_matrix(kOp, "dy", a.dy, rows(a.x), cols(a.x));
  expect_matrix(kOp, "dx", a.dx, rows(a.x), cols(a.x));
  expect_same_or_apart(kOp, "dx", a.dx, "dy", a.dy);
  expect_same_or_apart(kOp, "dx", a.dx, "x", a.x);
}

void check_fill(const esft_fill_args& a) {
  ESFT_BEGIN_CHECK(fill)
  double lo, hi;  // of the integer types; i64 stops where doubles are exact
  switch (a.x.dtype) {
    case ESFT_I32: lo = -2147483648.0, hi = 2147483647.0; break;
    case ESFT_I64: lo = -9007199254740992.0, hi = 9007199254740992.0; break;
    case ESFT_U8: lo = 0, hi = 255; break;
    default: return;
  }
  if (!(a.value >= lo && a.value <= hi) || a.value != std::floor(a.value))
    fail(kOp, "value", format("an integer in %.0f..%.0f for %s", lo, hi, dtype_name(a.x.dtype)), format("%g", a.value));
}

void check_cast(const esft_cast_args& a) {
  ESFT_BEGIN_CHECK(cast)
  if (a.x.dtype != a.y.dtype) {
    if (a.x.dtype != ESFT_F32 && a.x.dtype != ESFT_BF16) expect_dtype(kOp, "y", a.y, a.x.dtype);
    expect_float_weight(kOp, "y", a.y);
  }
  expect_matrix(kOp, "y", a.y, rows(a.x), cols(a.x));
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
}

void check_mask_grad(const esft_mask_grad_args& a) {
  ESFT_BEGIN_CHECK(mask_grad)
  expect_dtype(kOp, "grad", a.grad, ESFT_F32);
  if (a.grad.rank < 2) fail(kOp, "grad", "[E, ...] of rank 2 or more", describe(a.grad));
  expect_ints(kOp, "keep", a.keep, a.grad.shape[0]);
}

void check_column_sum(const esft_column_sum_args& a) {
  ESFT_BEGIN_CHECK(column_sum)
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_dtype(kOp, "y", a.y, ESFT_F32);
  expect_vector(kOp, "y", a.y, cols(a.x));
  expect_apart(kOp, {"y", a.y}, {{"x", a.x}});
}

}  // namespace esft
