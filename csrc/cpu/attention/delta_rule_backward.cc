// gated_delta_rule_backward (contract: ops/delta_rule.h; notation: delta_chunk.h).
//
// A task is one document and one key head. It first walks the chunks as the forward does and keeps each one's first state and Δ in its
// scratch, then walks back with dS, the gradient of the state behind the chunk:
//
//   dΔ = Pᵀ dO + e^{γ_n − γ} (k̂ dS);   dX = (I + L)⁻ᵀ dΔ;   dv = β dX;   Z = dX Sᵀ;   R = dX Δᵀ (so dL = −R);   dP = dO Δᵀ
//   A = dP ∘ D,  M = −R ∘ (β D):   dq̂ = Γ (dO Sᵀ) + A k̂
//   k̂ as it is read:   r = M k̂ − β Γ Z          k̂ as it is written:   w = Aᵀ q̂ + Mᵀ k̂ + e^{γ_n − γ} (Δ dSᵀ);   dk̂ = r + w
//   dβ_t = ⟨dX_t, v_t⟩ − Γ_t ⟨Z_t, k̂_t⟩ − Σ_s R_ts D_ts ⟨k̂_t, k̂_s⟩
//   dγ = ⟨q̂, dq̂⟩ + ⟨k̂, r⟩ − ⟨k̂, w⟩, and dγ_n += ⟨dS, S behind⟩;   dg_t = Σ_{s>=t} dγ_s
//   dS ← Γ_n dS + q̂ᵀ (Γ dO) − k̂ᵀ (β Γ dX)
#include "../../ops/checks.h"
#include "../kernels.h"
#include "delta_chunk.h"

namespace esft::cpu::ESFT_ISA {

namespace attn {
namespace {

struct BackwardScratch {
  size_t bytes;
  ChunkKeys keys;
  ChunkDecays decays;
  Block u, dout, dx, tmp;  // [chunk, dv]
  Block delta_t, ga, gm;  // Δᵀ; A; M
  Block st, ds, ds_t;  // Sᵀ; dS of the group, one after the other; dSᵀ
  Block dq, dr, dw, z, dq_sum, dk_sum;  // [chunk, dk]; the sums are over the group
  float* states;  // [chunks, group] states, then Δ of all tokens
  float* deltas;
  BackwardScratch(void* base, const DeltaShape& s, int64_t longest)
      : BackwardScratch(Carve{static_cast<char*>(base), 0}, s, longest) {}

 private:
  BackwardScratch(Carve c, const DeltaShape& s, int64_t longest) : keys(c, s), decays(c, s) {
    const int64_t dkp = round_up(s.dk, W), dvp = round_up(s.dv, W), chunks = ceil_div(longest, kChunkTokens);
    for (Block* b : {&u, &dout, &dx, &tmp}) *b = {c.take<float>(kChunkTokens * s.ldv), s.ldv};
    delta_t = {c.take<float>(dvp * s.ldc), s.ldc};
    for (Block* b : {&ga, &gm}) *b = {c.take<float>(kChunkTokens * s.ldc), s.ldc};
    for (Block* b : {&st, &ds_t}) *b = {c.take<float>(dvp * s.ldk), s.ldk};
    ds = {c.take<float>(s.group * dkp * s.ldv), s.ldv};
    for (Block* b : {&dq, &dr, &dw, &z, &dq_sum, &dk_sum}) *b = {c.take<float>(kChunkTokens * s.ldk), s.ldk};
    states = c.take<float>(chunks * s.group * dkp * s.ldv);
    deltas = c.take<float>(chunks * s.group * kChunkTokens * s.ldv);
    bytes = c.used;
  }
};

struct DeltaBackward {
  DeltaShape s;
  Matrix dout, dq, dk, dv, dbeta, dg;

  Block state_of(const BackwardScratch& w, int64_t chunk, int64_t i) const {
    return {w.states + (chunk * s.group + i) * round_up(s.dk, W) * s.ldv, s.ldv};
  }
  Block delta_of(const BackwardScratch& w, int64_t chunk, int64_t i) const {
    return {w.deltas + (chunk * s.group + i) * kChunkTokens * s.ldv, s.ldv};
  }

  void forward(const BackwardScratch& w, Document d, int64_t key_head) const {
    for (int64_t t0 = d.begin, chunk = 0; t0 < d.end; t0 += kChunkTokens, chunk++) {
      const int64_t n = min_of(kChunkTokens, d.end - t0);
      const bool first = chunk == 0;
      w.keys.make(s, t0, n, key_head);
      for (int64_t i = 0; i < s.group; i++) {
        const Block state = state_of(w, chunk, i), delta = delta_of(w, chunk, i);
        w.decays.make(s, w.keys, t0, n, key_head * s.group + i);
        if (!first) multiply<kRows>(n, s.dv, s.dk, w.keys.k, state, w.u, false);
        w.decays.deltas(s, first ? nullptr : &w.u, delta, t0, n, key_head * s.group + i);
        if (t0 + n == d.end) continue;
        const Block next = state_of(w, chunk + 1, i);
        for (int64_t r = 0; !first && r < s.dk; r++) memcpy(next.row(r), state.row(r), round_up(s.dv, W) * 4);
        w.decays.advance(s, w.keys, next, delta, w.u, n, first);
      }
    }
  }

