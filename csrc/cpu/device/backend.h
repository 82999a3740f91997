// The two Backend tables that live in the addon: "cpu" (threads + SIMD) and "ref" (the contracts as plain loops).
#pragma once
#include "../../core/backend.h"

namespace esft {
const esft_backend* cpu_backend();
const esft_backend* ref_backend();
// Instruction sets this machine can run, best first; the first is used unless ESFT_ISA names another one.
int available_isas(const char** names, int capacity);
}  // namespace esft
