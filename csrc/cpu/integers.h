// Arithmetic of sizes that all kernels share; their own, because std:: templates have no place here (kernels.h).
#pragma once
#include "simd.h"

namespace esft::cpu::ESFT_ISA {

ESFT_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
ESFT_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
ESFT_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
ESFT_INLINE int64_t round_up(int64_t n, int64_t m) { return ceil_div(n, m) * m; }

}  // namespace esft::cpu::ESFT_ISA
