// The grouped products on CUDA: bf16 activations and weights, precision 1, on tensor cores; wgmma on Hopper, mma.sync elsewhere
// (contract: ops/grouped_gemm.h).
#include "../../ops/checks.h"
#include "gemm_paths.h"

namespace esft::cuda {

namespace {

// `w`: weights, plain ones in bf16; nullptr for weight gradients.
void expect_served(const char* op, const char* name, const esft_tensor& x, const esft_weight_list* w, const esft_tensor_list* terms,
                   int64_t precision) {
  if (w) expect_plain(op, "w", *w);
  expect_bf16_activation(op, name, x);
  for (int64_t i = 0; w && i < w->count; i++) expect_bf16_weight(op, w->items[i], i);
  for (int64_t i = 0; terms && i < terms->count; i++) expect_bf16_weight(op, terms->items[i], i, "terms");
  expect_bf16_precision(op, precision);
}

}  // namespace

void run_grouped_gemm_nt(const esft_grouped_gemm_nt_args& a, Context& c) {
  expect_served("grouped_gemm_nt", "x", a.x, &a.w, &a.terms, a.precision);
  if (c.hopper && sm90_grouped_nt(a, c)) return;
  expect_portable("grouped_gemm_nt", c);
  portable_grouped_nt(a, c);
}

void run_grouped_gemm_nn(const esft_grouped_gemm_nn_args& a, Context& c) {
  expect_served("grouped_gemm_nn", "dy", a.dy, &a.w, &a.terms, a.precision);
  if (c.hopper && sm90_grouped_nn(a, c)) return;
  expect_portable("grouped_gemm_nn", c);
  portable_grouped_nn(a, c);
}

void run_grouped_gemm_tn(const esft_grouped_gemm_tn_args& a, Context& c) {
  expect_served("grouped_gemm_tn", "dy", a.dy, nullptr, nullptr, a.precision);
  if (c.hopper && sm90_grouped_tn(a, c)) return;
  expect_portable("grouped_gemm_tn", c);
  portable_grouped_tn(a, c);
}

}  // namespace esft::cuda
