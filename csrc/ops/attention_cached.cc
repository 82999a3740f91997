// Argument checks of attention_cached (contract: attention_cached.h).
#include "arg_checks.h"

namespace esft {

namespace {

// Where the heads of new keys or values lie in their buffer.
void check_heads(const char* op, const char* name, const esft_tensor& t, int64_t T, int64_t kv_heads, int64_t dim, int64_t offset,
                 int64_t stride) {
  const std::string of = name;
  expect_matrix(op, name, t, T, -1);
  expect_range(op, (of + "_dim").c_str(), dim, 0, cols(t));
  expect_range(op, (of + "_offset").c_str(), offset, 0, cols(t) - dim);
  if (kv_heads > 1) expect_range(op, (of + "_stride").c_str(), stride, dim, (cols(t) - offset - dim) / (kv_heads - 1));
}

// Rows of a cache, all of one dtype; as many items as the other cache has, with as many rows each.
void check_cache(const char* op, const char* name, const esft_tensor_list& cache, int64_t width, const esft_tensor_list& keys) {
  for (int64_t i = 0; i < cache.count; i++) {
    const esft_tensor& t = cache.items[i];
    expect_float_weight(op, {name, i}, t);
    if (t.dtype != keys.items[0].dtype)
      fail(op, {name, i}, format("%s as k_cache[0] is", dtype_name(keys.items[0].dtype)), describe(t));
    expect_matrix(op, {name, i}, t, rows(keys.items[i]), width);
    if (!contiguous(t)) fail(op, {name, i}, "contiguous", describe(t));
    if (rows(t) < 1 || rows(t) > kMaxI32) fail(op, {name, i}, "of 1 to 2147483647 rows", describe(t));
  }
}

}  // namespace

void check_attention_cached(const esft_attention_cached_args& a) {
  ESFT_BEGIN_CHECK(attention_cached)
  expect_flag(kOp, "precision", a.precision);
  expect_finite(kOp, "scale", a.scale);
  expect_range(kOp, "window", a.window, 0, kMaxI32);
  expect_range(kOp, "chunk", a.chunk, 0, kMaxI32);
  expect_matrix(kOp, "q", a.q, -1, -1);
  const int64_t T = rows(a.q), dr = present(a.k_shared) ? cols(a.k_shared) : 0;
  expect_range(kOp, "q", T, 0, kMaxI32);
  expect_range(kOp, "heads", a.heads, 1, 65536);
  expect_range(kOp, "kv_heads", a.kv_heads, 1, a.heads);
  if (a.heads % a.kv_heads)
    fail(kOp, "kv_heads", format("a divisor of %lld heads", (long long)a.heads), std::to_string(a.kv_heads));
  check_heads(kOp, "k", a.k, T, a.kv_heads, a.k_dim, a.k_offset, a.k_stride);
  if (present(a.k_shared)) expect_matrix(kOp, "k_shared", a.k_shared, T, -1);
  if (a.k_dim + dr < 1) fail(kOp, "k_dim", "at least 1 without k_shared", std::to_string(a.k_dim));
  expect_matrix(kOp, "q", a.q, T, a.heads * (a.k_dim + dr));
  if (present(a.sinks)) {
    expect_float_weight(kOp, "sinks", a.sinks);
    expect_vector(kOp, "sinks", a.sinks, a.heads);
  }
  expect_i32(kOp, "doc_start", a.doc_start, T);
  expect_i32(kOp, "positions", a.positions, T);
  if (present(a.v)) {
    check_heads(kOp, "v", a.v, T, a.kv_heads, a.v_dim, a.v_offset, a.v_stride);
    expect_range(kOp, "v_dim", a.v_dim, 1, cols(a.v));
    if (a.v_cache.count != a.k_cache.count)
      fail(kOp, "v_cache", format("%lld matrices, as k_cache has", (long long)a.k_cache.count), std::to_string(a.v_cache.count));
  } else {
    if (a.kv_heads != 1) fail(kOp, "kv_heads", "1 without v", std::to_string(a.kv_heads));
    if (a.v_cache.count) fail(kOp, "v_cache", "absent without v", std::to_string(a.v_cache.count) + " matrices");
    expect_range(kOp, "v_dim", a.v_dim, 1, a.k_dim);
  }
  if (T > 0 && a.k_cache.count == 0) fail(kOp, "k_cache", "a matrix for each document", "none");
  check_cache(kOp, "k_cache", a.k_cache, a.kv_heads * a.k_dim + dr, a.k_cache);
  check_cache(kOp, "v_cache", a.v_cache, a.kv_heads * a.v_dim, a.k_cache);
  if (present(a.out)) expect_matrix(kOp, "out", a.out, T, a.heads * a.v_dim);
  Extents memory;
  for (const Named& n : {Named{"q", a.q}, Named{"k", a.k}, Named{"v", a.v}, Named{"k_shared", a.k_shared}, Named{"sinks", a.sinks},
                         Named{"doc_start", a.doc_start}, Named{"positions", a.positions}})
    if (present(n.t)) memory.add(n.name, n.t, false);
  if (present(a.out)) memory.add("out", a.out, true);
  memory.add("k_cache", a.k_cache, true);
  memory.add("v_cache", a.v_cache, true);
  memory.expect_apart(kOp);
}

void check_cached_rows(const char* op, const esft_tensor& doc_start, const esft_tensor& positions, const esft_tensor_list& caches,
                       int64_t window, int64_t chunk) {
  check_doc_start(op, "doc_start", doc_start);
  const int32_t *start = data<int32_t>(doc_start), *at = data<int32_t>(positions);
  const int64_t T = numel(doc_start);
  int64_t documents = 0, first = 0;
  for (int64_t t = 0; t < T; t++) {
    const bool opens = start[t] == t;
    documents += opens;
    if (documents > caches.count)
      fail_status(ESFT_BAD_ARGUMENT, op, "doc_start",
                  format("doc_start[%lld] opens document %lld, k_cache has %lld matrices", (long long)t, (long long)documents,
                         (long long)caches.count));
    const int64_t p = at[t];
    if (p < 0 || (!opens && p != int64_t(at[t - 1]) + 1))
      fail_status(ESFT_BAD_ARGUMENT, op, "positions",
                  opens ? format("positions[%lld] must be at least 0, received %lld", (long long)t, (long long)p)
                        : format("positions[%lld] must be %lld, one after its predecessor, received %lld", (long long)t,
                                 (long long)at[t - 1] + 1, (long long)p));
    if (opens) first = first_cached(p, window, chunk);
    const int64_t room = rows(caches.items[documents - 1]);
    if (p - first >= room)
      fail_status(ESFT_BAD_ARGUMENT, op, "k_cache",
                  format("k_cache[%lld] must have a row for each of the positions %lld..%lld, received %lld rows",
                         (long long)documents - 1, (long long)first, (long long)p, (long long)room));
  }
  if (T > 0 && documents != caches.count)
    fail_status(ESFT_BAD_ARGUMENT, op, "doc_start",
                format("doc_start has %lld documents, k_cache %lld matrices", (long long)documents, (long long)caches.count));
}

}  // namespace esft
