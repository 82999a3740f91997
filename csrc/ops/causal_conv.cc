// Argument checks of causal_conv and its backward (contract: causal_conv.h).
#include "arg_checks.h"

namespace esft {

namespace {

template <class Args>
void check_operands(const char* op, const Args& a) {
  expect_flag(op, "silu", a.silu);
  expect_matrix(op, "x", a.x, -1, -1);
  const int64_t T = rows(a.x), C = cols(a.x);
  expect_range(op, "x", T, 0, kMaxI32);
  expect_float_weight(op, "weight", a.weight);
  expect_matrix(op, "weight", a.weight, C, -1);
  const int64_t w = cols(a.weight);
  if (w < 1 || w > ESFT_CAUSAL_CONV_TAPS)
    fail(op, "weight", format("[C, w] with w in 1..%d", ESFT_CAUSAL_CONV_TAPS), describe(a.weight));
  expect_vector(op, "weight", a.weight, C * w);
  if (present(a.bias)) {
    expect_float_weight(op, "bias", a.bias);
    expect_vector(op, "bias", a.bias, C);
  }
  expect_i32(op, "doc_start", a.doc_start, T);
}

}  // namespace

void check_causal_conv(const esft_causal_conv_args& a) {
  ESFT_BEGIN_CHECK(causal_conv)
  check_operands(kOp, a);
  expect_matrix(kOp, "y", a.y, rows(a.x), cols(a.x));
  expect_apart(kOp, {"y", a.y}, {{"x", a.x}, {"weight", a.weight}, {"bias", a.bias}, {"doc_start", a.doc_start}});
  if (a.states.count == 0) return;
  for (int64_t i = 0; i < a.states.count; i++) expect_state(kOp, {"states", i}, a.states.items[i], cols(a.weight) - 1, cols(a.x));
  Extents memory;
  for (const Named& n : {Named{"x", a.x}, Named{"weight", a.weight}, Named{"bias", a.bias}, Named{"doc_start", a.doc_start}})
    if (present(n.t)) memory.add(n.name, n.t, false);
  memory.add("y", a.y, true);
  memory.add("states", a.states, true);
  memory.expect_apart(kOp);
}

void check_causal_conv_backward(const esft_causal_conv_backward_args& a) {
  ESFT_BEGIN_CHECK(causal_conv_backward)
  check_operands(kOp, a);
  const int64_t T = rows(a.x), C = cols(a.x);
  expect_matrix(kOp, "dy", a.dy, T, C);
  if (present(a.dx)) expect_matrix(kOp, "dx", a.dx, T, C);
  if (present(a.dweight)) {
    expect_dtype(kOp, "dweight", a.dweight, ESFT_F32);
    expect_matrix(kOp, "dweight", a.dweight, C, cols(a.weight));
    expect_vector(kOp, "dweight", a.dweight, C * cols(a.weight));
  }
  if (present(a.dbias)) expect_f32_vector(kOp, "dbias", a.dbias, C);
  for (const Named& out : {Named{"dx", a.dx}, Named{"dweight", a.dweight}, Named{"dbias", a.dbias}})
    expect_apart(kOp, out, {{"dy", a.dy}, {"x", a.x}, {"weight", a.weight}, {"bias", a.bias}, {"doc_start", a.doc_start}});
  expect_apart(kOp, {"dx", a.dx}, {{"dweight", a.dweight}, {"dbias", a.dbias}});
  expect_apart(kOp, {"dweight", a.dweight}, {{"dbias", a.dbias}});
}

}  // namespace esft
