// Narrow products (see gemm_narrow.h): x·Aᵀ and dy·B of a low rank by rows, dyᵀ·u and duᵀ·x by columns.
//
// Both copy a piece of the wide side into L1 (gathered, rounded, activated on the way) while the next piece is fetched, and multiply
// it by all of the narrow side. Sums are those of the other products: k ascending in chunks of KC.
#include "gemm_narrow.h"

#include "../activation.h"
#include "gemm_vec.h"

namespace esft::cpu::ESFT_ISA {

namespace {

static_assert(KC % kNarrowSteps == 0, "a chunk of sums is a whole number of pieces");

ESFT_INLINE vf rounded_if(bool round, vf v) { return round ? rounded_to_bf16(v) : v; }

// sums[R][NR] (+)= a[R][steps] · panel, V vectors of it. next: R pointers fetched along.
template <int R, int V>
void add_steps(const float* a, const float* panel, int64_t steps, const float* const* next, float* sums, bool fresh) {
  vf acc[R][V];
#pragma GCC unroll 12
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[i][v] = fresh ? vf{} : load(sums + i * NR + v * W);
  for (int64_t s0 = 0; s0 < steps; s0 += 16) {
    if (next)
      for (int i = 0; i < R; i++) __builtin_prefetch(next[i] + s0, 0, 3);
    const int64_t end = min_of(s0 + 16, steps);
    for (int64_t s = s0; s < end; s++) {
      vf b[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) b[v] = load(panel + s * NR + v * W);
#pragma GCC unroll 12
      for (int i = 0; i < R; i++) {
        const vf x = broadcast(a + i * kNarrowPitch + s);
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) acc[i][v] += x * b[v];
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(sums + i * NR + v * W, acc[i][v]);
}

void copy_row(const float* from, int64_t n, bool round, float* to) {
  int64_t s = 0;
  for (; s + W <= n; s += W) store(to + s, rounded_if(round, load(from + s)));
  if (s < n) store(to + s, rounded_if(round, load_part(from + s, n - s)));
}

// Rows i .. i+R of the block; their sums are left in `tile`. then: rows that follow, fetched during the last piece.
template <int R, int V>
void tile_rows_of(const Block& b, int64_t i, const float* panel, float* rows, float* piece, float* tile) {
  const bool round = b.kind == PANEL_DOT;
  const float* row[R];
  const float* then[R];
  const float* next[R];
  for (int r = 0; r < R; r++) row[r] = row_at(b.a, i + r), then[r] = row_at(b.a, min_of(i + R + r, b.m - 1));
  for (int64_t k0 = 0; k0 < b.k; k0 += kNarrowSteps) {
    const int64_t steps = min_of(kNarrowSteps, b.k - k0), after = k0 + kNarrowSteps;
    for (int r = 0; r < R; r++) {
      copy_row(row[r] + k0, steps, round, rows + r * kNarrowPitch);
      next[r] = after < b.k ? row[r] + after : then[r];
    }
    float* sums = k0 < KC ? tile : piece;
    add_steps<R, V>(rows, panel + k0 * NR, steps, next, sums, k0 % KC == 0);
    if (sums == piece && (after % KC == 0 || after >= b.k))
      for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(tile + r * NR + v * W, load(tile + r * NR + v * W) + load(piece + r * NR + v * W));
  }
}

template <int V>
void narrow_rows_of(const Block& b, const float* panel, float* rows) {
  float* piece = rows + kNarrowRows * kNarrowPitch;
  float* tile = piece + kNarrowRows * NR;
  for (int64_t i = 0; i < b.m;) {
    const int64_t left = b.m - i;
    int64_t mr = kNarrowRows;
    if (left >= kNarrowRows)
      tile_rows_of<kNarrowRows, V>(b, i, panel, rows, piece, tile);
    else if (left >= 8 && kNarrowRows > 8)
      tile_rows_of<8, V>(b, i, panel, rows, piece, tile), mr = 8;
    else if (left >= 4 && kNarrowRows > 4)
      tile_rows_of<4, V>(b, i, panel, rows, piece, tile), mr = 4;
    else if (left >= 2)
      tile_rows_of<2, V>(b, i, panel, rows, piece, tile), mr = 2;
    else
      tile_rows_of<1, V>(b, i, panel, rows, piece, tile), mr = 1;
    finish_tile(b, tile, i, mr, 0, nullptr);
    i += mr;
  }
}

}  // namespace

bool narrow_rows_pay(const Block& b) {
  return b.out.kind == OUT_PLAIN && b.n <= NR && b.k > 0 && !b.a_columns && b.term.k == 0 &&
         (b.source == FROM_WEIGHT_ROWS || b.source == FROM_WEIGHT_COLUMNS) && (b.n <= W || !reads_a_in_place(b));
}

void narrow_rows(const Block& b, float* panel, float* rows) {
  if (b.source == FROM_WEIGHT_COLUMNS)
    panels_of_weight_columns(PANEL_F32, b.w, 0, b.n, b.k0, b.k, panel);
  else
    panel_of_weight_rows(PANEL_F32, b.w, 0, W, b.n, b.n, b.k0, b.k, panel);
  if (b.kind == PANEL_DOT)
    for (int64_t e = 0; e < b.k * NR; e += W) store(panel + e, rounded_to_bf16(load(panel + e)));
  b.n <= W ? narrow_rows_of<1>(b, panel, rows) : narrow_rows_of<2>(b, panel, rows);
}

namespace {

// Rows of the wide side and columns of it that are copied together, and columns whose sums are kept together.
constexpr int64_t kDeep = 32, kStrip = 256, kSpan = 4096;

// sums[MT][·] += u[r][MT]ᵀ · x[r][n] over `deep` rows; a row of sums `ld` after the other.
template <int MT>
void add_rows(const float* x, const float* u, int64_t ldu, int64_t deep, int64_t n, float* sums, int64_t ld, bool fresh,
              const float* const* next, int64_t up) {
  for (int64_t j = 0, q = 0; j < n; j += W) {
    // The next piece has as many lines: deep · n / 16, some at every vector.
    if (next)
      for (const int64_t end = min_of(q + (kDeep * W + 15) / 16, deep * (n / 16)); q < end; q++) {
        const float* line = next[q / (n / 16)] + q % (n / 16) * 16;
        __builtin_prefetch(line, 0, 3);
        if (up) __builtin_prefetch(line + up, 0, 3);
      }
    vf acc[MT];
#pragma GCC unroll 16
    for (int i = 0; i < MT; i++) acc[i] = fresh ? vf{} : load(sums + i * ld + j);
    for (int64_t r = 0; r < deep; r++) {
      const vf v = load(x + r * kStrip + j);
#pragma GCC unroll 16
      for (int i = 0; i < MT; i++) acc[i] += broadcast(u + r * ldu + i) * v;
    }
#pragma GCC unroll 16
    for (int i = 0; i < MT; i++) store(sums + i * ld + j, acc[i]);
  }
}

// Columns j .. j+n of rows r0 .. r0+deep of the wide side.
template <int32_t kAct>
void copy_piece(const Block& b, int64_t r0, int64_t deep, int64_t j, int64_t n, float* to) {
  const vf alpha = splat(b.x_act.alpha), limit = splat(b.x_act.limit);
  const bool round = b.kind == PANEL_DOT;
  for (int64_t r = 0; r < deep; r++, to += kStrip) {
    const float* row = row_at(b.x, r0 + r) + j;
    const vf scale = splat(b.x_scale ? b.x_scale[r0 + r] : 1.0f);
    for (int64_t c = 0; c < n; c += W) {
      const int64_t left = min_of(W, n - c);
      vf v = load_n(row + c, left);
      if (kAct) v = gated<kAct>(v, load_n(row + b.x_features + c, left), alpha, limit);
      if (b.x_scale) v *= scale;
      store(to + c, rounded_if(round, v));
    }
  }
}
void copy_piece(const Block& b, int64_t r0, int64_t deep, int64_t j, int64_t n, float* to) {
  if (b.x_act.kind == ACT_NONE) return copy_piece<ACT_NONE>(b, r0, deep, j, n, to);
#define RUN(kAct) copy_piece<kAct>(b, r0, deep, j, n, to)
  ESFT_CHOOSE_ACTIVATION(b.x_act.kind, RUN)
#undef RUN
}

// Rows r0 .. r0+deep of the narrow side, m columns padded with zeros to whole vectors.
void copy_narrow(const Block& b, int64_t r0, int64_t deep, int64_t width, float* to) {
  const bool round = b.kind == PANEL_DOT;
  for (int64_t r = 0; r < deep; r++, to += width) {
    const float* row = row_at(b.a, r0 + r);
    const vf scale = splat(b.a_scale ? b.a_scale[r0 + r] : 1.0f);
    for (int64_t i = 0; i < width; i += W) {
      vf v = load_n(row + i, min_of(W, b.m - i));
      if (b.a_scale) v *= scale;
      store(to + i, rounded_if(round, v));
    }
  }
}

// The sums of columns j0 .. j0+n to their place.
void put_sums(const Block& b, const float* sums, int64_t ld, int64_t j0, int64_t n, bool add) {
  const Output& o = b.out;
  for (int64_t i0 = 0; i0 < b.m; i0 += W) {
    const int64_t mr = min_of(W, b.m - i0);
    for (int64_t j = 0; j < n; j += W) {
      const int64_t left = min_of(W, n - j);
      if (o.transposed) {
        vf r[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) r[i] = load(sums + (i0 + i) * ld + j);
        transpose(r);
        float* c = o.c + (j0 + j) * o.ldc + i0;
        for (int64_t q = 0; q < left; q++, c += o.ldc) store_n(c, add ? load_n(c, mr) + r[q] : r[q], mr);
      } else {
        for (int64_t i = i0; i < i0 + mr; i++) {
          float* row = o.c_behind && i >= o.split ? o.c_behind + (i - o.split) * o.ld_behind : o.c + i * o.ldc;
          float* c = row + j0 + j;
          const vf v = load(sums + i * ld + j);
          store_n(c, add ? load_n(c, left) + v : v, left);
        }
      }
    }
  }
}

}  // namespace

size_t narrow_columns_scratch(int64_t m) {
  const int64_t width = (m + W - 1) / W * W;
  return size_t(kDeep * kStrip + kDeep * width + width * (kSpan + W)) * 4;
}

void narrow_columns(const Block& b, int64_t p0, int64_t p1, void* scratch) {
  const int64_t width = (b.m + W - 1) / W * W, last = min_of(p1 * NR, b.n);
  float* piece = static_cast<float*>(scratch);
  float* narrow = piece + kDeep * kStrip;
  float* sums = narrow + kDeep * width;
  constexpr int64_t ld = kSpan + W;  // rows of sums do not share a set of L1
  for (int64_t j0 = p0 * NR; j0 < last; j0 += kSpan) {
    const int64_t n = min_of(kSpan, last - j0);
    bool add = b.out.add;
    for (int64_t k0 = 0; k0 < b.k || k0 == 0; k0 += KC) {
      const int64_t k1 = min_of(k0 + KC, b.k);
      if (k1 == k0)
        for (int64_t i = 0; i < width; i++) memset(sums + i * ld, 0, size_t((n + W - 1) / W * W) * 4);
      for (int64_t r0 = k0; r0 < k1; r0 += kDeep) {
        const int64_t deep = min_of(kDeep, k1 - r0);
        copy_narrow(b, r0, deep, width, narrow);
        for (int64_t j = 0; j < n; j += kStrip) {
          const int64_t count = min_of(kStrip, n - j);
          copy_piece(b, r0, deep, j0 + j, count, piece);
          const float* next[kDeep];
          const bool along = j + kStrip < n;  // the next piece of these rows, or the first of those that follow
          for (int64_t r = 0; r < deep; r++)
            next[r] = (along ? row_at(b.x, r0 + r) + j + kStrip : row_at(b.x, min_of(r0 + kDeep + r, b.k - 1))) + j0;
          const int64_t up = b.x_act.kind ? b.x_features : 0;
          for (int64_t i = 0; i < b.m; i += W) {
            const auto add_to = b.m - i > W / 2 ? add_rows<W> : add_rows<W / 2>;
            add_to(piece, narrow + i, width, deep, count, sums + i * ld + j, ld, r0 == k0, i == 0 ? next : nullptr, up);
          }
        }
      }
      put_sums(b, sums, ld, j0, n, add);
      add = true;
    }
  }
}

}  // namespace esft::cpu::ESFT_ISA
