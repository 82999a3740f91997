// expert_sort — stable counting sort of the T·K assignments by expert.
//
//   ids_TK i32 → offsets_E1 i32 (exclusive prefix sums, offsets[E] = N = T·K)
//                tokens_N  i32 (row → token: the gather index of grouped_gemm)
//                pos_TK    i32 (slot (t,k) → row)
//   weights_TK f32 → gate_N f32 (row order), both or neither
//   Within an expert rows keep the order of (t, k). id outside [0, E): KernelError naming the token.
//
// count_experts — affinity accumulators of a profile.
//   counts_E i64 += number of slots routed to e;  gate_sums_E f64 += Σ weights; tokens with mask[t] == 0 are left out
//   (mask_T i32 optional). Sums run over fixed chunks of tokens, ascending, added in order: the same bits on any thread count.
// Source: arXiv 2407.01906 eq. 6-7. Reference: expert_sort_ref.cc. Tests: test/ops/expert_sort.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_expert_sort(F) F(IN, ids) F(IN_OPT, weights) F(OUT, offsets) F(OUT, tokens) F(OUT, pos) F(OUT_OPT, gate)
ESFT_DEFINE_ARGS(expert_sort)

#define ESFT_ARGS_count_experts(F) F(IN, ids) F(IN, weights) F(IN_OPT, mask) F(INOUT, counts) F(INOUT, gate_sums)
ESFT_DEFINE_ARGS(count_experts)
