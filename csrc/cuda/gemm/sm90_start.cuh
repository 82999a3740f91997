// Starting an instance whose weights come by the copy engine: in clusters that share them where the device is set to that.
#pragma once
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

template <Load kLoadA, Tiling kTiling = Tiling::kWide, Role kRole, Epilogue kEpilogue>
void start(const Maps& m, const Arguments<kRole, kEpilogue>& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<kRole, kEpilogue, kTiling>::shared_bytes(p.group_count));
  bool alone = c.cluster != 2;
  if constexpr (kEpilogue == Epilogue::kStore) alone = alone || p.split_target;
  const int wanted = alone ? 0 : grid / 2;
  const int clusters = wanted ? min_of(wanted, active_clusters<grouped_kernel<kRole, kEpilogue, kLoadA, Load::kTma, 2, kTiling>>(
                                                   "grouped_kernel", 2, c, kThreads, shared))
                              : 0;
  if (clusters > 0)
    ESFT_LAUNCH_CLUSTER((grouped_kernel<kRole, kEpilogue, kLoadA, Load::kTma, 2, kTiling>), 2, c, 2 * clusters, kThreads, shared, m,
                        p);
  else
    ESFT_LAUNCH((grouped_kernel<kRole, kEpilogue, kLoadA, Load::kTma, 1, kTiling>), c, grid, kThreads, shared, m, p);
}

// Rows of A in order or, with an index, gathered.
template <Role kRole, Epilogue kEpilogue>
void start_any(const Maps& m, const Arguments<kRole, kEpilogue>& p, int grid, Context& c) {
  if (p.a.index)
    start<Load::kRows>(m, p, grid, c);
  else
    start<Load::kTma>(m, p, grid, c);
}

}  // namespace esft::cuda::sm90
