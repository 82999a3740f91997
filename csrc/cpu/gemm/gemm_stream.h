// Products of few rows with weights as they lie: decoding, and experts that few tokens chose (see gemm_stream.cc).
#pragma once
#include "gemm_block.h"

namespace esft::cpu::ESFT_ISA {

// Rows of a product that streams its weights. Of the whole product, before it is cut: its bits do not depend on threads.
constexpr int64_t kStreamedRows = 16;

ESFT_INLINE bool streams_weights(const Block& b) { return b.source == FROM_WEIGHT_ROWS && !b.a_columns && b.m <= kStreamedRows; }

size_t stream_scratch(const Block& b);
// Panels p0 .. p1 of a block of few rows.
void stream_block(const Block& b, int64_t p0, int64_t p1, void* scratch);

}  // namespace esft::cpu::ESFT_ISA
