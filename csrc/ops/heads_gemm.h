// heads_gemm — a matrix product per attention head, with that head's own rows of one weight: the products that latent attention takes
// into its queries and its output when it decodes (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
//
//   x [T, heads·x_dim] act, y [T, heads·y_dim] act: the columns of head h begin at h·x_dim and h·y_dim
//   w [heads·w_dim, C], f32 or bf16: W_h = rows h·w_dim + first_row … + head_rows − 1, as they lie
//   mode 0 (nt)  y_h[T, head_rows] = x_h[T, C] · W_hᵀ
//   mode 1 (nn)  y_h[T, C] = x_h[T, head_rows] · W_h
//   A head may have more columns than the product: in x they are not read, in y left as they are.
//   precision 0 = f32 exact, 1 = operands rounded to bf16 (RNE), f32 sums. y lies apart from x and w.
// Deterministic on any thread count. Of at most 16 rows a row's bits do not depend on the others, and each weight is read once.
// Any T, C, head_rows >= 0; an empty sum is 0.
// Cost: 2·T·heads·head_rows·C flop. Reference: heads_gemm_ref.cc. Tests: test/ops/heads_gemm.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_heads_gemm(F) \
  F(AIN, x) F(WEIGHT, w) F(AINOUT, y) F(I64, heads) F(I64, first_row) F(I64, head_rows) F(I64, mode) F(I64, precision)
ESFT_DEFINE_ARGS(heads_gemm)
