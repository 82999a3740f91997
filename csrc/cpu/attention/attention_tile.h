// The inner products of attention: panels of packed operands and a register tile over them.
//
// All operands are kept in 32-bit units along the summed dimension: one f32, or one pair of bf16 (k, k+1) where the machine
// has the dot-product instruction. So one kernel, one transposition and one addressing scheme serve both precisions.
//   A  rows of units (element (i, u) at a[i·stride + u]), or columns of units (a[u·stride + i]): the same probabilities are
//      read by rows for O and dQ and by columns for dV and dK, nothing is transposed
//   B  panels of NR columns: [units][NR], one panel after the other
//   C  f32 rows with whole panels of columns (padded scratch)
// The tile: MR rows x two vectors, B in registers, A broadcast from memory. Sums run over k in ascending order and do not
// depend on how rows are cut into tiles.
#pragma once
#include "../integers.h"
#include "../simd.h"

namespace esft::cpu::ESFT_ISA::attn {

constexpr int NR = 2 * W;
// Two accumulators a row: 28 of 32 registers; 24 where what is broadcast takes one too (NEON); 12 of 16.
constexpr int MR = W == 16 ? 14 : ESFT_REGISTERS == 32 ? 12 : 6;

// 2^x for x <= 127 (probabilities: x <= 0); below -126 it is 0 or tiny. Minimax fit on [-1/2, 1/2], relative error 9.2e-8
// before rounding. NaN stays NaN.
ESFT_INLINE vf exp2v(vf x) {
#if defined(__AVX512F__)
  vf n = (vf)_mm512_maskz_roundscale_ps((__mmask16)-1, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  x = vmax(splat(-126.0f), x);  // constants first: NaN stays
  x = vmin(splat(127.0f), x);
  vf shifted = x + splat(12582912.0f);
  vf n = shifted - splat(12582912.0f);
#endif
  vf f = x - n;
  vf p = splat(1.326472690e-3f);
  p = p * f + splat(9.671512661e-3f);
  p = p * f + splat(5.550733744e-2f);
  p = p * f + splat(2.402224208e-01f);
  p = p * f + splat(6.931469776e-01f);
  p = p * f + splat(1.0f);
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_scalef_ps((__mmask16)-1, (__m512)p, (__m512)n);
#else
  return p * as_f((as_i(shifted) - as_i(splat(12582912.0f)) + 127) << 23);
#endif
}

// The lanes whose index base + lane lies in [lo, hi).
#if defined(__AVX512F__)
typedef __mmask16 LaneMask;
using ESFT_ISA::select;
ESFT_INLINE vf select(LaneMask mask, vf a, vf b) { return (vf)_mm512_mask_blend_ps(mask, (__m512)b, (__m512)a); }
#else
typedef vi LaneMask;
#endif
ESFT_INLINE LaneMask lanes_in(int64_t base, int64_t lo, int64_t hi) {
#if defined(__AVX512F__)
  // In scalars: the vector ports are what exponentials wait for.
  const int64_t from = min_of(max_of(lo - base, 0), W), to = min_of(max_of(hi - base, 0), W);
  return (__mmask16)(((1u << to) - 1) & ~((1u << from) - 1));
#else
  vi lane;
  for (int i = 0; i < W; i++) lane[i] = i;
  lane = lane + (int32_t)base;
  return (lane >= (int32_t)lo) & (lane < (int32_t)hi);
#endif
}

// --- precision policies -----------------------------------------------------------------------------------------------

struct F32 {
  static constexpr int pair = 1;
  template <int NV>
  ESFT_INLINE void fma(vf* acc, const float* a, const vf* b) {
    const vf x = *a - vf{};
    for (int j = 0; j < NV; j++) acc[j] += x * b[j];
  }
  // n floats (a multiple of NR may be read) as n units
  ESFT_INLINE void row(float* dst, const float* src, int64_t n) {
    for (int64_t i = 0; i < n; i += W) store(dst + i, load(src + i));
  }
  // rows r and r+1 of one panel as B units; for one-row units only `a`
  ESFT_INLINE void panel_rows(float* dst, const float* a, const float*) {
    store(dst, load(a));
    store(dst + W, load(a + W));
  }
};

#if defined(__AVX512BF16__)
struct BF16 {
  static constexpr int pair = 2;
  template <int NV>
  ESFT_INLINE void fma(vf* acc, const float* a, const vf* b) {
    int32_t u;
    memcpy(&u, a, 4);
    const __m512bh x = (__m512bh)_mm512_set1_epi32(u);
    for (int j = 0; j < NV; j++) acc[j] = (vf)_mm512_dpbf16_ps((__m512)acc[j], (__m512bh)b[j], x);
  }
  ESFT_INLINE void row(float* dst, const float* src, int64_t n) {
    for (int64_t i = 0; i < n; i += 2 * W)
      store(dst + i / 2, (vf)_mm512_cvtne2ps_pbh((__m512)load(src + i + W), (__m512)load(src + i)));
  }
  // Two rows in bf16, one after the other, and interleaved: lane j = (bf16(lo[j]), bf16(hi[j])).
  ESFT_INLINE __m512i both(vf lo, vf hi) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo); }
  ESFT_INLINE vf interleave(__m512i v) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    return (vf)_mm512_maskz_permutexvar_epi16(-1, order, v);
  }
  ESFT_INLINE vf zip(vf lo, vf hi) { return interleave(both(lo, hi)); }
  ESFT_INLINE void panel_rows(float* dst, const float* a, const float* b) {
    store(dst, zip(load(a), load(b)));
    store(dst + W, zip(load(a + W), load(b + W)));
  }
};
#endif

