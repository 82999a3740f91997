// y = x·Wᵀ on Hopper, plain and with SwiGLU; rows of x in order or gathered.
#include "sm90_start.cuh"

namespace esft::cuda::sm90 {

void launch(const Maps& m, const Arguments<Role::kNt, Epilogue::kStore>& p, Tiling tiling, int grid, Context& c) {
  switch (tiling) {
    case Tiling::kWide: return start_any(m, p, grid, c);
    case Tiling::kNarrow: return start<Load::kTma, Tiling::kNarrow>(m, p, grid, c);
    case Tiling::kInTurns: return start<Load::kTma, Tiling::kInTurns>(m, p, grid, c);
  }
  no_kernel("tiling", int(tiling));
}
void launch(const Maps& m, const Arguments<Role::kNt, Epilogue::kSwiglu>& p, int grid, Context& c) { start_any(m, p, grid, c); }

}  // namespace esft::cuda::sm90
