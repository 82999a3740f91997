// Element-wise ops. All act [R, C] with free ld unless said; outputs may be an input of the same shape.
//
// swiglu           a[R,F] = f(h[:, :F], h[:, F:]), act 1..3 of activation.h: SwiGLU and its kin    h [R, 2F]
// swiglu_backward  dh[R,2F] from da[R,F] and h                  dh may be h
// add              y = a + alpha · b
// scale            x *= factor · by         by f32|bf16 [1] optional (1), read when the op runs
// soft_cap         y = cap · tanh(x / cap)   cap > 0
// clamp            y = min(max(x, lo), hi)                      NaN stays NaN
// clamp_backward   dx = dy where lo <= x <= hi, else 0
// fill             x = value                                    any dtype
// cast             y = x converted; f32 → bf16 rounds to nearest even; same dtype = copy. f32, bf16 → f32, bf16; others copy only
// mask_grad        grad [E, ...] f32: slices e not in `keep` become 0 (the dense form of freezing: layouts that cannot be split,
//                  and the oracle of the compact form)
// column_sum       y[C] f32 (+)= Σ_rows x[:, c], rows ascending, f32 sums (gradient of a bias); accumulate = 1 adds, 0 overwrites
// Reference: elementwise_ref.cc. Tests: test/ops/elementwise.test.ts.
#pragma once
#include "../core/op_args.h"
#include "activation.h"

#define ESFT_ARGS_swiglu(F) F(AIN, h) F(AOUT, a) F(I64, act) F(F64, alpha) F(F64, limit)
ESFT_DEFINE_ARGS(swiglu)
#define ESFT_ARGS_swiglu_backward(F) F(AIN, h) F(AIN, da) F(AOUT, dh) F(I64, act) F(F64, alpha) F(F64, limit)
ESFT_DEFINE_ARGS(swiglu_backward)
#define ESFT_ARGS_add(F) F(AIN, a) F(AIN, b) F(AOUT, y) F(F64, alpha)
ESFT_DEFINE_ARGS(add)
#define ESFT_ARGS_scale(F) F(AINOUT, x) F(IN_OPT, by) F(F64, factor)
ESFT_DEFINE_ARGS(scale)
#define ESFT_ARGS_soft_cap(F) F(AIN, x) F(AOUT, y) F(F64, cap)
ESFT_DEFINE_ARGS(soft_cap)
#define ESFT_ARGS_clamp(F) F(AIN, x) F(AOUT, y) F(F64, lo) F(F64, hi)
ESFT_DEFINE_ARGS(clamp)
#define ESFT_ARGS_clamp_backward(F) F(AIN, x) F(AIN, dy) F(AOUT, dx) F(F64, lo) F(F64, hi)
ESFT_DEFINE_ARGS(clamp_backward)
#define ESFT_ARGS_fill(F) F(OUT, x) F(F64, value)
ESFT_DEFINE_ARGS(fill)
#define ESFT_ARGS_cast(F) F(IN, x) F(OUT, y)
ESFT_DEFINE_ARGS(cast)
#define ESFT_ARGS_mask_grad(F) F(INOUT, grad) F(INTS, keep)
ESFT_DEFINE_ARGS(mask_grad)
#define ESFT_ARGS_column_sum(F) F(AIN, x) F(INOUT, y) F(I64, accumulate)
ESFT_DEFINE_ARGS(column_sum)
