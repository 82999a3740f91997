// linear_cross_entropy — head and loss in one pass; the logits are never stored whole.
//
//   z[t] = cap(logit_scale · (x[t] · Wᵀ + u[t] · Bᵀ + bias)) for rows with labels[t] >= 0 only, cap(y) = soft_cap · tanh(y / soft_cap),
//   or y where soft_cap is 0;  nll[t] = logsumexp(z[t]) − z[t, labels[t]]
//   loss f64 [1] += Σ nll (fixed order);  row_loss_T f32 optional (0 for unsupervised rows)
//   correct i64 [1] optional += rows whose argmax (ties: lower id) is the label
//   dx_TD act optional, overwritten: grad_scale · ∂nll/∂x (0 for unsupervised rows)
//   dw_VD f32 optional, accumulate = 1 +=, 0 overwritten: grad_scale · ∂nll/∂W  (absent = the head is frozen and costs nothing)
//   u_TR act, b_VR f32|bf16 optional, both or neither: a low-rank term beside W, R >= 1, one more stretch of the same sums; W and B
//   are never laid together. Of it du_TR act (as dx) and db_VR f32 (as dw), optional, with u only
//   dbias_V f32 optional, with bias only, as dw: grad_scale · ∂nll/∂bias; precision 1: the terms may be rounded to bf16, as the
//   products read them, or not
//   x_TD act, w_VD f32|bf16, bias_V f32|bf16 optional, labels_T i32: −100 = not supervised, else in [0, V) (already shifted by one):
//   else KernelError
//   scale (optional) f64 [1]: read on the device in place of grad_scale, so that a recorded graph follows what is written there
//   precision as in gemm. The softmax is f32 with the row maximum subtracted.
// Deterministic on any thread count. Workspace: a chunk of rows × V.
// Reference: linear_cross_entropy_ref.cc. Tests: test/ops/linear_cross_entropy.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_linear_cross_entropy(F) \
  F(AIN, x) F(IN, w) F(AIN_OPT, u) F(IN_OPT, b) F(IN_OPT, bias) F(IN, labels) F(INOUT, loss) F(INOUT_OPT, correct) \
  F(OUT_OPT, row_loss) F(AOUT_OPT, dx) F(INOUT_OPT, dw) F(AOUT_OPT, du) F(INOUT_OPT, db) F(INOUT_OPT, dbias) F(IN_OPT, scale) \
  F(F64, grad_scale) F(F64, logit_scale) F(F64, soft_cap) F(I64, accumulate) F(I64, precision)
ESFT_DEFINE_ARGS(linear_cross_entropy)
