// layer_norm — y = (x − mean) · rstd · weight + bias,  rstd = 1/sqrt(mean((x − mean)²) + eps), per row.
//   x [R, C] act (ld free), weight and bias [C] f32|bf16, y [R, C] act (may be x), mean and rstd [R] f32 optional.
//   Both statistics in f32 over fixed-width lanes in a fixed order, the mean first.
// layer_norm_backward — with x̂ = (x − mean) · rstd and g = dy · weight:
//   dx (+)= rstd · (g − mean(g) − x̂ · mean(g·x̂));  dweight (+)= Σ_rows dy · x̂;  dbias (+)= Σ_rows dy
//   dy, x, dx act; dx, dweight and dbias (f32) optional; accumulate = 1 adds into dx (residual stream). dx may be dy.
//   accumulate_weight = 1 adds to dweight and dbias, 0 overwrites them. Row order of their sums is fixed.
// Source: arXiv 1607.06450; torch.nn.LayerNorm. Reference: layer_norm_ref.cc. Tests: test/ops/layer_norm.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_layer_norm(F) F(AIN, x) F(IN, weight) F(IN, bias) F(AOUT, y) F(OUT_OPT, mean) F(OUT_OPT, rstd) F(F64, eps)
ESFT_DEFINE_ARGS(layer_norm)

#define ESFT_ARGS_layer_norm_backward(F) \
  F(AIN, dy) F(AIN, x) F(IN, weight) F(IN, mean) F(IN, rstd) F(AINOUT_OPT, dx) F(INOUT_OPT, dweight) F(INOUT_OPT, dbias) \
  F(I64, accumulate) F(I64, accumulate_weight)
ESFT_DEFINE_ARGS(layer_norm_backward)
