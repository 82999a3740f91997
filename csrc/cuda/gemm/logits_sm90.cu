// Tiles of logits with their softmax statistics on Hopper (linear_cross_entropy.cu).
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

// The rows of x are in order; a.index says which tokens they are.
void launch(const Maps& m, const Arguments<Role::kNt, Epilogue::kLogits>& p, int grid, Context& c) {
  start<Load::kTma>(m, p, grid, c);
}

}  // namespace esft::cuda::sm90
