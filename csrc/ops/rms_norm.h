// rms_norm — y = x · rstd · w,  rstd = 1/sqrt(mean(x²) + eps), per row;  w = weight, 1 + weight where zero_centred = 1, 1 without a weight.
//   x [R, C] act (ld free: column slices, heads as rows), weight [C] f32|bf16 optional, y [R, C] act, rstd [R] f32 optional.
//   mean(x²) is summed in f32 over fixed-width lanes in a fixed order.
// rms_norm_backward — dx (+)= rstd · (dy·w − x̂ · mean(dy·w·x̂)),  x̂ = x·rstd;  dweight (+)= Σ_rows dy · x̂
//   dy, x, dx act; dx and dweight (f32) optional, no dweight without a weight; accumulate = 1 adds into dx (residual stream). dx may be dy.
//   accumulate_weight = 1 adds to dweight, 0 overwrites it. Row order of the dweight sum is fixed.
// Reference: rms_norm_ref.cc. Tests: test/ops/rms_norm.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_rms_norm(F) F(AIN, x) F(IN_OPT, weight) F(AOUT, y) F(OUT_OPT, rstd) F(F64, eps) F(I64, zero_centred)
ESFT_DEFINE_ARGS(rms_norm)

#define ESFT_ARGS_rms_norm_backward(F) \
  F(AIN, dy) F(AIN, x) F(IN_OPT, weight) F(IN, rstd) F(AINOUT_OPT, dx) F(INOUT_OPT, dweight) F(I64, accumulate) \
  F(I64, accumulate_weight) F(I64, zero_centred)
ESFT_DEFINE_ARGS(rms_norm_backward)
