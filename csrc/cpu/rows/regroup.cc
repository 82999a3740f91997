// regroup: runs of a row are copied whole.
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

void regroup(const esft_regroup_args& a, Context& ctx) {
  int64_t width = 0;
  for (int64_t p = 0; p < a.widths.count; p++) width += a.widths.items[p];
  for_rows(ctx, rows(a.x), cols(a.x), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const float* x = row_of<float>(a.x, t);
      float* y = row_of<float>(a.y, t);
      for (int64_t p = 0, before = 0; p < a.widths.count; before += a.widths.items[p++])
        for (int64_t g = 0; g < a.groups; g++) {
          const int64_t n = a.widths.items[p], by_part = a.groups * before + g * n, by_group = g * width + before;
          memcpy(y + (a.inverse ? by_group : by_part), x + (a.inverse ? by_part : by_group), n * 4);
        }
    }
  });
}

}  // namespace esft::cpu::ESFT_ISA
