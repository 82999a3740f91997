// attention — forward (contract: ops/attention.h).
//
// A task is one kv-head (with its query heads) and a block of queries of one document. It walks over blocks of keys:
// pack K transposed and V once, as far as they are seen, then for every tile of MR rows (query heads side by side, query after query)
//     S = Q·Kᵀ  →  running maximum, P = 2^(scale2·S − max), row sums  →  O = alpha·O + P·V
// with S and P in L1. Tiles stop at their own diagonal and begin where their window does, so what is not seen costs nothing; a
// row's sums run over its keys in ascending order with block borders counted from the start of its document, whatever the task.
// Sinks join a row's sum when it ends. Method: online softmax, arXiv 2205.14135.
#include "../kernels.h"
#include "attention_window.h"

namespace esft::cpu::ESFT_ISA {
namespace attn {
namespace {

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
  make_plan(f.plan, doc_start, g.T, f.z.queries, f.z.queries, f.z.narrow ? kWindowTokens : 2);
  const size_t bytes = ForwardScratch(nullptr, g, f.z, P::pair).bytes;
  // Late blocks of a document see the most keys: they go first.
  parallel_for(ctx, f.plan.tasks * g.G, [&](int64_t i, int worker) {
    const ForwardScratch w(ctx.worker_scratch(worker, bytes), g, f.z, P::pair);
    const int64_t task = f.plan.tasks - 1 - i / g.G;
    for (int64_t p = f.plan.task_begin[task]; p < f.plan.task_begin[task + 1]; p++) {
      const Piece& b = f.plan.pieces[p];
      if (f.z.narrow)
        Window<P>{f, w}.piece(b, i % g.G);
      else
        f.piece(w, b, i % g.G);
    }
  });
}

}  // namespace
}  // namespace attn

void attention(const esft_attention_args& a, Context& ctx) {
  check_doc_start("attention", "doc_start", a.doc_start);
  attn::with_precision(a.precision, [&](auto policy) { attn::forward<decltype(policy)>(a, ctx); });
}

}  // namespace esft::cpu::ESFT_ISA
