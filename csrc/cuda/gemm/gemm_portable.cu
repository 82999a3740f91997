// Dense products of bf16 operands with mma.sync (mma_gemm.cuh). When the tiles are fewer than the SMs and the contraction is long
// it is cut into parts, each at least four stages, whose f32 results are summed in order by a second kernel.
#include "linear_cross_entropy.cuh"
#include "mma_gemm.cuh"
#include "split_sum.cuh"

namespace esft::cuda {

template void launch_mma<kNt, kStore>(MmaParams, const NoExtra&, bool, int64_t, Context&);
template void launch_mma<kNn, kStore>(MmaParams, const NoExtra&, bool, int64_t, Context&);
template void launch_mma<kTn, kStore>(MmaParams, const NoExtra&, bool, int64_t, Context&);

namespace {

constexpr int64_t kLeastSteps = 4;

void run(MmaMode mode, const MmaParams& p, bool aligned, int64_t tiles, Context& c) {
  switch (mode) {
    case kNt: return launch_mma<kNt, kStore>(p, {}, aligned, tiles, c);
    case kNn: return launch_mma<kNn, kStore>(p, {}, aligned, tiles, c);
    case kTn: return launch_mma<kTn, kStore>(p, {}, aligned, tiles, c);
  }
  no_kernel("mode", mode);
}

// One group whose size is only known on the device.
MmaParams chunk_product(const int32_t* offsets, Context& c) {
  MmaParams p = {};
  p.offsets = offsets;
  p.experts = p.group_count = p.segments = 1;
  p.routed = -1;
  p.op = ESFT_OP_linear_cross_entropy;
  p.faults = c.faults;
  return p;
}

}  // namespace

void mma_dense(MmaMode mode, const MmaParams& given, bool aligned, Context& c) {
  if (given.m == 0 || given.n == 0) return;
  MmaParams p = given;
  p.stack_count = int32_t(mode == kNt ? ceil_div(p.n, kMmaTile) : mode == kTn ? ceil_div(p.m, kMmaTile) : 1);
  p.segments = 1;
  p.faults = c.faults;
  const int64_t tiles = ceil_div(p.m, kMmaTile) * ceil_div(p.n, kMmaTile), steps = ceil_div(p.k, kMmaStep);
  const int splits = split_count(c.sms, tiles, steps / kLeastSteps);
  if (splits == 1) return run(mode, p, aligned, tiles, c);
  p.split_target = int32_t(splits * tiles);
  p.split_stride = p.m * p.n;
  float* partials = c.scratch_of<float>(splits * p.split_stride);
  p.out = {partials, p.n, 0, 0, p.n % 2 == 0};
  p.bias = {};
  run(mode, p, aligned, splits * tiles, c);
  sum_splits({partials, p.split_stride, p.m, p.n, given.out, given.bias.data, given.bias.is_bf16, splits}, c);
}

// ---- linear_cross_entropy ---------------------------------------------------------------------------------------------------

void portable_ce_logits(const CeLogits& ce, Context& c) {
  MmaParams p = chunk_product(ce.offsets, c);
  p.a = ce.x;
  p.w_one = ce.w;
  p.n = ce.vocabulary, p.k = ce.features;
  p.stack_count = ce.tiles;
  const bool aligned = vector_rows(ce.x.data, ce.x.ld, p.k) && vector_rows(ce.w.data, ce.w.ld, p.k);
  CeLogits own = ce;  // a rank of 4 or 12 leaves the loads of x and W as they are
  own.vectors = vector_rows(ce.u.data, ce.u.ld, ce.rank) && vector_rows(ce.b.data, ce.b.ld, ce.rank);
  launch_mma<kNt, kCeLogits>(p, own, aligned, ceil_div(ce.capacity, kMmaTile) * p.stack_count, c);
}

CeSplits portable_ce_gradient(const CeGradient& g, Context& c) {
  MmaParams p = chunk_product(g.offsets, c);
  p.a = g.dz;
  p.w_one = g.w;
  p.n = g.features, p.k = g.vocabulary;
  p.stack_count = 1;
  p.out = {g.partials, g.features, 0, 0, g.features % 2 == 0};
  p.split_target = c.sms;
  const int64_t tiles = ceil_div(g.capacity, kMmaTile) * ceil_div(g.features, kMmaTile);
  launch_mma<kNn, kStore>(p, {}, vector_rows(g.w.data, g.w.ld, g.features), max_of<int64_t>(tiles, c.sms), c);
  return {c.sms, kMmaTile, kMmaTile, int32_t(ceil_div(g.vocabulary, kMmaStep))};
}

void portable_ce_weight_gradient(const Rows& dz, const Rows& x, const int32_t* offsets, const esft_tensor& dw, bool accumulate,
                                 Context& c) {
  MmaParams p = chunk_product(offsets, c);
  p.a = dz;
  p.b = x;
  p.m = rows(dw), p.n = cols(dw);
  p.stack_count = int32_t(ceil_div(p.m, kMmaTile));
  p.out = output(dw, accumulate);
  launch_mma<kTn, kStore>(p, {}, vector_rows(x.data, x.ld, p.n), p.stack_count * ceil_div(p.n, kMmaTile), c);
}

}  // namespace esft::cuda
