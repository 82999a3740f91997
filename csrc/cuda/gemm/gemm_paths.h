// The ways a product can go, in the order of trying (gemm.cu, grouped_gemm.cu). Each returns false when it does not serve the
// call: other dtypes, alignment, sizes. Arguments are checked, activations of grouped products are bf16, weights too.
#pragma once
#include "../host/context.h"

namespace esft::cuda {

// wgmma and TMA, gemm_sm90.cu: only on devices that have them.
bool sm90_gemm(const esft_gemm_args& a, Context& c);
bool sm90_gemm_f32(const esft_gemm_args& a, Context& c);  // a in f32
bool sm90_grouped_nt(const esft_grouped_gemm_nt_args& a, Context& c);
bool sm90_grouped_nn(const esft_grouped_gemm_nn_args& a, Context& c);
bool sm90_grouped_tn(const esft_grouped_gemm_tn_args& a, Context& c);

// mma.sync: bf16 operands of any shape and alignment.
void portable_grouped_nt(const esft_grouped_gemm_nt_args& a, Context& c);
void portable_grouped_nn(const esft_grouped_gemm_nn_args& a, Context& c);
void portable_grouped_tn(const esft_grouped_gemm_tn_args& a, Context& c);

// f32 multiply-add: exact products of any mix of f32 and bf16, precision 0 and 1.
void simt_gemm(const esft_gemm_args& a, Context& c);

// dgate[r] = Σ partials[r, 0 .. tiles-1] in order (+ ⟨dy[r], bias⟩), for the rows of the listed experts (groups nullptr: all).
void sum_dgate(const float* partials, int tiles, const esft_grouped_gemm_nn_args& a, Context& c);

}  // namespace esft::cuda
