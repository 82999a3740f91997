// y = x·Wᵀ on Hopper, plain and with SwiGLU; rows of x in order or gathered.
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

void launch_nt(NtKernel kernel, const Maps& m, const Params& p, int grid, Context& c) {
  switch (kernel) {
    case NtKernel::kStore: return start<Role::kNt, Epilogue::kStore, Load::kTma>(m, p, grid, c);
    case NtKernel::kStoreRows: return start<Role::kNt, Epilogue::kStore, Load::kRows>(m, p, grid, c);
    case NtKernel::kSwiglu: return start<Role::kNt, Epilogue::kSwiglu, Load::kTma>(m, p, grid, c);
    case NtKernel::kSwigluRows: return start<Role::kNt, Epilogue::kSwiglu, Load::kRows>(m, p, grid, c);
  }
  no_kernel("nt", int(kernel));
}

}  // namespace esft::cuda::sm90
