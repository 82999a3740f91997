// What a task of attention_backward does: the gradients of one kv-head over the keys of a piece of a document.
//
// dK and dV of a block of keys stay in cache while the queries that see it pass by:
//     S = Q·Kᵀ, dP = dO·Vᵀ  →  P = 2^(scale2·S − lse), dS = P·(dP − Δ)  →  dV += Pᵀ·dO, dK += dSᵀ·Q, dQ += dS·K
// Five products on one copy of P and dS: they are read by rows or by columns, never transposed.
// Rows of Q are the query heads of the kv-head side by side, query after query. While the products of a step run, memory brings
// what the next one reads, and the rows that this one writes.
#pragma once
#include "attention_rows.h"

namespace esft::cpu::ESFT_ISA::attn {
namespace {

constexpr int64_t kQueries = MR == 14 ? 56 : 48;  // rows of queries per step: whole tiles
constexpr int64_t kPad = 16;  // columns behind a row of P that a tile of keys may read (zeros)

struct BackwardScratch {
  float *rows, *kt, *vt, *kb, *qa, *qb, *oa, *ob, *s, *dp, *pc, *dsr, *dsc, *dk, *dv, *dq;
  size_t bytes;
  BackwardScratch(void* base, const Shape& g, int64_t keys, int pair) {
    Carve c = {static_cast<char*>(base), 0};
    const int64_t ld = keys + kPad;
    rows = c.take<float>(NR * max_of(g.dqp, g.dvp));
    kt = c.take<float>(g.dqp / pair * keys);
    vt = c.take<float>(g.dvp / pair * keys);
    kb = c.take<float>(g.dqp / pair * keys);
    qa = c.take<float>(kQueries * g.dqp / pair);
    qb = c.take<float>(kQueries * g.dqp / pair);
    oa = c.take<float>(kQueries * g.dvp / pair);
    ob = c.take<float>(kQueries * g.dvp / pair);
    s = c.take<float>(kQueries * ld);
    dp = c.take<float>(kQueries * ld);
    pc = pair == 1 ? s : c.take<float>(kQueries / 2 * ld);
    dsc = pair == 1 ? dp : c.take<float>(kQueries / 2 * ld);
    dsr = pair == 1 ? dp : c.take<float>(kQueries * (ld / 2));
    dk = c.take<float>(keys * g.dqp);
    dv = c.take<float>(keys * g.dvp);
    dq = c.take<float>(MR * g.dqp);
    bytes = c.used;
  }
};

typedef Rows<kQueries> StepRows;

// A row of P and dS: columns [lo, hi) are seen.
struct Row {
  float *s, *dp;
  float lse2, delta;
  int64_t lo, hi;
};
// Columns that are written of a tile, all of them whole vectors; what is seen lies in [start, stop).
struct Columns {
  int64_t begin, start, stop, end;
};

template <class P>
struct Backward {
  Shape g;
  int64_t keys, ld;
  Matrix q, k, v, ks, dout, dq, dk, dv, dks;
  const int32_t* first;
  float *delta, *lse2;  // [H][T]
  float* dq_copies;  // [parts - 1][T][H·dq]
  float* dks_copies;  // [G][T][dr], absent with one kv-head
  Plan plan;

  // Panels of keys from row `r` to row `end` of the n of a block.
  void pack_keys(const BackwardScratch& w, int64_t h, int64_t k0, int64_t r, int64_t end, int64_t n) const {
    const int64_t kcol = g.k_offset + h * g.k_stride, vcol = g.v_offset + h * g.v_stride;
    const int64_t aq = g.dqp / P::pair, av = g.dvp / P::pair;
    for (; r < end; r += NR) {
      const int64_t m = min_of(NR, n - r);
      gather_rows(w.rows, g.dqp, m, NR, k.rows(k0 + r, kcol), g.k_dim, g.dr ? ks.at(k0 + r, 0) : nullptr, ks.ld, g.dr);
      panels_of_rows<P>(w.kb, keys / P::pair * NR, r / P::pair, w.rows, g.dqp, NR, g.dqp);
      units_of_rows<P>(w.rows, aq, w.rows, g.dqp, NR, g.dqp);  // in place: units are not longer
      transpose_panel(w.kt + r * aq, w.rows, aq, aq);
      gather_rows(w.rows, g.dvp, m, NR, v.rows(k0 + r, vcol), g.dv);
      units_of_rows<P>(w.rows, av, w.rows, g.dvp, NR, g.dvp);
      transpose_panel(w.vt + r * av, w.rows, av, av);
    }
  }

