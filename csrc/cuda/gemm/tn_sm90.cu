// dW += dyᵀ·x on Hopper, over the rows of each listed expert. Where dy comes by the copy engine, rows behind the expert's last meet zeros
// of x: an infinity there would still make NaN here, so gradients are finite everywhere or trusted nowhere. At least one operand is cut at the group's end by row copies, unless
// there is one group and the maps end where it does.
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

template <Load kLoadA, Load kLoadB>
static void start(const Maps& m, const Params& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<Role::kTn, Finish::kStore>::shared_bytes(p.group_count));
  ESFT_LAUNCH((grouped_kernel<Role::kTn, Finish::kStore, kLoadA, kLoadB, 1>), c, grid, kThreads, shared, m.a, m.b, m.h, p);
}

void launch_tn(TnKernel kernel, const Maps& m, const Params& p, int grid, Context& c) {
  switch (kernel) {
    case TnKernel::kTma: return start<Load::kTma, Load::kTma>(m, p, grid, c);
    case TnKernel::kRowsB: return start<Load::kTma, Load::kRows>(m, p, grid, c);
    case TnKernel::kRowsBoth: return start<Load::kRows, Load::kRows>(m, p, grid, c);
  }
  no_kernel("tn", int(kernel));
}

}  // namespace esft::cuda::sm90
