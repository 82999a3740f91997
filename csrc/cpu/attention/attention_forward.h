// What a task of attention's forward reads and packs, and its walk over blocks of keys (attention.cc says how).
#pragma once
#include <math.h>

#include "attention_rows.h"

namespace esft::cpu::ESFT_ISA::attn {
namespace {

// Tiles of a window: few rows see few keys in vain, and three vectors of keys at a time need as few loads as MR rows of two.
constexpr int kWindowRows = MR == 14 ? 8 : MR;
constexpr int kWindowWide = MR == 14 ? 3 : 2;
constexpr int kWindowStep = 4 * kWindowRows;
constexpr int64_t kNarrow = 192;  // the widest window of that kind
constexpr int64_t kWindowTokens = 24;  // whole tiles of every number of heads in a group, wherever a task begins
constexpr int64_t kWindowSlack = 5 * W;  // read behind the last key; rows must not share cache sets
constexpr int64_t kWindowQueries = 528;  // of a task

struct Sizes {
  int64_t keys, queries;  // per block, per task
  bool rolling;  // a block holds all that a task sees, wherever it begins (attention_window.h)
  int64_t as, units;  // pitch and length of a row of q in units
  bool narrow;
  int64_t kp;  // between the units of a key: panels, or all keys side by side (rolling)
  int64_t sld;  // pitch of S; not a power of two, rows must not share cache sets
};

struct ForwardScratch {
  float *rows, *q, *o, *m, *l, *kt, *v, *s, *alpha;
  size_t bytes;
  ForwardScratch(void* base, const Shape& g, const Sizes& z, int pair) {
    Carve c = {static_cast<char*>(base), 0};
    const int64_t n = z.narrow ? kWindowStep : z.rolling ? MR : g.group * z.queries;
    rows = c.take<float>(max_of(NR, kWindowStep) * max_of(g.dqp, g.dvp));
    q = c.take<float>(n * z.as);
    o = c.take<float>(n * g.dvp);
    m = c.take<float>(n);
    l = c.take<float>(n);
    kt = c.take<float>(round_up(z.units, W) * (z.narrow ? z.kp : z.keys));
    v = c.take<float>(z.keys / pair * g.dvp);
    s = c.take<float>((z.narrow ? kWindowStep : MR) * z.sld);
    alpha = c.take<float>(kWindowStep);
    bytes = c.used;
  }
};

Sizes sizes_for(const Shape& g, int pair, int64_t wanted_tasks) {
  Sizes z;
  z.as = g.dqp / pair;
  z.units = ceil_div(g.dq, pair);
  // Packed keys and values take at most about a quarter of L2, queries and outputs of the task as much.
  const int64_t row_bytes = (g.dqp + g.dvp) * 4;
  z.keys = min_of(512, max_of(2 * NR, (256 * 1024 / row_bytes) / NR * NR));
  z.queries = min_of(512, max_of(64, 384 * 1024 / (row_bytes * g.group)));
  // Enough tasks for every core where heads and documents are few. A row's sums do not depend on it.
  while (z.queries > 64 && g.G * ceil_div(g.T, z.queries) < wanted_tasks) z.queries /= 2;
  z.queries = round_up(z.queries, 2);
  // Tiles of a narrow window use few of the packed keys at a time: those may be more.
  z.rolling = g.window > 0 && g.window <= z.keys;
  // Not for the six rows of AVX2, nor for wide heads of their own, whose rows and keys do not fit in L1 together: neither gains by it.
  z.narrow = z.rolling && g.window <= kNarrow && MR == 14 && (g.group > 1 || g.dqp + g.dvp <= 128);
  if (z.rolling && !z.narrow) z.keys = round_up(min_of(g.T, z.queries + g.window) + W, NR);
  if (z.narrow) {
    z.queries = round_up(kWindowQueries, kWindowTokens);
    while (z.queries > kWindowTokens * 3 && g.G * ceil_div(g.T, z.queries) < wanted_tasks)
      z.queries = round_up(z.queries / 2, kWindowTokens);
    z.keys = round_up(min_of(g.T, z.queries + g.window) + W, NR);
  }
  z.kp = z.narrow ? z.keys + kWindowSlack : NR;
  z.sld = (z.rolling ? round_up(g.window + MR + W, W) : z.keys) + W;
  return z;
}

template <class P>
struct Forward {
  Shape g;
  Sizes z;
  Matrix q, k, v, ks, out, lse;
  Sinks sinks;
  const int32_t* first;
  Plan plan;

