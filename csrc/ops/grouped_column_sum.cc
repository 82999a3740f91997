// Argument checks of grouped_column_sum (contract: grouped_column_sum.h).
#include "arg_checks.h"

namespace esft {

void check_grouped_column_sum(const esft_grouped_column_sum_args& a) {
  ESFT_BEGIN_CHECK(grouped_column_sum)
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_range(kOp, "segments", a.segments, 1, 64);
  expect_matrix(kOp, "x", a.x, -1, -1);
  expect_range(kOp, "x", rows(a.x), 0, kMaxI32);
  expect_i32(kOp, "offsets", a.offsets, -1);
  if (numel(a.offsets) < 2) fail(kOp, "offsets", "E + 1 offsets of E >= 1 experts", describe(a.offsets));
  const int64_t n = present(a.rows) ? numel(a.rows) : rows(a.x);
  if (present(a.rows)) expect_i32(kOp, "rows", a.rows, n);
  expect_range(kOp, "rows", n, 0, kMaxI32);
  if (present(a.scale)) expect_f32_vector(kOp, "scale", a.scale, n);
  expect_ints(kOp, "groups", a.groups, numel(a.offsets) - 1);
  if (a.y.count != a.groups.count * a.segments)
    fail(kOp, "y", format("%lld x %lld vectors", (long long)a.groups.count, (long long)a.segments), std::to_string(a.y.count));
  int64_t columns = 0;
  for (int64_t i = 0; i < a.y.count; i++) {
    expect_dtype(kOp, {"y", i}, a.y.items[i], ESFT_F32);
    expect_vector(kOp, {"y", i}, a.y.items[i], i < a.segments ? -1 : numel(a.y.items[i % a.segments]));
    if (i < a.segments) columns += numel(a.y.items[i]);
  }
  if (a.groups.count) expect_matrix(kOp, "x", a.x, -1, columns);
  Extents memory;
  memory.add("y", a.y, true);
  for (const Named& in : {Named{"x", a.x}, {"rows", a.rows}, {"scale", a.scale}, {"offsets", a.offsets}})
    memory.add(in.name, in.t, false);
  memory.expect_apart(kOp);
}

}  // namespace esft
