// attention_backward — gradients of attention (contract: ops/attention.h).
//
// A task is one kv-head (with its query heads) and the keys of a document, or of a part of it where there are too few
// documents and heads for the cores (attention_gradients.h).
// Order of every sum: key blocks ascending (dQ), queries and their heads ascending (dK, dV), queries ascending (dsinks). A row of dQ
// is written by the part of the document that holds the first key it sees; later parts that it sees write their own copy, kv-heads
// their own copy of dk_shared; the copies are added in order afterwards. How documents are divided depends on the shapes alone.
// Method: arXiv 2205.14135, appendix B.
#include "../kernels.h"
#include "attention_gradients.h"

namespace esft::cpu::ESFT_ISA {
namespace attn {
namespace {

constexpr int64_t kWantedTasks = 16;  // divide documents to have about that many
constexpr int64_t kCopyBytes = int64_t(256) << 20;  // most memory for the copies of dQ

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

  // Of a block's keys a window shows few at a time: it may have some more, and fewer rows of queries meet two of them.
  if (g.window > 0 && g.window < f.keys) f.keys = round_up(min_of(f.keys * 3 / 2, part_keys), NR);
  f.ld = f.keys + kPad;

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
    const int64_t end = f.see(b.t0, b.doc_end);  // rows behind it see no earlier part
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
