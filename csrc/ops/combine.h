// combine — weighted gather-sum: brings the K expert rows of a token together again.
//
//   y[t] (+)= Σ_k weights[t,k] · x[pos[t,k]]          k in ascending order; accumulate = 1 begins with the old y
//   residual_TD act (optional) is added last, with the bits of an add of its own: the sum is rounded to y's dtype before
//   x_ND act, pos_TK i32 (row of x for slot k of token t, from expert_sort), weights_TK f32 (absent = 1), y_TD act
//   With weights absent it is the backward of the gather in grouped_gemm: dx[t] = Σ_k dx_N[pos[t,k]].
//
// combine_backward — dx[pos[t,k]] = weights[t,k] · dy[t] (optional), dweights[t,k] = ⟨dy[t], x[pos[t,k]]⟩ (optional, f32).
//   dy, x, dx act.
//   The training path fuses both into grouped_gemm; this op is the plain form. pos must be a permutation of 0..N-1 for dx.
// pos out of [0, N): KernelError. Reference: combine_ref.cc. Tests: test/ops/combine.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_combine(F) F(AIN, x) F(IN, pos) F(IN_OPT, weights) F(AIN_OPT, residual) F(AINOUT, y) F(I64, accumulate)
ESFT_DEFINE_ARGS(combine)

#define ESFT_ARGS_combine_backward(F) \
  F(AIN, dy) F(AIN, x) F(IN, pos) F(IN, weights) F(AOUT_OPT, dx) F(OUT_OPT, dweights)
ESFT_DEFINE_ARGS(combine_backward)
