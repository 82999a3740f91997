// attention — forward (contract: ops/attention.h).
//
// A task is one kv-head (with its query heads) and a block of queries of one document. It walks over blocks of keys:
// pack K transposed and V once, then for every query head and tile of MR queries
//     S = Q·Kᵀ  →  running maximum, P = 2^(scale2·S − max), row sums  →  O = alpha·O + P·V
// with S and P in L1. Tiles stop at their own diagonal, so the causal half costs nothing; a row's sums run over its keys in
// ascending order with block borders counted from the start of its document, whatever the task.
// Sinks join a row's sum when it ends. Method: online softmax, arXiv 2205.14135.
#include <math.h>

#include "../kernels.h"
#include "attention_shape.h"

namespace esft::cpu::ESFT_ISA {
namespace attn {
namespace {

struct Sizes {
  int64_t keys, queries;  // per block, per task
  int64_t as, units;      // pitch and length of a row of q in units
  int64_t sld;            // pitch of S; not a power of two, rows must not share cache sets
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

  // Keys [k0, k0 + n) of kv-head h: K transposed and V as panels.
  void pack_keys(const ForwardScratch& w, int64_t h, int64_t k0, int64_t n) const {
    const int64_t nr_units = NR / P::pair, kcol = g.k_offset + h * g.k_stride, vcol = g.v_offset + h * g.v_stride;
    for (int64_t r = 0; r < n; r += NR) {
      const int64_t m = min_of(NR, n - r);
      gather_rows(w.rows, g.dqp, m, NR, k.at(k0 + r, kcol), k.ld, g.k_dim, g.dr ? ks.at(k0 + r, 0) : nullptr, ks.ld, g.dr);
      // the row tile is overwritten by its own units (they are not longer)
      units_of_rows<P>(w.rows, z.as, w.rows, g.dqp, NR, g.dqp);
      transpose_panel(w.kt + r / NR * round_up(z.units, W) * NR, w.rows, z.as, z.units);
      gather_rows(w.rows, g.dvp, m, NR, v.at(k0 + r, vcol), v.ld, g.dv, nullptr, 0, 0);
      panels_of_rows<P>(w.v, z.keys / P::pair * NR, r / NR * nr_units, w.rows, g.dvp, NR, g.dvp);
    }
  }

  void pack_queries(const ForwardScratch& w, int64_t h, int64_t t0, int64_t n, float* dst) const {
    for (int64_t r = 0; r < n; r += NR) {
      const int64_t m = min_of(NR, n - r);
      gather_rows(w.rows, g.dqp, m, m, q.at(t0 + r, h * g.dq), q.ld, g.dq, nullptr, 0, 0);
      if (g.scale < 0)  // the running maximum is taken before scaling
        for (int64_t i = 0; i < m * g.dqp; i += W) store(w.rows + i, -load(w.rows + i));
      units_of_rows<P>(dst + r * z.as, z.as, w.rows, g.dqp, m, g.dqp);
    }
  }

