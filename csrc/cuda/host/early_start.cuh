// EarlyStart: the first parameter of a kernel that may begin before the kernel before it in the stream has ended, so that its launch and what
// it does before the wait lie under that one's end (programmatic dependent launch, PTX griddepcontrol).
//
// The launcher starts such kernels early because they have this parameter, and no others. Each thread must wait before it touches memory
// that any kernel writes, and on every path to its end: then all that came before has ended, also what came before a kernel that
// began early itself. Left to do before it: barriers in shared memory, prefetch of tensor maps that are parameters. The emulation lets no thread see
// device memory before its wait or end without one; `npm run check:cuda` looks for both in SASS.
#pragma once
#include "../ptx.cuh"

namespace esft::cuda {

struct EarlyStart {
  // The next kernel's CTAs may come as soon as all of this one's are here: none of them will want for room any more.
  __device__ __forceinline__ void wait() const {
    ptx::dependency_wait();
    ptx::launch_dependents();
  }
};

}  // namespace esft::cuda
