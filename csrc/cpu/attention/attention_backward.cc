// attention_backward — gradients of attention (contract: ops/attention.h).
//
// A task is one kv-head (with its query heads) and the keys of a document, or of a part of it where there are too few
// documents and heads for the cores. It keeps dK and dV of a block of keys in cache while the queries that see it pass by:
//     S = Q·Kᵀ, dP = dO·Vᵀ  →  P = 2^(scale2·S − lse), dS = P·(dP − Δ)  →  dV += Pᵀ·dO, dK += dSᵀ·Q, dQ += dS·K
// Five products on one copy of P and dS: they are read by rows or by columns, never transposed.
// Rows of Q are the query heads of the kv-head side by side, query after query.
// Order of every sum: key blocks ascending (dQ), queries and their heads ascending (dK, dV), queries ascending (dsinks). Parts of a document write their own
// copy of dQ, kv-heads their own copy of dk_shared; the copies are added in order afterwards. How documents are divided
// depends on the shapes alone.
// Method: arXiv 2205.14135, appendix B.
#include "../kernels.h"
#include "attention_shape.h"

namespace esft::cpu::ESFT_ISA {
namespace attn {
namespace {

constexpr int64_t kQueries = MR == 14 ? 56 : 48;  // rows of queries per step: whole tiles
constexpr int64_t kPad = 16;  // columns behind a row of P that a tile of keys may read (zeros)
constexpr int64_t kWantedTasks = 16;  // divide documents to have about that many
constexpr int64_t kCopyBytes = int64_t(256) << 20;  // most memory for the copies of dQ

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

