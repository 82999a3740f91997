// y = x·Wᵀ on Hopper, plain and with SwiGLU; rows of x in order or gathered.
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

template <Finish kFinish, Load kLoadA>
static void start(const Maps& m, const Params& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<Role::kNt, kFinish>::shared_bytes(p.group_count));
  ESFT_LAUNCH((grouped_kernel<Role::kNt, kFinish, kLoadA, Load::kTma>), c, grid, kThreads, shared, m.a, m.b, m.h, p);
}

void launch_nt(Kernel kernel, const Maps& m, const Params& p, int grid, Context& c) {
  switch (kernel) {
    case Kernel::kNt: return start<Finish::kStore, Load::kTma>(m, p, grid, c);
    case Kernel::kNtRows: return start<Finish::kStore, Load::kRows>(m, p, grid, c);
    case Kernel::kNtSwiglu: return start<Finish::kSwiglu, Load::kTma>(m, p, grid, c);
    default: return start<Finish::kSwiglu, Load::kRows>(m, p, grid, c);
  }
}

}  // namespace esft::cuda::sm90
