// Argument checks of the gates (contract: gate.h).
#include "arg_checks.h"

namespace esft {

static void expect_gates(const char* op, const esft_tensor& g, const esft_tensor& x) {
  expect_matrix(op, "g", g, rows(x), -1);
  if (cols(g) == 0 ? cols(x) != 0 : cols(x) % cols(g) != 0)
    fail(op, "g", format("[R, G] with G a divisor of %lld columns", (long long)cols(x)), describe(g));
}

void check_sigmoid_gate(const esft_sigmoid_gate_args& a) {
  ESFT_BEGIN_CHECK(sigmoid_gate)
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_gates(kOp, a.g, a.x);
  expect_matrix(kOp, "y", a.y, rows(a.x), cols(a.x));
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
  expect_apart(kOp, {"y", a.y}, {{"g", a.g}});
}

void check_sigmoid_gate_backward(const esft_sigmoid_gate_backward_args& a) {
  ESFT_BEGIN_CHECK(sigmoid_gate_backward)
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_gates(kOp, a.g, a.x);
  expect_matrix(kOp, "dy", a.dy, rows(a.x), cols(a.x));
  if (a.dx.data) {
    expect_matrix(kOp, "dx", a.dx, rows(a.x), cols(a.x));
    expect_same_or_apart(kOp, "dx", a.dx, "dy", a.dy);
    expect_apart(kOp, {"dx", a.dx}, {{"x", a.x}, {"g", a.g}});
  }
  if (a.dg.data) {
    expect_matrix(kOp, "dg", a.dg, rows(a.g), cols(a.g));
    expect_apart(kOp, {"dg", a.dg}, {{"dy", a.dy}, {"x", a.x}, {"g", a.g}, {"dx", a.dx}});
  }
}

void check_scale_rows(const esft_scale_rows_args& a) {
  ESFT_BEGIN_CHECK(scale_rows)
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_i32(kOp, "positions", a.positions, rows(a.x));
  expect_f32_vector(kOp, "factors", a.factors, -1);
  expect_matrix(kOp, "y", a.y, rows(a.x), cols(a.x));
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
  expect_apart(kOp, {"y", a.y}, {{"positions", a.positions}, {"factors", a.factors}});
}

}  // namespace esft
