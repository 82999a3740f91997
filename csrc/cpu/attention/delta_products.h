// Small products of matrices that lie in scratch, for chunks of linear attention: c[m, n] (+)= a[m, k] · b[k, n].
//
// B and C are rows of floats padded to whole vectors, `ld` apart (a pad keeps rows from falling on the same lines of L1); A is read by
// rows or by columns and broadcast. B needs no packing: a panel of it is a few KB and stays in L1. Triangles: an A that is zero above
// its diagonal (kLower) or below it (kUpper; as a transposed lower one) is not multiplied there.
#pragma once
#include "attention_tile.h"

namespace esft::cpu::ESFT_ISA::attn {

struct Block {
  float* data;
  int64_t ld;
  float* row(int64_t r) const { return data + r * ld; }
};

enum Shape2 { kFull, kLower, kUpper };

template <Side S, int M, int NV>
static void plain_tile(int64_t k, const float* a, int64_t as, const float* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  vf acc[M][NV];
  if (add) {
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
      for (int j = 0; j < NV; j++) acc[i][j] = load(c + i * ldc + j * W);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
      for (int j = 0; j < NV; j++) acc[i][j] = vf{};
  }
  if constexpr (S == kCols) {
    for (int64_t u = 0; u < k; u++, a += as, b += ldb) {
      vf bv[NV];
      for (int j = 0; j < NV; j++) bv[j] = load(b + j * W);
#pragma GCC unroll 16
      for (int i = 0; i < M; i++) F32::fma<NV>(acc[i], a + i, bv);
    }
  } else {
    const float* p[5];
    for (int g = 0; g < 5; g++) p[g] = a + (g * 3 < M ? g * 3 : 0) * as;
    for (int64_t u = 0; u < k; u++, b += ldb) {
      vf bv[NV];
      for (int j = 0; j < NV; j++) bv[j] = load(b + j * W);
#pragma GCC unroll 16
      for (int i = 0; i < M; i++) F32::fma<NV>(acc[i], p[i / 3] + (i % 3) * as, bv);
#pragma GCC unroll 5
      for (int g = 0; g < (M + 2) / 3; g++) p[g]++;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
    for (int j = 0; j < NV; j++) store(c + i * ldc + j * W, acc[i][j]);
}

typedef void (*PlainTile)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, bool);

template <Side S>
ESFT_INLINE PlainTile plain_tile_for(int64_t m, bool wide) {
#define ESFT_TILE(M) {plain_tile<S, (M < MR ? M : MR), 1>, plain_tile<S, (M < MR ? M : MR), 2>}
  static const PlainTile table[14][2] = {
      // MR of them
      ESFT_TILE(1), ESFT_TILE(2), ESFT_TILE(3),  ESFT_TILE(4),  ESFT_TILE(5),  ESFT_TILE(6),  ESFT_TILE(7),
      ESFT_TILE(8), ESFT_TILE(9), ESFT_TILE(10), ESFT_TILE(11), ESFT_TILE(12), ESFT_TILE(13), ESFT_TILE(14),
  };
#undef ESFT_TILE
  return table[m - 1][wide];
}

// n counts the columns that are wanted; up to W − 1 more are written. The sums run over k in ascending order.
template <Side S>
static void multiply(int64_t m, int64_t n, int64_t k, Block a, Block b, Block c, bool add, Shape2 shape = kFull) {
  const int64_t part = ceil_div(m, ceil_div(m, MR));
  for (int64_t j = 0; j < n; j += NR) {
    const bool wide = n - j > W;
    for (int64_t r = 0; r < m; r += part) {
      const int64_t rows = min_of(part, m - r), k0 = shape == kUpper ? min_of(k, r) : 0,
                    k1 = shape == kLower ? min_of(k, r + rows) : k;
      const float* first = S == kCols ? a.row(k0) + r : a.row(r) + k0;
      plain_tile_for<S>(rows, wide)(k1 - k0, first, a.ld, b.row(k0) + j, b.ld, c.row(r) + j, c.ld, add);
    }
  }
}

// dst[c][r] = src[r][c] for r < m, c < n; both padded to whole vectors in rows and columns.
static void transpose(Block dst, Block src, int64_t m, int64_t n) {
  for (int64_t r = 0; r < m; r += W)
    for (int64_t c = 0; c < n; c += W) {
      vf v[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) v[i] = load(src.row(r + i) + c);
      butterflies<W / 2>(v);
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) store(dst.row(c + i) + r, v[i]);
    }
}

// f(offset) for every vector of `n` columns, padding included.
template <class F>
ESFT_INLINE void vectors(int64_t n, F f) {
  for (int64_t c = 0; c < n; c += W) f(c);
}
ESFT_INLINE float dot_rows(const float* x, const float* y, int64_t n) {
  vf sum = {};
  for (int64_t c = 0; c < n; c += W) sum += load(x + c) * load(y + c);
  return hsum(sum);
}

}  // namespace esft::cpu::ESFT_ISA::attn
