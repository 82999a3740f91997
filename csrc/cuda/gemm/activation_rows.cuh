// The activation operand of a weight gradient as bf16 rows in expert order: scale·x or scale·f(gate, up), gathered.
// dW = (scale·dy)ᵀ·x = dyᵀ·(scale·x), and one pass over the rows of the trained experts (a few per cent of all) costs less than
// computing them again in every tile of the product.
#pragma once
#include "mma_params.h"

namespace esft::cuda {

struct ActivationRows {
  Rows x;              // [*, K], or [*, 2K] gate | up with an activation
  int64_t k;
  Activation act;
  const float* scale;  // [N], nullptr: 1
  const int32_t* offsets;
  const int32_t* groups;  // experts whose rows are made, ascending; the others' are left as they are
  int32_t experts, group_count;
  int64_t n;       // N
  bf16* out;       // [N, K], out_ld apart (a multiple of 8)
  int64_t out_ld;
  int32_t op;
};

// The expert of row r, which is below the last offset.
__device__ __forceinline__ int expert_of_row(const int32_t* offsets, int experts, int64_t r) {
  int low = 0, high = experts;  // offsets[low] <= r < offsets[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (offsets[middle] <= r)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Is row r one of a listed expert?
__device__ __forceinline__ bool row_is_listed(const int32_t* offsets, int experts, const int32_t* groups, int count, int64_t r) {
  if (r >= offsets[experts]) return false;
  const int low = expert_of_row(offsets, experts, r);
  int first = 0, last = count;  // the first group >= low
  while (first < last) {
    const int middle = (first + last) / 2;
    if (groups[middle] < low)
      first = middle + 1;
    else
      last = middle;
  }
  return first < count && groups[first] == low;
}

void make_activation_rows(const ActivationRows& rows, Context& c);

}  // namespace esft::cuda