  // Panel r / NR of a block: keys k0 + r up to k0 + n of kv-head h, K transposed and V.
  void pack_keys(const ForwardScratch& w, int64_t h, int64_t k0, int64_t r, int64_t n) const {
    const int64_t nr_units = NR / P::pair, kcol = g.k_offset + h * g.k_stride, vcol = g.v_offset + h * g.v_stride;
    const int64_t m = min_of(NR, n - r);
    // Whole panels of f32 rows need no copy.
    const bool whole = P::pair == 1 && m == NR && !g.dr;
    const bool plain_k = whole && g.k_dim == g.dqp, plain_v = whole && g.dv == g.dvp;
    if (!plain_k) {
      gather_rows(w.rows, g.dqp, m, NR, k.rows(k0 + r, kcol), g.k_dim, g.dr ? ks.at(k0 + r, 0) : nullptr, ks.ld, g.dr);
      units_of_rows<P>(w.rows, z.as, w.rows, g.dqp, NR, g.dqp);  // in place: units are not longer
    }
    transpose_panel(z.narrow ? w.kt + r : w.kt + r / NR * round_up(z.units, W) * NR, plain_k ? k.at(k0 + r, kcol) : w.rows,
                    plain_k ? k.ld : z.as, z.units, z.kp);
    if (!plain_v) gather_rows(w.rows, g.dvp, m, NR, v.rows(k0 + r, vcol), g.dv);
    panels_of_rows<P>(w.v, z.keys / P::pair * NR, r / NR * nr_units, plain_v ? v.at(k0 + r, vcol) : w.rows, plain_v ? v.ld : g.dvp,
                      NR, g.dvp);
  }

  template <class R>
  const float* query(int64_t t0, int64_t kv, const R& rows, int64_t r) const {
    return q.at(t0 + rows.token[r], (kv * g.group + rows.head[r]) * g.dq);
  }
  template <class R>
  void pack_queries(const ForwardScratch& w, int64_t kv, int64_t t0, const R& rows, float* dst) const {
    float* to = P::pair == 1 ? dst : w.rows;
    gather_rows<false>(to, g.dqp, rows.n, rows.n, [&](int64_t r) ESFT_LAMBDA { return query(t0, kv, rows, r); }, g.dq);
    if (g.scale < 0)  // the running maximum is taken before scaling
      for (int64_t i = 0; i < rows.n * g.dqp; i += W) store(to + i, -load(to + i));
    units_of_rows<P>(dst, z.as, to, g.dqp, rows.n, g.dqp);
  }

  // Keys [k0 + fetched, k0 + end), of the next panel: as many as go by with a tile.
  void fetch_keys(Ahead& ahead, int64_t kv, int64_t k0, int64_t& fetched, int64_t end) const {
    for (; fetched < end; fetched++) {
      ahead.add(k.at(k0 + fetched, g.k_offset + kv * g.k_stride), g.k_dim);
      ahead.add(v.at(k0 + fetched, g.v_offset + kv * g.v_stride), g.dv);
    }
  }

  // Which columns of a tile are seen: [lo, hi) by row; every row sees all of [full0, full1), whole vectors, and none outside [0, end).
  struct Seen {
    int64_t full0, full1, end;
    int32_t lo[MR], hi[MR];
  };

  // f(column, row of N, seen lanes or nullptr for all) over the vectors of N rows. The same number of steps for every row of a tile.
  template <int N, class F>
  ESFT_INLINE void columns(const Seen& c, int64_t row, F f) {
    int64_t j = 0;
    const auto masked = [&](int64_t end) ESFT_LAMBDA {
      for (; j < end; j += W)
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) {
          const LaneMask seen = lanes_in(j, c.lo[row + i], c.hi[row + i]);
          f(j, i, &seen);
        }
    };
    masked(min_of(c.full0, c.end));
    for (; j < c.full1; j += W)
#pragma GCC unroll 4
      for (int i = 0; i < N; i++) f(j, i, static_cast<const LaneMask*>(nullptr));
    masked(c.end);
  }

