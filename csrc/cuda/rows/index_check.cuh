// Checks of index tensors' values on the device (the CPU's are in ops/checks.cc).
//
// In a kernel: an IndexCheck passed by value says whether an index may be used, and records a fault if not. Before a kernel that
// cannot check as it goes: check_*_on_device, one small launch each (check_permutation: a memset and a launch). They only record:
// the kernel that follows runs all the same and must not use an index it has not compared with its limit.
#pragma once
#include "../host/context.h"

namespace esft::cuda {

// `position` counts elements row by row; columns: FaultRecord.detail.
__device__ __forceinline__ bool index_ok(FaultRecord* faults, int op, FaultArgument argument, int64_t position, int32_t value,
                                         int64_t limit, int columns = 0) {
  if (value >= 0 && value < limit) return true;
  report_fault(faults, kBadIndex, op, argument, position, value, limit, columns);
  return false;
}

struct IndexCheck {
  FaultRecord* faults;
  int64_t limit;
  int32_t op, columns;
  FaultArgument argument;

  __device__ __forceinline__ bool ok(int64_t position, int32_t value) const {
    return index_ok(faults, op, argument, position, value, limit, columns);
  }
};

// How messages count the elements of an index tensor: [i] of a vector, [row, column] of all else.
inline int index_columns(const esft_tensor& index) { return index.rank <= 1 ? 0 : int(cols(index)); }
inline IndexCheck index_check(Context& c, esft_op op, FaultArgument argument, const esft_tensor& index, int64_t limit) {
  return {c.faults, limit, op, index_columns(index), argument};
}

void check_indices_on_device(Context& c, esft_op op, FaultArgument argument, const esft_tensor& index, int64_t limit);
void check_labels_on_device(Context& c, esft_op op, FaultArgument argument, const esft_tensor& labels, int64_t limit);
void check_offsets_on_device(Context& c, esft_op op, const esft_tensor& offsets, int64_t n,  // n < 0: any last offset
                             FaultArgument argument = kArgOffsets);
void check_doc_start_on_device(Context& c, esft_op op, FaultArgument argument, const esft_tensor& doc_start);
void check_permutation_on_device(Context& c, esft_op op, FaultArgument argument, const esft_tensor& index, int64_t n);

}  // namespace esft::cuda
