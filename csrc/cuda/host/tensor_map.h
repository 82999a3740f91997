// Tensor maps: how the copy engine sees a matrix. Host code.
#pragma once
#include <cuda.h>

#include "../../core/backend.h"

namespace esft::cuda {

// A bf16 matrix [rows, cols] with row stride ld, read in boxes of 64 columns x box_rows rows with the 128-byte swizzle; what lies
// outside reads as zero. False when the matrix cannot have a map: base not 16-byte aligned or rows not a multiple of 16 bytes
// apart (or not bf16, or empty).
bool encode_tensor_map(CUtensorMap* map, const esft_tensor& matrix, int box_rows);
// The same of `count` such matrices, `distance` bytes apart: a stack [count, rows, cols], read in boxes of one matrix. Of one matrix the
// distance means nothing.
bool encode_stack_map(CUtensorMap* map, const esft_tensor& first, int64_t count, int64_t distance, int box_rows);

}  // namespace esft::cuda
