// y = x·Wᵀ on Hopper, plain and with SwiGLU; rows of x in order or gathered.
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

template <Finish kFinish, Load kLoadA, int kCluster>
static void start_clusters(const Maps& m, const Params& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<Role::kNt, kFinish>::shared_bytes(p.group_count));
  ESFT_LAUNCH_CLUSTER((grouped_kernel<Role::kNt, kFinish, kLoadA, Load::kTma, kCluster>), kCluster, c, grid, kThreads, shared, m.a,
                      m.b, m.h, p);
}

template <Finish kFinish, Load kLoadA>
static void start(const Maps& m, const Params& p, int grid, Context& c) {
  if (c.cluster == 2 && grid >= 2 && !p.split_target)
    start_clusters<kFinish, kLoadA, 2>(m, p, grid / 2 * 2, c);
  else
    start_clusters<kFinish, kLoadA, 1>(m, p, grid, c);
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
