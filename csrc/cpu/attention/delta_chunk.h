// A chunk of the gated delta rule as matrices (contract: ops/delta_rule.h). With n tokens of a document, γ_t = Σ_{s<=t} g_s within the
// chunk, Γ = e^γ, D_ts = e^{γ_t − γ_s}, S the state before the chunk and δ_t = β_t (v_t − S'_tᵀ k̂_t):
//
//   (I + L) Δ = X,   L_ts = β_t D_ts ⟨k̂_t, k̂_s⟩ for s < t,   X_t = β_t (v_t − Γ_t Sᵀ k̂_t)
//   O_t = Γ_t Sᵀ q̂_t + Σ_{s<=t} P_ts δ_s,   P_ts = D_ts ⟨q̂_t, k̂_s⟩
//   S ← Γ_n S + Σ_s e^{γ_n − γ_s} k̂_s δ_sᵀ
//
// The triangular system is solved in blocks of rows: products with the blocks before, then row by row within one. No exponent is
// positive, whatever g does, and differences of γ are taken of two floats (hi + lo) each: after a strong decay they stay exact.
#pragma once
#include "../../core/check.h"
#include "../context.h"
#include "attention_shape.h"
#include "delta_products.h"

namespace esft::cpu::ESFT_ISA::attn {

constexpr int64_t kChunkTokens = 64, kSolveRows = 14;
constexpr int64_t kLine = 16;  // pad of rows: one line
// Decays below it are e^−∞ in f32 already; sums of γ stay of a size at which differences are exact.
constexpr float kNothingLeft = -200.0f;

struct DeltaShape {
  int64_t T, key_heads, heads, group;  // value heads per key head
  int64_t dk, dv, ldk, ldv;  // ld: padded to vectors, plus a line
  int64_t ldc = kChunkTokens + kLine;
  float eps, scale;
  Matrix q, k, v, beta, g;
};

template <class Args>
static DeltaShape delta_shape(const Args& a) {
  DeltaShape s = {};
  s.T = rows(a.q);
  s.key_heads = a.key_heads;
  s.heads = a.heads;
  s.group = a.heads / a.key_heads;
  s.dk = cols(a.q) / a.key_heads;
  s.dv = cols(a.v) / a.heads;
  s.ldk = round_up(s.dk, W) + kLine;
  s.ldv = round_up(s.dv, W) + kLine;
  s.ldc = kChunkTokens + kLine;
  s.eps = float(a.eps);
  s.scale = 1.0f / __builtin_sqrtf(float(s.dk));
  s.q = matrix(a.q);
  s.k = matrix(a.k);
  s.v = matrix(a.v);
  s.beta = matrix(a.beta);
  s.g = matrix(a.g);
  return s;
}

// Tokens [begin, end) that see each other.
struct Document {
  int32_t begin, end;
};
// Writes the documents of doc_start to `out` (null: counts only) and says how many there are, and how long the longest is.
static int64_t documents_of(const int32_t* doc_start, int64_t T, Document* out, int64_t* longest) {
  int64_t n = 0;
  *longest = 0;
  for (int64_t d0 = 0, d1; d0 < T; d0 = d1, n++) {
    for (d1 = d0 + 1; d1 < T && doc_start[d1] != d1;) d1++;
    if (out) out[n] = {int32_t(d0), int32_t(d1)};
    *longest = max_of(*longest, d1 - d0);
  }
  return n;
}

// n rows of one head, d wide, into padded rows (the pad and up to W rows behind them are 0).
static void gather_head(Block dst, const Matrix& src, int64_t t0, int64_t n, int64_t col, int64_t d) {
  gather_rows(dst.data, dst.ld, n, round_up(n, W), src.rows(t0, col), d);
}

// What the value heads of a key head share: q̂, k̂, k̂ transposed, and their products. [n or dk, padded].
struct ChunkKeys {
  Block q, k, kt, kk, qk;
  float *rq, *rk;  // 1/norm; of q with the scale dk^−½

