// Argument checks of rope (contract: rope.h).
#include "arg_checks.h"

namespace esft {

void check_rope(const esft_rope_args& a) {
  ESFT_BEGIN_CHECK(rope)
  expect_flag(kOp, "interleaved", a.interleaved);
  expect_flag(kOp, "inverse", a.inverse);
  expect_matrix(kOp, "x", a.x, -1, -1);
  const int64_t T = rows(a.x), C = cols(a.x);
  expect_range(kOp, "heads", a.heads, 1, C);
  if (C % a.heads) fail(kOp, "heads", format("a divisor of %lld columns", (long long)C), std::to_string(a.heads));
  const int64_t hd = C / a.heads;
  expect_f32(kOp, "cos", a.cos, -1, -1);
  expect_f32(kOp, "sin", a.sin, rows(a.cos), cols(a.cos));
  if (cols(a.cos) > hd / 2) fail(kOp, "cos", format("[P, R/2] with R <= %lld, the head size", (long long)hd), describe(a.cos));
  expect_range(kOp, "offset", a.offset, 0, hd - 2 * cols(a.cos));
  expect_i32(kOp, "positions", a.positions, T);
  expect_matrix(kOp, "y", a.y, T, C);
  expect_same_or_apart(kOp, "y", a.y, "x", a.x);
  expect_apart(kOp, {"y", a.y}, {{"positions", a.positions}, {"cos", a.cos}, {"sin", a.sin}});
}

}  // namespace esft
