// One table per instruction set (see kernels.h).
#include "kernels.h"

#define ESFT_STR2(x) #x
#define ESFT_STR(x) ESFT_STR2(x)

namespace esft::cpu::ESFT_ISA {

extern const Kernels kernels;
const Kernels kernels = {ESFT_STR(ESFT_ISA),
#if defined(__AVX512BF16__)
                         true,
#else
                         false,
#endif
#define ESFT_KERNEL_ENTRY(op) op,
                         ESFT_OPS(ESFT_KERNEL_ENTRY)
#undef ESFT_KERNEL_ENTRY
};

}  // namespace esft::cpu::ESFT_ISA
