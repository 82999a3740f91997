// Tiles of logits with their softmax statistics on Hopper (linear_cross_entropy.cu).
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

void launch_logits(const Maps& m, const Params& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<Role::kNt, Finish::kLogits>::shared_bytes(p.group_count));
  if (c.cluster == 2 && grid >= 2)
    ESFT_LAUNCH_CLUSTER((grouped_kernel<Role::kNt, Finish::kLogits, Load::kTma, Load::kTma, 2>), 2, c, grid / 2 * 2, kThreads,
                        shared, m.a, m.b, m.h, p);
  else
    ESFT_LAUNCH((grouped_kernel<Role::kNt, Finish::kLogits, Load::kTma, Load::kTma, 1>), c, grid, kThreads, shared, m.a, m.b, m.h,
                p);
}

}  // namespace esft::cuda::sm90
