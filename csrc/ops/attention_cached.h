// attention_cached — attention of new tokens over all that their sequences have kept: decoding, and prompts in pieces.
//
//   The T rows are documents one after another (doc_start as in attention.h): document i holds the newest tokens of sequence i, whose
//   keys and values so far lie in item i of the caches. There are as many documents as items.
//   positions_T i32: of each token in its sequence, >= 0, rising by one within a document
//   q [T, heads·dq] act, k [T, *] act, v [T, *] act, k_shared [T, dr] act optional: as in attention.h
//   k_cache    one matrix [C_i, kv_heads·k_dim + dr] per sequence: keys of all kv-heads side by side, then the shared part
//   v_cache    one matrix [C_i, kv_heads·v_dim] per sequence; no item, with v absent and kv_heads 1: values are the first v_dim <= k_dim
//              columns of the keys (latent attention whose up-projections are taken into q and out: arXiv 2405.04434)
//   All items of both are f32 or all are bf16, contiguous, and apart from everything else.
//   Position p lies in row p mod C_i: a sliding window needs a ring of as many rows as are seen at once.
//
//   First the new rows are stored, rounded to the caches' dtype (and to bf16 with precision 1). Then token t of position p attends to
//   positions first(p) … p, first(p) = max(0, p − window + 1 unless window is 0, p − p mod chunk unless chunk is 0), as stored.
//   A document's rows and all that its first one sees have to fit: last position − first(its first position) < C_i.
//   What was never stored is seen as it is: the caller's business.
//
//   out [T, heads·v_dim] act, optional: absent, rows are stored and nothing else happens. out = softmax(scale · q·kᵀ) · v; sinks as in attention.h. precision as in attention.h.
//   A row's bits depend on its own sequence alone, not on what stands beside it: keys are summed in stretches of 512 positions that begin
//   at multiples of 512.
// Index values (doc_start, positions) are checked when the op runs: nothing is stored before.
// Cost: reads (kv_heads·(k_dim + v_dim) + dr) numbers of cache per key seen. Deterministic on any thread count.
// Reference: attention_cached_ref.cc. Tests: test/ops/attention_cached.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_attention_cached(F) \
  F(AIN, q) F(AIN, k) F(AIN_OPT, v) F(AIN_OPT, k_shared) F(IN_OPT, sinks) F(IN, doc_start) F(IN, positions) \
  F(LIST_INOUT, k_cache) F(LIST_INOUT_OPT, v_cache) F(AOUT_OPT, out) F(I64, heads) F(I64, kv_heads) F(I64, k_dim) F(I64, k_offset) \
  F(I64, k_stride) F(I64, v_dim) F(I64, v_offset) F(I64, v_stride) F(I64, window) F(I64, chunk) F(F64, scale) F(I64, precision)
ESFT_DEFINE_ARGS(attention_cached)

// The first position that a token of position p sees.
static constexpr int64_t first_cached(int64_t p, int64_t window, int64_t chunk) {
  int64_t first = window > 0 && p >= window ? p - window + 1 : 0;
  if (chunk > 0 && p - p % chunk > first) first = p - p % chunk;
  return first;
}
