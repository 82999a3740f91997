// The kernels of one instruction set. Every kernel file of csrc/cpu is compiled once per set with its own flags and
// -DESFT_ISA=<name>; all its code lives in namespace esft::cpu::<name>. No std:: templates and no shared inline
// functions in those files: the linker would merge copies compiled for different machines.
#pragma once
#include "../ops/op_list.h"
#include "context.h"

namespace esft::cpu {

struct Kernels {
  const char* name;
  bool bf16_compute;  // has bf16 dot-product instructions (precision 1)
#define ESFT_KERNEL_SLOT(op) void (*op)(const esft_##op##_args&, Context&);
  ESFT_OPS(ESFT_KERNEL_SLOT)
#undef ESFT_KERNEL_SLOT
};

#ifdef ESFT_ISA
namespace ESFT_ISA {
#define ESFT_KERNEL_DECL(op) void op(const esft_##op##_args&, Context&);
ESFT_OPS(ESFT_KERNEL_DECL)
#undef ESFT_KERNEL_DECL
extern const Kernels kernels;
}  // namespace ESFT_ISA
#endif

}  // namespace esft::cpu
