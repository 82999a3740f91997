// Tiles of logits with their softmax statistics on Hopper (linear_cross_entropy.cu).
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

void launch_logits(const Maps& m, const Params& p, int grid, Context& c) {
  start<Role::kNt, Epilogue::kLogits, Load::kTma>(m, p, grid, c);
}

}  // namespace esft::cuda::sm90
