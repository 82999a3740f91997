// Faults that only the device can see: bad indices, non-finite router logits. A kernel records the first one and goes on without
// touching the bad address; synchronize and download turn the record into an error.
#pragma once
#include <stdint.h>

#include "types.cuh"

namespace esft::cuda {

enum FaultKind : int32_t {
  kNoFault = 0,
  kBadIndex,      // argument[position] = value, must be in 0..limit-1
  kBadLabel,      // argument[position] = value, must be -100 or in 0..limit-1
  kBadOffsets,    // offsets: value at position, expected ascending from 0 to limit
  kBadDocStart,   // doc_start[position] = value: must be <= position and non-decreasing
  kNotPermutation,  // argument[position] = value: not a permutation of 0..limit-1
  kNotFinite      // logits of token `position` are not finite
};

// Index of an argument name in fault_argument_names (fault.cc).
enum FaultArgument : int32_t { kArgIds, kArgRows, kArgOffsets, kArgDyRows, kArgXRows, kArgPos, kArgLabels, kArgPositions, kArgDocStart, kArgLogits };

struct FaultRecord {
  int32_t kind;
  int32_t op;        // esft_op
  int32_t argument;  // FaultArgument
  int32_t unused;
  int64_t position, value, limit;
};

// The first fault stays; which of several in one launch is first is not defined, so kernels report the lowest position they can.
__device__ __forceinline__ void report_fault(FaultRecord* record, FaultKind kind, int op, FaultArgument argument, int64_t position,
                                             int64_t value, int64_t limit) {
  if (atomicCAS(&record->kind, int(kNoFault), int(kind)) != kNoFault) return;
  record->op = op;
  record->argument = argument;
  record->position = position;
  record->value = value;
  record->limit = limit;
}

}  // namespace esft::cuda
