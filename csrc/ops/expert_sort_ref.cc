// expert_sort as E passes over the slots; count_experts as one pass.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_expert_sort(const esft_expert_sort_args& a) {
  const int64_t T = rows(a.ids), K = cols(a.ids), E = numel(a.offsets) - 1;
  check_indices("expert_sort", "ids", a.ids, E);
  int32_t row = 0;
  for (int64_t e = 0; e < E; e++) {
    data<int32_t>(a.offsets)[e] = row;
    for (int64_t t = 0; t < T; t++)
      for (int64_t k = 0; k < K; k++) {
        if (i32_at(a.ids, t, k) != e) continue;
        data<int32_t>(a.tokens)[row] = int32_t(t);
        data<int32_t>(a.pos)[t * a.pos.ld + k] = row;
        if (present(a.gate)) data<float>(a.gate)[row] = f32_row(a.weights, t)[k];
        row++;
      }
  }
  data<int32_t>(a.offsets)[E] = row;
}

void ref_count_experts(const esft_count_experts_args& a) {
  const int64_t T = rows(a.ids), K = cols(a.ids);
  check_indices("count_experts", "ids", a.ids, numel(a.counts));
  for (int64_t t = 0; t < T; t++) {
    if (present(a.mask) && data<int32_t>(a.mask)[t] == 0) continue;
    for (int64_t k = 0; k < K; k++) {
      const int32_t e = i32_at(a.ids, t, k);
      data<int64_t>(a.counts)[e] += 1;
      data<double>(a.gate_sums)[e] += f32_row(a.weights, t)[k];
    }
  }
}

}  // namespace esft
