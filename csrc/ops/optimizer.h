// grad_norm — norm f64 [1] = sqrt(Σ over all tensors of Σ g²), f64 sums over fixed chunks in list order. grads: list of f32.
//
// saliency — squares f64 [n] = Σ over the elements of item i of (w · g)², f64 products and sums over fixed chunks: how much the loss changes
//   with the values of weights, to first order and element by element. weights: list of n, f32 or bf16 each; grads: list of f32, item by
//   item of the same shape. Source: first-order Taylor importance (Molchanov et al., arXiv 1906.10771), its Frobenius form.
//
// adamw — decoupled weight decay (arXiv 1711.05101), all parameters of a group in one call.
//   clip = norm given and max_norm > 0 ? min(1, max_norm / (norm + 1e-6)) : 1   (torch's clip_grad_norm_)
//   g' = clip · g;  p −= lr · weight_decay · p;  m = β1·m + (1−β1)·g';  v = β2·v + (1−β2)·g'²
//   p −= lr · (m / (1−β1^step)) / (sqrt(v / (1−β2^step)) + eps)
//   copies (optional): bf16 tensors shaped like params; copies = bf16(p) after the update, rounded to nearest even.
//   A non-finite norm leaves p, m, v and copies untouched (the step is skipped; the caller sees the norm).
//   params, grads, m, v: lists of f32 tensors of equal shapes, item by item; step >= 1. norm f64 [1] is read on the device.
//   rates (optional) f64 [2] = lr and step, read on the device in place of those: a recorded graph follows what is written there.
// Reference: optimizer_ref.cc. Tests: test/ops/optimizer.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_grad_norm(F) F(LIST_IN, grads) F(OUT, norm)
ESFT_DEFINE_ARGS(grad_norm)

#define ESFT_ARGS_saliency(F) F(LIST_IN, weights) F(LIST_IN, grads) F(OUT, squares)
ESFT_DEFINE_ARGS(saliency)

#define ESFT_ARGS_adamw(F) \
  F(LIST_INOUT, params) F(LIST_IN, grads) F(LIST_INOUT, m) F(LIST_INOUT, v) F(LIST_INOUT_OPT, copies) F(IN_OPT, norm) F(IN_OPT, rates) \
  F(F64, max_norm) F(F64, lr) F(F64, beta1) F(F64, beta2) F(F64, eps) F(F64, weight_decay) F(I64, step)
ESFT_DEFINE_ARGS(adamw)
