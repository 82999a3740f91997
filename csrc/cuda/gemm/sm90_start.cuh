// Starting an instance whose weights come by the copy engine: in clusters that share them where the device is set to that.
#pragma once
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

template <Role kRole, Epilogue kEpilogue, Load kLoadA>
void start(const Maps& m, const Params& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<kRole, kEpilogue>::shared_bytes(p.group_count));
  const int wanted = c.cluster == 2 && !p.split_target ? grid / 2 : 0;
  const int clusters = wanted ? min_of(wanted, active_clusters<grouped_kernel<kRole, kEpilogue, kLoadA, Load::kTma, 2>>(
                                                   "grouped_kernel", 2, c, kThreads, shared))
                              : 0;
  if (clusters > 0)
    ESFT_LAUNCH_CLUSTER((grouped_kernel<kRole, kEpilogue, kLoadA, Load::kTma, 2>), 2, c, 2 * clusters, kThreads, shared, m.a, m.b,
                        m.h, p);
  else
    ESFT_LAUNCH((grouped_kernel<kRole, kEpilogue, kLoadA, Load::kTma, 1>), c, grid, kThreads, shared, m.a, m.b, m.h, p);
}

}  // namespace esft::cuda::sm90
