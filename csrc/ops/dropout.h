// dropout — y[r, c] = x[r, c] / (1 − p) where kept, else 0; which elements are kept is a function of numbers, not of a state.
//
//   x, y [R, C] act (y may be x);  p in [0, 1), the share that is dropped
//   kept(r, c)  ⇔  mix32(mix64(key + r)[32..63] + c · 0x9e3779b9) >= ⌊p · 2³²⌋,   key = mix64(mix64(seed) + counter), all modulo 2⁶⁴ or 2³²
//   seed        in [0, 2⁵²), tells tensors apart
//   counter     f64 [1], a whole number >= 0 below 2⁵³ that is read on the device: tells passes apart, so that a recorded graph follows it;
//               of another number nothing is said but that elements are kept or 0
//   mix64 is the finalizer of SplitMix64 (Steele et al. 2014), mix32 "lowbias32" (Wellons 2018). The backward is the same op on dy.
// The same bits on every device, instruction set and number of threads. Source: arXiv 1207.0580; counters as random numbers: Salmon et
// al. 2011. Reference: dropout_ref.cc. Tests: test/ops/dropout.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_dropout(F) F(AIN, x) F(IN, counter) F(AOUT, y) F(I64, seed) F(F64, p)
ESFT_DEFINE_ARGS(dropout)
