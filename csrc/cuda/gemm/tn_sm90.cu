// dW (+)= dyᵀ·x on Hopper, over the rows of each listed expert. What lies behind its last row, another expert's, is never read: rows of x are
// copied one by one; dy comes by the copy engine, save for its last 64 rows where the group ends inside them. Where there is one group
// the maps end where it does.
#include "gemm_sm90.h"
#include "sm90_kernel.cuh"

namespace esft::cuda::sm90 {

using Args = Arguments<Role::kTn, Epilogue::kWeightGradient>;

template <Load kLoadA, Load kLoadB>
static void start(const Maps& m, const Args& p, int grid, Context& c) {
  const size_t shared = size_t(Shape<Role::kTn, Epilogue::kWeightGradient>::shared_bytes(p.group_count));
  ESFT_LAUNCH((grouped_kernel<Role::kTn, Epilogue::kWeightGradient, kLoadA, kLoadB, 1>), c, grid, kThreads, shared, m, p);
}

void launch(const Maps& m, const Args& p, int grid, Context& c) {
  if (!p.b.data)
    start<Load::kTma, Load::kTma>(m, p, grid, c);
  else if (!p.a.index)
    start<Load::kTma, Load::kRows>(m, p, grid, c);
  else
    start<Load::kRows, Load::kRows>(m, p, grid, c);
}

}  // namespace esft::cuda::sm90
