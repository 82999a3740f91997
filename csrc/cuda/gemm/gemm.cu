// gemm on CUDA: which kernel takes the call (contract: ops/gemm.h).
//   bf16 operands: tensor cores, wgmma on Hopper or mma.sync; f32 sums, c f32 or bf16. Products of bf16 numbers are exact in f32, so
//   this is precision 0 as well: routers with bf16 weights run here
//   f32 gradients of logits times bf16 weights (nn), on Hopper: as three bf16 parts, exact too (precision 1: one)
//   anything else: exact f32 multiply-add (gemm_simt.cu)
#include "gemm_paths.h"
#include "mma_params.h"
#include "../../ops/checks.h"

namespace esft::cuda {

void run_gemm(const esft_gemm_args& a, Context& c) {
  expect_plain("gemm", "b", a.b.scaling);
  const esft_tensor& b = a.b.tensor;
  if (a.a.dtype == ESFT_F32 && c.hopper && sm90_gemm_f32(a, c)) return;
  if (a.a.dtype != ESFT_BF16 || b.dtype != ESFT_BF16) return simt_gemm(a, c);
  if (c.hopper && sm90_gemm(a, c)) {
    if (present(a.residual) && a.c.dtype == ESFT_F32) run_add({a.residual, a.c, a.c, 1.0}, c);  // epilogues add bf16 ones alone
    return;
  }
  expect_portable("gemm", c);
  MmaParams p = {};
  p.a = activation(a.a, nullptr, kArgRows);
  if (a.mode == kTn)
    p.b = activation(b, nullptr, kArgRows);
  else
    p.w_one = {b.data, b.ld};
  p.m = rows(a.c), p.n = cols(a.c), p.k = a.mode == kTn ? rows(a.a) : cols(a.a);
  p.out = output(a.c, a.accumulate != 0, a.residual);
  p.bias = bias_of(a.bias);
  p.op = ESFT_OP_gemm;
  mma_dense(MmaMode(a.mode), p, vector_rows(a.a) && vector_rows(b), c);
}

}  // namespace esft::cuda
