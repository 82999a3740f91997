// topk_route — from router logits to the K experts of each token and their weights.
//
//   s = softmax(logits) (score 0), sigmoid(logits) (score 1), or logits themselves (score 2: softmax over the chosen K;
//     score 3: SparseMixer)
//   choice c = s (+ bias[e], used for choosing only); of score 1 without bias and groups the logits, which σ rounds to the same s
//     long before they are
//   n_group > 1: the E experts form n_group equal groups; a group's score is max c (group_score 0) or the sum of its two
//     best c (group_score 1); the topk_group best groups stay (ties: lower group), choices elsewhere become 0 (drop 0) or
//     -inf (drop 1)
//   ids[t] = the K largest choices, descending, ties to the lower id
//   w = s[ids] (score 2: softmax over the K logits);  renormalize: w /= (Σw + norm_eps);  w *= scale · expert_scale[ids]
//   score 3, for evaluation: w[k] = softmax at m = logits[ids[k]] over the experts that were not chosen before it and are near it,
//     (m − z) / max(|z|, m) <= 2 · jitter in f32. No bias and no groups; K <= 32
//   logits_TE f32, bias_E f32 optional, expert_scale_E f32|bf16 optional (1), ids_TK i32, weights_TK f32, probs_TE f32 optional
//   (s, kept for backward)
//   K = ids.shape[1] <= E; with groups K <= topk_group · E / n_group. Non-finite logits: KernelError naming the token.
//   All arithmetic f32 (softmax with the row maximum subtracted).
//
// route_backward — dlogits[t] from the gradient of the weights.
//   dw[t,k] = dweights[pos[t,k]] (row order of expert_sort, [N]) or dweights[t,k] when pos is absent ([T, K])
//   through scale, renormalisation (quotient rule) and softmax or sigmoid; the choice itself has no gradient, nor has nearness.
//   probs from topk_route (score 2: not needed, weights suffice), ids, weights as produced. dlogits_TE f32 overwritten.
//   expert_scale as topk_route had it, not with score 2; its gradient dexpert_scale_E f32 optional, accumulate = 1 +=, 0 overwritten,
//   a sum in a fixed order.
//   dense = 1: the straight-through gradient of DenseMixer. dweights [T, E] is that of the weights of all experts, chosen or not (pos
//     absent), of the surrogate out = sg(sparse) + dense - sg(dense), sg a constant, m the chosen:
//       w = scale · expert_scale · s                                                    without renormalisation
//       w = scale · expert_scale · (s · (1 - m) / sg(S) + s · m / S), S = Σ_chosen s + norm_eps   with it, so that
//       ds_e = f_e · dw_e / S (not chosen), f_e · (dw_e - Σ_chosen f dw s / (f_e S)) / S (chosen), f = scale · expert_scale
//     then softmax or sigmoid over all experts. Groups and a selection bias only choose. Score 2 is the softmax over all experts,
//     renormalised (norm_eps only divides it once more): probs, which are its logits, are needed. Score 3: none, since its weights
//     are each a softmax over what is near a chosen expert, and one that was not chosen has none. dexpert_scale: Σ over all experts.
// Source: per-family semantics in the families' configs (DeepSeek-V2/V3, OLMoE, Mixtral, Qwen-MoE, Granite, GPT-OSS, Phi-3.5-MoE,
// Gemma 4); SparseMixer: arXiv 2409.12136; dense: DenseMixer (NeurIPS workshop 2025).
// Reference: topk_route_ref.cc. Tests: test/ops/topk_route.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_topk_route(F) \
  F(IN, logits) F(IN_OPT, bias) F(IN_OPT, expert_scale) F(OUT, ids) F(OUT, weights) F(OUT_OPT, probs) \
  F(I64, score) F(I64, n_group) F(I64, topk_group) F(I64, group_score) F(I64, drop) \
  F(I64, renormalize) F(F64, norm_eps) F(F64, scale) F(F64, jitter)
ESFT_DEFINE_ARGS(topk_route)

#define ESFT_ARGS_route_backward(F) \
  F(IN, dweights) F(IN_OPT, pos) F(IN_OPT, probs) F(IN, ids) F(IN, weights) F(IN_OPT, expert_scale) F(OUT, dlogits) \
  F(INOUT_OPT, dexpert_scale) F(I64, score) F(I64, renormalize) F(F64, norm_eps) F(F64, scale) F(F64, jitter) F(I64, accumulate) \
  F(I64, dense)
ESFT_DEFINE_ARGS(route_backward)