  // Sums of several rows at a time: one row's is a chain of additions.
  template <int N>
  void maxima(const float* s, const Seen& c, int64_t r, float* best) const {
    const vf none = splat(-__builtin_inff());
    vf mx[N];
    for (int i = 0; i < N; i++) mx[i] = none;
    columns<N>(c, r, [&](int64_t j, int i, const LaneMask* seen) ESFT_LAMBDA {
      const vf x = load(s + (r + i) * z.sld + j);
      mx[i] = vmax(mx[i], seen ? select(*seen, x, none) : x);
    });
    for (int i = 0; i < N; i++) best[r + i] = hmax(mx[i]);
  }
  template <int N>
  void exponentials(const float* s, float* p, const Seen& c, int64_t r, const float* shift, float* l) const {
    const vf scale2 = splat(g.scale2 < 0 ? -g.scale2 : g.scale2);
    vf by[N], sum[N];
    for (int i = 0; i < N; i++) by[i] = splat(shift[r + i]), sum[i] = vf{};
    columns<N>(c, r, [&](int64_t j, int i, const LaneMask* seen) ESFT_LAMBDA {
      const vf x = exp2v(load(s + (r + i) * z.sld + j) * scale2 + by[i]);
      sum[i] += put(p + (r + i) * z.sld, j, seen ? select(*seen, x, vf{}) : x);
    });
    for (int i = 0; i < N; i++) l[r + i] += hsum(sum[i]);
  }

  // Rows of scores to probabilities; running maxima m and sums l, and the factor alpha of what was summed before, if anything was.
  void softmax(int64_t rows, const float* s, float* p, const Seen& c, bool opens, float* m, float* l, float* alpha) const {
    const vf none = splat(-__builtin_inff()), scale2 = splat(g.scale2 < 0 ? -g.scale2 : g.scale2);
    float shift[(MR + W - 1) / W * W];  // by row
    for (int64_t r = 0; r < rows; r += W) store(shift + r, none);
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2) maxima<2>(s, c, r, shift);
    if (r < rows) maxima<1>(s, c, r, shift);
    for (r = 0; r < rows; r += W) {
      const int64_t n = min_of(W, rows - r);
      const vf best = load(shift + r), now = select(best == none, none, scale2 * best);
      vf top = now, sum = {};
      if (!opens) {
        const vf old = load_n(m + r, n);
        top = select(old > now, old, now);
        const vf a = select(old == top, splat(1.0f), exp2v(old - top));
        store_n(alpha + r, a, n);
        sum = load_n(l + r, n) * a;
      }
      store_n(l + r, sum, n);
      store_n(m + r, top, n);
      store(shift + r, -top);
    }
    for (r = 0; r + 2 <= rows; r += 2) exponentials<2>(s, p, c, r, shift, l);
    if (r < rows) exponentials<1>(s, p, c, r, shift, l);
  }
  // Stores W probabilities as units; the sum is taken of the unrounded ones.
  ESFT_INLINE vf put(float* p, int64_t j, vf v) {
#if defined(__AVX512BF16__)
    if constexpr (P::pair == 2) {
      const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
      memcpy(p + j / 2, &h, 32);
      return v;
    } else
#endif
    {
      store(p + j, v);
      return v;
    }
  }

  // The factor that a row's sum of values takes when nothing is left to add; writes its lse.
  float close_row(int64_t t, int64_t h, float m, float l) const {
    float top = m, sum = l, factor = 1.0f;  // of what was summed: the sink may be above all scores
    if (sinks.data) {
      const float sink = sinks.at(h);
      top = sink > top ? sink : top;
      factor = exp2v(splat(m - top))[0];
      sum = sum * factor + exp2v(splat(sink - top))[0];
    }
    if (lse.data) *lse.at(t, h) = (top + log2f(sum)) * 0.69314718056f;
    return factor / sum;
  }
  void finish(int64_t kv, int64_t t0, const TileRows& rows, const float* m, const float* l, const float* o) const {
    for (int64_t r = 0; r < rows.n; r++, o += g.dvp) {
      const int64_t t = t0 + rows.token[r], h = kv * g.group + rows.head[r];
      const vf inv = splat(close_row(t, h, m[r], l[r]));
      float* y = out.at(t, h * g.dv);
      int64_t c = 0;
      for (; c + W <= g.dv; c += W) store(y + c, load(o + c) * inv);
      if (c < g.dv) store_part(y + c, load(o + c) * inv, g.dv - c);
    }
  }

