// Packing for the block products (see gemm_pack.h).
#include "gemm_pack.h"

#include "../activation.h"
#include "gemm_micro.h"
#include "gemm_vec.h"

namespace esft::cpu::ESFT_ISA {

namespace {

ESFT_INLINE float* floats(void* p) { return static_cast<float*>(p); }

// The rows of a stacked weight one after another.
struct WeightCursor {
  const Segment* s;
  const char* row;
  int64_t left, pitch;
  bool bf16;
  void open(const Segment* segment) {
    s = segment;
    row = static_cast<const char*>(s->data);
    left = s->rows;
    bf16 = s->bf16;
    pitch = s->ld * (bf16 ? 2 : 4);
  }
  void settle() {  // skips exhausted segments; the caller never walks past the last row
    while (left == 0) open(s + 1);
  }
  static WeightCursor make(const Weights& w, int64_t i) {
    WeightCursor c;
    const Segment* s = w.segments;
    while (i >= s->rows) i -= s++->rows;
    c.open(s);
    c.row += i * c.pitch;
    c.left -= i;
    return c;
  }
  void next() { row += pitch, left--; }
  // Columns n .. n+count of the current row as f32.
  __attribute__((always_inline)) vf load_f32(int64_t n, int64_t count) const {
    if (bf16) {
      const uint16_t* p = reinterpret_cast<const uint16_t*>(row) + n;
      return count >= W ? load_bf16(p) : count > 0 ? load_bf16_part(p, count) : vf{};
    }
    const float* p = reinterpret_cast<const float*>(row) + n;
    return count >= W ? load(p) : count > 0 ? load_part(p, count) : vf{};
  }
};

#if ESFT_REGISTERS == 32
bool all_bf16(const Weights& w) {
  for (int64_t s = 0; s < w.count; s++)
    if (!w.segments[s].bf16) return false;
  return true;
}
#endif

// k .. k+2W of an f32 row as W pairs (zeros past `left`); unused where there is no dot product.
ESFT_INLINE vf pairs_of_f32(const float* p, int64_t left) {
#if defined(__AVX512BF16__)
  if (left >= 2 * W) return round_pairs(load(p), load(p + W));
  return left > W ? round_pairs(load(p), load_part(p + W, left - W)) : round_pairs(load_part(p, left), vf{});
#else
  (void)left;
  return load(p);
#endif
}

// W columns of a panel from W rows of one dtype: blocks of W steps, transposed. kOut: what the panel holds.
template <bool kBf16, PanelKind kKind>
void half_panel(const void* const (&row)[W], int64_t k, float* out) {
  constexpr int64_t kPer = kBf16 || kKind != PANEL_F32 ? 2 * W : W;  // k per vector of a row
  for (int64_t l = 0; l < k; l += kPer) {
    const int64_t left = k - l;
    vf r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) {
      if (kBf16) {
        const uint16_t* p = static_cast<const uint16_t*>(row[i]) + l;
        r[i] = left >= kPer ? load_pairs(p) : load_pairs_part(p, left);
      } else if (kKind == PANEL_F32) {
        const float* p = static_cast<const float*>(row[i]) + l;
        r[i] = left >= kPer ? load(p) : load_part(p, left);
      } else {
        r[i] = pairs_of_f32(static_cast<const float*>(row[i]) + l, left);
      }
    }
    transpose(r);
    if (kBf16 && kKind == PANEL_F32) {  // expand
      if (left >= kPer) {
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) {
          store(out + 2 * i * NR, low_half(r[i]));
          store(out + (2 * i + 1) * NR, high_half(r[i]));
        }
      } else {
        for (int64_t i = 0; i < left; i++) store(out + i * NR, i & 1 ? high_half(r[i / 2]) : low_half(r[i / 2]));
      }
      out += kPer * NR;
    } else {
      const int64_t steps = kPer == W ? min_of(W, left) : min_of(W, (left + 1) / 2);
      if (steps == W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) store(out + i * NR, r[i]);
      } else {
        for (int64_t i = 0; i < steps; i++) store(out + i * NR, r[i]);
      }
      out += W * NR;
    }
  }
}