// f(policy) for the precision of a call; the backend refuses 1 where there is no bf16 instruction.
template <class F>
ESFT_INLINE void with_precision([[maybe_unused]] int64_t precision, F f) {
#if defined(__AVX512BF16__)
  if (precision == 1) return f(BF16{});
#endif
  f(F32{});
}

// --- the register tile --------------------------------------------------------------------------------------------------

// Memory that is wanted soon, in stretches of 256 bytes. A core has some 16 lines under way at a time and stands still when it
// asks for more: tiles ask for a few stretches now and then, so that memory works while they multiply.
struct Ahead {
  static constexpr int64_t kUnits = 64;  // of a tile, between two times; loops of eight cost 6 % of the products
  static constexpr int kMost = 32 * MR;
  const char* at[kMost];
  int count = 0, next = 0, burst = 2;  // stretches at a time

  void clear() { count = next = 0; }
  void add(const float* row, int64_t n) {
    for (int64_t i = 0; i < n && count < kMost; i += 64) at[count++] = reinterpret_cast<const char*>(row + i);
  }
  // All of them in `times` times, as far as memory can follow.
  void spread(int64_t times) { burst = (int)min_of(8, max_of(2, ceil_div(count, times))); }
  // Into L2: a step of the backward asks for more than L1 holds. Reading past what is there is harmless.
  __attribute__((always_inline)) void fetch() {
    for (const int end = (int)min_of(count, next + burst); next < end; next++)
      for (int i = 0; i < 256; i += 64) __builtin_prefetch(at[next] + i, 0, 2);
  }
};

enum Init { kZero, kAdd, kScaleAdd, kScaled };  // c = A·B, c += A·B, c = alpha[row]·c + A·B, c = alpha[row]·(A·B)
enum Side { kRows, kCols };            // how A is read