  // Rows of x [T, H·d] as rows of units and as panels; what f32 packs by rows is copied once.
  void pack_rows(const BackwardScratch& w, const Matrix& x, int64_t d, int64_t dp, int64_t kv, int64_t t0, const StepRows& rows,
                 float* units, float* panels) const {
    const int64_t pitch = dp / P::pair;
    for (int64_t r = 0; r < rows.n; r += NR) {
      const int64_t m = min_of(NR, rows.n - r), pairs = round_up(m, P::pair);
      float* to = P::pair == 1 ? units + r * pitch : w.rows;
      gather_rows<false>(to, dp, m, pairs, [&](int64_t i) ESFT_LAMBDA { return row_of(x, d, kv, t0, rows, r + i); }, d);
      panels_of_rows<P>(panels, kQueries / P::pair * NR, r / P::pair, to, dp, pairs, dp);
      units_of_rows<P>(units + r * pitch, pitch, to, dp, m, dp);
    }
  }
  const float* row_of(const Matrix& x, int64_t d, int64_t kv, int64_t t0, const StepRows& rows, int64_t r) const {
    return x.at(t0 + rows.token[r], (kv * g.group + rows.head[r]) * d);
  }

  // P and dS of one row (or of a pair of rows), zero where not seen.
  void probabilities(const Row* rows, float* pc, [[maybe_unused]] float* dsc, float* dsr, const Columns& c) const {
    const vf scale2 = splat(g.scale2);
    int64_t full0 = 0, full1 = c.stop;  // columns that all rows see, in whole vectors
    for (int i = 0; i < P::pair; i++) {
      full0 = max_of(full0, round_up(rows[i].lo, W));
      full1 = min_of(full1, rows[i].hi / W * W);
    }
    auto step = [&](int64_t j, bool masked) ESFT_LAMBDA {
      vf p[P::pair], d[P::pair];
#pragma GCC unroll 2
      for (int i = 0; i < P::pair; i++) {
        const Row& r = rows[i];
        p[i] = exp2v(load(r.s + j) * scale2 - splat(r.lse2));
        d[i] = p[i] * (load(r.dp + j) - splat(r.delta));
        if (masked) {
          const LaneMask seen = lanes_in(j, r.lo, r.hi);
          p[i] = select(seen, p[i], vf{});
          d[i] = select(seen, d[i], vf{});
        }
      }
#if defined(__AVX512BF16__)
      if constexpr (P::pair == 2) {
        store(pc + j, P::zip(p[0], p[1]));
        const __m512i both = P::both(d[0], d[1]);
        store(dsc + j, P::interleave(both));
        memcpy(dsr + j / 2, &both, 32);
        memcpy(dsr + (ld + j) / 2, reinterpret_cast<const char*>(&both) + 32, 32);
      } else
#endif
      {
        store(pc + j, p[0]);
        store(dsr + j, d[0]);
      }
    };
    auto zeros = [&](int64_t from, int64_t to) ESFT_LAMBDA {
      for (int64_t j = from; j < to; j += W) {
        store(pc + j, vf{});
        if constexpr (P::pair == 2) {
          store(dsc + j, vf{});
          memset(dsr + j / 2, 0, 32);
          memset(dsr + (ld + j) / 2, 0, 32);
        } else
          store(dsr + j, vf{});
      }
    };
    zeros(c.begin, c.start);
    int64_t j = c.start;
    for (; j < min_of(full0, c.stop); j += W) step(j, true);
    for (; j < full1; j += W) step(j, false);
    for (; j < c.stop; j += W) step(j, true);
    zeros(j, c.end);
  }

