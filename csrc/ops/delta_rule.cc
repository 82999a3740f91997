// Argument checks of gated_delta_rule, delta_gates and their backwards (contract: delta_rule.h).
#include "arg_checks.h"

namespace esft {

namespace {

template <class Args>
void check_operands(const char* op, const Args& a) {
  expect_not_negative(op, "eps", a.eps);
  expect_range(op, "heads", a.heads, 1, 65536);
  expect_range(op, "key_heads", a.key_heads, 1, a.heads);
  if (a.heads % a.key_heads)
    fail(op, "key_heads", format("a divisor of %lld heads", (long long)a.heads), std::to_string(a.key_heads));
  expect_matrix(op, "q", a.q, -1, -1);
  const int64_t T = rows(a.q);
  expect_range(op, "q", T, 0, kMaxI32);
  if (cols(a.q) < 1 || cols(a.q) % a.key_heads)
    fail(op, "q", format("with a multiple of %lld columns (key_heads)", (long long)a.key_heads), describe(a.q));
  expect_matrix(op, "k", a.k, T, cols(a.q));
  expect_matrix(op, "v", a.v, T, -1);
  if (cols(a.v) < 1 || cols(a.v) % a.heads)
    fail(op, "v", format("with a multiple of %lld columns (heads)", (long long)a.heads), describe(a.v));
  expect_f32(op, "beta", a.beta, T, a.heads);
  expect_f32(op, "g", a.g, T, a.heads);
  expect_i32(op, "doc_start", a.doc_start, T);
}

template <class Args>
void check_gates(const char* op, const Args& a) {
  expect_matrix(op, "b", a.b, -1, -1);
  const int64_t T = rows(a.b), H = cols(a.b);
  expect_matrix(op, "a", a.a, T, H);
  expect_float_weight(op, "a_log", a.a_log);
  expect_vector(op, "a_log", a.a_log, H);
  expect_float_weight(op, "dt_bias", a.dt_bias);
  expect_vector(op, "dt_bias", a.dt_bias, H);
}

}  // namespace

void check_gated_delta_rule(const esft_gated_delta_rule_args& a) {
  ESFT_BEGIN_CHECK(gated_delta_rule)
  check_operands(kOp, a);
  expect_matrix(kOp, "o", a.o, rows(a.v), cols(a.v));
  expect_apart(kOp, {"o", a.o}, {{"q", a.q}, {"k", a.k}, {"v", a.v}, {"beta", a.beta}, {"g", a.g}, {"doc_start", a.doc_start}});
  if (a.states.count == 0) return;
  const int64_t dk = cols(a.q) / a.key_heads, dv = cols(a.v) / a.heads;
  for (int64_t i = 0; i < a.states.count; i++) expect_state(kOp, {"states", i}, a.states.items[i], a.heads * dk, dv);
  Extents extents;
  for (const Named& in :
       {Named{"q", a.q}, Named{"k", a.k}, Named{"v", a.v}, Named{"beta", a.beta}, Named{"g", a.g}, Named{"doc_start", a.doc_start}})
    extents.add(in.name, in.t, false);
  extents.add("o", a.o, true);
  extents.add("states", a.states, true);
  extents.expect_apart(kOp);
}

void check_gated_delta_rule_backward(const esft_gated_delta_rule_backward_args& a) {
  ESFT_BEGIN_CHECK(gated_delta_rule_backward)
  check_operands(kOp, a);
  const int64_t T = rows(a.q);
  expect_matrix(kOp, "dout", a.dout, T, cols(a.v));
  expect_matrix(kOp, "dq", a.dq, T, cols(a.q));
  expect_matrix(kOp, "dk", a.dk, T, cols(a.k));
  expect_matrix(kOp, "dv", a.dv, T, cols(a.v));
  expect_f32(kOp, "dbeta", a.dbeta, T, a.heads);
  expect_f32(kOp, "dg", a.dg, T, a.heads);
  Extents extents;
  for (const Named& in : {Named{"dout", a.dout}, Named{"q", a.q}, Named{"k", a.k}, Named{"v", a.v}, Named{"beta", a.beta},
                          Named{"g", a.g}, Named{"doc_start", a.doc_start}})
    extents.add(in.name, in.t, false);
  for (const Named& out : {Named{"dq", a.dq}, Named{"dk", a.dk}, Named{"dv", a.dv}, Named{"dbeta", a.dbeta}, Named{"dg", a.dg}})
    extents.add(out.name, out.t, true);
  extents.expect_apart(kOp);
}

void check_delta_gates(const esft_delta_gates_args& a) {
  ESFT_BEGIN_CHECK(delta_gates)
  check_gates(kOp, a);
  expect_f32(kOp, "beta", a.beta, rows(a.b), cols(a.b));
  expect_f32(kOp, "g", a.g, rows(a.b), cols(a.b));
  for (const Named& out : {Named{"beta", a.beta}, Named{"g", a.g}})
    expect_apart(kOp, out, {{"b", a.b}, {"a", a.a}, {"a_log", a.a_log}, {"dt_bias", a.dt_bias}});
  expect_apart(kOp, {"beta", a.beta}, {{"g", a.g}});
}

void check_delta_gates_backward(const esft_delta_gates_backward_args& a) {
  ESFT_BEGIN_CHECK(delta_gates_backward)
  check_gates(kOp, a);
  const int64_t T = rows(a.b), H = cols(a.b);
  expect_f32(kOp, "dbeta", a.dbeta, T, H);
  expect_f32(kOp, "dg", a.dg, T, H);
  expect_matrix(kOp, "db", a.db, T, H);
  expect_matrix(kOp, "da", a.da, T, H);
  if (present(a.da_log)) expect_f32_vector(kOp, "da_log", a.da_log, H);
  if (present(a.ddt_bias)) expect_f32_vector(kOp, "ddt_bias", a.ddt_bias, H);
  Extents extents;
  for (const Named& in : {Named{"dbeta", a.dbeta}, Named{"dg", a.dg}, Named{"b", a.b}, Named{"a", a.a}, Named{"a_log", a.a_log},
                          Named{"dt_bias", a.dt_bias}})
    extents.add(in.name, in.t, false);
  for (const Named& out : {Named{"db", a.db}, Named{"da", a.da}, Named{"da_log", a.da_log}, Named{"ddt_bias", a.ddt_bias}})
    extents.add(out.name, out.t, true);
  extents.expect_apart(kOp);
}

}  // namespace esft
