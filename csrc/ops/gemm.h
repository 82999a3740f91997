// gemm — dense matrix product.
//
//   mode 0 (nt)  c[M,N] = a[M,K] · b[N,K]ᵀ (+ bias[N]) (+ residual[M,N])     the Linear layer y = x·Wᵀ
//   mode 1 (nn)  c[M,N] = a[M,K] · b[K,N]                   its input gradient dx = dy·W
//   mode 2 (tn)  c[M,N] = a[K,M]ᵀ · b[K,N]                  its weight gradient dW = dyᵀ·x
//   accumulate = 1: c += (weight gradients, residual stream); mode 0 can add a residual of c's dtype that lies apart from c instead
//
//   b is a weight (esft_weight: plain alone is served).
//   a, b, bias (optional, mode 0 only) and c are f32 or bf16, each on its own: weights are read in place, never packed into a
//   stored copy; router logits are an f32 c of bf16 a, dlogits an f32 a, a weight gradient the f32 c of two bf16 operands.
//   A bf16 c is the f32 result rounded once: what is added (bias, the old c) is widened first. A residual gives the bits of an add of
//   its own, which the models do: the product (+ bias) is rounded to c's dtype, then its sum with the residual.
//   Row strides (ld) are free. c aliases neither a nor b.
//   precision 0 = f32 exact, 1 = operands rounded to bf16 (RNE), f32 sums.
// Deterministic for any thread count. Any M, N, K >= 0; K = 0 gives zeros (or leaves c when accumulating).
// Reference: gemm_ref.cc. Tests: test/ops/gemm.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_gemm(F) \
  F(IN, a) F(WEIGHT, b) F(IN_OPT, bias) F(IN_OPT, residual) F(INOUT, c) F(I64, mode) F(I64, accumulate) F(I64, precision)
ESFT_DEFINE_ARGS(gemm)
