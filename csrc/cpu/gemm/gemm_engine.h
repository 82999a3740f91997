// Single-threaded block products of operands in memory: what linear_cross_entropy is made of.
//
// B is held as panels of NR columns; a micro kernel multiplies a few rows of A by one panel with all sums in registers.
// Weights are never packed into a stored copy: whoever loops builds the panel it needs next in its own scratch.
//
//   multiply   c[m,n] (+)= a[m,k] · panels          B packed beforehand (worth it when several A blocks meet one B)
//   product    c[m,n] (+)= a[m,k] · b[k,n]          panels built one at a time inside
//
// precision 0: f32 products and sums; 1: both operands rounded to bf16 (nearest even), f32 sums (only where the
// instruction set has the bf16 dot product: the backend refuses it elsewhere).
// The k order is fixed (chunks of KC, ascending), so the bits of an element depend on k alone, not on m, n or the blocking.
// Defined in gemm_engine.cc. Nothing here allocates, locks or throws.
#pragma once
#include <stddef.h>

#include "gemm_panel.h"

namespace esft::cpu::ESFT_ISA {

// Element (i, j) lies at data[i*ld + j], or at data[j*ld + i] when `transposed`. A operands are f32.
struct Operand {
  const void* data;
  int64_t ld;
  bool bf16;
  bool transposed;
};
ESFT_INLINE Operand f32_operand(const float* p, int64_t ld, bool transposed = false) { return {p, ld, false, transposed}; }
ESFT_INLINE Operand bf16_operand(const uint16_t* p, int64_t ld, bool transposed = false) { return {p, ld, true, transposed}; }

size_t panels_bytes(int64_t k, int64_t n);  // enough for every kind
Panels pack_panels(const Operand& b, int64_t k, int64_t n, int precision, void* memory /* 64-byte aligned */);
// The first k rows and the columns n0 .. n1 (n0 a multiple of NR; k even unless it is the whole k).
Panels slice_panels(const Panels& b, int64_t k, int64_t n0, int64_t n1);

size_t multiply_scratch(int64_t m, int64_t k);
void multiply(const Operand& a, int64_t m, const Panels& b, float* c, int64_t ldc, bool add, void* scratch);

size_t product_scratch(int64_t m, int64_t k);
void product(const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc, bool add, int precision,
             void* scratch);

}  // namespace esft::cpu::ESFT_ISA
