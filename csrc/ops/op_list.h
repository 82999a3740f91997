// All ops, once. X(name) in a fixed order: the index is the op's number in the Backend table.
#pragma once
#include "attention.h"
#include "attention_cached.h"
#include "causal_conv.h"
#include "combine.h"
#include "delta_rule.h"
#include "dropout.h"
#include "elementwise.h"
#include "embedding.h"
#include "expert_sort.h"
#include "gate.h"
#include "gemm.h"
#include "grouped_column_sum.h"
#include "grouped_gemm.h"
#include "heads_gemm.h"
#include "layer_norm.h"
#include "linear_cross_entropy.h"
#include "load_balance.h"
#include "multiply.h"
#include "optimizer.h"
#include "regroup.h"
#include "rms_norm.h"
#include "rope.h"
#include "sample.h"
#include "topk_route.h"
#include "transpose.h"

#define ESFT_OPS(X) \
  X(grouped_gemm_nt) X(grouped_gemm_nn) X(grouped_gemm_tn) X(combine) X(combine_backward) \
  X(topk_route) X(route_backward) X(load_balance) X(expert_sort) X(count_experts) \
  X(gemm) X(embedding) X(embedding_backward) X(rms_norm) X(rms_norm_backward) X(rope) \
  X(attention) X(attention_backward) X(attention_cached) X(swiglu) X(swiglu_backward) X(add) X(scale) X(clamp) X(clamp_backward) \
  X(fill) X(cast) X(mask_grad) X(column_sum) X(linear_cross_entropy) X(grad_norm) X(adamw) \
  X(causal_conv) X(causal_conv_backward) X(gated_delta_rule) X(gated_delta_rule_backward) X(delta_gates) X(delta_gates_backward) X(regroup) \
  X(multiply) X(multiply_backward) \
  X(sigmoid_gate) X(sigmoid_gate_backward) X(scale_rows) \
  X(layer_norm) X(layer_norm_backward) X(transpose) X(soft_cap) \
  X(grouped_column_sum) X(dropout) X(saliency) X(sample) X(heads_gemm)

enum esft_op {
#define ESFT_OP_ENUM(name) ESFT_OP_##name,
  ESFT_OPS(ESFT_OP_ENUM)
#undef ESFT_OP_ENUM
      ESFT_OP_COUNT
};
