// What the argument checks of all ops share, on top of core/check.h.
#pragma once
#include <cmath>
#include <initializer_list>
#include <vector>

#include "../core/check.h"
#include "activation.h"
#include "checks.h"

namespace esft {

// A tensor's own sanity: rank 1..4, sizes >= 0, rows that do not overlap (ld >= cols), an extent that fits in 2^62 bytes.
void expect_layout(const char* op, Argument argument, const esft_tensor& t);
void expect_present(const char* op, Argument argument, const esft_tensor& t);
void expect_layout_list(const char* op, const char* argument, const esft_tensor_list& list);
void expect_ints(const char* op, const char* argument, const esft_ints& ints, int64_t limit);  // ascending, unique, in [0, limit)

void expect_cap(const char* op, const char* argument, double cap);  // of logits
void expect_finite(const char* op, const char* argument, double value);
void expect_not_negative(const char* op, const char* argument, double value);  // finite and >= 0
void expect_flag(const char* op, const char* argument, int64_t value);  // 0 or 1
void expect_scalar(const char* op, Argument argument, const esft_tensor& t, int32_t dtype);  // one element
void expect_absent(const char* op, const char* argument, const esft_tensor& t, const char* when);
void expect_f32(const char* op, Argument argument, const esft_tensor& t, int64_t rows, int64_t cols);
// What a sequence carries from call to call: f32, contiguous.
void expect_state(const char* op, Argument argument, const esft_tensor& t, int64_t rows, int64_t cols);
void expect_i32(const char* op, Argument argument, const esft_tensor& t, int64_t n);
void expect_f32_vector(const char* op, Argument argument, const esft_tensor& t, int64_t n);

// `act` is one of activation.h from `lowest` on, with the numbers that it takes.
void expect_activation(const char* op, const char* argument, int64_t act, double alpha, double limit, ActivationKind lowest);

// The same view (pointer, dtype, rows, cols, ld) or memory apart.
void expect_same_or_apart(const char* op, const char* an, const esft_tensor& a, const char* bn, const esft_tensor& b);
bool same_view(const esft_tensor& a, const esft_tensor& b);

struct Named {
  Argument name;
  const esft_tensor& t;
};
void expect_apart(const char* op, Named out, std::initializer_list<Named> others);
// The items of a list apart from one tensor.
void expect_apart_from_list(const char* op, Named t, const char* list_name, const esft_tensor_list& list);

// The memory of a call whose outputs are lists: whatever is written lies apart from all else, from other items of its own list
// too. The tensors are the caller's.
class Extents {
 public:
  Extents() : all_(room().all) { all_.clear(); }
  void add(Argument name, const esft_tensor& t, bool written);
  void add(const char* name, const esft_tensor_list& list, bool written);
  void expect_apart(const char* op);  // last

 private:
  struct Extent {
    Argument name;
    const esft_tensor* t;
    bool written;
    uintptr_t begin, end;  // bytes; between them the gaps of a strided view too
  };
  // Of one call at a time, kept between calls: checks of a training step make no memory.
  struct Room {
    std::vector<Extent> all;
    std::vector<const Extent*> read, written;
  };
  static Room& room();
  std::vector<Extent>& all_;
};

// The activations of one call, as its arguments go by: each f32 or bf16, and all like the first.
struct Activations {
  const char* op;
  const char* first_name = nullptr;
  int32_t dtype = ESFT_F32;
  void take(const char* argument, const esft_tensor& t);
};

constexpr int64_t kMaxI32 = 2147483647;  // row numbers are i32

// Presence and layout of every argument of an op, from its argument list.
#define ESFT_LAYOUT_IN(n) expect_present(kOp, #n, a.n); expect_layout(kOp, #n, a.n);
#define ESFT_LAYOUT_OUT(n) ESFT_LAYOUT_IN(n)
#define ESFT_LAYOUT_INOUT(n) ESFT_LAYOUT_IN(n)
#define ESFT_LAYOUT_IN_OPT(n) if (present(a.n)) expect_layout(kOp, #n, a.n);
#define ESFT_LAYOUT_OUT_OPT(n) ESFT_LAYOUT_IN_OPT(n)
#define ESFT_LAYOUT_INOUT_OPT(n) ESFT_LAYOUT_IN_OPT(n)
#define ESFT_LAYOUT_AIN(n) ESFT_LAYOUT_IN(n) activations.take(#n, a.n);
#define ESFT_LAYOUT_AOUT(n) ESFT_LAYOUT_AIN(n)
#define ESFT_LAYOUT_AINOUT(n) ESFT_LAYOUT_AIN(n)
#define ESFT_LAYOUT_AIN_OPT(n) if (present(a.n)) { ESFT_LAYOUT_AIN(n) }
#define ESFT_LAYOUT_AOUT_OPT(n) ESFT_LAYOUT_AIN_OPT(n)
#define ESFT_LAYOUT_AINOUT_OPT(n) ESFT_LAYOUT_AIN_OPT(n)
#define ESFT_LAYOUT_WEIGHT(n)                \
  expect_present(kOp, #n, a.n.tensor);       \
  expect_layout(kOp, #n, a.n.tensor);        \
  expect_plain(kOp, #n, a.n.scaling);
#define ESFT_LAYOUT_WEIGHTS(n)                    \
  expect_layout_list(kOp, #n, tensors_of(a.n));   \
  expect_plain(kOp, #n, a.n);
#define ESFT_LAYOUT_LIST_IN(n) expect_layout_list(kOp, #n, a.n);
#define ESFT_LAYOUT_LIST_IN_OPT(n) ESFT_LAYOUT_LIST_IN(n)
#define ESFT_LAYOUT_LIST_INOUT(n) ESFT_LAYOUT_LIST_IN(n)
#define ESFT_LAYOUT_LIST_INOUT_OPT(n) ESFT_LAYOUT_LIST_IN(n)
#define ESFT_LAYOUT_INTS(n)
#define ESFT_LAYOUT_I64(n)
#define ESFT_LAYOUT_F64(n)
#define ESFT_LAYOUT_FIELD(kind, name) ESFT_LAYOUT_##kind(name)
// Opens a check_<op>: names the op and checks every argument's presence and layout, and the dtype of activations. Expects
// the argument struct as `a`.
#define ESFT_BEGIN_CHECK(op)                     \
  static const char* const kOp = #op;            \
  [[maybe_unused]] Activations activations{kOp}; \
  ESFT_ARGS_##op(ESFT_LAYOUT_FIELD)

}  // namespace esft
