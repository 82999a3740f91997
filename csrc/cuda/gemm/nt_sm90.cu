// y = x·Wᵀ on Hopper, plain and with SwiGLU; rows of x in order or gathered.
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

void launch(const Maps& m, const Arguments<Role::kNt, Epilogue::kStore>& p, int grid, Context& c) { start_any(m, p, grid, c); }
void launch(const Maps& m, const Arguments<Role::kNt, Epilogue::kSwiglu>& p, int grid, Context& c) { start_any(m, p, grid, c); }

}  // namespace esft::cuda::sm90