  // One row of scores: columns [lo, hi) are seen; P gets zeros in the rest of [start, end), all multiples of W.
  void softmax_row(const float* s, float* p, int64_t start, int64_t end, int64_t lo, int64_t hi, float* m, float* l,
                   float* alpha) const {
    if (hi <= lo) {
      *alpha = 1.0f;
      for (int64_t j = start; j < end; j += W) put(p, j, vf{});
      return;
    }
    const float scale2 = g.scale2 < 0 ? -g.scale2 : g.scale2;
    const vf none = splat(-__builtin_inff()), c = splat(scale2);
    const int64_t full0 = round_up(lo, W), full1 = hi / W * W, begin = lo / W * W;
    vf mx = none, mx2 = none;
    int64_t j = begin;
    for (; j < min_of(full0, hi); j += W) mx = vmax(mx, select(lanes_in(j, lo, hi), load(s + j), none));
    for (; j + 2 * W <= full1; j += 2 * W) {
      mx = vmax(mx, load(s + j));
      mx2 = vmax(mx2, load(s + j + W));
    }
    for (; j < hi; j += W) mx = vmax(mx, select(lanes_in(j, lo, hi), load(s + j), none));
    const float old = *m, now = scale2 * hmax(vmax(mx, mx2));
    const float top = old > now ? old : now;
    const vf shift = splat(-top);
    vf sum = {};
    for (j = start; j < begin; j += W) put(p, j, vf{});
    for (; j < min_of(full0, hi); j += W) sum += put(p, j, select(lanes_in(j, lo, hi), exp2v(load(s + j) * c + shift), vf{}));
    for (; j < full1; j += W) sum += put(p, j, exp2v(load(s + j) * c + shift));
    for (; j < hi; j += W) sum += put(p, j, select(lanes_in(j, lo, hi), exp2v(load(s + j) * c + shift), vf{}));
    for (; j < end; j += W) put(p, j, vf{});
    const float a = old == top ? 1.0f : exp2v(splat(old - top))[0];
    *alpha = a;
    *m = top;
    *l = *l * a + hsum(sum);
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

  void finish(const ForwardScratch& w, int64_t h, int64_t slot, int64_t t0, int64_t n) const {
    const float sink = sinks.data ? sinks.at(h) : -__builtin_inff();
    for (int64_t i = 0; i < n; i++) {
      const int64_t r = slot * z.queries + i;
      float top = w.m[r], sum = w.l[r], factor = 1.0f;  // of what was summed: the sink may be above all scores
      if (sinks.data) {
        top = sink > top ? sink : top;
        factor = exp2v(splat(w.m[r] - top))[0];
        sum = sum * factor + exp2v(splat(sink - top))[0];
      }
      const vf inv = splat(factor / sum);
      float* y = out.at(t0 + i, h * g.dv);
      const float* o = w.o + r * g.dvp;
      int64_t c = 0;
      for (; c + W <= g.dv; c += W) store(y + c, load(o + c) * inv);
      if (c < g.dv) store_part(y + c, load(o + c) * inv, g.dv - c);
      if (lse.data) *lse.at(t0 + i, h) = (top + log2f(sum)) * 0.69314718056f;
    }
  }

  void piece(const ForwardScratch& w, const Piece& b, int64_t kv) const {
    const int64_t n = b.t1 - b.t0, part = even_part(n), vs = z.keys / P::pair * NR, ks_ = round_up(z.units, W) * NR;
    for (int64_t i = 0; i < g.group; i++) {
      pack_queries(w, kv * g.group + i, b.t0, n, w.q + i * z.queries * z.as);
      for (int64_t r = i * z.queries; r < i * z.queries + n; r++) {
        w.m[r] = -__builtin_inff();
        w.l[r] = 0;
      }
      memset(w.o + i * z.queries * g.dvp, 0, n * g.dvp * 4);
    }
    int64_t k0 = b.doc + (first[b.t0] - b.doc) / z.keys * z.keys;
    for (; k0 < b.t1; k0 += z.keys) {
      const int64_t k1 = min_of(k0 + z.keys, b.t1);
      pack_keys(w, kv, k0, k1 - k0);
      for (int64_t i = 0; i < g.group; i++)
        for (int64_t t = b.t0; t < b.t1; t += part) {
          const int64_t te = min_of(t + part, b.t1), rows = te - t;
          const int64_t hi = min_of(k1, te) - k0, lo = max_of(0, first[t] - k0);  // of the tile: the last row's and the first's
          if (hi <= lo) continue;
          const int64_t start = lo / NR * NR, end = round_up(hi, W), slot = i * z.queries + (t - b.t0);
          product<P, kRows>(rows, hi - start, z.units, w.q + slot * z.as, z.as, w.kt + start / NR * ks_, ks_, w.s + start, z.sld,
                            kZero);
          for (int64_t r = 0; r < rows; r++)
            softmax_row(w.s + r * z.sld, w.p + r * z.sld, start, end, max_of(0, first[t + r] - k0), min_of(hi, t + r + 1 - k0),
                        w.m + slot + r, w.l + slot + r, w.alpha + r);
          product<P, kRows>(rows, g.dv, ceil_div(hi - start, P::pair), w.p + start / P::pair, z.sld, w.v + start / P::pair * NR, vs,
                            w.o + slot * g.dvp, g.dvp, kScaleAdd, w.alpha);
        }
    }
    for (int64_t i = 0; i < g.group; i++) finish(w, kv * g.group + i, i, b.t0, n);
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
