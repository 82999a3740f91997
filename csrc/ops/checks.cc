// Shared argument checks (arg_checks.h) and checks of index values (checks.h).
#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "arg_checks.h"

namespace esft {

static std::string num(double v) { return format("%g", v); }

void expect_present(const char* op, Argument argument, const esft_tensor& t) {
  if (!present(t)) fail(op, argument, "a tensor", "nothing");
}

void expect_layout(const char* op, Argument argument, const esft_tensor& t) {
  if (t.rank < 1 || t.rank > ESFT_MAX_RANK) fail(op, argument, "of rank 1..4", "rank " + std::to_string(t.rank));
  const int64_t size = dtype_size(t.dtype);
  if (!size) fail(op, argument, "a known dtype", std::to_string(t.dtype));
  int64_t r = 1, extent = 0;
  bool overflow = false;
  for (int i = 0; i < t.rank; i++) {
    if (t.shape[i] < 0) fail(op, argument, "without negative sizes", describe(t));
    if (i + 1 < t.rank) overflow |= __builtin_mul_overflow(r, t.shape[i], &r);
  }
  const int64_t c = t.shape[t.rank - 1];
  if (!overflow && r > 1 && t.ld < c)
    fail(op, argument, format("with a row stride of at least %lld", (long long)c), std::to_string(t.ld));
  overflow = overflow || __builtin_mul_overflow(r, std::max(c, r > 1 ? t.ld : int64_t(0)), &extent) ||
             __builtin_mul_overflow(extent, size, &extent) || extent > (int64_t(1) << 62);
  if (overflow) fail(op, argument, "smaller than 2^62 bytes", describe(t));
  if (!t.data && r > 0 && c > 0) fail(op, argument, "memory", "a null pointer");
}

void expect_layout_list(const char* op, const char* argument, const esft_tensor_list& list) {
  for (int64_t i = 0; i < list.count; i++) {
    expect_present(op, {argument, i}, list.items[i]);
    expect_layout(op, {argument, i}, list.items[i]);
  }
}

void expect_plain(const char* op, Argument argument, const esft_scaling& s) {
  if (s.scheme == ESFT_PLAIN) return;
  const char* const names[] = {"plain", "fp8 in blocks", "mxfp4"};
  const std::string scheme =
      s.scheme > 0 && s.scheme < int(std::size(names)) ? names[s.scheme] : "scheme " + std::to_string(s.scheme);
  fail_status(ESFT_UNSUPPORTED, op, argument.name,
              format("%s is stored as %s; products take plain f32 and bf16 weights: decode it first", argument.text().c_str(),
                     scheme.c_str()));
}

void expect_plain(const char* op, const char* argument, const esft_weight_list& w) {
  for (int64_t i = 0; w.scalings && i < w.count; i++) expect_plain(op, {argument, i}, w.scalings[i]);
}

void Activations::take(const char* argument, const esft_tensor& t) {
  expect_float_weight(op, argument, t);
  if (!first_name) {
    first_name = argument;
    dtype = t.dtype;
  } else if (t.dtype != dtype) {
    fail(op, argument, format("%s like %s: the activations of a call are of one dtype", dtype_name(dtype), first_name),
         describe(t));
  }
}

void expect_ints(const char* op, const char* argument, const esft_ints& ints, int64_t limit) {
  for (int64_t i = 0; i < ints.count; i++) {
    const long long v = ints.items[i];
    if (v < 0 || v >= limit)
      fail(op, argument, format("ids in 0..%lld", (long long)limit - 1), format("%lld at position %lld", v, (long long)i));
    if (i && v <= ints.items[i - 1])
      fail(op, argument, "ascending without repeats",
           format("%lld after %lld at position %lld", v, (long long)ints.items[i - 1], (long long)i));
  }
}

void expect_finite(const char* op, const char* argument, double v) {
  if (!std::isfinite(v)) fail(op, argument, "a finite number", num(v));
}
void expect_not_negative(const char* op, const char* argument, double v) {
  if (!std::isfinite(v) || v < 0) fail(op, argument, "a finite number >= 0", num(v));
}
void expect_flag(const char* op, const char* argument, int64_t v) {
  if (v != 0 && v != 1) fail(op, argument, "0 or 1", std::to_string(v));
}
void expect_scalar(const char* op, Argument argument, const esft_tensor& t, int32_t dtype) {
  if (t.dtype != dtype || numel(t) != 1) fail(op, argument, std::string("one ") + dtype_name(dtype), describe(t));
}
void expect_activation(const char* op, const char* argument, int64_t act, double alpha, double limit, ActivationKind lowest) {
  expect_range(op, argument, act, lowest, ACT_GELU_TANH);
  const bool clamped = act == ACT_CLAMPED_SWIGLU;
  if (clamped ? !std::isfinite(float(alpha)) : alpha != 0)
    fail(op, "alpha", clamped ? "finite in f32" : format("0 with %s %lld", argument, (long long)act), format("%g", alpha));
  if (clamped ? !(std::isfinite(float(limit)) && float(limit) > 0) : limit != 0)
    fail(op, "limit", clamped ? "finite and > 0 in f32" : format("0 with %s %lld", argument, (long long)act), format("%g", limit));
}
void expect_cap(const char* op, const char* argument, double cap) {
  // Kernels compute with it and with its reciprocal in f32.
  if (!(cap >= 1e-30 && cap <= 1e30)) fail(op, argument, "in 1e-30..1e30", format("%g", cap));
}
void expect_absent(const char* op, const char* argument, const esft_tensor& t, const char* when) {
  if (present(t)) fail(op, argument, std::string("absent ") + when, describe(t));
}
void expect_f32(const char* op, Argument argument, const esft_tensor& t, int64_t r, int64_t c) {
  expect_dtype(op, argument, t, ESFT_F32);
  expect_matrix(op, argument, t, r, c);
}
void expect_state(const char* op, Argument argument, const esft_tensor& t, int64_t rows, int64_t cols) {
  expect_f32(op, argument, t, rows, cols);
  if (!contiguous(t)) fail(op, argument, "contiguous", describe(t));
}
void expect_i32(const char* op, Argument argument, const esft_tensor& t, int64_t n) {
  expect_dtype(op, argument, t, ESFT_I32);
  expect_vector(op, argument, t, n);
}
void expect_f32_vector(const char* op, Argument argument, const esft_tensor& t, int64_t n) {
  expect_dtype(op, argument, t, ESFT_F32);
  expect_vector(op, argument, t, n);
}

bool same_view(const esft_tensor& a, const esft_tensor& b) {
  return a.data == b.data && a.dtype == b.dtype && rows(a) == rows(b) && cols(a) == cols(b) && (rows(a) <= 1 || a.ld == b.ld);
}

void expect_same_or_apart(const char* op, const char* an, const esft_tensor& a, const char* bn, const esft_tensor& b) {
  if (!present(a) || !present(b) || same_view(a, b)) return;
  expect_no_alias(op, an, a, bn, b);
}

void expect_apart(const char* op, Named out, std::initializer_list<Named> others) {
  for (const Named& o : others) expect_no_alias(op, out.name, out.t, o.name, o.t);
}

void expect_apart_from_list(const char* op, Named t, const char* list_name, const esft_tensor_list& list) {
  for (int64_t i = 0; i < list.count; i++) expect_no_alias(op, t.name, t.t, list_name, list.items[i]);
}

Extents::Room& Extents::room() {
  thread_local Room room;
  return room;
}

void Extents::add(Argument name, const esft_tensor& t, bool written) {
  if (!present(t) || numel(t) == 0) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data);
  const uintptr_t end = begin + uintptr_t(((rows(t) - 1) * t.ld + cols(t)) * dtype_size(t.dtype));
  all_.push_back({name, &t, written, begin, end});
}

