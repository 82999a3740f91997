// The record of what only the device can see to be wrong: bad indices, non-finite router logits, in the debug build waits without end.
// Plain C++, shared by the kernels (fault.cuh and bounded_wait.cuh write it) and by the host, which reads it at synchronize and download
// and words it as the CPU's checks do.
#pragma once
#include <stdint.h>

#include "../core/check.h"

namespace esft::cuda {

enum FaultKind : int32_t {
  kNoFault = 0,
  kBadIndex,  // argument[position] = value, must be in 0..limit-1
  kBadLabel,  // argument[position] = value, must be -100 or in 0..limit-1
  kBadOffsets,  // argument[position] = value; limit = the offset before it, or, with detail 1, the number of rows that it must not exceed
  kBadDocStart,  // argument[position] = value, must be in limit..position (limit: its predecessor)
  kNotPermutation,  // argument[position] = value, which an earlier slot has
  kNotFinite,  // argument[position] is not finite, value = its f32 bits
  kBadNumber,  // argument[position] is not what fault.cc says of that argument, value = its bits as f64
  // Of the debug build. The kernel ends with a trap, after which the device serves nothing more.
  kHungWait,  // argument = WaitBarrier, position = CTA, detail = thread, value = shared offset or number of the barrier, limit = parity;
  // of a turn: value = which, limit = how many should have had theirs
  kBadSharedBase,  // position = CTA, value = address of its shared memory, not a multiple of limit
  // Of documents that go on (rows/documents.cu), for which the list `argument` has `limit` items.
  kBadDocuments,  // doc_start[position] opens document `value`; position −1: it has `value` documents (detail 1: caches, whose words differ)
  kBadPosition,  // argument[position] = value, must be limit, one after its predecessor (detail 1), or at least 0 (detail 0)
  kNoRoom  // argument[position] has `limit` rows, fewer than the positions value..detail
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
  kArgSeen,
  kArgSeenOffsets,
  kArgTemperature,
  kArgU,
  kArgTopK,
  kArgTopP,
  kArgMinP,
  kArgRepetitionPenalty,
  kArgKCache,
  kArgStates,
  kArgCount
};

// A barrier at which a kernel waits, and so who waits there for what. Names and words are in fault.cc.
enum WaitBarrier : int32_t {
  kBarrierOther,
  kBarrierFull,  // products, attention backward: a stage of the ring is loaded
  kBarrierEmpty,  // it has been read
  kBarrierHFull,  // backward of SwiGLU: the tile of h is loaded
  kBarrierHEmpty,  // its place is free again
  kBarrierRowsFull,  // attention: the operands that stay are loaded
  kBarrierRowsEmpty,  // attention forward: they have been read
  kBarrierKeysFull,  // attention forward: stages of keys and of values
  kBarrierKeysEmpty,
  kBarrierValuesFull,
  kBarrierValuesEmpty,
  kBarrierTurn,  // named: the other warpgroup has issued its products
  kBarrierTileFull,  // products: what the next tile is, has been worked out
  kBarrierTileEmpty,  // it has been read
  kBarrierRowsRead,  // named: the warpgroup has read its rows for the last time
  kBarrierDsFull,  // attention backward, named: both warpgroups have written their dS
  kBarrierDsEmpty,  // named: the other warpgroup has read dS
  kBarrierDqFull,  // a slab of dQ lies in shared memory
  kBarrierDqEmpty,  // it has been read
  kBarrierDqTurn,  // the key blocks before this one have added to dQ
  kWaitBarrierCount
};

struct FaultRecord {
  int32_t kind;
  int32_t op;  // esft_op
  int32_t argument;  // FaultArgument, or WaitBarrier
  int32_t detail;  // columns of a matrix whose elements `position` counts row by row; 0: a vector
  int64_t position, value, limit;
};

inline bool ends_device(const FaultRecord& record) { return record.kind == kHungWait || record.kind == kBadSharedBase; }

// "<op>: <argument>[position] must be …, received …", or which wait of which thread had no end. Of a record with a fault.
Error fault_error(const FaultRecord& record);

}  // namespace esft::cuda
