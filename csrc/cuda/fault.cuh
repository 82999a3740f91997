// Faults that only the device can see (fault.h): a kernel records the first one and goes on without touching the bad address;
// synchronize and download turn the record into an error.
#pragma once
#include "fault.h"
#include "types.cuh"

namespace esft::cuda {

// The first fault stays; which of several in one launch is first is not defined, so kernels report the lowest position they can.
// detail: FaultRecord.
__device__ __forceinline__ void report_fault(FaultRecord* record, FaultKind kind, int op, FaultArgument argument, int64_t position,
                                             int64_t value, int64_t limit, int detail = 0) {
  if (atomicCAS(&record->kind, int(kNoFault), int(kind)) != kNoFault) return;
  record->op = op;
  record->argument = argument;
  record->detail = detail;
  record->position = position;
  record->value = value;
  record->limit = limit;
}

}  // namespace esft::cuda