  ChunkKeys(Carve& c, const DeltaShape& s)
      : q{c.take<float>(kChunkTokens * s.ldk), s.ldk},
        k{c.take<float>(kChunkTokens * s.ldk), s.ldk},
        kt{c.take<float>(round_up(s.dk, W) * s.ldc), s.ldc},
        kk{c.take<float>(kChunkTokens * s.ldc), s.ldc},
        qk{c.take<float>(kChunkTokens * s.ldc), s.ldc},
        rq(c.take<float>(kChunkTokens)),
        rk(c.take<float>(kChunkTokens)) {}

  static void normalize(Block x, float* r, int64_t n, const DeltaShape& s, float scale) {
    for (int64_t t = 0; t < n; t++) {
      float* row = x.row(t);
      r[t] = scale / __builtin_sqrtf(dot_rows(row, row, s.dk) + s.eps);
      const vf factor = splat(r[t]);
      vectors(s.dk, [=](int64_t c) ESFT_LAMBDA { store(row + c, load(row + c) * factor); });
    }
  }
  void make(const DeltaShape& s, int64_t t0, int64_t n, int64_t key_head) const {
    gather_head(q, s.q, t0, n, key_head * s.dk, s.dk);
    gather_head(k, s.k, t0, n, key_head * s.dk, s.dk);
    normalize(q, rq, n, s, s.scale);
    normalize(k, rk, n, s, 1.0f);
    transpose(kt, k, round_up(n, W), s.dk);
    multiply<kRows>(n, n, s.dk, k, kt, kk, false);
    multiply<kRows>(n, n, s.dk, q, kt, qk, false);
  }
};

// What a value head has of a chunk beside its rows: decays, −L and P.
struct ChunkDecays {
  float *beta, *gamma, *rest, *hi, *lo;  // gamma: Γ_t; rest: e^{γ_n − γ_t}
  Block nl, p;

  ChunkDecays(Carve& c, const DeltaShape& s)
      : beta(c.take<float>(kChunkTokens)),
        gamma(c.take<float>(kChunkTokens)),
        rest(c.take<float>(kChunkTokens)),
        hi(c.take<float>(kChunkTokens + W)),
        lo(c.take<float>(kChunkTokens + W)),
        nl{c.take<float>(kChunkTokens * s.ldc), s.ldc},
        p{c.take<float>(kChunkTokens * s.ldc), s.ldc} {}

  // D_ts for W columns from s on, t >= s.
  ESFT_LAMBDA vf decay(int64_t t, int64_t s) const { return vexp((splat(hi[t]) - load(hi + s)) + (splat(lo[t]) - load(lo + s))); }
  void make(const DeltaShape& s, const ChunkKeys& keys, int64_t t0, int64_t n, int64_t head) const {
    double sum = 0;
    for (int64_t t = 0; t < n; t++) {
      const float g = *s.g.at(t0 + t, head);
      sum += g < kNothingLeft ? kNothingLeft : g;
      hi[t] = float(sum);
      lo[t] = float(sum - hi[t]);
      beta[t] = *s.beta.at(t0 + t, head);
    }
    for (int64_t t = n; t < kChunkTokens + W; t++) hi[t] = lo[t] = 0;
    const vf last_hi = splat(hi[n - 1]), last_lo = splat(lo[n - 1]);
    vectors(n, [&](int64_t c) ESFT_LAMBDA {
      store(gamma + c, vexp(load(hi + c)));
      store(rest + c, vexp((last_hi - load(hi + c)) + (last_lo - load(lo + c))));
    });
    for (int64_t t = 0; t < n; t++) {
      const vf minus_beta = splat(-beta[t]);
      for (int64_t c = 0; c < n; c += W) {
        const vf d = c <= t ? decay(t, c) : vf{};
        store(nl.row(t) + c, select(lanes_in(c, 0, t), minus_beta * d * load(keys.kk.row(t) + c), vf{}));
        store(p.row(t) + c, select(lanes_in(c, 0, t + 1), d * load(keys.qk.row(t) + c), vf{}));
      }
    }
  }

