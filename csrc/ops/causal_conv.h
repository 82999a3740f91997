// causal_conv — depthwise causal convolution over a flat sequence of documents, few taps: what stands before the heads of linear
// attention (Gated DeltaNet, arXiv 2412.06464) and in the short-convolution layers of LFM2.
//
//   y[t, c] = f( bias[c] + Σ_{j<w} weight[c, j] · x[t − w + 1 + j, c] )       f: the identity (silu = 0) or SiLU (silu = 1)
//   Rows before doc_start[t] count as 0: a document never sees another. doc_start_T i32, doc_start[t] <= t, non-decreasing.
//   x, y [T, C] act (ld free), weight [C, w] f32|bf16 (any rank, rows contiguous), 1 <= w <= 8, bias [C] f32|bf16 optional.
//   f32 sums, j ascending, the bias first. y lies apart from x.
//   states  one f32 matrix [w − 1, C] per document, contiguous, or no item: what stands before the document's rows, oldest first, in place
//           of zeros; then the last w − 1 rows of both. So a sequence goes on where an earlier call left it.
//
// causal_conv_backward — dh = dy · f'(h), h recomputed;  dx[s, c] = Σ_j weight[c, j] · dh[s + w − 1 − j, c] over rows of its document;
//   dweight[c, j] += Σ_t dh[t, c] · x[t − w + 1 + j, c];  dbias[c] += Σ_t dh[t, c].  dy, x, dx act; dx, dweight and dbias (f32) optional.
//   The order of the sums over rows is fixed.
// Reference: causal_conv_ref.cc. Tests: test/ops/causal_conv.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_CAUSAL_CONV_TAPS 8  // most taps of a channel

#define ESFT_ARGS_causal_conv(F) \
  F(AIN, x) F(IN, weight) F(IN_OPT, bias) F(IN, doc_start) F(LIST_INOUT_OPT, states) F(AOUT, y) F(I64, silu)
ESFT_DEFINE_ARGS(causal_conv)

#define ESFT_ARGS_causal_conv_backward(F) \
  F(AIN, dy) F(AIN, x) F(IN, weight) F(IN_OPT, bias) F(IN, doc_start) F(AOUT_OPT, dx) F(INOUT_OPT, dweight) F(INOUT_OPT, dbias) \
  F(I64, silu)
ESFT_DEFINE_ARGS(causal_conv_backward)
