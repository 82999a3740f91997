// The two products of linear_cross_entropy on Hopper (interface: linear_cross_entropy.cuh), by the grouped kernel: one group whose
// row count is known to the device only.
#include "linear_cross_entropy.cuh"

#include <string.h>

#include "gemm_sm90.h"

namespace esft::cuda {

using namespace sm90;

namespace {

esft_tensor matrix(const void* data, int64_t rows, int64_t cols, int64_t ld) {
  esft_tensor t;
  memset(&t, 0, sizeof t);
  t.data = const_cast<void*>(data);
  t.dtype = ESFT_BF16;
  t.rank = 2;
  t.shape[0] = rows;
  t.shape[1] = cols;
  t.ld = ld;
  return t;
}

// A chunk of rows whose number only the device knows.
template <Role kRole, Epilogue kEpilogue>
Arguments<kRole, kEpilogue> chunk_params(const int32_t* offsets, Context& c) {
  Arguments<kRole, kEpilogue> p;
  memset(static_cast<void*>(&p), 0, sizeof p);
  p.offsets = offsets;
  p.experts = p.group_count = 1;
  p.n = -1;
  p.op = ESFT_OP_linear_cross_entropy;
  p.faults = c.faults;
  if constexpr (kEpilogue == Epilogue::kStore) p.factor = 1.f;
  return p;
}

struct GatherParams {
  cuda::Rows from;
  const int32_t* offsets;
  bf16* to;
  int64_t features;  // a multiple of 8
};

// The supervised rows of a chunk, one after another, for the copy engine: a pass of 4·D bytes per row, a thousandth of the product.
__global__ void __launch_bounds__(256) gather_rows(const EarlyStart early, const GatherParams p) {
  early.wait();
  const int n = p.offsets[1];
  for (int r = blockIdx.x * 8 + threadIdx.x / 32; r < n; r += gridDim.x * 8) {
    const bf16* from = p.from.data + p.from.index[r] * p.from.ld;
    bf16* to = p.to + r * p.features;
    for (int64_t d = threadIdx.x % 32 * 8; d < p.features; d += 256) store16(to + d, load16(from + d));
  }
}

}  // namespace

bool sm90_ce_logits(const CeLogits& z, Context& c) {
  const esft_tensor x = matrix(z.x.data, z.x.count, z.features, z.x.ld), w = matrix(z.w.data, z.vocabulary, z.features, z.w.ld);
  if (z.features == 0 || z.vocabulary > (1 << 30) || !rows_aligned(x)) return false;
  Operands operands(c);
  auto p = chunk_params<Role::kNt, Epilogue::kLogits>(z.offsets, c);
  int32_t which;
  if (!operands.add_a(matrix(z.gathered, z.capacity, z.features, z.features), kTileM, &which) ||
      !operands.add_segment(&p.contraction, which, 0, {&w, 1, 1, 0, 1}, z.features, Shape<Role::kNt, Epilogue::kLogits>::kBoxRows))
    return false;
  if (z.rank > 0) {
    const int64_t padded = ceil_div(z.rank, 8) * 8;
    bf16* u = c.scratch_of<bf16>(z.capacity * padded);
    const esft_tensor b = matrix(z.b.data, z.vocabulary, z.rank, z.b.ld);
    if (!operands.add_a(matrix(u, z.capacity, padded, padded), kTileM, &which) ||
        !operands.add_segment(&p.contraction, which, 0, {&b, 1, 1, 0, 1}, z.rank, Shape<Role::kNt, Epilogue::kLogits>::kBoxRows))
      return false;
    pad_rows(z.u, z.offsets, u, z.rank, padded, c);
  }
  ESFT_LAUNCH((gather_rows), c, dim3(unsigned(c.sms * 4)), 256, 0, GatherParams{z.x, z.offsets, z.gathered, z.features});
  p.parts = 1;
  p.part_rows = int32_t(z.vocabulary);
  p.a = {z.x.data, z.x.ld, z.x.index, z.x.count, kArgRows};
  p.out = operands.out_of(matrix(z.shifted, z.capacity, z.shifted_ld, z.shifted_ld), false, 8, &operands.maps.out);
  p.column_tiles = z.tiles;
  p.tile_max = z.tile_max;
  p.tile_sum = z.tile_sum;
  p.label_logit = z.label_z;
  p.label_first = z.label_first;
  p.labels = z.labels;
  p.finish = z.finish;
  launch(operands.maps, p, c.sms, c);
  return true;
}

bool sm90_ce_gradient(const CeGradient& g, CeSplits* splits, Context& c) {
  const esft_tensor dz = matrix(g.dz.data, g.capacity, ceil_div(g.vocabulary, 8) * 8, g.dz.ld),
                    w = matrix(g.w.data, g.vocabulary, g.features, g.w.ld);
  if (g.vocabulary > (1 << 30)) return false;
  Operands operands(c);
  auto p = chunk_params<Role::kNn, Epilogue::kStore>(g.offsets, c);
  int32_t which;
  if (!operands.add_a(dz, kTileM, &which) ||
      !operands.add_segment(&p.contraction, which, 0, {&w, 1, 1, 0, 1}, g.vocabulary, Shape<Role::kNn, Epilogue::kStore>::kBoxRows))
    return false;
  p.columns = int32_t(g.features);
  p.out = {g.partials, g.features, 1, 0, 0, 0};
  *splits = {c.sms, kTileM, Shape<Role::kNn, Epilogue::kStore>::kColumns, p.contraction.steps};
  p.split_target = splits->target;
  launch(operands.maps, p, c.sms, c);
  return true;
}

}  // namespace esft::cuda
