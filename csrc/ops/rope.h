// rope — rotary position embedding of part of each head.
//
//   x, y [T, heads·hd] act; dimensions [offset, offset + R) of every head are rotated, R = 2 · cos.cols; the rest is copied
//   interleaved = 0: pairs (i, i + R/2);  interleaved = 1: pairs (2i, 2i + 1)
//   (a, b) → (a·c − b·s, a·s + b·c) with c = cos[positions[t], i], s = sin[positions[t], i];  inverse = 1 uses −s (backward)
//   cos, sin [P, R/2] f32 (scaling such as yarn is in the tables), positions_T i32 in [0, P): else KernelError
//   y may be x.
// Reference: rope_ref.cc. Tests: test/ops/rope.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_rope(F) \
  F(AIN, x) F(IN, positions) F(IN, cos) F(IN, sin) F(AOUT, y) F(I64, heads) F(I64, offset) F(I64, interleaved) F(I64, inverse)
ESFT_DEFINE_ARGS(rope)
