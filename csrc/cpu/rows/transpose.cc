// transpose, tile by tile: the lines of a tile of x stay in L1 while they are read column by column. Bound by bytes.
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

constexpr int64_t kTile = 32;  // a tile of f32 is 4 KB

ESFT_INLINE void put(float& y, float x) { y = x; }
ESFT_INLINE void put(uint16_t& y, uint16_t x) { y = x; }
ESFT_INLINE void put(uint16_t& y, float x) { y = f32_to_bf16(x); }
ESFT_INLINE void put(float& y, uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  memcpy(&y, &bits, 4);
}

template <class X, class Y>
void run(const esft_transpose_args& a, Context& ctx) {
  const int64_t R = rows(a.x), C = cols(a.x), half_rows = R / 2, half_cols = C / 2;
  const bool split = a.pairs == 1, join = a.pairs == 2;
  // A task is a stripe of columns, so that every row of y is one task's.
  for_chunks(ctx, C, kTile, R, [&](int64_t begin, int64_t end, int) {
    for (int64_t r0 = 0; r0 < R; r0 += kTile) {
      const int64_t n = min_of(R - r0, kTile);
      for (int64_t c = begin; c < end; c++) {
        const X* x = row_of<X>(a.x, r0) + c;
        Y* y = row_of<Y>(a.y, split ? c / 2 + c % 2 * half_cols : c);
        for (int64_t i = 0; i < n; i++) {
          const int64_t r = r0 + i;
          const int64_t to = !join ? r : r < half_rows ? 2 * r : 2 * (r - half_rows) + 1;
          put(y[to], x[i * a.x.ld]);
        }
      }
    }
  });
}

}  // namespace

void transpose(const esft_transpose_args& a, Context& ctx) {
  const bool from_bf16 = a.x.dtype == ESFT_BF16, to_bf16 = a.y.dtype == ESFT_BF16;
  if (from_bf16 && to_bf16)
    run<uint16_t, uint16_t>(a, ctx);
  else if (from_bf16)
    run<uint16_t, float>(a, ctx);
  else if (to_bf16)
    run<float, uint16_t>(a, ctx);
  else
    run<float, float>(a, ctx);
}

}  // namespace esft::cpu::ESFT_ISA
