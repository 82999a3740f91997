// Every op with its arguments, as data: made once from the argument lists of ops/<op>.h. Knows nothing of N-API.
#pragma once
#include <algorithm>
#include <cstddef>

#include "../ops/checks.h"

namespace esft {

// What JavaScript passes for an argument.
enum class Takes { tensor, list, weight, weights, ints, i64, f64 };

struct Kind {
  Takes takes;
  bool written, optional, activation;
};

struct Field {
  Kind kind;
  const char* name;
  size_t offset;  // in the op's argument struct
};

struct OpInfo {
  const char* name;
  const Field* fields;
  size_t field_count;
  void (*check)(const void* args);  // throws Error
};

namespace op_table {

#define ESFT_KIND(kind, takes, written, optional, activation) \
  constexpr Kind k##kind{Takes::takes, bool(written), bool(optional), bool(activation)};
ESFT_ARG_KINDS(ESFT_KIND)
#undef ESFT_KIND

template <size_t N>
constexpr size_t count(const Field (&fields)[N], Takes takes) {
  size_t n = 0;
  for (const Field& f : fields) n += f.kind.takes == takes;
  return n;
}

#define ESFT_FIELD(kind, name) {k##kind, #name, offsetof(args_t, name)},
#define ESFT_OP_FIELDS(op)                                                              \
  namespace op {                                                                        \
  using args_t = esft_##op##_args;                                                      \
  constexpr Field fields[] = {ESFT_ARGS_##op(ESFT_FIELD)};                              \
  inline void check(const void* a) { check_##op(*static_cast<const args_t*>(a)); }      \
  }
ESFT_OPS(ESFT_OP_FIELDS)
#undef ESFT_FIELD
#undef ESFT_OP_FIELDS

}  // namespace op_table

constexpr OpInfo kOps[ESFT_OP_COUNT] = {
#define ESFT_OP_INFO(op) \
  {#op, op_table::op::fields, std::size(op_table::op::fields), op_table::op::check},
    ESFT_OPS(ESFT_OP_INFO)
#undef ESFT_OP_INFO
};

// The largest call there is.
#define ESFT_SIZE(op) sizeof(op_table::op::args_t),
#define ESFT_FIELDS(op) std::size(op_table::op::fields),
#define ESFT_TENSORS(op) op_table::count(op_table::op::fields, Takes::tensor) + op_table::count(op_table::op::fields, Takes::weight),
#define ESFT_LISTS(op) op_table::count(op_table::op::fields, Takes::list) + op_table::count(op_table::op::fields, Takes::weights),
#define ESFT_INTS(op) op_table::count(op_table::op::fields, Takes::ints),
constexpr size_t kMaxArgsSize = std::max({ESFT_OPS(ESFT_SIZE) size_t(1)});
constexpr size_t kMaxFields = std::max({ESFT_OPS(ESFT_FIELDS) size_t(1)});
constexpr size_t kMaxTensors = std::max({ESFT_OPS(ESFT_TENSORS) size_t(1)});
constexpr size_t kMaxLists = std::max({ESFT_OPS(ESFT_LISTS) size_t(1)});
constexpr size_t kMaxInts = std::max({ESFT_OPS(ESFT_INTS) size_t(1)});
#undef ESFT_SIZE
#undef ESFT_FIELDS
#undef ESFT_TENSORS
#undef ESFT_LISTS
#undef ESFT_INTS

// The op that a device's message is about ("<op>: …"), as a wait reports what went wrong before it; `otherwise` when it names none.
const char* op_in_message(const char* message, const char* otherwise);

}  // namespace esft
