// The record of what only the device can see to be wrong: bad indices, non-finite router logits. Plain C++, shared by the kernels
// (fault.cuh writes it) and by the host, which reads it at synchronize and download and words it as the CPU's checks do.
#pragma once
#include <stdint.h>

#include "../core/check.h"

namespace esft::cuda {

enum FaultKind : int32_t {
  kNoFault = 0,
  kBadIndex,        // argument[position] = value, must be in 0..limit-1
  kBadLabel,        // argument[position] = value, must be -100 or in 0..limit-1
  kBadOffsets,      // argument[position] = value; limit = the offset before it, or, with detail 1, the number of rows it must be
  kBadDocStart,     // argument[position] = value, must be in limit..position (limit: its predecessor)
  kNotPermutation,  // argument[position] = value, which an earlier slot has
  kNotFinite        // argument[position] is not finite, value = its f32 bits
};

// Index of an argument's name in fault.cc.
enum FaultArgument : int32_t {
  kArgIds,
  kArgRows,
  kArgOffsets,
  kArgDyRows,
  kArgXRows,
  kArgPos,
  kArgLabels,
  kArgPositions,
  kArgDocStart,
  kArgLogits,
  kArgBias,
  kArgCount
};

struct FaultRecord {
  int32_t kind;
  int32_t op;        // esft_op
  int32_t argument;  // FaultArgument
  int32_t detail;    // columns of a matrix whose elements `position` counts row by row; 0: a vector
  int64_t position, value, limit;
};

// "<op>: <argument>[position] must be …, received …". Of a record with a fault.
Error fault_error(const FaultRecord& record);

}  // namespace esft::cuda