template <bool kBf16>
void half_panel(PanelKind kind, const void* const (&row)[W], int64_t k, float* out) {
  if (kind == PANEL_F32) return half_panel<kBf16, PANEL_F32>(row, k, out);
#if defined(__AVX512BF16__)
  if (kind == PANEL_DOT || kBf16) return half_panel<kBf16, PANEL_DOT>(row, k, out);
#elif ESFT_REGISTERS == 32
  if (kBf16) return half_panel<kBf16, PANEL_PAIR>(row, k, out);
#endif
}

// Two vertical f32 rows into the panel as one row of pairs.
ESFT_INLINE void store_pairs(float* out, vf lo0, vf lo1, vf hi0, vf hi1) {
#if defined(__AVX512BF16__)
  store(out, round_zip(lo0, hi0));
  store(out + W, round_zip(lo1, hi1));
#else
  (void)out, (void)lo0, (void)lo1, (void)hi0, (void)hi1;
#endif
}

}  // namespace

void panel_of_weight_rows(PanelKind kind, const Weights& w, int64_t n0, int64_t n1, int64_t limit0, int64_t limit1, int64_t k0,
                          int64_t k, void* out) {
  for (int half = 0; half < 2; half++) {
    const int64_t first = half ? n1 : n0, limit = half ? limit1 : limit0;
    const void* row[W];
    bool bf16[W];
    int64_t wide = 0;
    WeightCursor c = WeightCursor::make(w, first < limit ? first : limit - 1);
    for (int64_t i = 0; i < W; i++) {
      c.settle();
      row[i] = c.row + k0 * (c.bf16 ? 2 : 4);
      bf16[i] = c.bf16;
      wide += c.bf16;
      if (first + i + 1 < limit) c.next();
    }
    float* to = floats(out) + half * W;
    if (wide == W) {
      half_panel<true>(kind, row, k, to);
    } else if (wide == 0) {
      half_panel<false>(kind, row, k, to);
    } else {  // columns of both dtypes: each half panel written twice, the f32 columns last
      const void* f32_row[W];
      const void* bf16_row[W];
      const void *any_f32 = nullptr, *any_bf16 = nullptr;
      for (int i = 0; i < W; i++) (bf16[i] ? any_bf16 : any_f32) = row[i];
      for (int i = 0; i < W; i++) f32_row[i] = bf16[i] ? any_f32 : row[i], bf16_row[i] = bf16[i] ? row[i] : any_bf16;
      alignas(64) float part[2 * W * NR];
      for (int64_t l = 0; l < k; l += 2 * W) {
        const int64_t n = min_of(2 * W, k - l), steps = panel_steps(kind, n);
        const void *a[W], *b[W];
        for (int i = 0; i < W; i++) {
          a[i] = static_cast<const float*>(f32_row[i]) + l;
          b[i] = static_cast<const uint16_t*>(bf16_row[i]) + l;
        }
        half_panel<true>(kind, b, n, part);
        half_panel<false>(kind, a, n, part + W);
        float* rows = to + panel_steps(kind, l) * NR;
        for (int64_t s = 0; s < steps; s++)
          for (int i = 0; i < W; i++) memcpy(&rows[s * NR + i], &part[s * NR + (bf16[i] ? i : W + i)], 4);
      }
    }
  }
}

// The line 16 rows on: rows lie a page apart, where no prefetcher follows, and the fetch into L2 during the last tiles cannot
// hold them all when their distance is a power of two.
ESFT_INLINE void fetch_row(const void* p, int64_t pitch) { __builtin_prefetch(static_cast<const char*>(p) + 16 * pitch, 0, 3); }

