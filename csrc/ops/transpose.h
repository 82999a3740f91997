// transpose — a matrix the other way round, and what fused projections stored so need: their pairs of columns taken apart.
//
//   x [R, C] f32 or bf16, y [C, R] f32 or bf16, each on its own (f32 → bf16 rounds to nearest even)
//   pairs = 0:           y[c, r] = x[r, c]
//   pairs = 1 (split):   y[c / 2 + (c % 2) · C / 2, r] = x[r, c]: even columns become the first half of the rows, odd ones the second;
//                        C even
//   pairs = 2 (join):    y[c, 2 · (r % (R / 2)) + r / (R / 2)] = x[r, c]: undoes split; R even
//   y lies apart from x. Source: GPT-OSS stores gate and up as even and odd columns of [E, D, 2F], Llama 4 as halves of it.
// Reference: transpose_ref.cc. Tests: test/ops/transpose.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_transpose(F) F(IN, x) F(OUT, y) F(I64, pairs)
ESFT_DEFINE_ARGS(transpose)
