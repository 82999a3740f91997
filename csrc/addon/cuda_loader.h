// libesft_cuda.so: found and opened on first use, never before. Quiet: whatever is missing is an Error, nothing is printed.
#pragma once
#include <string>

#include "../core/backend.h"

namespace esft {

// The CUDA backend's table. Throws Error (argument "library") when the library is not there or not ours; whether there is a
// driver and a device is for its `open` to say.
const esft_backend* cuda_backend();

// Where the library is looked for: ESFT_CUDA_LIBRARY, else next to the addon.
std::string cuda_library_path();

}  // namespace esft
