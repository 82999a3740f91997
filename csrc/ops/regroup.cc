// Argument checks of regroup (contract: regroup.h).
#include "arg_checks.h"

namespace esft {

void check_regroup(const esft_regroup_args& a) {
  ESFT_BEGIN_CHECK(regroup)
  expect_flag(kOp, "inverse", a.inverse);
  expect_range(kOp, "groups", a.groups, 1, kMaxI32);
  if (a.widths.count < 1 || a.widths.count > ESFT_REGROUP_PARTS)
    fail(kOp, "widths", format("a list of 1 to %d", ESFT_REGROUP_PARTS), format("a list of %lld", (long long)a.widths.count));
  int64_t width = 0;
  for (int64_t i = 0; i < a.widths.count; i++) {
    expect_range(kOp, "widths", a.widths.items[i], 1, kMaxI32);
    width += a.widths.items[i];
  }
  expect_matrix(kOp, "x", a.x, -1, a.groups * width);
  expect_matrix(kOp, "y", a.y, rows(a.x), cols(a.x));
  expect_apart(kOp, {"y", a.y}, {{"x", a.x}});
}

}  // namespace esft
