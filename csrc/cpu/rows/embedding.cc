// embedding: a gather of rows. Its backward splits the columns, not the tokens: each task adds all tokens in order to its
// own columns, so repeated ids need no atomics and the sums keep the order of t.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

void embedding(const esft_embedding_args& a, Context& ctx) {
  const int64_t T = rows(a.y), D = cols(a.y);
  check_indices("embedding", "ids", a.ids, rows(a.table));
  const int32_t* ids = data<int32_t>(a.ids);
  const vf scale = splat(float(a.scale));
  const bool nt = streams(a.y), half = a.table.dtype == ESFT_BF16;
  for_rows(ctx, T, D, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      float* y = row_of<float>(a.y, t);
      if (half) {
        const uint16_t* x = row_of<uint16_t>(a.table, ids[t]);
        map(y, D, nt,
            [=](int64_t i, int64_t m) ESFT_LAMBDA { return scale * (m == W ? load_bf16(x + i) : load_bf16_part(x + i, m)); });
      } else {
        const float* x = row_of<float>(a.table, ids[t]);
        map(y, D, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA { return scale * load_n(x + i, m); });
      }
    }
    stream_fence();
  });
}

void embedding_backward(const esft_embedding_backward_args& a, Context& ctx) {
  const int64_t T = rows(a.dy), D = cols(a.dy);
  constexpr int64_t kColumns = 128;
  check_indices("embedding_backward", "ids", a.ids, rows(a.dtable));
  const int32_t* ids = data<int32_t>(a.ids);
  const vf scale = splat(float(a.scale));
  for_chunks(ctx, D, kColumns, T, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = 0; t < T; t++) {
      const float* dy = row_of<float>(a.dy, t) + begin;
      float* d = row_of<float>(a.dtable, ids[t]) + begin;
      map(d, end - begin, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(d + i, m) + scale * load_n(dy + i, m); });
    }
  });
}

}  // namespace esft::cpu::ESFT_ISA
