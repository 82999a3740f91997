// Starting the Hopper kernels (sm90_kernel.cuh), and what they are told of a call's tensors. Host code.
#pragma once
#include "../host/launch.h"
#include "../host/tensor_map.h"
#include "gemm_paths.h"
#include "sm90_params.cuh"

namespace esft::cuda::sm90 {

// The instances that exist: of nt in nt_sm90.cu (logits in logits_sm90.cu), and so on. Rows of A with an index are gathered.
void launch(const Maps& maps, const Arguments<Role::kNt, Epilogue::kStore>& p, Tiling tiling, int grid, Context& c);
void launch(const Maps& maps, const Arguments<Role::kNt, Epilogue::kSwiglu>& p, int grid, Context& c);
void launch(const Maps& maps, const Arguments<Role::kNt, Epilogue::kLogits>& p, int grid, Context& c);
void launch(const Maps& maps, const Arguments<Role::kNn, Epilogue::kStore>& p, int grid, Context& c);
void launch(const Maps& maps, const Arguments<Role::kNn, Epilogue::kSwigluBackward>& p, int grid, Context& c);
void launch(const Maps& maps, const Arguments<Role::kTn, Epilogue::kWeightGradient>& p, int grid, Context& c);

// The operands of a call: the maps of the copy engine and, for nt and nn, segments that refer to them.
class Operands {
 public:
  explicit Operands(Context& c) : context_(c) {}
  // A whole A in boxes of box_rows x 64. Which of Maps::a it is; nothing when it cannot have a map, or there is no room.
  bool add_a(const esft_tensor& t, int box_rows, int32_t* which);
  // Adds columns `column` … of A number `a` (-1: the gathered rows) times B: for expert e item e · per_expert + first of `w` (nt: and the
  // parts - 1 items after it, side by side in the output). Even distances from expert to expert make the weights a stack, one map of
  // the kernel's own; otherwise each has one in a table. False when there is none, or no room.
  struct Weights {
    const esft_tensor* items;
    int64_t count, per_expert, first, parts;
  };
  bool add_segment(Contraction* contraction, int32_t a, int64_t column, const Weights& w, int64_t length, int box_rows);
  // A bf16 output that the copy engine can write, through `map`.
  Out out_of(const esft_tensor& t, bool accumulate, int64_t part, CUtensorMap* map) const;
  Maps maps{};

 private:
  Context& context_;
  int of_a_ = 0, of_b_ = 0;
};

// Rows can be copied in 16-byte pieces.
inline bool rows_aligned(const esft_tensor& t) {
  return t.dtype == ESFT_BF16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (rows(t) <= 1 || t.ld % 8 == 0) &&
         cols(t) % 8 == 0;
}
inline Rows rows_of(const esft_tensor& t, const esft_tensor* index, FaultArgument argument) {
  return {data<bf16>(t), t.ld, index && present(*index) ? data<int32_t>(*index) : nullptr, rows(t), argument};
}

}  // namespace esft::cuda::sm90