// Whole rows of all panels at a time: each row of memory is visited once.
void panels_of_weight_columns(PanelKind kind, const Weights& w, int64_t n0, int64_t count, int64_t k0, int64_t k, void* out_) {
  float* out = floats(out_);
  const int64_t next_panel = panel_steps(kind, k) * NR;
  WeightCursor c = WeightCursor::make(w, k0);
  if (kind == PANEL_F32) {
    for (int64_t l = 0; l < k; l++, out += NR) {
      c.settle();
      for (int64_t n = 0, p = 0; n < count; n += NR, p += next_panel) {
        fetch_row(c.row + (n0 + n) * (c.bf16 ? 2 : 4), c.pitch);
        store(out + p, c.load_f32(n0 + n, count - n));
        store(out + p + W, c.load_f32(n0 + n + W, count - n - W));
      }
      c.next();
    }
    return;
  }
#if ESFT_REGISTERS == 32
  if (all_bf16(w)) {
    for (int64_t l = 0; l < k; l += 2, out += NR) {
      c.settle();
      const uint16_t* row0 = reinterpret_cast<const uint16_t*>(c.row) + n0;
      const uint16_t* row1 = row0;
      const int64_t pitch = c.pitch;
      c.next();
      const bool two = l + 1 < k;
      if (two) {
        c.settle();
        row1 = reinterpret_cast<const uint16_t*>(c.row) + n0;
        c.next();
      }
      for (int64_t n = 0, p = 0; n < count; n += NR, p += next_panel) {
        fetch_row(row0 + n, pitch), fetch_row(row1 + n, pitch);
#if defined(__AVX512F__)
        const __mmask32 mask = count - n >= NR ? ~0u : (1u << (count - n)) - 1;
        const vf r0 = (vf)_mm512_maskz_loadu_epi16(mask, row0 + n);
        const vf r1 = (vf)_mm512_maskz_loadu_epi16(two ? mask : 0, row1 + n);
#else
        const bool whole = count - n >= NR;
        const vf r0 = whole ? load_pairs(row0 + n) : load_pairs_part(row0 + n, count - n);
        const vf r1 = !two ? vf{} : whole ? load_pairs(row1 + n) : load_pairs_part(row1 + n, count - n);
#endif
        vf p0, p1;
        zip_bf16(r0, r1, p0, p1);
        store(out + p, p0);
        store(out + p + W, p1);
      }
    }
    return;
  }
#endif
  for (int64_t n = 0; n < count; n += NR) {  // rounded pairs of f32 or mixed rows
    const int64_t at = n0 + n, left = count - n;
    float* row = out + n / NR * next_panel;
    c = WeightCursor::make(w, k0);
    for (int64_t l = 0; l < k; l += 2, row += NR) {
      c.settle();
      const vf a0 = c.load_f32(at, left), a1 = c.load_f32(at + W, left - W);
      c.next();
      vf b0 = {}, b1 = {};
      if (l + 1 < k) {
        c.settle();
        b0 = c.load_f32(at, left), b1 = c.load_f32(at + W, left - W);
        c.next();
      }
      store_pairs(row, a0, a1, b0, b1);
    }
  }
}

namespace {

ESFT_INLINE float value_of(const TermPart& t, int64_t row, int64_t column) {
  if (!t.bf16) return static_cast<const float*>(t.data)[row * t.ld + column];
  return bf16_to_f32(static_cast<const uint16_t*>(t.data)[row * t.ld + column]);
}
// Element (k, column) of a panel.
ESFT_INLINE void put(PanelKind kind, void* panel, int64_t k, int64_t column, float v) {
  if (kind == PANEL_F32)
    floats(panel)[k * NR + column] = v;
  else
    static_cast<uint16_t*>(panel)[(k / 2 * NR + column) * 2 + k % 2] = f32_to_bf16(v);
}

}  // namespace

// Vectors where a part's columns begin with a panel row of their own and W rows of the output lie in it; the rest element by element.
void panel_of_term_rows(PanelKind kind, const Term& t, int64_t n0, int64_t n1, int64_t limit0, int64_t limit1, void* out) {
  memset(out, 0, size_t(panel_bytes(kind, t.k)));
  for (int half = 0; half < 2; half++) {
    int64_t row = half ? n1 : n0, left = (half ? limit1 : limit0) - row, p = 0;
    if (left <= 0) continue;
    while (row >= t.parts[p].rows) row -= t.parts[p++].rows;
    const TermPart& part = t.parts[p];
    const int64_t first = p * t.rank;
    if (min_of(left, W) <= part.rows - row && (kind == PANEL_F32 || first % 2 == 0)) {
      const void* rows[W];
      for (int64_t i = 0; i < W; i++)
        rows[i] = static_cast<const char*>(part.data) + (row + min_of(i, left - 1)) * part.ld * (part.bf16 ? 2 : 4);
      float* to = floats(out) + panel_steps(kind, first) * NR + half * W;
      part.bf16 ? half_panel<true>(kind, rows, part.cols, to) : half_panel<false>(kind, rows, part.cols, to);
      continue;
    }
    for (int64_t c = 0; c < min_of(left, W); c++, row++) {
      while (row >= t.parts[p].rows) row -= t.parts[p++].rows;
      for (int64_t j = 0; j < t.parts[p].cols; j++) put(kind, out, p * t.rank + j, half * W + c, value_of(t.parts[p], row, j));
    }
  }
}

