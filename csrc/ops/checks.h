// The contract of every op as executable checks (ops/<op>.cc) and as plain loops (ops/<op>_ref.cc).
// check_<op> throws Error before anything runs: presence, dtypes, shapes, ranges, aliasing. It reads no tensor memory.
// ref_<op> is the meaning of the op: single-threaded loops, sums in f64 where the contract allows; never optimised.
#pragma once
#include "../core/check.h"
#include "op_list.h"

namespace esft {

#define ESFT_CHECK_DECL(op)                    \
  void check_##op(const esft_##op##_args& args); \
  void ref_##op(const esft_##op##_args& args);
ESFT_OPS(ESFT_CHECK_DECL)
#undef ESFT_CHECK_DECL

// Weights that are stored otherwise are refused by the name of their scheme.
void expect_plain(const char* op, Argument argument, const esft_scaling& scaling);
void expect_plain(const char* op, const char* argument, const esft_weight_list& w);

// Checks of index tensors' values, shared by the reference and the CPU kernels (they read host memory).
// Returns the last offset, at most n: how many rows are somebody's.
int64_t check_offsets(const char* op, const esft_tensor& offsets, int64_t n, const char* argument = "offsets",
                      const char* of = "rows");
void check_indices(const char* op, const char* argument, const esft_tensor& index, int64_t limit);
// The first n of a vector.
void check_first_indices(const char* op, const char* argument, const esft_tensor& index, int64_t n, int64_t limit);
void check_labels(const char* op, const char* argument, const esft_tensor& labels, int64_t limit);  // -100 or [0, limit)
// As many documents as items, where there are items.
void check_documents(const char* op, const char* list, const esft_tensor& doc_start, int64_t items);
void check_doc_start(const char* op, const char* argument, const esft_tensor& doc_start);  // <= t, non-decreasing
// Of attention_cached.h: documents and caches in step, positions in order, and room for all that is stored and seen.
void check_cached_rows(const char* op, const esft_tensor& doc_start, const esft_tensor& positions, const esft_tensor_list& caches,
                       int64_t window, int64_t chunk);
void check_permutation(const char* op, const char* argument, const esft_tensor& index, int64_t n);
// The numbers of every row, and the ids it has seen.
void check_sample_values(const esft_sample_args& args);

}  // namespace esft
