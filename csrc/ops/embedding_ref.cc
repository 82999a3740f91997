// embedding and its backward as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_embedding(const esft_embedding_args& a) {
  check_indices("embedding", "ids", a.ids, rows(a.table));
  for (int64_t t = 0; t < numel(a.ids); t++)
    for (int64_t d = 0; d < cols(a.y); d++) put(a.y, t, d, a.scale * at(a.table, data<int32_t>(a.ids)[t], d));
}

void ref_embedding_backward(const esft_embedding_backward_args& a) {
  check_indices("embedding_backward", "ids", a.ids, rows(a.dtable));
  for (int64_t t = 0; t < numel(a.ids); t++) {
    float* dtable = f32_row(a.dtable, data<int32_t>(a.ids)[t]);
    for (int64_t d = 0; d < cols(a.dtable); d++) dtable[d] = float(dtable[d] + a.scale * at(a.dy, t, d));
  }
}

}  // namespace esft