  static void scaled(Block y, Block x, const float* factor, float sign, int64_t n, int64_t d) {
    for (int64_t t = 0; t < n; t++) {
      const vf f = splat(sign * factor[t]);
      vectors(d, [=](int64_t c) ESFT_LAMBDA { store(y.row(t) + c, f * load(x.row(t) + c)); });
    }
  }

  // One value head of one chunk. last, first: of the document.
  void chunk(const BackwardScratch& w, int64_t t0, int64_t n, int64_t index, bool last, int64_t key_head, int64_t i) const {
    const int64_t head = key_head * s.group + i, dkp = round_up(s.dk, W);
    const bool first = index == 0;
    const ChunkKeys& keys = w.keys;
    const ChunkDecays& decays = w.decays;
    const Block state = state_of(w, index, i), delta = delta_of(w, index, i), ds = {w.ds.row(i * dkp), w.ds.ld};
    decays.make(s, keys, t0, n, head);
    gather_head(w.dout, dout, t0, n, head * s.dv, s.dv);

    if (!last) {
      multiply<kRows>(n, s.dv, s.dk, keys.k, ds, w.dx, false);
      scaled(w.dx, w.dx, decays.rest, 1, n, s.dv);
    }
    multiply<kCols>(n, s.dv, n, decays.p, w.dout, w.dx, !last, kUpper);
    decays.solve_transposed(w.dx, n, s.dv);

    transpose(w.delta_t, delta, round_up(n, W), s.dv);
    multiply<kRows>(n, n, s.dv, w.dout, w.delta_t, w.ga, false);
    multiply<kRows>(n, n, s.dv, w.dx, w.delta_t, w.gm, false);
    float dbeta_row[kChunkTokens];
    for (int64_t t = 0; t < n; t++) {
      const vf minus_beta = splat(-decays.beta[t]);
      vf sum = {};
      for (int64_t c = 0; c < n; c += W) {
        const vf d = c <= t ? decays.decay(t, c) : vf{}, r = load(w.gm.row(t) + c);
        const LaneMask below = lanes_in(c, 0, t);
        sum += select(below, r * d * load(keys.kk.row(t) + c), vf{});
        store(w.ga.row(t) + c, select(lanes_in(c, 0, t + 1), d * load(w.ga.row(t) + c), vf{}));
        store(w.gm.row(t) + c, select(below, minus_beta * d * r, vf{}));
      }
      dbeta_row[t] = -hsum(sum);
    }

    multiply<kRows>(n, s.dk, n, w.ga, keys.k, w.dq, false, kLower);
    multiply<kRows>(n, s.dk, n, w.gm, keys.k, w.dr, false, kLower);
    multiply<kCols>(n, s.dk, n, w.ga, keys.q, w.dw, false, kUpper);
    multiply<kCols>(n, s.dk, n, w.gm, keys.k, w.dw, true, kUpper);
    if (!last) {
      for (int64_t r = s.dk; r < dkp; r++) memset(ds.row(r), 0, round_up(s.dv, W) * 4);
      transpose(w.ds_t, ds, dkp, s.dv);
      scaled(w.tmp, delta, decays.rest, 1, n, s.dv);
      multiply<kRows>(n, s.dk, s.dv, w.tmp, w.ds_t, w.dw, true);
    }

    // dv, and dβ as far as it does not come through S; dX becomes −β Γ dX, dO becomes Γ dO.
    for (int64_t t = 0; t < n; t++) {
      const float *v = s.v.at(t0 + t, head * s.dv), b = decays.beta[t];
      float *x = w.dx.row(t), *y = dv.at(t0 + t, head * s.dv);
      vf sum = {};
      for (int64_t c = 0; c < s.dv; c += W) {
        const int64_t m = min_of(W, s.dv - c);
        const vf g = load(x + c);
        sum += load_n(v + c, m) * g;
        store_n(y + c, splat(b) * g, m);
      }
      dbeta_row[t] += hsum(sum);
    }
    if (!first) {
      for (int64_t r = s.dk; r < dkp; r++) memset(state.row(r), 0, round_up(s.dv, W) * 4);
      transpose(w.st, state, dkp, s.dv);
      scaled(w.dx, w.dx, decays.gamma, -1, n, s.dv);
      multiply<kRows>(n, s.dk, s.dv, w.dx, w.st, w.z, false);
      for (int64_t t = 0; t < n; t++) {
        const float* z = w.z.row(t);  // −Γ Z
        dbeta_row[t] += dot_rows(z, keys.k.row(t), s.dk);
        float* r = w.dr.row(t);
        const vf b = splat(decays.beta[t]);
        vectors(s.dk, [=](int64_t c) ESFT_LAMBDA { store(r + c, load(r + c) + b * load(z + c)); });
      }
      scaled(w.dx, w.dx, decays.beta, 1, n, s.dv);
      scaled(w.dout, w.dout, decays.gamma, 1, n, s.dv);
      multiply<kRows>(n, s.dk, s.dv, w.dout, w.st, w.dq, true);
    }

    float dgamma_end = 0;
    if (!last) {
      const Block behind = state_of(w, index + 1, i);
      for (int64_t r = 0; r < s.dk; r++) dgamma_end += dot_rows(ds.row(r), behind.row(r), s.dv);
    }
    float sum = dgamma_end;
    for (int64_t t = n - 1; t >= 0; t--) {
      sum += dot_rows(keys.q.row(t), w.dq.row(t), s.dk) + dot_rows(keys.k.row(t), w.dr.row(t), s.dk) -
             dot_rows(keys.k.row(t), w.dw.row(t), s.dk);
      *dg.at(t0 + t, head) = first && t == 0 ? 0.0f : sum;  // nothing decays before a document
      *dbeta.at(t0 + t, head) = dbeta_row[t];
    }
    for (int64_t t = 0; t < n; t++) {
      float *q = w.dq_sum.row(t), *k = w.dk_sum.row(t);
      const float *x = w.dq.row(t), *r = w.dr.row(t), *o = w.dw.row(t);
      vectors(s.dk, [=](int64_t c) ESFT_LAMBDA {
        const vf dk = load(r + c) + load(o + c);
        store(q + c, i > 0 ? load(q + c) + load(x + c) : load(x + c));
        store(k + c, i > 0 ? load(k + c) + dk : dk);
      });
    }
    if (first) return;
    if (!last) {
      const vf e = splat(decays.gamma[n - 1]);
      for (int64_t r = 0; r < s.dk; r++)
        vectors(s.dv, [=](int64_t c) ESFT_LAMBDA { store(ds.row(r) + c, e * load(ds.row(r) + c)); });
    }
    multiply<kCols>(s.dk, s.dv, n, keys.q, w.dout, ds, !last);
    multiply<kCols>(s.dk, s.dv, n, keys.k, w.dx, ds, true);
  }

