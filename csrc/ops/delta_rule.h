// gated_delta_rule — linear attention with a state that forgets and corrects itself (Gated DeltaNet, arXiv 2412.06464), over documents.
//
//   q, k [T, key_heads·dk] act, v [T, heads·dv] act (ld free: column slices), beta, g [T, heads] f32, doc_start_T i32 (<= t, non-decreasing)
//   key head ⌊i / (heads / key_heads)⌋ serves value head i;  key_heads divides heads
//   q̂ = q / √(Σ q² + eps) · dk^−½,  k̂ = k / √(Σ k² + eps)      per head: norms without weight, taken here and nowhere kept
//   per value head, the state S [dk, dv] = 0 before a token that opens a document (doc_start[t] = t):
//     S' = e^{g_t} S;   δ = beta_t (v_t − S'ᵀ k̂_t);   S = S' + k̂_t δᵀ;   o_t = Sᵀ q̂_t            o [T, heads·dv] act
//   g <= 0 is meant (a decay); a larger one is not refused. f32 products and sums whatever the precision of the model.
//   states  one f32 matrix [heads·dk, dv] per document, contiguous, or no item: S of every value head before the document, in place of
//           zeros; then S behind it. So a sequence goes on where an earlier call left it.
//   Kernels compute chunks of 64 tokens of a document by products of matrices (the UT transform of arXiv 2406.06484): equal in exact
//   arithmetic. They differ from token by token by rounding; the order of every sum is fixed. Scratch of the backward is the states of
//   all chunks: dk / 64 (CUDA: dk / 32) times v in f32, on the CPU of one document and key head per thread.
//
// gated_delta_rule_backward — dq, dk, dv (act), dbeta, dg (f32) from dout, all overwritten. Nothing is kept by the forward: the states
//   at the chunks' starts are computed again. With dS the gradient that flows back, from a document's last token down:
//     dS += q̂ doutᵀ;  dq̂ = S dout;  dδ = dSᵀ k̂;  dk̂ = dS δ;  dv = β dδ;  dβ = ⟨dδ, v − S'ᵀk̂⟩
//     dk̂ −= β S' dδ;  dS' = dS − β k̂ dδᵀ;  dg = ⟨dS', S'⟩;  dS ← e^{g} dS'
//
// delta_gates — beta = σ(b),  g = −exp(a_log) · softplus(a + dt_bias)         b, a [T, heads] act, a_log, dt_bias [heads] f32|bf16;
//   beta, g [T, heads] f32.  softplus(x) = ln(1 + e^x), not cut off.
// delta_gates_backward — db, da [T, heads] act (overwritten) from dbeta, dg;  da_log[h] += Σ_t dg · g,  ddt_bias[h] += Σ_t da: f32,
//   optional, rows in a fixed order.
// Reference: delta_rule_ref.cc. Tests: test/ops/delta_rule.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_gated_delta_rule(F) \
  F(AIN, q) F(AIN, k) F(AIN, v) F(IN, beta) F(IN, g) F(IN, doc_start) F(LIST_INOUT_OPT, states) F(AOUT, o) \
  F(I64, key_heads) F(I64, heads) F(F64, eps)
ESFT_DEFINE_ARGS(gated_delta_rule)

#define ESFT_ARGS_gated_delta_rule_backward(F) \
  F(AIN, dout) F(AIN, q) F(AIN, k) F(AIN, v) F(IN, beta) F(IN, g) F(IN, doc_start) F(AOUT, dq) F(AOUT, dk) F(AOUT, dv) \
  F(OUT, dbeta) F(OUT, dg) F(I64, key_heads) F(I64, heads) F(F64, eps)
ESFT_DEFINE_ARGS(gated_delta_rule_backward)

#define ESFT_ARGS_delta_gates(F) F(AIN, b) F(AIN, a) F(IN, a_log) F(IN, dt_bias) F(OUT, beta) F(OUT, g)
ESFT_DEFINE_ARGS(delta_gates)

#define ESFT_ARGS_delta_gates_backward(F) \
  F(IN, dbeta) F(IN, dg) F(AIN, b) F(AIN, a) F(IN, a_log) F(IN, dt_bias) F(AOUT, db) F(AOUT, da) F(INOUT_OPT, da_log) \
  F(INOUT_OPT, ddt_bias)
ESFT_DEFINE_ARGS(delta_gates_backward)