  // X ← (I + L)⁻¹ X, d columns.
  void solve(Block x, int64_t n, int64_t d) const {
    for (int64_t b = 0; b < n; b += kSolveRows) {
      const int64_t m = min_of(kSolveRows, n - b);
      if (b > 0) multiply<kRows>(m, d, b, {nl.row(b), nl.ld}, x, {x.row(b), x.ld}, true);
      vectors(d, [=](int64_t c) ESFT_LAMBDA {
        for (int64_t i = b + 1; i < b + m; i++) {
          vf sum = load(x.row(i) + c);
          for (int64_t j = b; j < i; j++) sum += splat(nl.row(i)[j]) * load(x.row(j) + c);
          store(x.row(i) + c, sum);
        }
      });
    }
  }
  // X ← (I + L)⁻ᵀ X.
  void solve_transposed(Block x, int64_t n, int64_t d) const {
    for (int64_t b = (n - 1) / kSolveRows * kSolveRows; b >= 0; b -= kSolveRows) {
      const int64_t m = min_of(kSolveRows, n - b), after = b + m;
      if (after < n) multiply<kCols>(m, d, n - after, {nl.row(after) + b, nl.ld}, {x.row(after), x.ld}, {x.row(b), x.ld}, true);
      vectors(d, [=](int64_t c) ESFT_LAMBDA {
        for (int64_t i = after - 2; i >= b; i--) {
          vf sum = load(x.row(i) + c);
          for (int64_t j = i + 1; j < after; j++) sum += splat(nl.row(j)[i]) * load(x.row(j) + c);
          store(x.row(i) + c, sum);
        }
      });
    }
  }

  // X_t = β_t (v_t − Γ_t u_t), solved: Δ. `u` = k̂ S [n, dv], or null where S = 0.
  void deltas(const DeltaShape& s, const Block* u, Block x, int64_t t0, int64_t n, int64_t head) const {
    gather_head(x, s.v, t0, n, head * s.dv, s.dv);
    for (int64_t t = 0; t < n; t++) {
      float* row = x.row(t);
      const float* minus = u ? u->row(t) : row;
      const vf b = splat(beta[t]), decayed = splat(u ? gamma[t] : 0.0f);
      vectors(s.dv, [=](int64_t c) ESFT_LAMBDA { store(row + c, b * (load(row + c) - decayed * load(minus + c))); });
    }
    solve(x, n, s.dv);
  }
  // S ← Γ_n S + k̂ᵀ (e^{γ_n − γ} Δ); `scaled` [n, dv] is overwritten. first: S = 0 before.
  void advance(const DeltaShape& s, const ChunkKeys& keys, Block state, Block delta, Block scaled, int64_t n, bool first) const {
    for (int64_t t = 0; t < n; t++) {
      const vf e = splat(rest[t]);
      vectors(s.dv, [=](int64_t c) ESFT_LAMBDA { store(scaled.row(t) + c, e * load(delta.row(t) + c)); });
    }
    if (!first) {
      const vf e = splat(gamma[n - 1]);
      for (int64_t i = 0; i < s.dk; i++)
        vectors(s.dv, [=](int64_t c) ESFT_LAMBDA { store(state.row(i) + c, e * load(state.row(i) + c)); });
    }
    multiply<kCols>(s.dk, s.dv, n, keys.k, scaled, state, !first);
  }
};

// n padded rows to columns of one head.
ESFT_INLINE void put_rows(const Matrix& y, int64_t t0, int64_t n, int64_t col, int64_t d, Block x) {
  for (int64_t t = 0; t < n; t++) {
    float* o = y.at(t0 + t, col);
    const float* r = x.row(t);
    int64_t c = 0;
    for (; c + W <= d; c += W) store(o + c, load(r + c));
    if (c < d) store_part(o + c, load(r + c), d - c);
  }
}

}  // namespace esft::cpu::ESFT_ISA::attn
