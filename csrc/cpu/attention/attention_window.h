// The forward of attention where a window is narrow: all keys that a tile of queries sees lie in one block, so that each tile is scored,
// normalised and written at once.
//
// What a row costs beside its products weighs here. Keys lie side by side, [unit][key], and a tile begins at its own first key, not at
// that of a panel; a tile holds few rows, so that they see nearly the same keys. Rows of q and out are read and written in place where
// they lie evenly. Tiles are counted from the start of the document, so that a row's sums do not depend on how tasks are cut.
#pragma once
#include "attention_forward.h"

namespace esft::cpu::ESFT_ISA::attn {
namespace {

typedef Rows<kWindowStep> WindowRows;

template <class P>
struct Window {
  const Forward<P>& f;
  const ForwardScratch& w;

  struct Part {  // a tile: its rows, its keys from the first of the block
    int64_t row, rows, start, hi;
    int64_t columns() const { return hi - start; }
  };

  // Vectors [v, v + nv) of a tile's scores.
  static void scores(int64_t m, int64_t nv, int64_t units, const float* a, int64_t as, const float* b, int64_t bp, float* c,
                     int64_t ldc, Ahead& ahead) {
#if defined(__AVX512F__)
    if (nv == 3) {
      static const TileFn wide[kWindowRows] = {tile<P, kRows, 1, 3>, tile<P, kRows, 2, 3>, tile<P, kRows, 3, 3>,
                                               tile<P, kRows, 4, 3>, tile<P, kRows, 5, 3>, tile<P, kRows, 6, 3>,
                                               tile<P, kRows, 7, 3>, tile<P, kRows, 8, 3>};
      return wide[m - 1](units, a, as, b, bp, c, ldc, kZero, nullptr, ahead);
    }
#endif
    tile_for<P, kRows>(m, nv == 2)(units, a, as, b, bp, c, ldc, kZero, nullptr, ahead);
  }

