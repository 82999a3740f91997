// dx = dy·W on Hopper, plain and through the backward of SwiGLU; rows of dy in order or gathered.
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

void launch_nn(Kernel kernel, const Maps& m, const Params& p, int grid, Context& c) {
  switch (kernel) {
    case Kernel::kNn: return start<Role::kNn, Finish::kStore, Load::kTma>(m, p, grid, c);
    case Kernel::kNnRows: return start<Role::kNn, Finish::kStore, Load::kRows>(m, p, grid, c);
    case Kernel::kNnSwiglu: return start<Role::kNn, Finish::kSwigluBackward, Load::kTma>(m, p, grid, c);
    default: return start<Role::kNn, Finish::kSwigluBackward, Load::kRows>(m, p, grid, c);
  }
}

}  // namespace esft::cuda::sm90
