// dx = dy·W on Hopper, plain and through the backward of SwiGLU; rows of dy in order or gathered.
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

template <Finish kFinish, Load kLoadA>
static void start(const Maps& m, const Params& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<Role::kNn, kFinish>::shared_bytes(p.group_count));
  ESFT_LAUNCH((grouped_kernel<Role::kNn, kFinish, kLoadA, Load::kTma>), c, grid, kThreads, shared, m.a, m.b, m.h, p);
}

void launch_nn(Kernel kernel, const Maps& m, const Params& p, int grid, Context& c) {
  switch (kernel) {
    case Kernel::kNn: return start<Finish::kStore, Load::kTma>(m, p, grid, c);
    case Kernel::kNnRows: return start<Finish::kStore, Load::kRows>(m, p, grid, c);
    case Kernel::kNnSwiglu: return start<Finish::kSwigluBackward, Load::kTma>(m, p, grid, c);
    default: return start<Finish::kSwigluBackward, Load::kRows>(m, p, grid, c);
  }
}

}  // namespace esft::cuda::sm90
