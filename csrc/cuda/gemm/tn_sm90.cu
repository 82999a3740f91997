// dW += dyᵀ·x on Hopper, over the rows of each listed expert. What lies behind its last row, another expert's, is never read: rows of x are
// copied one by one; dy comes by the copy engine, save for its last 64 rows where the group ends inside them. Where there is one group
// the maps end where it does.
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

template <Load kLoadA, Load kLoadB>
static void start(const Maps& m, const Params& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<Role::kTn, Epilogue::kStore>::shared_bytes(p.group_count));
  ESFT_LAUNCH((grouped_kernel<Role::kTn, Epilogue::kStore, kLoadA, kLoadB, 1>), c, grid, kThreads, shared, m.a, m.b, m.h, p);
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