  void pack_keys(const BackwardScratch& w, int64_t h, int64_t k0, int64_t n) const {
    const int64_t kcol = g.k_offset + h * g.k_stride, vcol = g.v_offset + h * g.v_stride;
    const int64_t aq = g.dqp / P::pair, av = g.dvp / P::pair;
    for (int64_t r = 0; r < n; r += NR) {
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

  // Rows [row, row + n) of the queries from token t0 on.
  void pack_queries(const BackwardScratch& w, int64_t kv, int64_t t0, int64_t row, int64_t n) const {
    for (int64_t r = 0; r < n; r += NR) {
      const int64_t m = min_of(NR, n - r), pairs = round_up(m, P::pair);
      gather_rows(w.rows, g.dqp, m, pairs, g.query_rows(q, g.dq, t0, kv, row + r), g.dq);
      panels_of_rows<P>(w.qb, kQueries / P::pair * NR, r / P::pair, w.rows, g.dqp, pairs, g.dqp);
      units_of_rows<P>(w.qa + r * (g.dqp / P::pair), g.dqp / P::pair, w.rows, g.dqp, m, g.dqp);
      gather_rows(w.rows, g.dvp, m, pairs, g.query_rows(dout, g.dv, t0, kv, row + r), g.dv);
      panels_of_rows<P>(w.ob, kQueries / P::pair * NR, r / P::pair, w.rows, g.dvp, pairs, g.dvp);
      units_of_rows<P>(w.oa + r * (g.dvp / P::pair), g.dvp / P::pair, w.rows, g.dvp, m, g.dvp);
    }
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

  // Rows [row, row + n) of the queries from token k0 on, keys [k0, k1).
  void block(const BackwardScratch& w, int64_t kv, int64_t row, int64_t n, int64_t k0, int64_t k1, float* dq_rows,
             int64_t dq_ld) const {
    const int64_t aq = g.dqp / P::pair, av = g.dvp / P::pair, part = even_part(n), ldr = ld / P::pair;
    const int64_t panel_keys = keys / P::pair * NR, panel_queries = kQueries / P::pair * NR;
    auto token = [&](int64_t r) ESFT_LAMBDA { return k0 + g.token(row + r); };
    auto head = [&](int64_t r) ESFT_LAMBDA { return kv * g.group + (row + r) % g.group; };
    pack_queries(w, kv, k0, row, n);
    for (int64_t r = 0; r < n; r += part) {
      const int64_t m = min_of(part, n - r), hi = min_of(k1, token(r + m - 1) + 1) - k0, lo = max_of(0, first[token(r)] - k0);
      const int64_t start = lo / W * W, unit = lo / P::pair;
      if (hi > lo) {
        const bool half = start % NR != 0;
        product<P, kRows>(m, hi - start, ceil_div(g.dq, P::pair), w.qa + r * aq, aq, w.kt + start / NR * NR * aq, NR * aq,
                          w.s + r * ld + start, ld, kZero, nullptr, half);
        product<P, kRows>(m, hi - start, ceil_div(g.dv, P::pair), w.oa + r * av, av, w.vt + start / NR * NR * av, NR * av,
                          w.dp + r * ld + start, ld, kZero, nullptr, half);
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
                        g.dqp, kZero);
      const vf scale = splat(g.scale);
      for (int64_t i = 0; i < m; i++) {
        float* y = dq_rows + token(r + i) * dq_ld + head(r + i) * g.dq;
        const float* x = w.dq + i * g.dqp;
        int64_t c = 0;
        for (; c + W <= g.dq; c += W) store(y + c, load(y + c) + load(x + c) * scale);
        if (c < g.dq) store_part(y + c, load_part(y + c, g.dq - c) + load(x + c) * scale, g.dq - c);
      }
    }
    const int64_t nk = min_of(k1, token(n - 1) + 1) - k0, kpart = even_part(nk);
    int64_t end = 0;  // rows before it see a key of the tile, or one before it
    for (int64_t j = max_of(0, first[token(0)] - k0) / kpart * kpart; j < nk; j += kpart) {
      const int64_t m = min_of(kpart, nk - j), u0 = max_of(0, j * g.group - row) / P::pair;
      while (end < n && first[token(end)] < k0 + j + m) end = min_of(n, (g.token(row + end) + 1) * g.group - row);
      const int64_t units = ceil_div(end, P::pair) - u0;
      if (units <= 0) continue;
      product<P, kCols>(m, g.dv, units, w.pc + u0 * ld + j, ld, w.ob + u0 * NR, panel_queries, w.dv + j * g.dvp, g.dvp, kAdd);
      product<P, kCols>(m, g.dq, units, w.dsc + u0 * ld + j, ld, w.qb + u0 * NR, panel_queries, w.dk + j * g.dqp, g.dqp, kAdd);
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

  // Where the rows of dQ end that a part writes. The first one writes all: the copies are added to it.
  int64_t rows_end(const Piece& b) const { return b.part ? see(b.t1, b.doc_end) : b.doc_end; }

  void piece(const BackwardScratch& w, const Piece& b, int64_t kv) const {
    const int64_t dq_ld = b.part ? g.H * g.dq : dq.ld;
    float* dq_rows = b.part ? dq_copies + (b.part - 1) * g.T * dq_ld : dq.data;
    for (int64_t t = b.t0, end = rows_end(b); t < end; t++)
      memset(dq_rows + t * dq_ld + kv * g.group * g.dq, 0, g.group * g.dq * 4);
    for (int64_t k0 = b.t0; k0 < b.t1; k0 += keys) {
      const int64_t k1 = min_of(k0 + keys, b.t1), n = k1 - k0;
      pack_keys(w, kv, k0, n);
      memset(w.dk, 0, n * g.dqp * 4);
      memset(w.dv, 0, n * g.dvp * 4);
      const int64_t rows = (see(k1, b.doc_end) - k0) * g.group;
      for (int64_t r = 0; r < rows; r += kQueries) block(w, kv, r, min_of(kQueries, rows - r), k0, k1, dq_rows, dq_ld);
      write_rows(dk, k0, g.k_offset + kv * g.k_stride, n, g.k_dim, w.dk, g.dqp, g.scale);
      write_rows(dv, k0, g.v_offset + kv * g.v_stride, n, g.dv, w.dv, g.dvp, 1.0f);
      if (g.dr && dks.data) {  // dk_shared is optional
        const Matrix copy = {dks_copies + kv * g.T * g.dr, g.dr};
        write_rows(g.G > 1 ? copy : dks, k0, 0, n, g.dr, w.dk + g.k_dim, g.dqp, g.scale);
      }
    }
  }
};

// Keys per block: everything that belongs to them and to one step of queries stays in L2.
int64_t keys_per_block(const Shape& g, int pair) {
  const int64_t per_key = 4 * ((2 * g.dqp + g.dvp) / pair + g.dqp + g.dvp + 2 * kQueries * (pair == 1 ? 2 : 3) / 2);
  return min_of(384, max_of(2 * NR, 640 * 1024 / per_key / NR * NR));
}

template <class P>
void backward(const esft_attention_backward_args& a, Context& ctx) {
  Backward<P> f;
  f.g = shape_of(a);
  const Shape& g = f.g;
  if (g.T == 0) return;
  f.keys = keys_per_block(g, P::pair);
  f.ld = f.keys + kPad;
  f.q = matrix(a.q);
  f.k = matrix(a.k);
  f.v = matrix(a.v);
  f.ks = matrix(a.k_shared);
  f.dout = matrix(a.dout);
  f.dq = matrix(a.dq);
  f.dk = matrix(a.dk);
  f.dv = matrix(a.dv);
  f.dks = matrix(a.dk_shared);
  const Matrix out = matrix(a.out), lse = matrix(a.lse);
  const int32_t* doc_start = static_cast<const int32_t*>(a.doc_start.data);

  // How many copies of dQ: from the number of documents (task groups) and heads.
  int64_t documents = 0, longest = 0;
  for (int64_t t = 0, d0 = 0; t < g.T; t++) {
    if (doc_start[t] == t) d0 = t;
    documents += d0 == t;
    longest = max_of(longest, t - d0 + 1);
  }
  const int64_t base = min_of(documents, ceil_div(g.T, 256)) * g.G, dq_bytes = g.T * g.H * g.dq * 4;
  int64_t parts = base >= kWantedTasks / 2 ? 1 : min_of(8, ceil_div(kWantedTasks, base));
  parts = max_of(1, min_of(parts, 1 + kCopyBytes / dq_bytes));
  const int64_t part_keys = max_of(round_up(ceil_div(longest, parts), 2), min_of(longest, f.keys));

  Carve c = {nullptr, 0};
  for (int pass = 0; pass < 2; pass++) {
    if (pass) c = Carve{static_cast<char*>(ctx.shared_scratch(c.used)), 0};
    f.first = c.take<int32_t>(g.T);
    f.plan.task_begin = c.take<int32_t>(g.T + 1);
    f.plan.pieces = c.take<Piece>(g.T);
    f.delta = c.take<float>(g.H * g.T);
    f.lse2 = c.take<float>(g.H * g.T);
    f.dks_copies = c.take<float>(g.G > 1 ? g.G * g.T * g.dr : 0);
    f.dq_copies = c.take<float>((parts - 1) * g.T * g.H * g.dq);
  }
  first_keys(const_cast<int32_t*>(f.first), doc_start, g.T, g.window);
  make_plan(f.plan, doc_start, g.T, part_keys, 256);

  constexpr int64_t kChunk = 64;
  const int64_t chunks = ceil_div(g.T, kChunk);
  parallel_for(ctx, chunks, [&](int64_t i, int) {
    for (int64_t t = i * kChunk; t < min_of(g.T, (i + 1) * kChunk); t++)
      for (int64_t h = 0; h < g.H; h++) {
        const float *x = f.dout.at(t, h * g.dv), *y = out.at(t, h * g.dv);
        vf sum = {};
        int64_t d = 0;
        for (; d + W <= g.dv; d += W) sum += load(x + d) * load(y + d);
        if (d < g.dv) sum += load_part(x + d, g.dv - d) * load_part(y + d, g.dv - d);
        f.delta[h * g.T + t] = hsum(sum);
        f.lse2[h * g.T + t] = *lse.at(t, h) * 1.44269504f;
      }
  });

  if (const Matrix dsinks = matrix(a.dsinks); dsinks.data) {
    const Sinks sinks = sinks_of(a.sinks);
    parallel_for(ctx, g.H, [&](int64_t h, int) {
      const float *d = f.delta + h * g.T, *l = f.lse2 + h * g.T;
      const vf sink = splat(sinks.at(h));
      vf sum = {};
      int64_t t = 0;
      for (; t + W <= g.T; t += W) sum += exp2v(sink - load(l + t)) * load(d + t);
      if (t < g.T) sum += select(lanes_in(t, t, g.T), exp2v(sink - load_part(l + t, g.T - t)) * load_part(d + t, g.T - t), vf{});
      dsinks.data[h] -= hsum(sum);
    });
  }

  const size_t bytes = BackwardScratch(nullptr, g, f.keys, P::pair).bytes;
  // Early keys of a document are seen by the most queries: ascending order starts with the longest task.
  parallel_for(ctx, f.plan.tasks * g.G, [&](int64_t i, int worker) {
    const BackwardScratch w(ctx.worker_scratch(worker, bytes), g, f.keys, P::pair);
    for (int64_t p = f.plan.task_begin[i / g.G]; p < f.plan.task_begin[i / g.G + 1]; p++) f.piece(w, f.plan.pieces[p], i % g.G);
  });

  // The copies, in order.
  const int64_t pieces = f.plan.task_begin[f.plan.tasks], width = g.H * g.dq;
  for (int64_t p = 0; p < pieces; p++) {
    const Piece& b = f.plan.pieces[p];
    if (b.part == 0) continue;
    const int64_t end = f.rows_end(b);
    parallel_for(ctx, ceil_div(end - b.t0, kChunk), [&](int64_t i, int) {
      for (int64_t t = b.t0 + i * kChunk; t < min_of(end, b.t0 + (i + 1) * kChunk); t++) {
        float* y = f.dq.at(t, 0);
        const float* x = f.dq_copies + ((b.part - 1) * g.T + t) * width;
        for (int64_t j = 0; j < width; j++) y[j] += x[j];
      }
    });
  }
  if (g.dr && f.dks.data && g.G > 1)
    parallel_for(ctx, chunks, [&](int64_t i, int) {
      for (int64_t t = i * kChunk; t < min_of(g.T, (i + 1) * kChunk); t++) {
        float* y = f.dks.at(t, 0);
        memcpy(y, f.dks_copies + t * g.dr, g.dr * 4);
        for (int64_t h = 1; h < g.G; h++)
          for (int64_t j = 0; j < g.dr; j++) y[j] += f.dks_copies[(h * g.T + t) * g.dr + j];
      }
    });
}

}  // namespace
}  // namespace attn

void attention_backward(const esft_attention_backward_args& a, Context& ctx) {
  check_doc_start("attention_backward", "doc_start", a.doc_start);
  attn::with_precision(a.precision, [&](auto policy) { attn::backward<decltype(policy)>(a, ctx); });
}

}  // namespace esft::cpu::ESFT_ISA
