// dx = dy·W on Hopper, plain and through the backward of SwiGLU; rows of dy in order or gathered.
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

void launch_nn(NnKernel kernel, const Maps& m, const Params& p, int grid, Context& c) {
  switch (kernel) {
    case NnKernel::kStore: return start<Role::kNn, Epilogue::kStore, Load::kTma>(m, p, grid, c);
    case NnKernel::kStoreRows: return start<Role::kNn, Epilogue::kStore, Load::kRows>(m, p, grid, c);
    case NnKernel::kSwiglu: return start<Role::kNn, Epilogue::kSwigluBackward, Load::kTma>(m, p, grid, c);
    case NnKernel::kSwigluRows: return start<Role::kNn, Epilogue::kSwigluBackward, Load::kRows>(m, p, grid, c);
  }
  no_kernel("nn", int(kernel));
}

}  // namespace esft::cuda::sm90
