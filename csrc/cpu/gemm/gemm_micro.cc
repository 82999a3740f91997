// The micro kernels of one instruction set: every panel kind, A access and row count, fully unrolled (see gemm_micro.h).
//
// Per step a kernel loads one panel row (two vectors) and broadcasts MR values of A, each used twice: 2·MR multiply-adds on
// 2 + MR loads, so the multiply-add units are the limit from about 8 rows on.
#include "gemm_micro.h"

#include "gemm_vec.h"

namespace esft::cpu::ESFT_ISA {

namespace {

ESFT_INLINE vf broadcast_at(const char* p) { return broadcast(reinterpret_cast<const float*>(p)); }

// A rows three to a base register: x86 addresses base, base + lda and base + 2·lda without further arithmetic.
template <int MR, bool kRows>
struct Source {
  static constexpr int kBases = kRows ? (MR + 2) / 3 : 1;
  const char* base[kBases];
  int64_t lda;
  ESFT_INLINE Source make(const void* a, int64_t lda) {
    Source s;
    s.lda = lda;
#pragma GCC unroll 8
    for (int b = 0; b < kBases; b++) s.base[b] = static_cast<const char*>(a) + 3 * b * lda;
    return s;
  }
  __attribute__((always_inline)) const char* at(int i, int step) const {
    return kRows ? base[kRows ? i / 3 : 0] + (i % 3) * lda + step * 4 : base[0] + (step * MR + i) * 4;
  }
  __attribute__((always_inline)) void advance(int steps) {
#pragma GCC unroll 8
    for (int b = 0; b < kBases; b++) base[b] += steps * (kRows ? 4 : MR * 4);
  }
};

template <int MR>
struct Sums {
  vf v[MR][2];
};

// One step of each kind. `row` is the panel row; `s` counts steps from the source's position.
template <int MR, PanelKind kKind, bool kRows>
ESFT_INLINE void step(Sums<MR>& acc, const Source<MR, kRows>& a, const char* row, int s) {
  if (kKind == PANEL_F32) {
    const vf b0 = load(reinterpret_cast<const float*>(row)), b1 = load(reinterpret_cast<const float*>(row) + W);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const vf x = broadcast_at(a.at(i, s));
      acc.v[i][0] += x * b0;
      acc.v[i][1] += x * b1;
    }
  } else if (kKind == PANEL_PAIR) {
    const vu p0 = *reinterpret_cast<const vu*>(row), p1 = *reinterpret_cast<const vu*>(row + W * 4);
    const vf lo0 = (vf)(p0 << 16), lo1 = (vf)(p1 << 16);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const vf x = broadcast_at(a.at(i, 2 * s));
      acc.v[i][0] += x * lo0;
      acc.v[i][1] += x * lo1;
    }
    const vf hi0 = (vf)(p0 & 0xffff0000u), hi1 = (vf)(p1 & 0xffff0000u);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const vf x = broadcast_at(a.at(i, 2 * s + 1));
      acc.v[i][0] += x * hi0;
      acc.v[i][1] += x * hi1;
    }
  } else {
#if defined(__AVX512BF16__)
    const __m512bh b0 = (__m512bh)_mm512_load_si512(row), b1 = (__m512bh)_mm512_load_si512(row + 64);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(a.at(i, s)));
      acc.v[i][0] = (vf)_mm512_dpbf16_ps((__m512)acc.v[i][0], x, b0);
      acc.v[i][1] = (vf)_mm512_dpbf16_ps((__m512)acc.v[i][1], x, b1);
    }
#endif
  }
}

// The walker's lines for the next block of steps.
template <int kLocality>  // 2: L2, 3: L1
ESFT_INLINE void fetch(Prefetch* p) {
  const char* next = p->next;
  int32_t left = p->left;
  for (int i = p->per_block; i > 0; i--) {
    __builtin_prefetch(next, 0, kLocality);
    next += 64;
    if (--left == 0) {
      next += p->jump;
      left = p->lines;
      if (--p->rows == 0) {
        next = p->then;
        p->rows = p->then_rows;
        p->then = nullptr;
        if (!next) {
          p->per_block = 0;
          return;
        }
      }
    }
  }
  p->next = next;
  p->left = left;
}

