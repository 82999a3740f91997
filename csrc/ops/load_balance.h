// load_balance — gradient of the load-balancing loss of one layer's softmax router, for training that includes the router.
//
//   loss_b = E · Σ_e f_e · P_e,   f_e = (offsets[e+1] − offsets[e]) / N (share of routed slots, no gradient),
//                                 P_e = mean over tokens of probs[t, e];   1 when perfectly balanced
//   dlogits[t, e] += coefficient · T · ∂loss_b/∂logits[t, e] = coefficient · probs[t,e] · (E·f_e − Σ_j probs[t,j]·E·f_j)
//   (the caller's coefficient holds the weight of the loss and 1/T or its share of a larger batch)
//   scale (optional) f64 [1]: read on the device in place of coefficient, so that a recorded graph follows what is written there
//   loss f64 [1] optional += loss_b
//   probs_TE f32 as topk_route keeps them, offsets_E1 i32 from expert_sort, dlogits_TE f32 accumulated
// Deterministic on any thread count. Source: Switch Transformer, arXiv 2101.03961 eq. 4-6, with f over all K slots.
// Reference: load_balance_ref.cc. Tests: test/ops/load_balance.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_load_balance(F) F(IN, probs) F(IN, offsets) F(INOUT, dlogits) F(INOUT_OPT, loss) F(IN_OPT, scale) F(F64, coefficient)
ESFT_DEFINE_ARGS(load_balance)
