// Products of few rows: y = x·Wᵀ with at most 16 rows of x reads every weight once and multiplies it a few times, so it is bound by
// memory. Nothing is packed: a row of W is multiplied along k by all rows of x, whose sums stay in registers, W lanes each, and what
// follows is requested meanwhile. An element is Σ over lanes of its W partial sums: the same bits whatever rows stand beside it.
#include "gemm_stream.h"

#include "gemm_vec.h"

namespace esft::cpu::ESFT_ISA {

namespace {

// How a step of k is loaded from a row of W and of x, and multiplied. kStep numbers a step.
struct F32Weights {
  typedef float T;
  typedef float X;
  typedef vf V;
  static constexpr int kStep = W;
  ESFT_INLINE V weight(const T* p) { return load(p); }
  ESFT_INLINE V weight_part(const T* p, int64_t n) { return load_part(p, n); }
  ESFT_INLINE V x(const X* p) { return load(p); }
  ESFT_INLINE V x_part(const X* p, int64_t n) { return load_part(p, n); }
  ESFT_INLINE vf fma(vf sum, V a, V b) { return fused(sum, a, b); }
};
struct BF16Weights : F32Weights {
  typedef uint16_t T;
  ESFT_INLINE vf weight(const T* p) { return load_bf16(p); }
  ESFT_INLINE vf weight_part(const T* p, int64_t n) { return load_bf16_part(p, n); }
};
#if defined(__AVX512BF16__)
// Both rounded to bf16; the dot-product instruction takes pairs.
struct RoundedBF16Weights {
  typedef uint16_t T;
  typedef uint16_t X;
  typedef __m512bh V;
  static constexpr int kStep = 2 * W;
  ESFT_INLINE V weight(const T* p) { return (V)_mm512_loadu_si512(p); }
  ESFT_INLINE V weight_part(const T* p, int64_t n) { return (V)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p); }
  ESFT_INLINE V x(const X* p) { return weight(p); }
  ESFT_INLINE V x_part(const X* p, int64_t n) { return weight_part(p, n); }
  ESFT_INLINE vf fma(vf sum, V a, V b) { return (vf)_mm512_dpbf16_ps((__m512)sum, a, b); }
};
struct RoundedF32Weights : RoundedBF16Weights {
  typedef float T;
  ESFT_INLINE V weight(const T* p) { return (V)_mm512_cvtne2ps_pbh((__m512)load(p + W), (__m512)load(p)); }
  ESFT_INLINE V weight_part(const T* p, int64_t n) {
    const vf lo = load_part(p, min_of(n, W)), hi = n > W ? load_part(p + W, n - W) : vf{};
    return (V)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo);
  }
};
#endif

// Sums of R rows of W from `w` on (ld apart) with M rows of x; element (i, r) to out[i·NR + r]. Of the first m rows of x; the
// others are the first once more.
template <class P, int M, int R>
void dots(const typename P::T* w, int64_t ld, const typename P::X* const* x, int64_t k, float* out, int64_t m) {
  vf sum[M][R];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sum[i][r] = vf{};
  const int64_t whole = k - k % P::kStep;
  const auto step = [&](int64_t c, auto from_w, auto from_x) ESFT_LAMBDA {
    typename P::V y[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) y[r] = from_w(w + r * ld + c);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      const typename P::V v = from_x(x[i] + c);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sum[i][r] = P::fma(sum[i][r], y[r], v);
    }
  };
  for (int64_t c = 0; c < whole; c += P::kStep) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) __builtin_prefetch(w + (R + r) * ld + c);  // the next rows; past the last ones it does no harm
    step(
        c, [](const typename P::T* p) ESFT_LAMBDA { return P::weight(p); },
        [](const typename P::X* p) ESFT_LAMBDA { return P::x(p); });
  }
  if (whole < k) {
    const int64_t n = k - whole;
    step(
        whole, [n](const typename P::T* p) ESFT_LAMBDA { return P::weight_part(p, n); },
        [n](const typename P::X* p) ESFT_LAMBDA { return P::x_part(p, n); });
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
    if (i < m)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) out[i * NR + r] = hsum(sum[i][r]);
}

// R rows of W with all rows of x, a few at a time: from the second time on W comes from L1.
template <class P, int R>
void rows_of_sums(const typename P::T* w, int64_t ld, const typename P::X* const* x, int64_t m, int64_t k, float* out) {
  int64_t i = 0;
  for (; m - i > 2; i += 4) dots<P, 4, R>(w, ld, x + i, k, out + i * NR, min_of(m - i, 4));
  if (m - i == 2) dots<P, 2, R>(w, ld, x + i, k, out + i * NR, 2);
  if (m - i == 1) dots<P, 1, R>(w, ld, x + i, k, out + i * NR, 1);
}

