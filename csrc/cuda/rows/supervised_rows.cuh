// The rows of linear_cross_entropy whose label is in 0..vocabulary-1.
#pragma once
#include "../../core/backend.h"
#include "../host/context.h"

namespace esft::cuda {

// All in device memory: the host does not know how many there are.
struct SupervisedRows {
  int32_t* rows;     // [tokens]: token of the i-th supervised row, ascending
  int32_t* offsets;  // [ceil(tokens / capacity)][2]: {0, rows of the chunk}
  int32_t* count;    // [1]
};
// In chunks of `capacity`.
SupervisedRows list_supervised(const int32_t* labels, int64_t tokens, int64_t vocabulary, int64_t capacity, Context& c);
// dx [tokens, D] bf16 and row_loss [tokens] become 0 in the other rows; either may be absent.
void clear_unsupervised_rows(const int32_t* labels, int64_t vocabulary, const esft_tensor& dx, float* row_loss, int64_t tokens,
                             Context& c);

}  // namespace esft::cuda
