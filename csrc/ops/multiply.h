// multiply — y = a · f(b), element by element; f: the identity (silu = 0) or SiLU (silu = 1): gates of short convolutions and of the
// output of linear attention.  a, b, y [R, C] act, ld free; y may be a or b.
// multiply_backward — da = dy · f(b),  db = dy · a · f'(b); each optional and overwritten. da may be dy or a, db may be dy or b, and
//   neither may be the other.
// Reference: multiply_ref.cc. Tests: test/ops/multiply.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_multiply(F) F(AIN, a) F(AIN, b) F(AOUT, y) F(I64, silu)
ESFT_DEFINE_ARGS(multiply)

#define ESFT_ARGS_multiply_backward(F) F(AIN, dy) F(AIN, a) F(AIN, b) F(AOUT_OPT, da) F(AOUT_OPT, db) F(I64, silu)
ESFT_DEFINE_ARGS(multiply_backward)
