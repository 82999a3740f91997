// grouped_column_sum — the gradient of the biases of experts: one sum over rows per expert that trains.
//
// y[g·S+s] (+)= Σ scale[r] · x[rows[r]][columns of segment s] over the rows r of expert groups[g], ascending, in f32
//   x [*, C] act;  rows i32 [N] optional gather index;  scale f32 [N] optional (absent: 1);  offsets i32 [E+1], rows and their limits as
//   in grouped_gemm.h (N: of rows, of scale, else of x); index values outside their range are refused when the op runs
//   y: list of G·S f32 vectors [C_s], contiguous, ΣC_s = C, every expert's alike.  accumulate = 1 adds, 0 overwrites, with zeros where an
//   expert has no rows. Experts not listed are not read.
// Deterministic: no element is summed by two threads on the CPU; on CUDA eight parts in a fixed order.
// Cost: bytes of the rows of the listed experts. Reference: grouped_column_sum_ref.cc. Tests: test/ops/grouped_column_sum.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_grouped_column_sum(F) \
  F(AIN, x) F(IN_OPT, rows) F(IN_OPT, scale) F(IN, offsets) F(LIST_INOUT, y) F(INTS, groups) F(I64, segments) F(I64, accumulate)
ESFT_DEFINE_ARGS(grouped_column_sum)