void panel_of_term_columns(PanelKind kind, const Term& t, int64_t n0, int64_t n, void* out) {
  memset(out, 0, size_t(panel_bytes(kind, t.k)));
  for (int64_t p = 0; p < t.count; p++) {
    const TermPart& part = t.parts[p];
    if (part.rows == 0) continue;
    const int64_t first = p * t.rank, left = n - n0;
    if (kind == PANEL_F32 || first % 2 == 0) {
      const Segment s = {part.data, part.ld, part.rows, part.bf16};
      panels_of_weight_columns(kind, {&s, 1}, n0, min_of(left, NR), 0, part.rows, floats(out) + panel_steps(kind, first) * NR);
      continue;
    }
    for (int64_t j = 0; j < part.rows; j++)
      for (int64_t c = 0; c < min_of(left, NR); c++) put(kind, out, first + j, c, value_of(part, j, n0 + c));
  }
}

namespace {

template <int32_t kAct>
void panels_of_rows(PanelKind kind, const Rows& x, const Activation& act, int64_t K, int64_t n0, int64_t count, int64_t k,
                    void* out_) {
  const vf alpha = splat(act.alpha), limit = splat(act.limit);
  constexpr int64_t kAhead = 4;
  float* out = floats(out_);
  const int64_t next_panel = panel_steps(kind, k) * NR;
  auto part = [&](const float* p, int64_t c) ESFT_LAMBDA -> vf {
    if (c <= 0) return vf{};
    const int64_t n = min_of(c, W);
    return kAct ? gated<kAct>(load_n(p, n), load_n(p + K, n), alpha, limit) : load_n(p, n);
  };
  const int64_t per = kind == PANEL_F32 ? 1 : 2;
  for (int64_t l = 0; l < k; l += per, out += NR) {
    const bool two = per == 2 && l + 1 < k;
    const float* row0 = row_at(x, l) + n0;
    const float* row1 = row_at(x, two ? l + 1 : l) + n0;
    const float* ahead0 = row_at(x, min_of(l + kAhead, k - 1)) + n0;  // gathered rows, which no prefetcher foresees
    const float* ahead1 = row_at(x, min_of(l + kAhead + 1, k - 1)) + n0;
    for (int64_t n = 0, p = 0; n < count; n += NR, p += next_panel) {
      const int64_t left = count - n;
      __builtin_prefetch(ahead0 + n, 0, 3);
      __builtin_prefetch(ahead0 + n + W, 0, 3);
      if (kAct) __builtin_prefetch(ahead0 + K + n, 0, 3), __builtin_prefetch(ahead0 + K + n + W, 0, 3);
      const vf a0 = part(row0 + n, left), a1 = part(row0 + n + W, left - W);
      if (kind == PANEL_F32) {
        store(out + p, a0);
        store(out + p + W, a1);
      } else {
        __builtin_prefetch(ahead1 + n, 0, 3);
        __builtin_prefetch(ahead1 + n + W, 0, 3);
        store_pairs(out + p, a0, a1, two ? part(row1 + n, left) : vf{}, two ? part(row1 + n + W, left - W) : vf{});
      }
    }
  }
}

}  // namespace

void panels_of_rows(PanelKind kind, const Rows& x, const Activation& act, int64_t K, int64_t n0, int64_t count, int64_t k,
                    void* out) {
  if (act.kind == ACT_NONE) return panels_of_rows<ACT_NONE>(kind, x, act, K, n0, count, k, out);
#define RUN(kAct) panels_of_rows<kAct>(kind, x, act, K, n0, count, k, out)
  ESFT_CHOOSE_ACTIVATION(act.kind, RUN)
#undef RUN
}

