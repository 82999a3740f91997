// Turns a fault record into the words the CPU checks would have used. Host code.
#pragma once
#include <string>

#include "../core/backend.h"
#include "fault.cuh"

namespace esft::cuda {

std::string fault_message(const FaultRecord& record, esft_status* status);

}  // namespace esft::cuda
