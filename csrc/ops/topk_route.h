// topk_route — from router logits to the K experts of each token and their weights.
//
//   s = softmax(logits) (score 0), sigmoid(logits) (score 1), or logits themselves (score 2: softmax over the chosen K)
//   choice c = s (+ bias[e], used for choosing only)
//   n_group > 1: the E experts form n_group equal groups; a group's score is max c (group_score 0) or the sum of its two
//     best c (group_score 1); the topk_group best groups stay (ties: lower group), choices elsewhere become 0 (drop 0) or
//     -inf (drop 1)
//   ids[t] = the K largest choices, descending, ties to the lower id
//   w = s[ids] (score 2: softmax over the K logits);  renormalize: w /= (Σw + norm_eps);  w *= scale
//   logits_TE f32, bias_E f32 optional, ids_TK i32, weights_TK f32, probs_TE f32 optional (s, kept for backward)
//   K = ids.shape[1] <= E; with groups K <= topk_group · E / n_group. Non-finite logits: KernelError naming the token.
//   All arithmetic f32 (softmax with the row maximum subtracted).
//
// route_backward — dlogits[t] from the gradient of the weights.
//   dw[t,k] = dweights[pos[t,k]] (row order of expert_sort, [N]) or dweights[t,k] when pos is absent ([T, K])
//   through scale, renormalisation (quotient rule) and softmax or sigmoid; the choice itself has no gradient.
//   probs from topk_route (score 2: not needed, weights suffice), ids, weights as produced. dlogits_TE f32 overwritten.
// Source: per-family semantics in the families' configs (DeepSeek-V2/V3, OLMoE, Mixtral, Qwen-MoE, Granite, GPT-OSS).
// Reference: topk_route_ref.cc. Tests: test/ops/topk_route.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_topk_route(F) \
  F(IN, logits) F(IN_OPT, bias) F(OUT, ids) F(OUT, weights) F(OUT_OPT, probs) \
  F(I64, score) F(I64, n_group) F(I64, topk_group) F(I64, group_score) F(I64, drop) \
  F(I64, renormalize) F(F64, norm_eps) F(F64, scale)
ESFT_DEFINE_ARGS(topk_route)

#define ESFT_ARGS_route_backward(F) \
  F(IN, dweights) F(IN_OPT, pos) F(IN_OPT, probs) F(IN, ids) F(IN, weights) F(OUT, dlogits) \
  F(I64, score) F(I64, renormalize) F(F64, norm_eps) F(F64, scale)
ESFT_DEFINE_ARGS(route_backward)
