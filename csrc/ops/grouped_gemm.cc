// Argument checks of the three grouped products (contract: grouped_gemm.h).
#include <cmath>

#include "arg_checks.h"

namespace esft {

namespace {

int64_t experts(const char* op, const esft_tensor& offsets) {
  expect_i32(op, "offsets", offsets, -1);
  if (numel(offsets) < 2) fail(op, "offsets", "E + 1 offsets of E >= 1 experts", describe(offsets));
  return numel(offsets) - 1;
}

// Item i of the weight list; `count` items, and every expert's segment like expert 0's. Returns the summed rows.
int64_t expect_weights(const char* op, const char* argument, const esft_tensor_list& w, int64_t groups, int64_t segments,
                       int64_t k) {
  if (w.count != groups * segments)
    fail(op, argument, format("%lld x %lld matrices", (long long)groups, (long long)segments), std::to_string(w.count));
  int64_t m = 0;
  for (int64_t i = 0; i < w.count; i++) {
    expect_float_weight(op, {argument, i}, w.items[i]);
    expect_matrix(op, {argument, i}, w.items[i], i < segments ? -1 : rows(w.items[i % segments]), k);
    if (i < segments) m += rows(w.items[i]);
  }
  return m;
}

// Biases of `heights` rows per segment, like the weights of expert 0.
void expect_biases(const char* op, const esft_tensor_list& bias, const esft_tensor_list& w, int64_t segments) {
  if (bias.count == 0) return;
  if (bias.count != w.count)
    fail(op, "bias", format("%lld vectors, one per matrix", (long long)w.count), std::to_string(bias.count));
  for (int64_t i = 0; i < bias.count; i++) {
    expect_float_weight(op, {"bias", i}, bias.items[i]);
    expect_vector(op, {"bias", i}, bias.items[i], rows(w.items[i % segments]));
  }
}

// Low-rank terms beside products of m stacked rows (nt: those of the terms; nn: m = 0) and k columns (nn: those of the terms).
struct Terms {
  const esft_tensor& u;
  const esft_tensor_list& items;
  const esft_ints& groups;
};
void expect_terms(const char* op, const Terms& t, int64_t n, int64_t experts, bool gated, int64_t m, int64_t k) {
  if (t.items.count == 0) {
    expect_absent(op, "u", t.u, "without terms");
    if (t.groups.count) fail(op, "term_groups", "empty without terms", std::to_string(t.groups.count) + " ids");
    return;
  }
  expect_ints(op, "term_groups", t.groups, experts);
  if (t.groups.count == 0 || t.items.count % t.groups.count)
    fail(op, "terms", format("as many matrices for each of %lld experts of term_groups", (long long)t.groups.count),
         std::to_string(t.items.count));
  const bool nt = k < 0;
  const int64_t parts = t.items.count / t.groups.count;
  if (parts > (nt && gated ? 2 : 64))
    fail(op, "terms", format("at most %d matrices per expert", nt && gated ? 2 : 64), std::to_string(parts));
  expect_present(op, "u", t.u);
  expect_matrix(op, "u", t.u, n, -1);
  if (cols(t.u) % parts) fail(op, "u", format("columns in %lld equal parts", (long long)parts), describe(t.u));
  const int64_t rank = cols(t.u) / parts;
  int64_t height = 0, largest = 0;
  for (int64_t i = 0; i < t.items.count; i++) {
    const esft_tensor& item = t.items.items[i];
    expect_float_weight(op, {"terms", i}, item);
    if (nt)
      expect_matrix(op, {"terms", i}, item, gated && parts == 2 ? m / 2 : i < parts ? -1 : rows(t.items.items[i % parts]), -1);
    else
      expect_matrix(op, {"terms", i}, item, -1, k);
    const int64_t own = nt ? cols(item) : rows(item);
    if (own > rank) fail(op, {"terms", i}, format("a rank of at most %lld, a part of u", (long long)rank), describe(item));
    if (own > largest) largest = own;
    if (i < parts) height += rows(item);
  }
  if (largest < rank)
    fail(op, "u", format("%lld parts of the largest rank, %lld columns", (long long)parts, (long long)largest), describe(t.u));
  if (nt && height != m) fail(op, "terms", format("%lld rows per expert", (long long)m), std::to_string(height));
}

void expect_plain_output(const char* op, double factor, int64_t accumulate, int64_t act) {
  if (!std::isfinite(float(factor))) fail(op, "factor", "finite in f32", format("%g", factor));
  expect_flag(op, "accumulate", accumulate);
  if (act && factor != 1) fail(op, "factor", "1 with an activation", format("%g", factor));
  if (act && accumulate) fail(op, "accumulate", "0 with an activation", "1");
}

// Rows of an operand: all n of them in order, or gathered by `index`.
void expect_gather(const char* op, const char* argument, const esft_tensor& x, const char* index_name, const esft_tensor& index,
                   int64_t n) {
  if (present(index))
    expect_i32(op, index_name, index, n);
  else
    expect_matrix(op, argument, x, n, -1);
  expect_range(op, argument, rows(x), 0, kMaxI32);
}

}  // namespace

void check_grouped_gemm_nt(const esft_grouped_gemm_nt_args& a) {
  ESFT_BEGIN_CHECK(grouped_gemm_nt)
  expect_activation(kOp, "act", a.act, a.alpha, a.limit, ACT_NONE);
  expect_flag(kOp, "precision", a.precision);
  expect_range(kOp, "segments", a.segments, 1, a.act ? 2 : 64);
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_matrix(kOp, "y", a.y, -1, -1);
  const int64_t n = rows(a.y), e = experts(kOp, a.offsets);
  expect_range(kOp, "y", n, 0, kMaxI32);
  expect_gather(kOp, "x", a.x, "rows", a.rows, n);
  const int64_t m = expect_weights(kOp, "w", tensors_of(a.w), e, a.segments, cols(a.x));
  if (a.act) {
    if (m % 2) fail(kOp, "w", "gate over up with an even number of rows", std::to_string(m));
    if (a.segments == 2) expect_matrix(kOp, "w[1]", a.w.items[1], rows(a.w.items[0]), -1);
    expect_matrix(kOp, "y", a.y, n, m / 2);
    if (present(a.h)) expect_matrix(kOp, "h", a.h, n, m);
    expect_absent(kOp, "residual", a.residual, "with an activation");
  } else {
    expect_absent(kOp, "h", a.h, "with act 0");
    expect_matrix(kOp, "y", a.y, n, m);
    if (present(a.residual)) expect_matrix(kOp, "residual", a.residual, n, m);
    if (a.accumulate) expect_absent(kOp, "residual", a.residual, "with accumulate 1");
  }
  expect_biases(kOp, a.bias, tensors_of(a.w), a.segments);
  expect_terms(kOp, {a.u, a.terms, a.term_groups}, n, e, a.act != 0, m, -1);
  expect_ints(kOp, "groups", a.groups, e);
  expect_plain_output(kOp, a.factor, a.accumulate, a.act);
  expect_apart(kOp, {"y", a.y},
               {{"x", a.x}, {"rows", a.rows}, {"offsets", a.offsets}, {"u", a.u}, {"residual", a.residual}, {"h", a.h}});
  expect_apart(kOp, {"h", a.h}, {{"x", a.x}, {"rows", a.rows}, {"offsets", a.offsets}, {"u", a.u}});
  for (const Named& out : {Named{"y", a.y}, {"h", a.h}}) {
    expect_apart_from_list(kOp, out, "w", tensors_of(a.w));
    expect_apart_from_list(kOp, out, "terms", a.terms);
    expect_apart_from_list(kOp, out, "bias", a.bias);
  }
}

void check_grouped_gemm_nn(const esft_grouped_gemm_nn_args& a) {
  ESFT_BEGIN_CHECK(grouped_gemm_nn)
  expect_activation(kOp, "act", a.act, a.alpha, a.limit, ACT_NONE);
  expect_flag(kOp, "precision", a.precision);
  expect_range(kOp, "segments", a.segments, 1, 64);
  expect_matrix(kOp, "dy", a.dy, -1, -1);
  expect_matrix(kOp, "dx", a.dx, -1, -1);
  const int64_t n = rows(a.dx), e = experts(kOp, a.offsets);
  expect_range(kOp, "dx", n, 0, kMaxI32);
  expect_gather(kOp, "dy", a.dy, "rows", a.rows, n);
  const int64_t k = a.act ? cols(a.dx) / 2 : cols(a.dx);
  if (a.act && cols(a.dx) % 2) fail(kOp, "dx", "[N, 2F] with an even number of columns", describe(a.dx));
  const int64_t m = expect_weights(kOp, "w", tensors_of(a.w), e, a.segments, k);
  expect_biases(kOp, a.bias, tensors_of(a.w), a.segments);
  if (a.bias.count && !present(a.dgate)) fail(kOp, "bias", "absent without dgate", std::to_string(a.bias.count) + " vectors");
  expect_matrix(kOp, "dy", a.dy, -1, m);
  if (a.act) {
    expect_present(kOp, "h", a.h);
    expect_matrix(kOp, "h", a.h, n, 2 * k);
    if (present(a.gate)) expect_f32_vector(kOp, "gate", a.gate, n);
    if (present(a.dgate)) expect_f32_vector(kOp, "dgate", a.dgate, n);
  } else {
    expect_absent(kOp, "h", a.h, "with act 0");
    expect_absent(kOp, "gate", a.gate, "with act 0");
    expect_absent(kOp, "dgate", a.dgate, "with act 0");
  }
  expect_terms(kOp, {a.u, a.terms, a.term_groups}, n, e, a.act != 0, 0, k);
  expect_ints(kOp, "groups", a.groups, e);
  expect_plain_output(kOp, a.factor, a.accumulate, a.act);
  expect_apart(kOp, {"dx", a.dx},
               {{"dy", a.dy}, {"rows", a.rows}, {"offsets", a.offsets}, {"u", a.u}, {"gate", a.gate}, {"dgate", a.dgate}});
  expect_same_or_apart(kOp, "dx", a.dx, "h", a.h);
  expect_apart(kOp, {"dgate", a.dgate},
               {{"dy", a.dy}, {"rows", a.rows}, {"offsets", a.offsets}, {"u", a.u}, {"gate", a.gate}, {"h", a.h}});
  for (const Named& out : {Named{"dx", a.dx}, {"dgate", a.dgate}}) {
    expect_apart_from_list(kOp, out, "w", tensors_of(a.w));
    expect_apart_from_list(kOp, out, "terms", a.terms);
    expect_apart_from_list(kOp, out, "bias", a.bias);
  }
}

void check_grouped_gemm_tn(const esft_grouped_gemm_tn_args& a) {
  ESFT_BEGIN_CHECK(grouped_gemm_tn)
  expect_activation(kOp, "x_act", a.x_act, a.alpha, a.limit, ACT_NONE);
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_flag(kOp, "precision", a.precision);
  expect_range(kOp, "segments", a.segments, 1, 64);
  expect_matrix(kOp, "dy", a.dy, -1, -1);
  expect_matrix(kOp, "x", a.x, -1, -1);
  const int64_t e = experts(kOp, a.offsets);
  // N is known from whichever operand is not gathered, or from a gather index.
  const int64_t n = present(a.dy_rows) ? numel(a.dy_rows) : rows(a.dy);
  expect_range(kOp, "dy", n, 0, kMaxI32);
  expect_gather(kOp, "dy", a.dy, "dy_rows", a.dy_rows, n);
  expect_gather(kOp, "x", a.x, "x_rows", a.x_rows, n);
  if (present(a.dy_scale)) expect_f32_vector(kOp, "dy_scale", a.dy_scale, n);
  if (a.x_act && cols(a.x) % 2) fail(kOp, "x", "[N, 2K] with an even number of columns", describe(a.x));
  expect_ints(kOp, "groups", a.groups, e);
  const int64_t m = expect_weights(kOp, "dw", a.dw, a.groups.count, a.segments, a.x_act ? cols(a.x) / 2 : cols(a.x));
  if (a.groups.count) expect_matrix(kOp, "dy", a.dy, -1, m);
  for (int64_t i = 0; i < a.dw.count; i++) expect_dtype(kOp, {"dw", i}, a.dw.items[i], ESFT_F32);
  Extents memory;
  memory.add("dw", a.dw, true);
  for (const Named& in : {Named{"dy", a.dy},
                          {"dy_rows", a.dy_rows},
                          {"dy_scale", a.dy_scale},
                          {"x", a.x},
                          {"x_rows", a.x_rows},
                          {"offsets", a.offsets}})
    memory.add(in.name, in.t, false);
  memory.expect_apart(kOp);
}

}  // namespace esft
