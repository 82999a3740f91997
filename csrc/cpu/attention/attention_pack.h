// Packing of the operands of attention's products: rows gathered, transposed, or laid into panels (attention_tile.h has the layouts).
#pragma once
#include "attention_tile.h"

namespace esft::cpu::ESFT_ISA::attn {

constexpr int64_t kAhead = 8;

// Rows r < n, `d` floats each at row(r) and then d2 from a second matrix, into dst [nz][pitch], zero to the full pitch and nz rows.
template <bool kFetch = true, class Row>
static void gather_rows(float* dst, int64_t pitch, int64_t n, int64_t nz, const Row& row, int64_t d, const float* src2 = nullptr,
                        int64_t ld2 = 0, int64_t d2 = 0) {
  for (int64_t r = 0; r < n; r++) {
    float* o = dst + r * pitch;
    const float* s = row(r);
    // A head's rows are short and far apart: no hardware prefetcher follows them. (Prefetching past the end is harmless.)
    if constexpr (kFetch) {
      const char* ahead = reinterpret_cast<const char*>(row(r + kAhead));
      for (int64_t c = 0; c < d * 4; c += 64) __builtin_prefetch(ahead + c);
    }
    int64_t i = 0;
    for (; i + W <= d; i += W) store(o + i, load(s + i));
    if (i < d) store_part(o + i, load_part(s + i, d - i), d - i);
    if (d2) memcpy(o + d, src2 + r * ld2, d2 * 4);
    if (d + d2 < pitch) memset(o + d + d2, 0, (pitch - d - d2) * 4);
  }
  if (n < nz) memset(dst + n * pitch, 0, (nz - n) * pitch * 4);
}

template <int... J>
struct Lanes {};
template <int N, int... J>
struct MakeLanes : MakeLanes<N - 1, N - 1, J...> {};
template <int... J>
struct MakeLanes<0, J...> {
  typedef Lanes<J...> type;
};
// One butterfly of a transposition: lanes with bit S of the other vector take each other's place.
template <int S, int... J>
ESFT_INLINE void butterfly(vf& a, vf& b, Lanes<J...>) {
  const vf x = a, y = b;
  a = ESFT_SHUFFLE(vi, x, y, ((J & S) ? W + J - S : J)...);
  b = ESFT_SHUFFLE(vi, x, y, ((J & S) ? W + J : J + S)...);
}
template <int S>
ESFT_INLINE void butterflies(vf* r) {
  if constexpr (S > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < W; i++)
      if (!(i & S)) butterfly<S>(r[i], r[i + S], typename MakeLanes<W>::type{});
    butterflies<S / 2>(r);
  }
}

// NR rows of units (pitch a multiple of W) into NR columns of dst [units up to a multiple of W][to].
[[maybe_unused]] static void transpose_panel(float* dst, const float* rows, int64_t pitch, int64_t units, int64_t to = NR) {
  for (int64_t u = 0; u < units; u += W)
    for (int h = 0; h < 2; h++) {
      vf r[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) r[i] = load(rows + (h * W + i) * pitch + u);
      butterflies<W / 2>(r);
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) store(dst + (u + i) * to + h * W, r[i]);
    }
}

// n rows (a multiple of P::pair) of a gathered tile into B units, row `u0` of the panels onwards; d a multiple of NR.
template <class P>
static void panels_of_rows(float* dst, int64_t bs, int64_t u0, const float* rows, int64_t pitch, int64_t n, int64_t d) {
  for (int64_t c = 0; c < d; c += NR, dst += bs)
    for (int64_t r = 0; r < n; r += P::pair)
      P::panel_rows(dst + (u0 + r / P::pair) * NR, rows + r * pitch + c, rows + (r + P::pair - 1) * pitch + c);
}

// n rows of a gathered tile as A rows of units.
template <class P>
static void units_of_rows(float* dst, int64_t as, const float* rows, int64_t pitch, int64_t n, int64_t d) {
  if (P::pair == 1 && dst == rows) return;
  for (int64_t r = 0; r < n; r++) P::row(dst + r * as, rows + r * pitch, d);
}

}  // namespace esft::cpu::ESFT_ISA::attn
