// Products whose one side is a low rank: few columns of B, or few rows of the result. Copying A into tiles and B into panels would cost as
// much as their sums; here the wide side is read once, in the order in which it lies in memory. Defined in gemm_narrow.cc.
#pragma once
#include "gemm_block.h"

namespace esft::cpu::ESFT_ISA {

constexpr int64_t kNarrowRows = ESFT_REGISTERS == 32 ? 12 : W == 8 ? 6 : 4;  // of a tile
constexpr int64_t kNarrowSteps = 352;  // k that are copied at a time; KC is a multiple
constexpr int64_t kNarrowPitch = kNarrowSteps + W;  // of copied rows, which then do not share a set of L1
constexpr int64_t kNarrowRowBytes = (kNarrowRows * kNarrowPitch + 2 * kNarrowRows * NR) * 4;

// A product of at most one panel that narrow_rows makes faster.
bool narrow_rows_pay(const Block& b);
// The whole block. panel: room for k rows of f32; rows: kNarrowRowBytes.
void narrow_rows(const Block& b, float* panel, float* rows);

// Panels p0 .. p1 of a block with `few_rows`: k are the rows of the wide side, its columns those of the result.
void narrow_columns(const Block& b, int64_t p0, int64_t p1, void* scratch);
size_t narrow_columns_scratch(int64_t m);

}  // namespace esft::cpu::ESFT_ISA