  // dx = r (dx̂ − x̂ ⟨x̂, dx̂⟩) with x̂ = x·r; of q both carry the scale.
  static void through_norm(const Matrix& y, int64_t t0, int64_t n, int64_t col, int64_t d, Block grad, Block unit, const float* r,
                           float scale) {
    for (int64_t t = 0; t < n; t++) {
      float* g = grad.row(t);
      const float* u = unit.row(t);
      const vf dot = splat(dot_rows(g, u, d) / (scale * scale)), f = splat(r[t]);
      vectors(d, [=](int64_t c) ESFT_LAMBDA { store(g + c, f * (load(g + c) - load(u + c) * dot)); });
    }
    put_rows(y, t0, n, col, d, grad);
  }

  void run(const BackwardScratch& w, Document d, int64_t key_head) const {
    forward(w, d, key_head);
    const int64_t chunks = ceil_div(d.end - d.begin, kChunkTokens);
    for (int64_t index = chunks - 1; index >= 0; index--) {
      const int64_t t0 = d.begin + index * kChunkTokens, n = min_of(kChunkTokens, d.end - t0);
      w.keys.make(s, t0, n, key_head);
      for (int64_t i = 0; i < s.group; i++) chunk(w, t0, n, index, index == chunks - 1, key_head, i);
      through_norm(dq, t0, n, key_head * s.dk, s.dk, w.dq_sum, w.keys.q, w.keys.rq, s.scale);
      through_norm(dk, t0, n, key_head * s.dk, s.dk, w.dk_sum, w.keys.k, w.keys.rk, 1.0f);
    }
  }
};

}  // namespace
}  // namespace attn

void gated_delta_rule_backward(const esft_gated_delta_rule_backward_args& a, Context& ctx) {
  check_doc_start("gated_delta_rule_backward", "doc_start", a.doc_start);
  const attn::DeltaBackward f = {attn::delta_shape(a), attn::matrix(a.dout),  attn::matrix(a.dq), attn::matrix(a.dk),
                                 attn::matrix(a.dv),   attn::matrix(a.dbeta), attn::matrix(a.dg)};
  if (f.s.T == 0) return;
  const int32_t* doc_start = data<int32_t>(a.doc_start);
  int64_t longest;
  const int64_t documents = attn::documents_of(doc_start, f.s.T, nullptr, &longest);
  attn::Document* list = static_cast<attn::Document*>(ctx.shared_scratch(documents * sizeof(attn::Document)));
  attn::documents_of(doc_start, f.s.T, list, &longest);
  const size_t bytes = attn::BackwardScratch(nullptr, f.s, longest).bytes;
  parallel_for(ctx, documents * f.s.key_heads, [&](int64_t i, int worker) {
    const attn::BackwardScratch w(ctx.worker_scratch(worker, bytes), f.s, longest);
    f.run(w, list[i / f.s.key_heads], i % f.s.key_heads);
  });
}

}  // namespace esft::cpu::ESFT_ISA