  // Rows of N vectors: maxima of all, then probabilities and their sums. A row at a time would leave its exponentials waiting for its
  // maximum, and behind them the next row. What is not seen lies in the first vector and the last two.
  template <int N>
  static void short_rows(int64_t n, float* rows, int64_t ld, const int32_t* lo, const int32_t* hi, vf scale2, float* top,
                         float* sum) {
    const vf none = splat(-__builtin_inff());
    vf x[N];
    const auto masked = [&](int64_t r, vf other) ESFT_LAMBDA {
      x[0] = select(lanes_in(0, lo[r], hi[r]), x[0], other);
      x[N - 2] = select(lanes_in((N - 2) * W, lo[r], hi[r]), x[N - 2], other);
      x[N - 1] = select(lanes_in((N - 1) * W, lo[r], hi[r]), x[N - 1], other);
    };
    for (int64_t r = 0; r < n; r++) {
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) x[i] = load(rows + r * ld + i * W);
      masked(r, none);
#pragma GCC unroll 4
      for (int step = 1; step < N; step *= 2)
#pragma GCC unroll 16
        for (int i = 0; i + step < N; i += 2 * step) x[i] = vmax(x[i], x[i + step]);
      const float best = hmax(x[0]);
      top[r] = best == none[0] ? best : scale2[0] * best;
    }
    for (int64_t r = 0; r < n; r++) {
      float* s = rows + r * ld;
      const vf by = splat(-top[r]);
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) x[i] = exp2v(load(s + i * W) * scale2 + by);
      masked(r, vf{});
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) x[i] = Forward<P>::put(s, i * W, x[i]);
#pragma GCC unroll 4
      for (int step = 1; step < N; step *= 2)
#pragma GCC unroll 16
        for (int i = 0; i + step < N; i += 2 * step) x[i] += x[i + step];
      sum[r] = hsum(x[0]);
    }
  }

  // The same distance between rows of x [T, H·d], or 0.
  int64_t pitch(const Matrix& x, int64_t d, const WindowRows& rows) const {
    if (f.g.group == 1) return x.ld;
    return rows.token[0] == rows.token[rows.n - 1] || x.ld == f.g.group * d ? d : 0;
  }

  void softmax(const Part& t, const int32_t* token, int64_t base, vf scale2) const {
    const Sizes& z = f.z;
    typename Forward<P>::Seen c = {0, round_up(t.columns(), W), round_up(t.columns(), W), {}, {}};
    for (int64_t r = 0; r < t.rows; r++) {
      const int64_t at = base + token[t.row + r];  // from the first key of the block
      c.lo[r] = (int32_t)(f.first[at + k0] - k0 - t.start);
      c.hi[r] = (int32_t)(at + 1 - t.start);
      c.full0 = max_of(c.full0, round_up(c.lo[r], W));
      c.full1 = min_of(c.full1, c.hi[r] / W * W);
    }
    const int64_t vectors = c.end / W;
    float *m = w.m + t.row, *l = w.l + t.row, *rows = w.s + t.row * z.sld;
    if (c.full0 <= W && c.full1 >= c.end - 2 * W && vectors >= 8 && vectors <= 10) {
      const auto run = vectors == 8 ? short_rows<8> : vectors == 9 ? short_rows<9> : short_rows<10>;
      run(t.rows, rows, z.sld, c.lo, c.hi, scale2, m, l);
    } else
      f.softmax(t.rows, rows, rows, c, true, m, l, w.alpha);
  }

  int64_t k0 = 0;
  void piece(const Piece& b, int64_t kv) {
    const Shape& g = f.g;
    const Sizes& z = f.z;
    const int64_t n = (b.t1 - b.t0) * g.group,
                  part = g.group <= kWindowRows && MR == 14 ? kWindowRows / g.group * g.group : kWindowRows;
    const int64_t step = kWindowStep / kWindowRows * part;  // rows
    k0 = b.doc + (f.first[b.t0] - b.doc) / P::pair * P::pair;
    const int64_t vs = z.keys / P::pair * NR, keys = b.t1 - k0, base = b.t0 - k0;
    const vf scale2 = splat(g.scale2 < 0 ? -g.scale2 : g.scale2);
    Ahead ahead;
    int64_t packed = 0, fetched = 0;
    WindowRows now(g, 0, min_of(step, n));
    for (int64_t r0 = 0; r0 < n; r0 += step) {
      const WindowRows next(g, r0 + step, max_of(0, min_of(step, n - r0 - step)));
      Part parts[kWindowStep / kWindowRows];
      int64_t count = 0, vectors = 0, hi = 0;
      for (int64_t r = 0; r < now.n; r += part, count++) {
        const int64_t m = min_of(part, now.n - r);
        hi = base + now.token[r + m - 1] + 1;
        parts[count] = Part{r, m, (f.first[b.t0 + now.token[r]] - k0) / P::pair * P::pair, hi};
        vectors = max_of(vectors, ceil_div(parts[count].columns(), W));
      }
      for (; packed < hi; packed += NR) f.pack_keys(w, kv, k0, packed, keys);

      ahead.clear();
      for (int64_t r = 0; r < now.n; r++) ahead.add(f.out.at(b.t0 + now.token[r], (kv * g.group + now.head[r]) * g.dv), g.dv);
      for (int64_t r = 0; r < next.n; r++) ahead.add(f.query(b.t0, kv, next, r), g.dq);
      fetched = max_of(fetched, packed);
      f.fetch_keys(ahead, kv, k0, fetched, min_of(min_of(keys, packed + NR), fetched + now.token[now.n - 1] - now.token[0] + 2));

      const int64_t times = ceil_div(vectors, kWindowWide) * ceil_div(z.units, Ahead::kUnits) +
                            g.dvp / NR * ceil_div(vectors * W, P::pair * Ahead::kUnits);
      ahead.spread(count * times);
      const int64_t qp = P::pair == 1 && g.scale >= 0 ? pitch(f.q, g.dq, now) : 0, as = qp ? qp : z.as;
      if (!qp) f.pack_queries(w, kv, b.t0, now, w.q);
      const float* q = qp ? f.query(b.t0, kv, now, 0) : w.q;
      // A few vectors of keys meet all tiles while they are in L1; so does a panel of values.
      for (int64_t v = 0; v < vectors; v += kWindowWide)
        for (int64_t i = 0; i < count; i++) {
          const Part& t = parts[i];
          const int64_t nv = min_of(kWindowWide, ceil_div(t.columns(), W) - v);
          if (nv > 0)
            scores(t.rows, nv, z.units, q + t.row * as, as, w.kt + t.start + v * W, z.kp, w.s + t.row * z.sld + v * W, z.sld,
                   ahead);
        }
      for (int64_t i = 0; i < count; i++) softmax(parts[i], now.token, base, scale2);
      for (int64_t r = 0; r < now.n; r++) w.alpha[r] = f.close_row(b.t0 + now.token[r], kv * g.group + now.head[r], w.m[r], w.l[r]);

      const int64_t op = g.dv == g.dvp ? pitch(f.out, g.dv, now) : 0, ldo = op ? op : g.dvp;
      float* o = op ? f.out.at(b.t0 + now.token[0], (kv * g.group + now.head[0]) * g.dv) : w.o;
      for (int64_t c = 0; c < g.dv; c += NR)
        for (int64_t i = 0; i < count; i++) {
          const Part& t = parts[i];
          const int64_t unit = t.start / P::pair;
          product<P, kRows>(t.rows, min_of(NR, g.dv - c), ceil_div(t.hi, P::pair) - unit, w.s + t.row * z.sld, z.sld,
                            w.v + unit * NR + c / NR * vs, vs, o + t.row * ldo + c, ldo, kScaled, w.alpha + t.row, false, &ahead);
        }
      if (!op)
        for (int64_t r = 0; r < now.n; r++)
          copy_row(f.out.at(b.t0 + now.token[r], (kv * g.group + now.head[r]) * g.dv), w.o + r * g.dvp, g.dv);
      now = next;
    }
  }
  static void copy_row(float* y, const float* x, int64_t n) {
    int64_t c = 0;
    for (; c + W <= n; c += W) store(y + c, load(x + c));
    if (c < n) store_part(y + c, load(x + c), n - c);
  }
};

}  // namespace
}  // namespace esft::cpu::ESFT_ISA::attn
