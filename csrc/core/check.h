// The one exception type of the native code, and the checks every op's contract is written with.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <exception>
#include <string>

#include "backend.h"

namespace esft {

struct Error : std::exception {
  esft_status status;
  std::string op, argument, message;
  Error(esft_status status, std::string op, std::string argument, std::string message);
  const char* what() const noexcept override { return message.c_str(); }
};

// An argument as a message names it: "x", or one item of a list, "w[3]". Checks run on every call and over every item: the
// name is put together when one fails.
struct Argument {
  const char* name;
  int64_t item;  // -1: the argument itself
  Argument(const char* name, int64_t item = -1) : name(name), item(item) {}
  std::string text() const;
};

// Throws Error: "<op>: <argument> must be <expected>, received <received>".
[[noreturn]] void fail(const char* op, Argument argument, const std::string& expected, const std::string& received);
[[noreturn]] void fail_status(esft_status status, const char* op, const char* argument, const std::string& message);

// The same with the message built outside the caller: kernels compiled per instruction set use this one, because
// std::string's inline members would be emitted there (see cpu/kernels.h).
[[noreturn]] void fail_with(esft_status status, const char* op, const char* argument, const char* fmt, ...)
    __attribute__((format(printf, 4, 5)));

std::string format(const char* fmt, ...) __attribute__((format(printf, 1, 2)));

const char* dtype_name(int32_t dtype);
int64_t dtype_size(int32_t dtype);
std::string describe(const esft_tensor& t);  // "[64, 1408] bf16"

// Static, so that each instruction set's files keep their own copies.
static inline bool present(const esft_tensor& t) { return t.rank >= 0; }
static inline int64_t cols(const esft_tensor& t) { return t.rank == 0 ? 1 : t.shape[t.rank - 1]; }
static inline int64_t rows(const esft_tensor& t) {
  int64_t n = 1;
  for (int i = 0; i + 1 < t.rank; i++) n *= t.shape[i];
  return n;
}
static inline int64_t numel(const esft_tensor& t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank; i++) n *= t.shape[i];
  return n;
}
static inline esft_tensor_list tensors_of(const esft_weight_list& w) { return {w.items, w.count}; }
static inline bool contiguous(const esft_tensor& t) { return rows(t) <= 1 || t.ld == cols(t); }

// Expectations on one tensor; a negative size means "any".
void expect_dtype(const char* op, Argument argument, const esft_tensor& t, int32_t dtype);
void expect_float_weight(const char* op, Argument argument, const esft_tensor& t);  // f32 or bf16
void expect_matrix(const char* op, Argument argument, const esft_tensor& t, int64_t rows,
                   int64_t cols);  // rows x cols view, any rank >= 1
void expect_vector(const char* op, Argument argument, const esft_tensor& t, int64_t n);  // numel == n, contiguous
void expect_range(const char* op, const char* argument, int64_t value, int64_t lo, int64_t hi);
void expect_no_alias(const char* op, Argument a_name, const esft_tensor& a, Argument b_name, const esft_tensor& b);

template <class T>
static inline T* data(const esft_tensor& t) {
  return static_cast<T*>(t.data);
}

}  // namespace esft
