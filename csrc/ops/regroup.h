// regroup — columns that lie by group, laid out by part: what a projection with rows grouped by head makes, as matrices of their own.
//
//   x [T, G·Σw] act: for each of `groups` = G groups its parts of widths w_0, w_1, … side by side
//   y [T, G·Σw] act: part after part, each with its groups side by side
//     y[t, G·(w_0 + … + w_{p−1}) + g·w_p + i] = x[t, g·Σw + (w_0 + … + w_{p−1}) + i]
//   inverse = 1: x by part, y by group (the backward). 1 to 8 widths, each >= 1. y lies apart from x. A copy: bits are kept.
// Reference: regroup_ref.cc. Tests: test/ops/regroup.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_REGROUP_PARTS 8

#define ESFT_ARGS_regroup(F) F(AIN, x) F(AOUT, y) F(INTS, widths) F(I64, groups) F(I64, inverse)
ESFT_DEFINE_ARGS(regroup)
