// regroup as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_regroup(const esft_regroup_args& a) {
  int64_t width = 0;
  for (int64_t p = 0; p < a.widths.count; p++) width += a.widths.items[p];
  for (int64_t t = 0; t < rows(a.x); t++)
    for (int64_t p = 0, before = 0; p < a.widths.count; before += a.widths.items[p++])
      for (int64_t g = 0; g < a.groups; g++)
        for (int64_t i = 0; i < a.widths.items[p]; i++) {
          const int64_t by_part = a.groups * before + g * a.widths.items[p] + i, by_group = g * width + before + i;
          put(a.y, t, a.inverse ? by_group : by_part, at(a.x, t, a.inverse ? by_part : by_group));
        }
}

}  // namespace esft