  // Rows [row, row + n) of the queries from token k0 on, keys [k0, k1) of a piece.
  void block(const BackwardScratch& w, const Piece& b, int64_t kv, int64_t row, const StepRows& queries, int64_t k0, int64_t k1,
             Ahead& ahead) const {
    const int64_t n = queries.n;
    const int64_t aq = g.dqp / P::pair, av = g.dvp / P::pair, part = even_part(n), ldr = ld / P::pair;
    const int64_t panel_keys = keys / P::pair * NR, panel_queries = kQueries / P::pair * NR;
    auto token = [&](int64_t r) ESFT_LAMBDA { return k0 + queries.token[r]; };
    auto head = [&](int64_t r) ESFT_LAMBDA { return kv * g.group + queries.head[r]; };
    pack_rows(w, q, g.dq, g.dqp, kv, k0, queries, w.qa, w.qb);
    pack_rows(w, dout, g.dv, g.dvp, kv, k0, queries, w.oa, w.ob);
    for (int64_t r = 0; r < n; r += part) {
      const int64_t m = min_of(part, n - r), hi = min_of(k1, token(r + m - 1) + 1) - k0, lo = max_of(0, first[token(r)] - k0);
      const int64_t start = lo / W * W, unit = lo / P::pair;
      if (hi > lo) {
        const bool half = start % NR != 0;
        product<P, kRows>(m, hi - start, ceil_div(g.dq, P::pair), w.qa + r * aq, aq, w.kt + start / NR * NR * aq, NR * aq,
                          w.s + r * ld + start, ld, kZero, nullptr, half, &ahead);
        product<P, kRows>(m, hi - start, ceil_div(g.dv, P::pair), w.oa + r * av, av, w.vt + start / NR * NR * av, NR * av,
                          w.dp + r * ld + start, ld, kZero, nullptr, half, &ahead);
      }
      for (int64_t i = r; i < r + m; i += P::pair) {
        Row rows[2];
        int64_t seen = keys;  // the first key that one of them sees
        for (int e = 0; e < P::pair; e++) {
          const int64_t x = min_of(i + e, n - 1), t = token(x), at = head(x) * g.T + t;
          rows[e] =
              Row{w.s + (i + e) * ld, w.dp + (i + e) * ld, lse2[at], delta[at], max_of(0, first[t] - k0), min_of(hi, t + 1 - k0)};
          seen = min_of(seen, rows[e].lo);
          if (i + e >= n) rows[e].hi = 0;  // the last row of an odd block has no partner
        }
        // A tile of keys reads up to MR columns before the first key of its last row, and beyond the last key of its first row.
        const int64_t begin = max_of(0, min_of(lo, seen - MR)) / W * W, end = round_up(min_of(hi + MR, keys), W);
        const Columns c = {begin, min_of(start, end), min_of(max_of(start, round_up(hi, W)), end), end};
        probabilities(rows, w.pc + i / P::pair * ld, w.dsc + i / P::pair * ld, w.dsr + i * ldr, c);
      }
      if (hi <= lo) continue;
      product<P, kRows>(m, g.dq, ceil_div(hi, P::pair) - unit, w.dsr + r * ldr + unit, ldr, w.kb + unit * NR, panel_keys, w.dq,
                        g.dqp, kZero, nullptr, false, &ahead);
      const vf scale = splat(g.scale);
      for (int64_t i = 0; i < m; i++) {
        const int64_t t = token(r + i);
        float* y = dq_row(b, t) + head(r + i) * g.dq;
        const float* x = w.dq + i * g.dqp;
        const bool opens = first[t] >= k0 || k0 == b.t0;  // the first keys of the row that the piece has
        int64_t c = 0;
        for (; c + W <= g.dq; c += W) store(y + c, (opens ? vf{} : load(y + c)) + load(x + c) * scale);
        if (c < g.dq) store_part(y + c, (opens ? vf{} : load_part(y + c, g.dq - c)) + load(x + c) * scale, g.dq - c);
      }
    }
    const int64_t nk = min_of(k1, token(n - 1) + 1) - k0, kpart = even_part(nk);
    int64_t end = 0;  // rows before it see a key of the tile, or one before it
    for (int64_t j = max_of(0, first[token(0)] - k0) / kpart * kpart; j < nk; j += kpart) {
      const int64_t m = min_of(kpart, nk - j), u0 = max_of(0, j * g.group - row) / P::pair;
      while (end < n && first[token(end)] < k0 + j + m) end = min_of(n, (g.token(row + end) + 1) * g.group - row);
      const int64_t units = ceil_div(end, P::pair) - u0;
      if (units <= 0) continue;
      product<P, kCols>(m, g.dv, units, w.pc + u0 * ld + j, ld, w.ob + u0 * NR, panel_queries, w.dv + j * g.dvp, g.dvp, kAdd,
                        nullptr, false, &ahead);
      product<P, kCols>(m, g.dq, units, w.dsc + u0 * ld + j, ld, w.qb + u0 * NR, panel_queries, w.dk + j * g.dqp, g.dqp, kAdd,
                        nullptr, false, &ahead);
    }
  }

