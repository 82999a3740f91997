// Argument checks of attention and its backward (contract: attention.h).
#include "arg_checks.h"

namespace esft {

namespace {

// The layout shared by forward and backward: heads, where k and v lie in their buffers, and every size.
template <class Args>
void check_layout(const char* op, const Args& a) {
  expect_flag(op, "precision", a.precision);
  expect_finite(op, "scale", a.scale);
  expect_range(op, "window", a.window, 0, kMaxI32);
  expect_matrix(op, "q", a.q, -1, -1);
  const int64_t T = rows(a.q);
  expect_range(op, "q", T, 0, kMaxI32);
  expect_range(op, "heads", a.heads, 1, 65536);
  expect_range(op, "kv_heads", a.kv_heads, 1, a.heads);
  if (a.heads % a.kv_heads) fail(op, "kv_heads", format("a divisor of %lld heads", (long long)a.heads), std::to_string(a.kv_heads));
  const int64_t dr = present(a.k_shared) ? cols(a.k_shared) : 0;
  auto operand = [&](const char* name, const esft_tensor& t, const char* dim_name, int64_t dim, int64_t min_dim,
                     const char* offset_name, int64_t offset, const char* stride_name, int64_t stride) {
    expect_matrix(op, name, t, T, -1);
    expect_range(op, dim_name, dim, min_dim, cols(t));
    expect_range(op, offset_name, offset, 0, cols(t) - dim);
    if (a.kv_heads > 1) expect_range(op, stride_name, stride, dim, (cols(t) - offset - dim) / (a.kv_heads - 1));
  };
  operand("k", a.k, "k_dim", a.k_dim, dr ? 0 : 1, "k_offset", a.k_offset, "k_stride", a.k_stride);
  operand("v", a.v, "v_dim", a.v_dim, 1, "v_offset", a.v_offset, "v_stride", a.v_stride);
  if (present(a.k_shared)) expect_matrix(op, "k_shared", a.k_shared, T, -1);
  expect_matrix(op, "q", a.q, T, a.heads * (a.k_dim + dr));
  if (present(a.sinks)) {
    expect_float_weight(op, "sinks", a.sinks);
    expect_vector(op, "sinks", a.sinks, a.heads);
  }
  expect_i32(op, "doc_start", a.doc_start, T);
  expect_matrix(op, "out", a.out, T, a.heads * a.v_dim);
  if (present(a.lse)) expect_f32(op, "lse", a.lse, T, a.heads);
}

// dk and dv may be two views of one buffer, as k and v: then their head columns must not meet.
void expect_kv_apart(const char* op, const esft_attention_backward_args& a) {
  if (!(a.dk.data == a.dv.data && a.dk.dtype == a.dv.dtype && (rows(a.dk) <= 1 || a.dk.ld == a.dv.ld))) {
    expect_no_alias(op, "dk", a.dk, "dv", a.dv);
    return;
  }
  for (int64_t i = 0, j = 0; i < a.kv_heads && j < a.kv_heads;) {
    const int64_t k = a.k_offset + i * a.k_stride, v = a.v_offset + j * a.v_stride;
    if (k < v + a.v_dim && v < k + a.k_dim)
      fail(op, "dk", "columns apart from dv", format("head %lld of dk over head %lld of dv", (long long)i, (long long)j));
    if (k < v)
      i++;
    else
      j++;
  }
}

}  // namespace

void check_attention(const esft_attention_args& a) {
  ESFT_BEGIN_CHECK(attention)
  check_layout(kOp, a);
  expect_apart(kOp, {"out", a.out},
               {{"q", a.q},
                {"k", a.k},
                {"v", a.v},
                {"k_shared", a.k_shared},
                {"sinks", a.sinks},
                {"doc_start", a.doc_start},
                {"lse", a.lse}});
  expect_apart(kOp, {"lse", a.lse},
               {{"q", a.q}, {"k", a.k}, {"v", a.v}, {"k_shared", a.k_shared}, {"sinks", a.sinks}, {"doc_start", a.doc_start}});
}

void check_attention_backward(const esft_attention_backward_args& a) {
  ESFT_BEGIN_CHECK(attention_backward)
  check_layout(kOp, a);
  expect_matrix(kOp, "dout", a.dout, rows(a.out), cols(a.out));
  expect_matrix(kOp, "dq", a.dq, rows(a.q), cols(a.q));
  expect_matrix(kOp, "dk", a.dk, rows(a.k), cols(a.k));
  expect_matrix(kOp, "dv", a.dv, rows(a.v), cols(a.v));
  if (present(a.dk_shared)) {
    if (!present(a.k_shared)) expect_absent(kOp, "dk_shared", a.dk_shared, "without k_shared");
    expect_matrix(kOp, "dk_shared", a.dk_shared, rows(a.k_shared), cols(a.k_shared));
  }
  if (present(a.dsinks)) {
    if (!present(a.sinks)) expect_absent(kOp, "dsinks", a.dsinks, "without sinks");
    expect_f32_vector(kOp, "dsinks", a.dsinks, a.heads);
  }
  const Named outputs[] = {{"dq", a.dq}, {"dk", a.dk}, {"dv", a.dv}, {"dk_shared", a.dk_shared}, {"dsinks", a.dsinks}};
  for (const Named& o : outputs)
    expect_apart(kOp, o,
                 {{"dout", a.dout},
                  {"q", a.q},
                  {"k", a.k},
                  {"v", a.v},
                  {"k_shared", a.k_shared},
                  {"sinks", a.sinks},
                  {"doc_start", a.doc_start},
                  {"out", a.out},
                  {"lse", a.lse}});
  expect_apart(kOp, {"dq", a.dq}, {{"dk", a.dk}, {"dv", a.dv}, {"dk_shared", a.dk_shared}, {"dsinks", a.dsinks}});
  expect_apart(kOp, {"dk_shared", a.dk_shared}, {{"dk", a.dk}, {"dv", a.dv}, {"dsinks", a.dsinks}});
  expect_apart(kOp, {"dsinks", a.dsinks}, {{"dk", a.dk}, {"dv", a.dv}});
  expect_kv_apart(kOp, a);
}

}  // namespace esft
