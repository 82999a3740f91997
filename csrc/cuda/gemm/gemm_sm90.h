// Starting the Hopper kernels (sm90_kernel.cuh). Host code.
#pragma once
#include "../host/launch.h"
#include "../host/tensor_map.h"
#include "gemm_paths.h"
#include "sm90_tile.cuh"

namespace esft::cuda::sm90 {

// The instances that exist, of each role in the file named; Rows: that operand (A, or those said) comes row by row.
enum class NtKernel { kStore, kStoreRows, kSwiglu, kSwigluRows };  // nt_sm90.cu
enum class NnKernel { kStore, kStoreRows, kSwiglu, kSwigluRows };  // nn_sm90.cu
enum class TnKernel { kTma, kRowsB, kRowsBoth };                   // tn_sm90.cu

struct Maps {
  CUtensorMap a, b, h;
};
void launch_nt(NtKernel kernel, const Maps& maps, const Params& p, int grid, Context& c);
void launch_logits(const Maps& maps, const Params& p, int grid, Context& c);
void launch_nn(NnKernel kernel, const Maps& maps, const Params& p, int grid, Context& c);
void launch_tn(TnKernel kernel, const Maps& maps, const Params& p, int grid, Context& c);

// Rows can be copied in 16-byte pieces.
inline bool rows_aligned(const esft_tensor& t) {
  return t.dtype == ESFT_BF16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (rows(t) <= 1 || t.ld % 8 == 0) &&
         cols(t) % 8 == 0;
}
inline Out out_of(const esft_tensor& t, bool accumulate, int64_t part) {
  const bool f32 = t.dtype == ESFT_F32;
  const bool vectors = !f32 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.ld % 8 == 0 && part % 8 == 0;
  return {t.data, t.ld, f32, accumulate, vectors};
}
inline Rows rows_of(const esft_tensor& t, const esft_tensor* index, FaultArgument argument) {
  return {data<bf16>(t), t.ld, index && present(*index) ? data<int32_t>(*index) : nullptr, rows(t), argument};
}

}  // namespace esft::cuda::sm90
