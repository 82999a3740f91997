// What the processor is and which set of kernels it runs.
#pragma once
#include <string>

#include "../kernels.h"

namespace esft::cpu {

// Of the instruction sets that were built and that this machine runs the one of that name, or the best (no name or an empty one). Throws
// Error, which takes the name for that of ESFT_ISA.
const Kernels& choose_kernels(const char* name);

// "model name" of /proc/cpuinfo, on macOS what the kernel calls it; empty where there is none (Linux on aarch64).
std::string processor_name();

}  // namespace esft::cpu
