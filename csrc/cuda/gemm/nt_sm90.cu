// y = x·Wᵀ on Hopper, plain and with SwiGLU; rows of x in order or gathered.
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

void launch_nt(Kernel kernel, const Maps& m, const Params& p, int grid, Context& c) {
  switch (kernel) {
    case Kernel::kNt: return start<Role::kNt, Finish::kStore, Load::kTma>(m, p, grid, c);
    case Kernel::kNtRows: return start<Role::kNt, Finish::kStore, Load::kRows>(m, p, grid, c);
    case Kernel::kNtSwiglu: return start<Role::kNt, Finish::kSwiglu, Load::kTma>(m, p, grid, c);
    default: return start<Role::kNt, Finish::kSwiglu, Load::kRows>(m, p, grid, c);
  }
}

}  // namespace esft::cuda::sm90
