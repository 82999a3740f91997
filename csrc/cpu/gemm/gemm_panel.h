// What a panel is: NR columns of B in the order in which the micro kernels read them.
//
//   kind         panel row                     A element
//   PANEL_F32    one k, NR f32                 f32
//   PANEL_PAIR   two k, NR dwords bf16|bf16    f32, k padded to even with zeros
//   PANEL_DOT    two k, NR dwords bf16|bf16    bf16 pair, padded likewise
#pragma once
#include "../integers.h"
#include "../simd.h"

namespace esft::cpu::ESFT_ISA {

constexpr int NR = 2 * W;      // columns of a panel
constexpr int64_t KC = 704;    // k steps summed in registers before they are added to the running sum (1408 for bf16 dots)

// What a panel row holds and which inner product reads it.
enum PanelKind : int32_t {
  PANEL_F32 = 0,   // [k][NR] f32
  PANEL_PAIR = 1,  // [k/2][NR] bf16 pairs (k | k+1 << 16), unpacked in registers, f32 products
  PANEL_DOT = 2,   // the same pairs for the bf16 dot-product instruction; A is rounded too
};

ESFT_INLINE int64_t panel_steps(PanelKind kind, int64_t k) { return kind == PANEL_F32 ? k : (k + 1) / 2; }
ESFT_INLINE int64_t panel_bytes(PanelKind kind, int64_t k) { return panel_steps(kind, k) * NR * 4; }
ESFT_INLINE int64_t a_elements(PanelKind kind, int64_t k) {
  return kind == PANEL_F32 ? k : kind == PANEL_PAIR ? (k + 1) / 2 * 2 : (k + 1) / 2;
}

// Panels packed beforehand.
struct Panels {
  const void* data;     // panel p at data + p*panel_bytes
  int64_t k, n;
  int64_t panel_bytes;  // multiple of 64
  PanelKind kind;
};

}  // namespace esft::cpu::ESFT_ISA
