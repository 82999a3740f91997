// grouped_column_sum as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_grouped_column_sum(const esft_grouped_column_sum_args& a) {
  const int64_t N = present(a.rows) ? numel(a.rows) : rows(a.x);
  const int64_t routed = check_offsets("grouped_column_sum", a.offsets, N);
  if (present(a.rows)) check_first_indices("grouped_column_sum", "rows", a.rows, routed, rows(a.x));
  for (int64_t g = 0; g < a.groups.count; g++) {
    const int64_t e = a.groups.items[g];
    int64_t column = 0;  // where segment s starts in x
    for (int64_t s = 0; s < a.segments; s++) {
      const esft_tensor& y = a.y.items[g * a.segments + s];
      for (int64_t c = 0; c < numel(y); c++) {
        double sum = a.accumulate ? data<float>(y)[c] : 0.0;
        for (int64_t r = data<int32_t>(a.offsets)[e]; r < data<int32_t>(a.offsets)[e + 1]; r++) {
          const double scale = present(a.scale) ? data<float>(a.scale)[r] : 1.0;
          sum += scale * at(a.x, present(a.rows) ? data<int32_t>(a.rows)[r] : r, column + c);
        }
        data<float>(y)[c] = float(sum);
      }
      column += numel(y);
    }
  }
}

}  // namespace esft