template <int MR, PanelKind kKind, bool kRows>
void micro(const MicroArgs& g) {
  constexpr int kUnroll = kKind == PANEL_PAIR ? 2 : 4;
  constexpr int kSteps = kKind == PANEL_PAIR ? 2 : 1;  // A elements per step
  float* c = g.c;
  const int64_t ldc = g.ldc;
  Sums<MR> acc = {};
  Source<MR, kRows> a = Source<MR, kRows>::make(g.a, g.lda);
  const char* row = static_cast<const char*>(g.panel);
  int64_t steps = g.steps;
  while (steps >= kPrefetchSteps) {
    if (g.panel_ahead->per_block) fetch<2>(g.panel_ahead);
    if (g.tile_ahead->per_block) fetch<3>(g.tile_ahead);
    for (int j = 0; j < kPrefetchSteps / kUnroll; j++) {
#pragma GCC unroll 4
      for (int s = 0; s < kUnroll; s++) step<MR, kKind, kRows>(acc, a, row + s * NR * 4, s);
      a.advance(kUnroll * kSteps);
      row += kUnroll * NR * 4;
    }
    steps -= kPrefetchSteps;
  }
  for (; steps > 0; steps--) {
    step<MR, kKind, kRows>(acc, a, row, 0);
    a.advance(kSteps);
    row += NR * 4;
  }
  if (g.tail.steps) {
    constexpr PanelKind kTail = kKind == PANEL_DOT ? PANEL_DOT : PANEL_F32;
    Source<MR, false> u = Source<MR, false>::make(g.tail.a, 0);
    const char* of_term = static_cast<const char*>(g.tail.panel);
    for (int64_t s = g.tail.steps; s > 0; s--) {
      step<MR, kTail, false>(acc, u, of_term, 0);
      u.advance(1);
      of_term += NR * 4;
    }
  }
  if (g.add) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      store(c + i * ldc, load(c + i * ldc) + acc.v[i][0]);
      store(c + i * ldc + W, load(c + i * ldc + W) + acc.v[i][1]);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      store(c + i * ldc, acc.v[i][0]);
      store(c + i * ldc + W, acc.v[i][1]);
    }
  }
}

#define ESFT_MICRO_1(kind, rows, n) (n <= tile_rows(kind) ? micro<(n <= tile_rows(kind) ? n : 1), kind, rows> : nullptr)
#define ESFT_MICRO_ROW(kind, rows)                                                                                      \
  {nullptr, ESFT_MICRO_1(kind, rows, 1), ESFT_MICRO_1(kind, rows, 2), ESFT_MICRO_1(kind, rows, 3),                       \
   ESFT_MICRO_1(kind, rows, 4), ESFT_MICRO_1(kind, rows, 5), ESFT_MICRO_1(kind, rows, 6), ESFT_MICRO_1(kind, rows, 7),   \
   ESFT_MICRO_1(kind, rows, 8), ESFT_MICRO_1(kind, rows, 9), ESFT_MICRO_1(kind, rows, 10), ESFT_MICRO_1(kind, rows, 11), \
   ESFT_MICRO_1(kind, rows, 12), ESFT_MICRO_1(kind, rows, 13), ESFT_MICRO_1(kind, rows, 14)}
#define ESFT_MICRO_KIND(kind) {ESFT_MICRO_ROW(kind, false), ESFT_MICRO_ROW(kind, true)}

// Pairs are unpacked in registers only where there are 32 of them; elsewhere bf16 weights are expanded into f32 panels.
const MicroKernel kKernels[][2][15] = {
    ESFT_MICRO_KIND(PANEL_F32),
#if ESFT_REGISTERS == 32
    ESFT_MICRO_KIND(PANEL_PAIR),
#endif
#if defined(__AVX512BF16__)
    ESFT_MICRO_KIND(PANEL_DOT),
#endif
};

}  // namespace

MicroKernel micro_kernel(PanelKind kind, AccessA access, int rows) { return kKernels[kind][access][rows]; }

}  // namespace esft::cpu::ESFT_ISA
