// gated_delta_rule — forward (contract: ops/delta_rule.h; the mathematics of a chunk: delta_chunk.h).
//
// A task is one document and one key head: it walks the document's chunks with the states of that head's value heads in scratch. All
// products are of chunk matrices; what the value heads share (k̂ k̂ᵀ, q̂ k̂ᵀ) is made once.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "delta_chunk.h"

namespace esft::cpu::ESFT_ISA {

namespace attn {
namespace {

struct ForwardScratch {
  size_t bytes;
  ChunkKeys keys;
  ChunkDecays decays;
  Block u, x, state;  // k̂ S, then Δ scaled; Δ; the group's states, one after the other
  Block out;
  ForwardScratch(void* base, const DeltaShape& s) : ForwardScratch(Carve{static_cast<char*>(base), 0}, s) {}

 private:
  ForwardScratch(Carve c, const DeltaShape& s)
      : keys(c, s),
        decays(c, s),
        u{c.take<float>(kChunkTokens * s.ldv), s.ldv},
        x{c.take<float>(kChunkTokens * s.ldv), s.ldv},
        state{c.take<float>(s.group * round_up(s.dk, W) * s.ldv), s.ldv},
        out{c.take<float>(kChunkTokens * s.ldv), s.ldv} {
    bytes = c.used;
  }
};

// The states of the key head's group from a sequence's [heads·dk, dv], or back.
void load_states(const DeltaShape& s, const ForwardScratch& w, const float* from, int64_t key_head) {
  for (int64_t i = 0; i < s.group; i++)
    gather_rows(
        w.state.row(i * round_up(s.dk, W)), w.state.ld, s.dk, s.dk,
        [=](int64_t r) { return from + ((key_head * s.group + i) * s.dk + r) * s.dv; }, s.dv);
}
void store_states(const DeltaShape& s, const ForwardScratch& w, float* to, int64_t key_head) {
  for (int64_t i = 0; i < s.group; i++)
    for (int64_t r = 0; r < s.dk; r++)
      memcpy(to + ((key_head * s.group + i) * s.dk + r) * s.dv, w.state.row(i * round_up(s.dk, W) + r), s.dv * 4);
}

// `kept`: the sequence's states, or nullptr: zeros, and nobody wants them afterwards.
void walk(const DeltaShape& s, const ForwardScratch& w, const Matrix& o, Document d, int64_t key_head, float* kept) {
  if (kept) load_states(s, w, kept, key_head);
  for (int64_t t0 = d.begin; t0 < d.end; t0 += kChunkTokens) {
    const int64_t n = min_of(kChunkTokens, d.end - t0);
    const bool first = !kept && t0 == d.begin, last = !kept && t0 + n == d.end;
    w.keys.make(s, t0, n, key_head);
    for (int64_t i = 0; i < s.group; i++) {
      const int64_t head = key_head * s.group + i;
      const Block state = {w.state.row(i * round_up(s.dk, W)), w.state.ld};
      w.decays.make(s, w.keys, t0, n, head);
      if (!first) {
        multiply<kRows>(n, s.dv, s.dk, w.keys.k, state, w.u, false);
        multiply<kRows>(n, s.dv, s.dk, w.keys.q, state, w.out, false);
        for (int64_t t = 0; t < n; t++) {
          float* row = w.out.row(t);
          const vf e = splat(w.decays.gamma[t]);
          vectors(s.dv, [=](int64_t c) ESFT_LAMBDA { store(row + c, e * load(row + c)); });
        }
      }
      w.decays.deltas(s, first ? nullptr : &w.u, w.x, t0, n, head);
      multiply<kRows>(n, s.dv, n, w.decays.p, w.x, w.out, !first, kLower);
      put_rows(o, t0, n, head * s.dv, s.dv, w.out);
      if (!last) w.decays.advance(s, w.keys, state, w.x, w.u, n, first);
    }
  }
  if (kept) store_states(s, w, kept, key_head);
}

}  // namespace
}  // namespace attn

void gated_delta_rule(const esft_gated_delta_rule_args& a, Context& ctx) {
  check_doc_start("gated_delta_rule", "doc_start", a.doc_start);
  check_documents("gated_delta_rule", "states", a.doc_start, a.states.count);
  const attn::DeltaShape s = attn::delta_shape(a);
  if (s.T == 0) return;
  const int32_t* doc_start = data<int32_t>(a.doc_start);
  int64_t longest;
  const int64_t documents = attn::documents_of(doc_start, s.T, nullptr, &longest);
  attn::Document* list = static_cast<attn::Document*>(ctx.shared_scratch(documents * sizeof(attn::Document)));
  attn::documents_of(doc_start, s.T, list, &longest);
  const attn::Matrix o = attn::matrix(a.o);
  const size_t bytes = attn::ForwardScratch(nullptr, s).bytes;
  parallel_for(ctx, documents * s.key_heads, [&](int64_t i, int worker) {
    const attn::ForwardScratch w(ctx.worker_scratch(worker, bytes), s);
    float* kept = a.states.count ? data<float>(a.states.items[i / s.key_heads]) : nullptr;
    attn::walk(s, w, o, list[i / s.key_heads], i % s.key_heads, kept);
  });
}

}  // namespace esft::cpu::ESFT_ISA
