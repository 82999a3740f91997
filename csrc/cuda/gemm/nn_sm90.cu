// dx = dy·W on Hopper, plain and through the backward of SwiGLU; rows of dy in order or gathered.
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

void launch(const Maps& m, const Arguments<Role::kNn, Epilogue::kStore>& p, int grid, Context& c) { start_any(m, p, grid, c); }
void launch(const Maps& m, const Arguments<Role::kNn, Epilogue::kSwigluBackward>& p, int grid, Context& c) {
  start_any(m, p, grid, c);
}

}  // namespace esft::cuda::sm90
