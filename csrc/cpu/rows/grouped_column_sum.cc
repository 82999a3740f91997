// Gradients of expert biases. Each task owns some columns of one vector and walks the expert's rows, so the order of the sum never
// depends on the threads.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

constexpr int64_t kColumns = 4 * W;

// Σ scale[r] · x[rows[r]][column ..] over r in [begin, end) into sum, n columns.
void sum_rows(const esft_grouped_column_sum_args& a, int64_t begin, int64_t end, int64_t column, int64_t n, float* sum) {
  const int32_t* index = present(a.rows) ? data<const int32_t>(a.rows) : nullptr;
  const float* scale = present(a.scale) ? data<const float>(a.scale) : nullptr;
  vf total[4] = {};
  for (int64_t r = begin; r < end; r++) {
    const float* x = row_of<const float>(a.x, index ? index[r] : r) + column;
    const vf factor = splat(scale ? scale[r] : 1.0f);
    if (n == kColumns) {
      for (int j = 0; j < 4; j++) total[j] += factor * load(x + j * W);
    } else {
      for (int64_t j = 0; j * W < n; j++) total[j] += factor * load_n(x + j * W, min_of(W, n - j * W));
    }
  }
  for (int j = 0; j < 4; j++) store(sum + j * W, total[j]);
}

}  // namespace

void grouped_column_sum(const esft_grouped_column_sum_args& a, Context& ctx) {
  const int64_t N = present(a.rows) ? numel(a.rows) : rows(a.x), S = a.segments;
  const int64_t routed = check_offsets("grouped_column_sum", a.offsets, N);
  if (present(a.rows)) check_first_indices("grouped_column_sum", "rows", a.rows, routed, rows(a.x));
  const int32_t* offsets = data<const int32_t>(a.offsets);
  int64_t chunks = 0;  // of one expert
  for (int64_t s = 0; a.groups.count && s < S; s++) chunks += ceil_div(numel(a.y.items[s]), kColumns);
  const int64_t work = a.groups.count ? routed / a.groups.count * kColumns : 0;
  for_chunks(ctx, a.groups.count * chunks, 1, work, [&](int64_t task, int64_t, int) {
    const int64_t g = task / chunks, e = a.groups.items[g];
    int64_t chunk = task % chunks, column = 0, s = 0;
    for (; chunk >= ceil_div(numel(a.y.items[s]), kColumns); s++) {
      chunk -= ceil_div(numel(a.y.items[s]), kColumns);
      column += numel(a.y.items[s]);
    }
    const esft_tensor& y = a.y.items[g * S + s];
    const int64_t first = chunk * kColumns, n = min_of(kColumns, numel(y) - first);
    alignas(64) float sum[kColumns];
    sum_rows(a, offsets[e], offsets[e + 1], column + first, n, sum);
    float* to = data<float>(y) + first;
    for (int64_t c = 0; c < n; c++) to[c] = (a.accumulate ? to[c] : 0.0f) + sum[c];
  });
}

}  // namespace esft::cpu::ESFT_ISA
