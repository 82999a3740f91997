// What the processor is and which set of kernels it runs.
#pragma once
#include <string>

#include "../kernels.h"

namespace esft::cpu {

// The best instruction set that was built and that this machine runs, or the one that ESFT_ISA names; throws Error when it cannot be had.
const Kernels& choose_kernels();

// "model name" of /proc/cpuinfo; empty where there is none.
std::string processor_name();

}  // namespace esft::cpu
