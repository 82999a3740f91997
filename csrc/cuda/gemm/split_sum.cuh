// Sums the partial results of a contraction that was cut into parts, in the order of the parts: the same bits in every run.
#pragma once
#include "mma_params.h"

namespace esft::cuda {

struct SplitSum {
  const float* partials;  // [splits][rows, columns], dense
  int64_t stride;         // elements from one part to the next
  int64_t rows, columns;
  Output out;
  const void* bias;  // [columns] or nullptr
  int32_t bias_bf16, splits;
};

void sum_splits(const SplitSum& s, Context& c);

}  // namespace esft::cuda
