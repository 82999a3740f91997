#include "check.h"

#include <cstdio>
#include <vector>

namespace esft {

Error::Error(esft_status s, std::string o, std::string a, std::string m)
    : status(s), op(std::move(o)), argument(std::move(a)), message(std::move(m)) {}

std::string format(const char* fmt, ...) {
  va_list ap, ap2;
  va_start(ap, fmt);
  va_copy(ap2, ap);
  int n = std::vsnprintf(nullptr, 0, fmt, ap);
  va_end(ap);
  std::string s(n > 0 ? n : 0, '\0');
  if (n > 0) std::vsnprintf(&s[0], n + 1, fmt, ap2);
  va_end(ap2);
  return s;
}

std::string Argument::text() const { return item < 0 ? name : std::string(name) + "[" + std::to_string(item) + "]"; }

void fail(const char* op, Argument argument, const std::string& expected, const std::string& received) {
  const std::string name = argument.text();
  throw Error(ESFT_BAD_ARGUMENT, op, name, std::string(op) + ": " + name + " must be " + expected + ", received " + received);
}

void fail_status(esft_status status, const char* op, const char* argument, const std::string& message) {
  throw Error(status, op, argument, std::string(op) + ": " + message);
}

void fail_with(esft_status status, const char* op, const char* argument, const char* fmt, ...) {
  char text[512];
  va_list ap;
  va_start(ap, fmt);
  std::vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  fail_status(status, op, argument, text);
}

const char* dtype_name(int32_t d) {
  switch (d) {
    case ESFT_F32: return "f32";
    case ESFT_BF16: return "bf16";
    case ESFT_I32: return "i32";
    case ESFT_I64: return "i64";
    case ESFT_F64: return "f64";
    case ESFT_U8: return "u8";
  }
  return "unknown dtype";
}

int64_t dtype_size(int32_t d) {
  switch (d) {
    case ESFT_F32:
    case ESFT_I32: return 4;
    case ESFT_BF16: return 2;
    case ESFT_I64:
    case ESFT_F64: return 8;
    case ESFT_U8: return 1;
  }
  return 0;
}

std::string describe(const esft_tensor& t) {
  if (!present(t)) return "nothing";
  std::string s = "[";
  for (int i = 0; i < t.rank; i++) s += (i ? ", " : "") + std::to_string(t.shape[i]);
  s += "] ";
  s += dtype_name(t.dtype);
  if (!contiguous(t)) s += " (row stride " + std::to_string(t.ld) + ")";
  return s;
}

void expect_dtype(const char* op, Argument argument, const esft_tensor& t, int32_t dtype) {
  if (t.dtype != dtype) fail(op, argument, dtype_name(dtype), describe(t));
}

void expect_float_weight(const char* op, Argument argument, const esft_tensor& t) {
  if (t.dtype != ESFT_F32 && t.dtype != ESFT_BF16) fail(op, argument, "f32 or bf16", describe(t));
}

void expect_matrix(const char* op, Argument argument, const esft_tensor& t, int64_t r, int64_t c) {
  if (t.rank < 1 || (r >= 0 && rows(t) != r) || (c >= 0 && cols(t) != c)) {
    std::string e =
        "[" + (r < 0 ? std::string("*") : std::to_string(r)) + ", " + (c < 0 ? std::string("*") : std::to_string(c)) + "]";
    fail(op, argument, e, describe(t));
  }
}

void expect_vector(const char* op, Argument argument, const esft_tensor& t, int64_t n) {
  if (t.rank < 1 || (n >= 0 && numel(t) != n) || !contiguous(t))
    fail(op, argument, (n < 0 ? std::string("a contiguous vector") : "contiguous with " + std::to_string(n) + " elements"),
         describe(t));
}

void expect_range(const char* op, const char* argument, int64_t v, int64_t lo, int64_t hi) {
  if (v < lo || v > hi) fail(op, argument, format("in %lld..%lld", (long long)lo, (long long)hi), std::to_string(v));
}

void expect_no_alias(const char* op, Argument an, const esft_tensor& a, Argument bn, const esft_tensor& b) {
  if (!present(a) || !present(b) || numel(a) == 0 || numel(b) == 0) return;
  // Byte extents of the strided views; interleaved column views of one buffer overlap in extent but not in elements.
  auto begin = [](const esft_tensor& t) { return reinterpret_cast<uintptr_t>(t.data); };
  auto end = [&](const esft_tensor& t) { return begin(t) + ((rows(t) - 1) * t.ld + cols(t)) * dtype_size(t.dtype); };
  if (begin(a) >= end(b) || begin(b) >= end(a)) return;
  if (a.ld == b.ld && a.dtype == b.dtype && rows(a) > 1 && rows(b) > 1) {
    int64_t es = dtype_size(a.dtype), pitch = a.ld * es;
    int64_t delta = int64_t((begin(b) - begin(a)) % uint64_t(pitch));
    if (begin(b) < begin(a)) {
      delta = pitch - int64_t((begin(a) - begin(b)) % uint64_t(pitch));
      if (delta == pitch) delta = 0;
    }
    if (delta >= cols(a) * es && delta + cols(b) * es <= pitch) return;  // disjoint columns
  }
  fail(op, an, "memory apart from " + bn.text(), "overlapping memory");
}

}  // namespace esft
