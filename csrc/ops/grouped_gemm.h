// grouped_gemm_nt / _nn / _tn — one matrix product per expert, in the three roles of a Mixture-of-Experts layer.
//
// Legend: N routed rows sorted by expert (N = T·K for routed experts, N = T for a dense MLP seen as one expert), E experts,
// S weight segments stacked along the weight's first dimension (gate and up stored apart: S = 2; fused or single: S = 1).
//
// Common rules
//   offsets_E1  i32  offsets[0] == 0, ascending, offsets[E] <= N; rows of expert e are offsets[e] .. offsets[e+1]-1. Rows from
//               offsets[E] on are nobody's (room that was not needed): of inputs, indices included, their values do not matter, and of
//               outputs they are left as they are
//   w           list of E·S weights (esft_weight_list: plain ones alone are served), item e·S+s, row-major [M_s, K], f32 or bf16 each on its own (a trained expert may be an
//               f32 master among frozen bf16 neighbours straight from the mapped checkpoint). All e agree in every M_s and K.
//   rows        i32  optional gather index: logical row r reads x[rows[r]]; absent = x is already in expert order
//   Activations ("act" of core/op_args.h): x, h, y; dy, h, dx; dy, x.  gate, dgate, dy_scale and dw are f32 in any case
//   bias        list of E·S vectors [M_s], item e·S+s, f32 or bf16 each on its own, contiguous; no item = no bias
//   act         see activation.h; alpha and limit go with it
//   precision   0 = f32: exact, f32 products and sums;  1 = bf16: both operands rounded to bf16 (RNE), f32 sums
//   Index values outside their range are refused when the op runs (KernelError): core/op_args.h.
//   Deterministic: k order is fixed, no element is summed by two threads. An expert without rows is legal everywhere.
//   Any M, K, N >= 0 (no multiple needed). Inputs alias no output, except where said.
//   groups (nt, nn)  ids of the experts to compute (ascending, unique); empty = all. Rows of the others are not written, and of
//                    what they hold the gather indices alone are read (and refused out of range)
//   factor (nt, nn)  of product and term, before bias and residual; 1 with an activation
//   accumulate (nt, nn) with act 0: 1 adds to the rows that are computed (then no residual), 0 overwrites them
//
// Low-rank terms (nt, nn): one more stretch of the same sum, so that what follows the product (activation, its backward, dgate, bias,
// residual) sees product and term as one. Experts that are not listed have none.
//   u [N, P·R]       act, in expert order: what the terms multiply, any factor already in it
//   term_groups      ids of the experts with a term (ascending, unique), G of them
//   terms            G·P matrices, item g·P + p, f32 or bf16 each on its own. Part p reads the columns p·R … of u, as many as its own
//                    rank, which may differ from item to item, 0 among them (R is the largest)
//     nt   [M_p, rank]: the parts lie one above the other like the segments of W, ΣM_p = ΣM_s, every expert alike. One part beside two
//          segments is a term that gate and up share, two parts are gate's own and up's own; with an activation P <= 2, of equal heights
//     nn   [rank, K]: the parts' products are added
//   Zeros of a term meet all columns of u that the op names (another part's, those past a rank): numbers there have to be finite.
//   On Hopper a term is a segment of the contraction, in steps of 64 that all tiles take, those of experts without one as zeros times the
//   first term, which has to be finite then. The kernels of any GPU serve u and terms whose rows do not start on 16 bytes (ranks that are
//   no multiple of 8), an item of rank 0, parts beside a fused weight or of unequal heights, and more than four segments with the parts.
//
// grouped_gemm_nt    y[r] = x[r] · W_eᵀ (+ bias_e)  (+ activation)
//   x [*, K] act;  act = 0: y [N, ΣM_s];  h must be absent;  residual [N, ΣM_s] act optional: y[r] = residual[r] + (x[r] · W_eᵀ + bias_e),
//   with the bits of an add of its own (gemm.h)
//   act > 0: W = gate over up, ΣM_s = 2F, S <= 2;  h = x·Wᵀ + bias [N, 2F] (gate | up; optional, kept for backward),
//            y = f(h_gate, h_up) [N, F], from h before or after it is rounded to bf16 (either is right)
//
// grouped_gemm_nn    dx[r] = dy[r] · W_e  (+ backward of the activation)
//   dy [*, ΣM_s] act (gathered by rows if given)
//   act = 0: dx [N, K];  h, gate, dgate, bias absent
//   act > 0: g = dy·W [N, F] is the gradient of the *unscaled* activation a = f(h_gate, h_up) (recomputed from the h [N, 2F] stored);
//            dgate[r] = ⟨g, a⟩ + ⟨dy[r], bias_e⟩ (optional, f32 [N]), the gradient of the weight of a·Wᵀ + bias;  bias is absent without
//            dgate, and not rounded;  da = gate[r]·g (gate f32 [N], absent = 1);
//            dx = dh [N, 2F] = (da · ∂f/∂gate | da · ∂f/∂up).  dx may be the same memory as h. A term is part of g.
//
// grouped_gemm_tn    dW[g·S+s] (+)= (dy_scale · dy[rows of e])[:, segment s]ᵀ · x[rows of e],   e = groups[g]
//   dy [*, ΣM_s] act (gather dy_rows), dy_scale f32 [N] optional, x [*, K] act (gather x_rows);
//   x_act > 0: x is h [N, 2K] and f(gate, up) is computed on load. It and dy_scale · dy are rounded as precision says.
//   dw: list of G·S f32 matrices [M_s, K]. accumulate = 1 adds; 0 overwrites whatever is there, with zeros where an expert has no
//   rows. Experts not listed are frozen: no read, no write, no memory.
//
// The gradient of a bias: grouped_column_sum.h.
// Cost: 2·M·K flop per row. Source: arXiv 2407.01906 eq. 4-5; backward by hand, checked by finite differences.
// Reference: grouped_gemm_ref.cc. Tests: test/ops/grouped_gemm.test.ts.
#pragma once
#include "../core/op_args.h"
#include "activation.h"