// n rows of W.
template <class P>
void sums_of(const typename P::T* w, int64_t ld, int64_t n, const typename P::X* const* x, int64_t m, int64_t k, float* out) {
  int64_t r = 0;
  for (; r + 4 <= n; r += 4) rows_of_sums<P, 4>(w + r * ld, ld, x, m, k, out + r);
  for (; r < n; r++) rows_of_sums<P, 1>(w + r * ld, ld, x, m, k, out + r);
}

// Where the rows of x lie, in f32 and, where products are of rounded numbers, in bf16; absent rows are the first.
struct Inputs {
  const float* f32[kStreamedRows];
  const uint16_t* bf16[kStreamedRows];
};

// Sums of rows n0 .. n1 of the stacked weight to columns of the tile.
void sums_of_rows(const Block& b, const Inputs& in, int64_t n0, int64_t n1, float* out) {
  int64_t first = 0;
  for (int64_t s = 0; s < b.w.count && first < n1; s++) {
    const Segment& seg = b.w.segments[s];
    const int64_t from = max_of(n0, first), to = min_of(n1, first + seg.rows);
    if (from < to) {
      const int64_t at = (from - first) * seg.ld + b.k0;
      float* y = out + (from - n0);
      const float* wide = static_cast<const float*>(seg.data) + at;
      const uint16_t* narrow = static_cast<const uint16_t*>(seg.data) + at;
#if defined(__AVX512BF16__)
      if (b.kind == PANEL_DOT) {
        if (seg.bf16)
          sums_of<RoundedBF16Weights>(narrow, seg.ld, to - from, in.bf16, b.m, b.k, y);
        else
          sums_of<RoundedF32Weights>(wide, seg.ld, to - from, in.bf16, b.m, b.k, y);
      } else
#endif
          if (seg.bf16)
        sums_of<BF16Weights>(narrow, seg.ld, to - from, in.f32, b.m, b.k, y);
      else
        sums_of<F32Weights>(wide, seg.ld, to - from, in.f32, b.m, b.k, y);
    }
    first += seg.rows;
  }
}

ESFT_INLINE float rounded_to_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

// Adds the low-rank term of rows n0 .. n1.
void add_term(const Block& b, int64_t n0, int64_t n1, float* out) {
  int64_t first = 0;
  for (int64_t p = 0; p < b.term.count; p++) {
    const TermPart& part = b.term.parts[p];
    for (int64_t n = max_of(n0, first); n < min_of(n1, first + part.rows); n++)
      for (int64_t i = 0; i < b.m; i++) {
        const float* u = row_at(b.term.u, i) + p * b.term.rank;
        float sum = 0;
        for (int64_t r = 0; r < part.cols; r++) {
          const int64_t at = (n - first) * part.ld + r;
          const float y =
              part.bf16 ? bf16_to_f32(static_cast<const uint16_t*>(part.data)[at]) : static_cast<const float*>(part.data)[at];
          sum += b.kind == PANEL_DOT ? rounded_to_bf16(u[r]) * rounded_to_bf16(y) : u[r] * y;
        }
        out[i * NR + (n - n0)] += sum;
      }
    first += part.rows;
  }
}

}  // namespace

size_t stream_scratch(const Block& b) { return b.kind == PANEL_DOT ? size_t(b.m) * size_t(round_up(b.k, 2 * W)) * 2 : 0; }

void stream_block(const Block& b, int64_t p0, int64_t p1, void* scratch) {
  Inputs in;
  for (int64_t i = 0; i < kStreamedRows; i++) in.f32[i] = row_at(b.a, i < b.m ? i : 0);
  if (b.kind == PANEL_DOT) {
    uint16_t* rounded = static_cast<uint16_t*>(scratch);
    const int64_t pitch = round_up(b.k, 2 * W);
    for (int64_t i = 0; i < b.m; i++)
      for (int64_t c = 0; c < b.k; c += W)
        store_bf16_part(rounded + i * pitch + c, load_n(in.f32[i] + c, min_of(W, b.k - c)), min_of(W, b.k - c));
    for (int64_t i = 0; i < kStreamedRows; i++) in.bf16[i] = rounded + (i < b.m ? i : 0) * pitch;
  }
  float tile[kStreamedRows * NR];
  const auto columns = [&](int64_t n0, int64_t n1, float* out) ESFT_LAMBDA {
    sums_of_rows(b, in, n0, n1, out);
    if (b.term.k) add_term(b, n0, n1, out);
  };
  for (int64_t p = p0; p < p1; p++) {
    memset(tile, 0, sizeof tile);
    if (b.out.kind == OUT_GATED) {
      const int64_t j = p * W, n = min_of(W, b.n - j);
      columns(j, j + n, tile);
      columns(b.n + j, b.n + j + n, tile + W);
    } else {
      columns(p * NR, min_of((p + 1) * NR, b.n), tile);
    }
    finish_tile(b, tile, 0, b.m, p, nullptr);
  }
  if (b.out.past_caches) stream_fence();
}

}  // namespace esft::cpu::ESFT_ISA