template <class P, Side S, int M, int NV>
static void tile(int64_t units, const float* a, int64_t as, const float* b, int64_t bp, float* c, int64_t ldc, Init init,
                 const float* alpha, Ahead& ahead) {
  vf acc[M][NV];
  if (init == kZero || init == kScaled) {
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
      for (int j = 0; j < NV; j++) acc[i][j] = vf{};
  } else {
    const float* from = c;
#pragma GCC unroll 16
    for (int i = 0; i < M; i++, from += ldc)
      for (int j = 0; j < NV; j++) acc[i][j] = load(from + j * W);
    if (init == kScaleAdd) {
#pragma GCC unroll 16
      for (int i = 0; i < M; i++)
        for (int j = 0; j < NV; j++) acc[i][j] *= alpha[i] - vf{};
    }
  }
  if constexpr (S == kCols) {
    for (int64_t u = 0; u < units;) {
      ahead.fetch();
      for (const int64_t end = min_of(u + Ahead::kUnits, units); u < end; u++, a += as, b += bp) {
        vf bv[NV];
        for (int j = 0; j < NV; j++) bv[j] = load(b + j * W);
#pragma GCC unroll 16
        for (int i = 0; i < M; i++) P::template fma<NV>(acc[i], a + i, bv);
      }
    }
  } else {
    // Few base pointers, three rows on each ([p], [p + s], [p + 2s]): all of them stay in registers.
    const float* p[5];
    for (int g = 0; g < 5; g++) p[g] = a + (g * 3 < M ? g * 3 : 0) * as;
    for (int64_t u = 0; u < units;) {
      ahead.fetch();
      for (const int64_t end = min_of(u + Ahead::kUnits, units); u < end; u++, b += bp) {
        vf bv[NV];
        for (int j = 0; j < NV; j++) bv[j] = load(b + j * W);
#pragma GCC unroll 16
        for (int i = 0; i < M; i++) P::template fma<NV>(acc[i], p[i / 3] + (i % 3) * as, bv);
#pragma GCC unroll 5
        for (int g = 0; g < (M + 2) / 3; g++) p[g]++;
      }
    }
  }
  if (init == kScaled) {
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
      for (int j = 0; j < NV; j++) acc[i][j] *= alpha[i] - vf{};
  }
  // Addresses of rows are computed here: before the loop they would take its registers, and the time of short products.
  asm("" : "+r"(c), "+r"(ldc));
#pragma GCC unroll 16
  for (int i = 0; i < M; i++, c += ldc)
    for (int j = 0; j < NV; j++) store(c + j * W, acc[i][j]);
}

typedef void (*TileFn)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, Init, const float*, Ahead&);

template <class P, Side S>
ESFT_INLINE TileFn tile_for(int64_t m, bool wide) {
#define ESFT_TILE(M) {tile<P, S, (M < MR ? M : MR), 1>, tile<P, S, (M < MR ? M : MR), 2>}
  static const TileFn table[14][2] = {
      // MR of them
      ESFT_TILE(1), ESFT_TILE(2), ESFT_TILE(3),  ESFT_TILE(4),  ESFT_TILE(5),  ESFT_TILE(6),  ESFT_TILE(7),
      ESFT_TILE(8), ESFT_TILE(9), ESFT_TILE(10), ESFT_TILE(11), ESFT_TILE(12), ESFT_TILE(13), ESFT_TILE(14),
  };
#undef ESFT_TILE
  return table[m - 1][wide];
}

// c[m <= MR rows][n columns] (init) A[m, units]·B; panels of B are `bs` apart. The first column may be the second half of a panel.
template <class P, Side S>
static void product(int64_t m, int64_t n, int64_t units, const float* a, int64_t as, const float* b, int64_t bs, float* c,
                    int64_t ldc, Init init, const float* alpha = nullptr, bool half = false, Ahead* ahead = nullptr) {
  Ahead none;
  if (!ahead) ahead = &none;
  if (half && n > 0) {
    tile_for<P, S>(m, false)(units, a, as, b + W, NR, c, ldc, init, alpha, *ahead);
    n -= W, b += bs, c += W;
  }
  const TileFn wide = tile_for<P, S>(m, true);
  for (; n > W; n -= NR, b += bs, c += NR) wide(units, a, as, b, NR, c, ldc, init, alpha, *ahead);
  if (n > 0) tile_for<P, S>(m, false)(units, a, as, b, NR, c, ldc, init, alpha, *ahead);
}

}  // namespace esft::cpu::ESFT_ISA::attn