#define ESFT_ARGS_grouped_gemm_nt(F) \
  F(AIN, x) F(IN_OPT, rows) F(WEIGHTS, w) F(LIST_IN_OPT, bias) F(IN, offsets) F(AIN_OPT, u) F(LIST_IN_OPT, terms) \
  F(INTS, term_groups) F(AIN_OPT, residual) F(AOUT_OPT, h) F(AINOUT, y) F(INTS, groups) F(F64, factor) F(I64, segments) \
  F(I64, act) F(F64, alpha) F(F64, limit) F(I64, accumulate) F(I64, precision)
ESFT_DEFINE_ARGS(grouped_gemm_nt)

#define ESFT_ARGS_grouped_gemm_nn(F) \
  F(AIN, dy) F(IN_OPT, rows) F(WEIGHTS, w) F(LIST_IN_OPT, bias) F(IN, offsets) F(AIN_OPT, u) F(LIST_IN_OPT, terms) \
  F(INTS, term_groups) F(AIN_OPT, h) F(IN_OPT, gate) F(AINOUT, dx) F(OUT_OPT, dgate) F(INTS, groups) F(F64, factor) \
  F(I64, segments) F(I64, act) F(F64, alpha) F(F64, limit) F(I64, accumulate) F(I64, precision)
ESFT_DEFINE_ARGS(grouped_gemm_nn)

#define ESFT_ARGS_grouped_gemm_tn(F) \
  F(AIN, dy) F(IN_OPT, dy_rows) F(IN_OPT, dy_scale) F(AIN, x) F(IN_OPT, x_rows) F(IN, offsets) F(LIST_INOUT, dw) \
  F(INTS, groups) F(I64, segments) F(I64, x_act) F(F64, alpha) F(F64, limit) F(I64, accumulate) F(I64, precision)
ESFT_DEFINE_ARGS(grouped_gemm_tn)