  void piece(const ForwardScratch& w, const Piece& b, int64_t kv) const {
    const int64_t n = (b.t1 - b.t0) * g.group, part = even_part(n), vs = z.keys / P::pair * NR, ks_ = round_up(z.units, W) * NR;
    const int64_t step = z.rolling ? W : z.keys;
    int64_t k0 = b.doc + (first[b.t0] - b.doc) / step * step;
    const bool once = b.t1 - k0 <= z.keys;  // all keys are in one block: nothing of a tile is kept
    Ahead ahead;
    for (; k0 < b.t1; k0 += z.keys) {
      const int64_t k1 = min_of(k0 + z.keys, b.t1);
      int64_t packed = max_of(0, first[b.t0] - k0) / NR * NR, fetched = packed;
      TileRows now(g, 0, min_of(part, n));
      for (int64_t r0 = 0; r0 < n; r0 += part) {
        const TileRows next(g, r0 + part, max_of(0, min_of(part, n - r0 - part)));
        const int64_t rows = now.n, last = b.t0 + now.token[rows - 1], see = first[b.t0 + now.token[0]];
        const int64_t hi = min_of(k1, last + 1) - k0, lo = max_of(0, see - k0);  // of the tile
        if (hi > lo) {
          for (; packed < hi; packed += NR) pack_keys(w, kv, k0, packed, k1 - k0);
          const int64_t start = lo / W * W, end = round_up(hi, W), unit = lo / P::pair, at = once ? 0 : r0;
          const bool opens = see >= k0, closes = last < k1;  // the first keys of the tile, the last ones
          float *tq = w.q + at * z.as, *to = w.o + at * g.dvp;
          if (opens) pack_queries(w, kv, b.t0, now, tq);
          ahead.clear();
          if (closes)
            for (int64_t r = 0; r < rows; r++) ahead.add(out.at(b.t0 + now.token[r], (kv * g.group + now.head[r]) * g.dv), g.dv);
          for (int64_t r = 0; r < next.n; r++) ahead.add(query(b.t0, kv, next, r), g.dq);
          fetched = max_of(fetched, packed);
          fetch_keys(ahead, kv, k0, fetched, min_of(min_of(k1 - k0, packed + NR), fetched + now.tokens() + 1));
          ahead.spread(ceil_div(hi - start, NR) * ceil_div(z.units, Ahead::kUnits) +
                       g.dvp / NR * ceil_div(hi - start, P::pair * Ahead::kUnits));
          product<P, kRows>(rows, hi - start, z.units, tq, z.as, w.kt + start / NR * ks_, ks_, w.s, z.sld, kZero, nullptr,
                            start % NR != 0, &ahead);
          Seen c = {0, end - start, end - start, {}, {}};
          for (int64_t r = 0; r < rows; r++) {
            const int64_t t = b.t0 + now.token[r] - k0;
            c.lo[r] = (int32_t)(max_of(0, first[t + k0] - k0) - start);
            c.hi[r] = (int32_t)(min_of(hi, t + 1) - start);
            c.full0 = max_of(c.full0, round_up(c.lo[r], W));
            c.full1 = min_of(c.full1, c.hi[r] / W * W);
          }
          softmax(rows, w.s, w.s, c, opens, w.m + at, w.l + at, w.alpha);
          product<P, kRows>(rows, g.dv, ceil_div(hi, P::pair) - unit, w.s + unit - start / P::pair, z.sld, w.v + unit * NR, vs, to,
                            g.dvp, opens ? kZero : kScaleAdd, w.alpha, false, &ahead);
          if (closes) finish(kv, b.t0, now, w.m + at, w.l + at, to);
        }
        now = next;
      }
    }
  }
};

}  // namespace
}  // namespace esft::cpu::ESFT_ISA::attn
