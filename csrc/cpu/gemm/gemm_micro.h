// Micro kernels: c[MR, NR] (+)= a[MR, k] · panel[k, NR] with all MR x NR sums in registers. Defined in gemm_micro.cc.
#pragma once
#include "gemm_panel.h"

namespace esft::cpu::ESFT_ISA {

// Rows of the largest tile: 14 x 2 sums + 2 panel vectors + broadcasts fill 32 registers; unpacking pairs takes two more. AVX-512 multiplies
// by an element of memory, NEON by a lane of a register.
constexpr int kMaxTileRows = W == 16 ? 14 : W == 8 ? 6 : ESFT_REGISTERS == 32 ? 12 : 4;
constexpr int tile_rows(PanelKind kind) { return kind == PANEL_PAIR ? kMaxTileRows - 1 : kMaxTileRows; }

// How the kernel finds A. Steps are k for PANEL_F32, pairs of k otherwise; an element is an f32, or (PANEL_DOT) a bf16 pair.
enum AccessA : int32_t {
  A_PACKED = 0,  // element (i, k) at a[k*MR + i]
  A_ROWS = 1,    // element (i, k) at a[i*lda + k]: rows short enough to share L1
};

// Cache lines fetched while the kernel computes, walked row by row in one or two runs of rows (gate and up).
struct Prefetch {
  const char* next;
  int64_t jump;       // from the last line of a row to the first of the following row
  int32_t lines;      // per row
  int32_t left;       // in this row
  int32_t rows;       // in this run, counting the current one
  int32_t then_rows;
  const char* then;   // the second run, or null
  int32_t per_block;  // lines issued per kPrefetchSteps steps; 0 = nothing (more) to fetch
};
constexpr int64_t kPrefetchSteps = 16;

// A low-rank term behind the last steps, in the same sums: its A is packed whatever the product's own is, its panel is PANEL_F32 or,
// beside PANEL_DOT, that.
struct MicroTail {
  int64_t steps;
  const void* a;
  const void* panel;
};

struct MicroArgs {
  const void* a;
  int64_t lda;      // bytes, A_ROWS only
  const void* panel;
  int64_t steps;    // k, or pairs of k
  float* c;
  int64_t ldc;
  bool add;         // c += instead of c =
  MicroTail tail;   // steps 0: none
  Prefetch* panel_ahead;  // the next panels' source, into L2
  Prefetch* tile_ahead;   // what finishing this tile, or the next tile's rows of A, will read: into L1
};
typedef void (*MicroKernel)(const MicroArgs&);

MicroKernel micro_kernel(PanelKind kind, AccessA access, int rows);

}  // namespace esft::cpu::ESFT_ISA