  static void write_rows(const Matrix& y, int64_t row, int64_t col, int64_t n, int64_t d, const float* x, int64_t pitch,
                         float factor) {
    const vf f = splat(factor);
    for (int64_t r = 0; r < n; r++) {
      float* o = y.at(row + r, col);
      const float* s = x + r * pitch;
      int64_t c = 0;
      for (; c + W <= d; c += W) store(o + c, load(s + c) * f);
      if (c < d) store_part(o + c, load_part(s + c, d - c) * f, d - c);
    }
  }

  // The tokens before it (and before `end`) see a key before k1.
  int64_t see(int64_t k1, int64_t end) const {
    int64_t t = k1 - 1;
    while (t < end && first[t] < k1) t++;
    return t;
  }

  // A row of dQ [H·dq]: the part that holds the first key which the row sees writes dQ itself, later ones their copy.
  float* dq_row(const Piece& b, int64_t t) const {
    return first[t] >= b.t0 ? dq.at(t, 0) : dq_copies + ((b.part - 1) * g.T + t) * g.H * g.dq;
  }

  void piece(const BackwardScratch& w, const Piece& b, int64_t kv) const {
    Ahead ahead;
    for (int64_t k0 = b.t0; k0 < b.t1; k0 += keys) {
      const int64_t k1 = min_of(k0 + keys, b.t1), n = k1 - k0;
      memset(w.dk, 0, n * g.dqp * 4);
      memset(w.dv, 0, n * g.dvp * 4);
      const int64_t rows = (see(k1, b.doc_end) - k0) * g.group;
      StepRows now(g, 0, min_of(kQueries, rows));
      int64_t packed = 0;  // a step needs the keys before its last query: they are packed as it comes
      const int64_t share = ceil_div(n * kQueries, rows);  // rows of dK and dV that a step fetches
      for (int64_t r = 0, j = 0; r < rows; r += kQueries) {
        const StepRows next(g, r + kQueries, max_of(0, min_of(kQueries, rows - r - kQueries)));
        ahead.clear();
        for (int64_t i = 0; i < now.n; i++) ahead.add(dq_row(b, k0 + now.token[i]) + (kv * g.group + now.head[i]) * g.dq, g.dq);
        for (int64_t i = 0; i < next.n; i++) {
          ahead.add(row_of(q, g.dq, kv, k0, next, i), g.dq);
          ahead.add(row_of(dout, g.dv, kv, k0, next, i), g.dv);
        }
        const auto need = [&](const StepRows& rows) ESFT_LAMBDA { return min_of(n, round_up(rows.token[rows.n - 1] + 1, NR)); };
        if (packed < need(now)) pack_keys(w, kv, k0, packed, need(now), n);
        packed = max_of(packed, need(now));
        for (int64_t i = packed, end = next.n ? need(next) : 0; i < end; i++) {
          ahead.add(k.at(k0 + i, g.k_offset + kv * g.k_stride), g.k_dim);
          ahead.add(v.at(k0 + i, g.v_offset + kv * g.v_stride), g.dv);
        }
        for (const int64_t end = min_of(n, j + share); j < end; j++) {
          ahead.add(dk.at(k0 + j, g.k_offset + kv * g.k_stride), g.k_dim);
          ahead.add(dv.at(k0 + j, g.v_offset + kv * g.v_stride), g.dv);
        }
        if (g.window > 0) ahead.spread(80 * ceil_div(g.dq, 64 * P::pair));  // tiles of a step are few
        block(w, b, kv, r, now, k0, k1, ahead);
        now = next;
      }
      write_rows(dk, k0, g.k_offset + kv * g.k_stride, n, g.k_dim, w.dk, g.dqp, g.scale);
      write_rows(dv, k0, g.v_offset + kv * g.v_stride, n, g.dv, w.dv, g.dvp, 1.0f);
      if (g.dr && dks.data) {  // dk_shared is optional
        const Matrix copy = {dks_copies + kv * g.T * g.dr, g.dr};
        write_rows(g.G > 1 ? copy : dks, k0, 0, n, g.dr, w.dk + g.k_dim, g.dqp, g.scale);
      }
    }
  }
};

}  // namespace
}  // namespace esft::cpu::ESFT_ISA::attn