// Rows first .. first+W of a tile, as far as it has them. What a store spills past mr is overwritten by the next, or by the tile's first rows.
static void pack_vector_of_rows(PanelKind kind, const Rows& a, int64_t first, int64_t mr, int64_t k, float* out) {
  const float* row[W];
  for (int64_t i = 0; i < W; i++) row[i] = row_at(a, min_of(first + i, mr - 1));
  const int64_t per = kind == PANEL_DOT ? 2 * W : W, total = a_elements(kind, k);
  for (int64_t l = 0, e = 0; e < total; l += per, e += W) {
    const int64_t left = k - l, n = min_of(W, total - e);
    vf r[W];
    if (kind == PANEL_DOT) {
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) r[i] = pairs_of_f32(row[i] + l, left);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) r[i] = left >= W ? load(row[i] + l) : left > 0 ? load_part(row[i] + l, left) : vf{};
    }
    transpose(r);
    if (n == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) store(out + i * mr, r[i]);
    } else {
      for (int64_t i = 0; i < n; i++) store(out + i * mr, r[i]);
    }
    out += W * mr;
  }
}

void pack_rows(PanelKind kind, const Rows& a, int64_t mr, int64_t k, void* out) {
  for (int64_t first = (mr - 1) / W * W; first >= 0; first -= W) pack_vector_of_rows(kind, a, first, mr, k, floats(out) + first);
}

void copy_rows(PanelKind kind, const Rows& a, int64_t m, int64_t k, void* out_, int64_t ld) {
  const int64_t total = a_elements(kind, k), per = kind == PANEL_DOT ? 2 * W : W;
  for (int64_t i = 0; i < m; i++) {
    const float* row = row_at(a, i);
    float* out = floats(out_) + i * ld;
    int64_t l = 0, e = 0;
    for (; l + per <= k; l += per, e += W) store(out + e, kind == PANEL_DOT ? pairs_of_f32(row + l, per) : load(row + l));
    if (e < total) {
      const vf last = kind == PANEL_DOT ? pairs_of_f32(row + l, k - l) : l < k ? load_part(row + l, k - l) : vf{};
      store_n(out + e, last, total - e);
    }
  }
}

// Row by row through all tiles, so that memory is read in order; the rows to come are fetched ahead (they may be gathered).
void pack_columns(PanelKind kind, const Rows& a, const float* scale, int64_t m, int64_t tiles, int64_t k, void* out_) {
  constexpr int64_t kAhead = 4;
  const int64_t total = a_elements(kind, k), per = kind == PANEL_DOT ? 2 : 1;
  auto factor = [&](int64_t l) ESFT_LAMBDA { return splat(scale ? scale[l] : 1.0f); };
  for (int64_t e = 0; e < total; e++) {
    const int64_t l = e * per;
    const float* row = row_at(a, min_of(l, k - 1));
    const float* ahead = row_at(a, min_of(l + kAhead, k - 1));
    const vf scale0 = l < k ? factor(l) : vf{};
#if defined(__AVX512BF16__)
    const bool two = l + 1 < k;
    const float* row1 = row_at(a, min_of(l + 1, k - 1));
    const float* ahead1 = row_at(a, min_of(l + kAhead + 1, k - 1));
    const vf scale1 = two ? factor(l + 1) : vf{};
#endif
    float* out = floats(out_);
    for (int64_t t = 0, i = 0; t < tiles; t++) {
      const int64_t mr = tile_height(m, tiles, t);
      __builtin_prefetch(ahead + i, 0, 3);
      for (int64_t r = 0; r < (kMaxTileRows <= W ? 1 : mr); r += W) {
        const int64_t n = min_of(W, m - i - r);  // a whole vector where the row holds one
        vf v = n == W ? load(row + i + r) : load_part(row + i + r, n);
        v = l < k ? v * scale0 : vf{};
#if defined(__AVX512BF16__)
        if (kind == PANEL_DOT) {
          __builtin_prefetch(ahead1 + i, 0, 3);
          const vf v1 = n == W ? load(row1 + i) : load_part(row1 + i, n);
          v = round_zip(v, two ? v1 * scale1 : vf{});
        }
#endif
        // What a store spills past mr the following steps overwrite, as long as it stays inside the tile.
        if (e * mr + r + W <= total * mr)
          store(out + e * mr + r, v);
        else
          store_n(out + e * mr + r, v, min_of(mr - r, W));
      }
      out += total * mr;
      i += mr;
    }
  }
}

}  // namespace esft::cpu::ESFT_ISA