void Extents::add(const char* name, const esft_tensor_list& list, bool written) {
  for (int64_t i = 0; i < list.count; i++) add({name, i}, list.items[i], written);
}

// In order of address, a tensor can only meet those before it that reach past its beginning. Views of columns do without
// meeting: all of them are asked, not only the one that reaches farthest.
void Extents::expect_apart(const char* op) {
  auto& [all, read, written] = room();
  read.clear();
  written.clear();
  std::sort(all.begin(), all.end(), [](const Extent& x, const Extent& y) { return x.begin < y.begin; });
  const auto reaching = [](std::vector<const Extent*>& before, uintptr_t begin) -> const std::vector<const Extent*>& {
    before.erase(std::remove_if(before.begin(), before.end(), [&](const Extent* o) { return o->end <= begin; }), before.end());
    return before;
  };
  for (const Extent& e : all) {
    for (const Extent* o : reaching(written, e.begin)) expect_no_alias(op, o->name, *o->t, e.name, *e.t);
    if (e.written)
      for (const Extent* o : reaching(read, e.begin)) expect_no_alias(op, e.name, *e.t, o->name, *o->t);
    (e.written ? written : read).push_back(&e);
  }
}

// --- values of index tensors -------------------------------------------------------------------------------------------

[[noreturn]] static void bad_index(const char* op, const char* argument, const esft_tensor& t, int64_t r, int64_t c,
                                   const std::string& expected, long long found) {
  const std::string at = t.rank <= 1 ? std::to_string(c) : std::to_string(r) + ", " + std::to_string(c);
  fail_status(ESFT_BAD_ARGUMENT, op, argument,
              format("%s[%s] must be %s, received %lld", argument, at.c_str(), expected.c_str(), found));
}

