// attention — forward (contract: ops/attention.h).
//
// A task is one kv-head (with its query heads) and a block of queries of one document. It walks over blocks of keys:
// pack K transposed and V once, as far as they are seen, then for every tile of MR rows (query heads side by side, query after query)
//     S = Q·Kᵀ  →  running maximum, P = 2^(scale2·S − max), row sums  →  O = alpha·O + P·V
// with S and P in L1. Tiles stop at their own diagonal and begin where their window does, so what is not seen costs nothing; a
// row's sums run over its keys in ascending order with block borders counted from the start of its document, whatever the task.
// Sinks join a row's sum when it ends. Method: online softmax, arXiv 2205.14135.
#include <math.h>

#include "../kernels.h"
#include "attention_shape.h"

namespace esft::cpu::ESFT_ISA {
namespace attn {
namespace {

struct Sizes {
  int64_t keys, queries;  // per block, per task
  int64_t as, units;  // pitch and length of a row of q in units
  int64_t sld;  // pitch of S; not a power of two, rows must not share cache sets
};

struct ForwardScratch {
  float *rows, *q, *o, *m, *l, *kt, *v, *s, *p, *alpha;
  size_t bytes;
  ForwardScratch(void* base, const Shape& g, const Sizes& z, int pair) {
    Carve c = {static_cast<char*>(base), 0};
    rows = c.take<float>(NR * max_of(g.dqp, g.dvp));
    q = c.take<float>(g.group * z.queries * z.as);
    o = c.take<float>(g.group * z.queries * g.dvp);
    m = c.take<float>(g.group * z.queries);
    l = c.take<float>(g.group * z.queries);
    kt = c.take<float>(round_up(z.units, W) * z.keys);
    v = c.take<float>(z.keys / pair * g.dvp);
    s = c.take<float>(MR * z.sld);
    p = c.take<float>(MR * z.sld);
    alpha = c.take<float>(MR);
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
  z.sld = z.keys + W;
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

  // Keys [k0 + from, k0 + n) of kv-head h: K transposed and V as panels. `from` begins a panel.
  void pack_keys(const ForwardScratch& w, int64_t h, int64_t k0, int64_t from, int64_t n) const {
    const int64_t nr_units = NR / P::pair, kcol = g.k_offset + h * g.k_stride, vcol = g.v_offset + h * g.v_stride;
    for (int64_t r = from; r < n; r += NR) {
      const int64_t m = min_of(NR, n - r);
      gather_rows(w.rows, g.dqp, m, NR, k.rows(k0 + r, kcol), g.k_dim, g.dr ? ks.at(k0 + r, 0) : nullptr, ks.ld, g.dr);
      // the row tile is overwritten by its own units (they are not longer)
      units_of_rows<P>(w.rows, z.as, w.rows, g.dqp, NR, g.dqp);
      transpose_panel(w.kt + r / NR * round_up(z.units, W) * NR, w.rows, z.as, z.units);
      gather_rows(w.rows, g.dvp, m, NR, v.rows(k0 + r, vcol), g.dv);
      panels_of_rows<P>(w.v, z.keys / P::pair * NR, r / NR * nr_units, w.rows, g.dvp, NR, g.dvp);
    }
  }

  void pack_queries(const ForwardScratch& w, int64_t kv, int64_t t0, int64_t n, float* dst) const {
    for (int64_t r = 0; r < n; r += NR) {
      const int64_t m = min_of(NR, n - r);
      gather_rows(w.rows, g.dqp, m, m, g.query_rows(q, g.dq, t0, kv, r), g.dq);
      if (g.scale < 0)  // the running maximum is taken before scaling
        for (int64_t i = 0; i < m * g.dqp; i += W) store(w.rows + i, -load(w.rows + i));
      units_of_rows<P>(dst + r * z.as, z.as, w.rows, g.dqp, m, g.dqp);
    }
  }

  // Which columns of a tile are seen: [lo, hi) by row; every row sees all of [full0, full1), whole vectors, and none outside [start, end).
  struct Seen {
    int64_t start, full0, full1, end;
    int32_t lo[MR], hi[MR];
  };

  // f(column, seen lanes or nullptr for all) over the vectors of a row. The same number of steps for every row of a tile.
  template <class F>
  ESFT_INLINE void columns(const Seen& c, int64_t row, F f) {
    int64_t j = c.start;
    const auto masked = [&](int64_t end) ESFT_LAMBDA {
      for (; j < end; j += W) {
        const vi seen = lanes_in(j, c.lo[row], c.hi[row]);
        f(j, &seen);
      }
    };
    masked(min_of(c.full0, c.end));
    for (; j < c.full1; j += W) f(j, static_cast<const vi*>(nullptr));
    masked(c.end);
  }

  // Rows of scores to probabilities; running maxima m and sums l, and the factor alpha of what was summed before.
  void softmax(int64_t rows, const float* s, float* p, const Seen& c, float* m, float* l, float* alpha) const {
    const vf none = splat(-__builtin_inff()), scale2 = splat(g.scale2 < 0 ? -g.scale2 : g.scale2);
    float shift[(MR + W - 1) / W * W];  // by row
    for (int64_t r = 0; r < rows; r += W) store(shift + r, none);
    for (int64_t r = 0; r < rows; r++) {
      vf mx = none;
      columns(c, r, [&](int64_t j, const vi* seen) ESFT_LAMBDA {
        const vf x = load(s + r * z.sld + j);
        mx = vmax(mx, seen ? select(*seen, x, none) : x);
      });
      shift[r] = hmax(mx);
    }
    for (int64_t r = 0; r < rows; r += W) {
      const int64_t n = min_of(W, rows - r);
      const vf best = load(shift + r), old = load_n(m + r, n);
      const vf now = select(best == none, none, scale2 * best), top = select(old > now, old, now);
      const vf a = select(old == top, splat(1.0f), exp2v(old - top));
      store_n(alpha + r, a, n);
      store_n(l + r, load_n(l + r, n) * a, n);
      store_n(m + r, top, n);
      store(shift + r, -top);
    }
    for (int64_t r = 0; r < rows; r++) {
      const vf by = splat(shift[r]);
      vf sum = {};
      columns(c, r, [&](int64_t j, const vi* seen) ESFT_LAMBDA {
        const vf x = exp2v(load(s + r * z.sld + j) * scale2 + by);
        sum += put(p + r * z.sld, j, seen ? select(*seen, x, vf{}) : x);
      });
      l[r] += hsum(sum);
    }
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

  void finish(const ForwardScratch& w, int64_t kv, int64_t t0, int64_t n) const {
    for (int64_t r = 0; r < n; r++) {
      const int64_t t = t0 + g.token(r), h = kv * g.group + r % g.group;
      const float sink = sinks.data ? sinks.at(h) : -__builtin_inff();
      float top = w.m[r], sum = w.l[r], factor = 1.0f;  // of what was summed: the sink may be above all scores
      if (sinks.data) {
        top = sink > top ? sink : top;
        factor = exp2v(splat(w.m[r] - top))[0];
        sum = sum * factor + exp2v(splat(sink - top))[0];
      }
      const vf inv = splat(factor / sum);
      float* y = out.at(t, h * g.dv);
      for (int64_t c = 0; c < g.dv; c += 16) __builtin_prefetch(y + out.ld + c, 1);  // the next query's
      const float* o = w.o + r * g.dvp;
      int64_t c = 0;
      for (; c + W <= g.dv; c += W) store(y + c, load(o + c) * inv);
      if (c < g.dv) store_part(y + c, load(o + c) * inv, g.dv - c);
      if (lse.data) *lse.at(t, h) = (top + log2f(sum)) * 0.69314718056f;
    }
  }

  void piece(const ForwardScratch& w, const Piece& b, int64_t kv) const {
    const int64_t n = (b.t1 - b.t0) * g.group, part = even_part(n), vs = z.keys / P::pair * NR, ks_ = round_up(z.units, W) * NR;
    pack_queries(w, kv, b.t0, n, w.q);
    for (int64_t r = 0; r < n; r++) {
      w.m[r] = -__builtin_inff();
      w.l[r] = 0;
    }
    memset(w.o, 0, n * g.dvp * 4);
    int64_t k0 = b.doc + (first[b.t0] - b.doc) / z.keys * z.keys;
    for (; k0 < b.t1; k0 += z.keys) {
      const int64_t k1 = min_of(k0 + z.keys, b.t1);
      pack_keys(w, kv, k0, max_of(0, first[b.t0] - k0) / NR * NR, k1 - k0);
      for (int64_t r0 = 0; r0 < n; r0 += part) {
        const int64_t rows = min_of(part, n - r0), last = b.t0 + g.token(r0 + rows - 1);
        const int64_t hi = min_of(k1, last + 1) - k0, lo = max_of(0, first[b.t0 + g.token(r0)] - k0);  // of the tile
        if (hi <= lo) continue;
        const int64_t start = lo / W * W, end = round_up(hi, W), unit = lo / P::pair;
        product<P, kRows>(rows, hi - start, z.units, w.q + r0 * z.as, z.as, w.kt + start / NR * ks_, ks_, w.s + start, z.sld, kZero,
                          nullptr, start % NR != 0);
        Seen c = {start, 0, end, end, {}, {}};
        for (int64_t r = 0; r < rows; r++) {
          const int64_t t = b.t0 + g.token(r0 + r);
          c.lo[r] = (int32_t)max_of(0, first[t] - k0);
          c.hi[r] = (int32_t)min_of(hi, t + 1 - k0);
          c.full0 = max_of(c.full0, round_up(c.lo[r], W));
          c.full1 = min_of(c.full1, c.hi[r] / W * W);
        }
        softmax(rows, w.s, w.p, c, w.m + r0, w.l + r0, w.alpha);
        product<P, kRows>(rows, g.dv, ceil_div(hi, P::pair) - unit, w.p + unit, z.sld, w.v + unit * NR, vs, w.o + r0 * g.dvp, g.dvp,
                          kScaleAdd, w.alpha);
      }
    }
    finish(w, kv, b.t0, n);
  }
};

template <class P>
void forward(const esft_attention_args& a, Context& ctx) {
  Forward<P> f;
  f.g = shape_of(a);
  const Shape& g = f.g;
  if (g.T == 0) return;
  f.z = sizes_for(g, P::pair, 4 * ctx.threads());
  f.q = matrix(a.q);
  f.k = matrix(a.k);
  f.v = matrix(a.v);
  f.ks = matrix(a.k_shared);
  f.out = matrix(a.out);
  f.lse = matrix(a.lse);
  f.sinks = sinks_of(a.sinks);
  const int32_t* doc_start = static_cast<const int32_t*>(a.doc_start.data);
  Carve probe = {nullptr, 0};
  for (int pass = 0; pass < 2; pass++) {
    if (pass) probe = Carve{static_cast<char*>(ctx.shared_scratch(probe.used)), 0};
    f.first = probe.take<int32_t>(g.T);
    f.plan.task_begin = probe.take<int32_t>(g.T + 1);
    f.plan.pieces = probe.take<Piece>(g.T);
  }
  first_keys(const_cast<int32_t*>(f.first), doc_start, g.T, g.window);
  make_plan(f.plan, doc_start, g.T, f.z.queries, f.z.queries);
  const size_t bytes = ForwardScratch(nullptr, g, f.z, P::pair).bytes;
  // Late blocks of a document see the most keys: they go first.
  parallel_for(ctx, f.plan.tasks * g.G, [&](int64_t i, int worker) {
    const ForwardScratch w(ctx.worker_scratch(worker, bytes), g, f.z, P::pair);
    const int64_t task = f.plan.tasks - 1 - i / g.G;
    for (int64_t p = f.plan.task_begin[task]; p < f.plan.task_begin[task + 1]; p++) f.piece(w, f.plan.pieces[p], i % g.G);
  });
}

}  // namespace
}  // namespace attn

void attention(const esft_attention_args& a, Context& ctx) {
  check_doc_start("attention", "doc_start", a.doc_start);
  attn::with_precision(a.precision, [&](auto policy) { attn::forward<decltype(policy)>(a, ctx); });
}

}  // namespace esft::cpu::ESFT_ISA
