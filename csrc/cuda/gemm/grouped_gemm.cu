// The grouped products on CUDA: bf16 activations and weights, precision 1, on tensor cores; wgmma on Hopper, mma.sync elsewhere
// (contract: ops/grouped_gemm.h).
#include "gemm_paths.h"

namespace esft::cuda {

namespace {

// `w`: weights, nullptr for weight gradients.
void expect_served(const char* op, const char* name, const esft_tensor& x, const esft_tensor_list* w, int64_t precision) {
  if (x.dtype != ESFT_BF16)
    fail_status(ESFT_UNSUPPORTED, op, name, format("%s: %s is %s; CUDA takes bf16 activations", op, name, dtype_name(x.dtype)));
  for (int64_t i = 0; w && i < w->count; i++)
    if (w->items[i].dtype != ESFT_BF16)
      fail_status(
          ESFT_UNSUPPORTED, op, "w",
          format("%s: w[%lld] is %s; CUDA takes bf16 weights, upload it as bf16", op, (long long)i, dtype_name(w->items[i].dtype)));
  if (precision != 1)
    fail_status(ESFT_UNSUPPORTED, op, "precision", format("%s: precision 0 (f32) is not there on CUDA, use 1 (bf16)", op));
}

}  // namespace

void run_grouped_gemm_nt(const esft_grouped_gemm_nt_args& a, Context& c) {
  expect_served("grouped_gemm_nt", "x", a.x, &a.w, a.precision);
  if (c.hopper && sm90_grouped_nt(a, c)) return;
  expect_portable("grouped_gemm_nt", c);
  portable_grouped_nt(a, c);
}

void run_grouped_gemm_nn(const esft_grouped_gemm_nn_args& a, Context& c) {
  expect_served("grouped_gemm_nn", "dy", a.dy, &a.w, a.precision);
  if (c.hopper && sm90_grouped_nn(a, c)) return;
  expect_portable("grouped_gemm_nn", c);
  portable_grouped_nn(a, c);
}

void run_grouped_gemm_tn(const esft_grouped_gemm_tn_args& a, Context& c) {
  expect_served("grouped_gemm_tn", "dy", a.dy, nullptr, a.precision);
  if (c.hopper && sm90_grouped_tn(a, c)) return;
  expect_portable("grouped_gemm_tn", c);
  portable_grouped_tn(a, c);
}

}  // namespace esft::cuda