int64_t check_offsets(const char* op, const esft_tensor& offsets, int64_t n, const char* argument, const char* of) {
  const int32_t* o = data<int32_t>(offsets);
  const int64_t last = numel(offsets) - 1;
  if (o[0] != 0) bad_index(op, argument, offsets, 0, 0, "0", o[0]);
  for (int64_t e = 1; e <= last; e++)
    if (o[e] < o[e - 1]) bad_index(op, argument, offsets, 0, e, format("at least %d, the offset before it", o[e - 1]), o[e]);
  if (o[last] > n) bad_index(op, argument, offsets, 0, last, format("at most %lld, the number of %s", (long long)n, of), o[last]);
  return o[last];
}

void check_indices(const char* op, const char* argument, const esft_tensor& index, int64_t limit) {
  for (int64_t r = 0; r < rows(index); r++) {
    const int32_t* row = data<int32_t>(index) + r * index.ld;
    for (int64_t c = 0; c < cols(index); c++)
      if (row[c] < 0 || row[c] >= limit) bad_index(op, argument, index, r, c, format("in 0..%lld", (long long)limit - 1), row[c]);
  }
}

void check_first_indices(const char* op, const char* argument, const esft_tensor& index, int64_t n, int64_t limit) {
  const int32_t* i = data<int32_t>(index);
  for (int64_t r = 0; r < n; r++)
    if (i[r] < 0 || i[r] >= limit) bad_index(op, argument, index, 0, r, format("in 0..%lld", (long long)limit - 1), i[r]);
}

void check_labels(const char* op, const char* argument, const esft_tensor& labels, int64_t limit) {
  const int32_t* l = data<int32_t>(labels);
  for (int64_t t = 0; t < numel(labels); t++)
    if (l[t] != -100 && (l[t] < 0 || l[t] >= limit))
      bad_index(op, argument, labels, 0, t, format("-100 or in 0..%lld", (long long)limit - 1), l[t]);
}

void check_doc_start(const char* op, const char* argument, const esft_tensor& doc_start) {
  const int32_t* s = data<int32_t>(doc_start);
  for (int64_t t = 0; t < numel(doc_start); t++) {
    const int64_t lo = t ? s[t - 1] : 0;
    if (s[t] < lo || s[t] > t)
      bad_index(op, argument, doc_start, 0, t,
                format("in %lld..%lld (not before its predecessor, not after itself)", (long long)lo, (long long)t), s[t]);
  }
}

void check_documents(const char* op, const char* list, const esft_tensor& doc_start, int64_t items) {
  if (items == 0) return;
  int64_t documents = 0;
  for (int64_t t = 0; t < numel(doc_start); t++) documents += data<int32_t>(doc_start)[t] == t;
  if (documents != items)
    fail_status(
        ESFT_BAD_ARGUMENT, op, list,
        format("%s must have an item for each of the %lld documents, received %lld", list, (long long)documents, (long long)items));
}

void check_permutation(const char* op, const char* argument, const esft_tensor& index, int64_t n) {
  check_indices(op, argument, index, n);
  std::vector<char> seen(n, 0);
  for (int64_t r = 0; r < rows(index); r++)
    for (int64_t c = 0; c < cols(index); c++) {
      const int32_t i = data<int32_t>(index)[r * index.ld + c];
      if (seen[i]) bad_index(op, argument, index, r, c, "a row that no other slot has", i);
      seen[i] = 1;
    }
}

}  // namespace esft
