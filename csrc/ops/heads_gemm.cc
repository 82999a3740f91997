// Argument checks of heads_gemm (contract: heads_gemm.h).
#include "arg_checks.h"

namespace esft {

namespace {

// Of `size` columns or rows, as many for each head; at least `least` of them.
void expect_per_head(const char* op, const char* argument, const esft_tensor& t, const char* of, int64_t size, int64_t heads,
                     int64_t least) {
  if (size % heads || size / heads < least)
    fail(op, argument, format("of at least %lld %s for each of %lld heads", (long long)least, of, (long long)heads), describe(t));
}

}  // namespace

void check_heads_gemm(const esft_heads_gemm_args& a) {
  ESFT_BEGIN_CHECK(heads_gemm)
  expect_range(kOp, "mode", a.mode, 0, 1);
  expect_flag(kOp, "precision", a.precision);
  expect_range(kOp, "heads", a.heads, 1, 65536);
  expect_float_weight(kOp, "w", a.w.tensor);
  expect_matrix(kOp, "w", a.w.tensor, -1, -1);
  expect_per_head(kOp, "w", a.w.tensor, "rows", rows(a.w.tensor), a.heads, 0);
  const int64_t of_head = rows(a.w.tensor) / a.heads, C = cols(a.w.tensor);
  expect_range(kOp, "first_row", a.first_row, 0, of_head);
  expect_range(kOp, "head_rows", a.head_rows, 0, of_head - a.first_row);
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_range(kOp, "x", rows(a.x), 0, kMaxI32);
  expect_per_head(kOp, "x", a.x, "columns", cols(a.x), a.heads, a.mode == 0 ? C : a.head_rows);
  expect_matrix(kOp, "y", a.y, rows(a.x), -1);
  expect_per_head(kOp, "y", a.y, "columns", cols(a.y), a.heads, a.mode == 0 ? a.head_rows : C);
  expect_apart(kOp, {"y", a.y}, {{"x", a.x}, {"w", a.w.tensor}});
}

}  // namespace esft
