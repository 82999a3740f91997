// attention — causal, document-masked, grouped-head attention without an S×S matrix.
//
//   Tokens are one flat sequence of T rows; token t sees j in [max(doc_start[t], t − window + 1), t] (window 0 = no limit).
//   Batch rows and packed documents are both just documents: doc_start_T i32, doc_start[t] <= t, non-decreasing.
//   q [T, heads·dq] act, head h at column h·dq, dq = k_dim + k_shared.cols (k_shared absent: dq = k_dim)
//   k [T, *] act, kv-head g at column k_offset + g·k_stride, k_dim wide;  v [T, *] act likewise with v_offset, v_stride, v_dim
//     (k and v may be two views of one buffer, as MLA produces them)
//   k_shared [T, dr] act optional: the last dr dimensions of every key, one copy for all heads (MLA's rotary part)
//   query head h reads kv-head floor(h / (heads / kv_heads));  heads % kv_heads == 0
//   sinks [heads] f32|bf16 optional: a score per head, not scaled, that every query sees beside its keys and that has no value: it
//     stands in the sum under the probabilities alone, which then add up to less than 1, and in lse (gpt-oss; arXiv 2309.17453)
//   out [T, heads·v_dim] act = softmax(scale · q·kᵀ) · v;  lse [T, heads] f32 optional (natural log-sum-exp of the scaled scores and the sink)
//   precision 0: f32; 1: q, k, v, dout, probabilities and their gradients rounded to bf16 in the products, f32 sums and softmax.
//
// attention_backward — dq, dk, dv (laid out as q, k, v; only their own columns are written), dk_shared [T, dr]; all act, overwritten.
//   Probabilities are recomputed from lse; Δ = ⟨dout, out⟩ per row and head. Sums over query heads and blocks in a fixed order.
//   dsinks [heads] f32 optional, only with sinks: dsinks[h] += −Σ_t e^(sinks[h] − lse[t, h]) · Δ[t, h], tokens in a fixed order.
// Deterministic on any thread count.  Reference: attention_ref.cc. Tests: test/ops/attention.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_attention_layout(F) \
  F(I64, heads) F(I64, kv_heads) F(I64, k_dim) F(I64, k_offset) F(I64, k_stride) F(I64, v_dim) F(I64, v_offset) F(I64, v_stride) \
  F(I64, window) F(F64, scale) F(I64, precision)

#define ESFT_ARGS_attention(F) \
  F(AIN, q) F(AIN, k) F(AIN, v) F(AIN_OPT, k_shared) F(IN_OPT, sinks) F(IN, doc_start) F(AOUT, out) F(OUT_OPT, lse) ESFT_ARGS_attention_layout(F)
ESFT_DEFINE_ARGS(attention)

#define ESFT_ARGS_attention_backward(F) \
  F(AIN, dout) F(AIN, q) F(AIN, k) F(AIN, v) F(AIN_OPT, k_shared) F(IN_OPT, sinks) F(IN, doc_start) F(AIN, out) \
  F(IN, lse) F(AOUT, dq) F(AINOUT, dk) F(AINOUT, dv) F(AOUT_OPT, dk_shared) F(INOUT_OPT, dsinks) ESFT_ARGS_attention_layout(F)
ESFT_DEFINE_ARGS(attention_backward)
