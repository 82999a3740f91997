// Dense and grouped products on Hopper: which kernel serves a call, and with what parameters.
#include "gemm_sm90.h"

#include <string.h>

#include <vector>

#include "activation_rows.cuh"

namespace esft::cuda {

using namespace sm90;

namespace {

template <Role kRole, Epilogue kEpilogue>
Arguments<kRole, kEpilogue> basics(int op, Context& c) {
  Arguments<kRole, kEpilogue> p;
  memset(static_cast<void*>(&p), 0, sizeof p);
  p.experts = p.group_count = 1;
  p.faults = c.faults;
  p.op = op;
  if constexpr (kEpilogue == Epilogue::kStore) p.factor = 1.f;
  return p;
}

bool same_rows(const esft_tensor_list& list, int64_t segments) {
  for (int64_t s = 1; s < segments; s++)
    if (rows(list.items[s]) != rows(list.items[0])) return false;
  return true;
}

// The most rows of all segments together, and the most experts.
bool fits(int64_t rows, const Groups& g) { return g.experts <= kMaxGroups && rows < (1 << 30); }

// A by the copy engine when its rows are in order, as Maps::a number *which; else row by row (-1).
bool set_a(sm90::Rows& a, Operands& operands, const esft_tensor& t, const esft_tensor* index, FaultArgument argument, int box_rows,
           int32_t* which) {
  *which = -1;
  if (!rows_aligned(t)) return false;
  if (!index || !present(*index)) return operands.add_a(t, box_rows, which);
  a = sm90::rows_of(t, index, argument);
  return true;
}

bool set_groups(Groups& g, const esft_tensor& offsets, const esft_ints* groups, Context& c) {
  g.offsets = data<int32_t>(offsets);
  g.experts = g.group_count = int32_t(numel(offsets) - 1);
  if (groups && groups->count > 0) {
    g.groups = c.constant_of(groups->items, groups->count);
    g.group_count = int32_t(groups->count);
  }
  return g.experts <= kMaxGroups;
}

// Tiles of y = x·Wᵀ with `columns` columns (of one part) over a contraction of k, by arithmetic; ESFT_CUDA_TILES=wide: always 128 x 256.
// Up to 128 columns (routers, low ranks) fill at most half of a wide tile: a step of a narrow one takes 256 cycles of the tensor cores instead
// of 1024, and its loads some 400 to 700. A contraction of up to 1024 takes 16 k cycles a wide tile, of whose end the tensor cores wait for
// 1 to 1.5 k. In turns they do not, for which 192 columns instead of 256 cost 11 % more traffic of L2 and, of 2048 columns, 3 % of padding.
// plain: bf16 that overwrites, without bias.
struct NtTiles {
  Tiling tiling;
  int columns;  // of a tile, and of its boxes half as many rows of weights
};
NtTiles tiling_of(int64_t columns, int64_t k, bool gathered, bool plain, Context& c) {
  const auto padded = [&](int to) { return ceil_div(columns, to) * to; };
  if (c.shaped_tiles && !gathered) {
    if (columns <= 128) return {Tiling::kNarrow, Shape<Role::kNt, Epilogue::kStore, Tiling::kNarrow>::kColumns};
    if (plain && k <= 1024 && padded(192) * 20 <= padded(256) * 21)
      return {Tiling::kInTurns, Shape<Role::kNt, Epilogue::kStore, Tiling::kInTurns>::kColumns};
  }
  return {Tiling::kWide, Shape<Role::kNt, Epilogue::kStore>::kColumns};
}

// What a bf16 result is added to. part: columns of a stretch that tiles begin with.
Added added_to(const Out& out, const esft_tensor* residual, int64_t part) {
  if (out.f32) return {};
  if (residual && present(*residual)) return {data<bf16>(*residual), residual->ld, rows_aligned(*residual) && part % 8 == 0, 1};
  if (out.accumulate) return {static_cast<const bf16*>(out.data), out.ld, out.vectors, 0};
  return {};
}

// CTAs of a dense product: no more than there are tiles.
int grid_of(int64_t rows, int64_t columns, int tile_columns, Context& c) {
  return int(min_of<int64_t>(c.sms, ceil_div(rows, kTileM) * ceil_div(columns, tile_columns)));
}
// ---- f32 as three bf16 --------------------------------------------------------------------------------------------------

struct SplitParams {
  const float* from;
  int64_t from_ld, rows, columns;
  bf16*
      to;  // [rows, parts * columns]: the bf16 nearest to x is the last part, the one nearest to what is left before it, and so on:
  // sums begin with the small ones
  int32_t parts;
};

__global__ void __launch_bounds__(256) split_f32(const EarlyStart early, const SplitParams p) {
  early.wait();
  const int64_t stride = int64_t(gridDim.x) * 256, count = p.rows * p.columns;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < count; i += stride) {
    const int64_t row = i / p.columns, column = i - row * p.columns;
    float left = p.from[row * p.from_ld + column];
    for (int part = 0; part < p.parts; part++) {
      const bf16 nearest = from_float<bf16>(left);
      p.to[(row * p.parts + p.parts - 1 - part) * p.columns + column] = nearest;
      left = fabsf(to_float(nearest)) < INFINITY ? left - to_float(nearest) : 0.f;
    }
  }
}

}  // namespace

namespace {

// Low-rank terms as the last segments of a contraction. parts: of the weights of nt, of which a term has as many or one; nn: 0, its parts
// are segments one after the other.
bool add_terms(Contraction* contraction, const esft_tensor& u, const esft_tensor_list& list, const esft_ints& groups,
               int64_t experts, int64_t parts, int box_rows, Operands& operands, Context& c) {
  if (groups.count == 0) return true;
  const int64_t own = list.count / groups.count, rank = cols(u) / own;
  int32_t which;
  if (!rows_aligned(u) || !operands.add_a(u, kTileM, &which)) return false;
  for (int64_t i = 0; i < list.count; i++)
    if (numel(list.items[i]) == 0) return false;
  contraction->first_term = contraction->count;
  if (groups.count < experts) {
    std::vector<int32_t> terms_of(size_t(experts), -1);
    for (int64_t g = 0; g < groups.count; g++) terms_of[size_t(groups.items[g])] = int32_t(g);
    contraction->terms_of = c.constant_of(terms_of.data(), experts);
  }
  if (parts > 0) {
    if (own != 1 && (own != parts || !same_rows(list, own))) return false;
    if (!operands.add_segment(contraction, which, 0, {list.items, list.count, own, 0, own}, own * rank, box_rows)) return false;
    contraction->segments[contraction->count - 1].shift = int32_t(own > 1 ? rank : 0);
    return true;
  }
  for (int64_t p = 0; p < own; p++)
    if (!operands.add_segment(contraction, which, p * rank, {list.items, list.count, own, p, 1}, rank, box_rows)) return false;
  return true;
}

template <Epilogue kEpilogue>
bool grouped_nt(const esft_grouped_gemm_nt_args& a, Context& c, Operands& operands, int box_rows,
                Arguments<Role::kNt, kEpilogue>* out) {
  auto p = basics<Role::kNt, kEpilogue>(ESFT_OP_grouped_gemm_nt, c);
  if (!set_groups(p, a.offsets, &a.groups, c) || !same_rows(tensors_of(a.w), a.segments)) return false;
  p.n = rows(a.y);
  p.parts = int32_t(a.segments);
  p.part_rows = int32_t(rows(a.w.items[0]));
  const int64_t k = cols(a.x);
  if (p.n == 0 || k == 0 || cols(a.y) == 0 || !fits(a.segments * p.part_rows, p)) return false;
  int32_t which;
  if (!set_a(p.a, operands, a.x, &a.rows, kArgRows, kTileM, &which) ||
      !operands.add_segment(&p.contraction, which, 0, {a.w.items, a.w.count, a.segments, 0, a.segments}, k, box_rows) ||
      !add_terms(&p.contraction, a.u, a.terms, a.term_groups, p.experts, a.segments, box_rows, operands, c))
    return false;
  *out = p;
  return true;
}

}  // namespace

bool sm90_grouped_nt(const esft_grouped_gemm_nt_args& a, Context& c) {
  Operands operands(c);
  if (!a.act) {
    Arguments<Role::kNt, Epilogue::kStore> p;
    const NtTiles tiles = tiling_of(rows(a.w.items[0]), cols(a.x), present(a.rows),
                                    !present(a.residual) && a.bias.count == 0 && !a.accumulate && a.factor == 1, c);
    if (!grouped_nt(a, c, operands, tiles.columns / 2, &p)) return false;
    p.out = operands.out_of(a.y, a.accumulate != 0, p.part_rows, &operands.maps.out);
    p.factor = float(a.factor);
    p.biases = bias_table(a.bias, c);
    p.added = added_to(p.out, &a.residual, p.part_rows);
    launch(operands.maps, p, tiles.tiling, c.sms, c);
    return true;
  }
  Arguments<Role::kNt, Epilogue::kSwiglu> p;
  if (a.segments > 2 || !grouped_nt(a, c, operands, Shape<Role::kNt, Epilogue::kSwiglu>::kBoxRows, &p)) return false;
  p.out = operands.out_of(a.y, false, 8, &operands.maps.out);
  if (present(a.h)) p.h = operands.out_of(a.h, false, cols(a.y), &operands.maps.out_h);
  p.act = activation_of(a.act, a.alpha, a.limit);
  p.biases = bias_table(a.bias, c);
  launch(operands.maps, p, c.sms, c);
  return true;
}

namespace {

// The segments of the contraction are those of the weights, one after the other in the columns of dy.
template <Epilogue kEpilogue>
bool grouped_nn(const esft_grouped_gemm_nn_args& a, Context& c, Operands& operands, Arguments<Role::kNn, kEpilogue>* out) {
  auto p = basics<Role::kNn, kEpilogue>(ESFT_OP_grouped_gemm_nn, c);
  if (!set_groups(p, a.offsets, &a.groups, c) || !same_rows(tensors_of(a.w), a.segments)) return false;
  p.n = rows(a.dx);
  const int64_t length = rows(a.w.items[0]);
  p.columns = int32_t(cols(a.w.items[0]));
  if (p.n == 0 || length == 0 || p.columns == 0 || !fits(a.segments * length, p)) return false;
  int32_t which;
  if (!set_a(p.a, operands, a.dy, &a.rows, kArgRows, kTileM, &which)) return false;
  // Gathered, the columns of a segment must start on a 16-byte boundary.
  if (which < 0 && a.segments > 1 && length % 8) return false;
  constexpr int kBoxRows = Shape<Role::kNn, kEpilogue>::kBoxRows;
  for (int64_t s = 0; s < a.segments; s++)
    if (!operands.add_segment(&p.contraction, which, s * length, {a.w.items, a.w.count, a.segments, s, 1}, length, kBoxRows))
      return false;
  if (!add_terms(&p.contraction, a.u, a.terms, a.term_groups, p.experts, 0, kBoxRows, operands, c)) return false;
  *out = p;
  return true;
}

}  // namespace

bool sm90_grouped_nn(const esft_grouped_gemm_nn_args& a, Context& c) {
  Operands operands(c);
  if (!a.act) {
    Arguments<Role::kNn, Epilogue::kStore> p;
    if (!grouped_nn(a, c, operands, &p)) return false;
    p.out = operands.out_of(a.dx, a.accumulate != 0, 8, &operands.maps.out);
    p.factor = float(a.factor);
    p.added = added_to(p.out, nullptr, 8);
    launch(operands.maps, p, c.sms, c);
    return true;
  }
  Arguments<Role::kNn, Epilogue::kSwigluBackward> p;
  if (!grouped_nn(a, c, operands, &p) || !encode_tensor_map(&operands.maps.h, a.h, kTileM)) return false;
  p.out = operands.out_of(a.dx, false, p.columns, &operands.maps.out);
  p.act = activation_of(a.act, a.alpha, a.limit);
  p.gate = present(a.gate) ? data<float>(a.gate) : nullptr;
  p.column_tiles = int32_t(ceil_div(p.columns, Shape<Role::kNn, Epilogue::kSwigluBackward>::kColumns));
  if (present(a.dgate)) p.dgate_parts = c.scratch_of<float>(p.n * p.column_tiles);
  launch(operands.maps, p, c.sms, c);
  if (present(a.dgate)) sum_dgate(p.dgate_parts, p.column_tiles, a, c);
  return true;
}

bool sm90_grouped_tn(const esft_grouped_gemm_tn_args& a, Context& c) {
  if (a.groups.count == 0) return true;
  Operands operands(c);
  auto p = basics<Role::kTn, Epilogue::kWeightGradient>(ESFT_OP_grouped_gemm_tn, c);
  if (!set_groups(p, a.offsets, &a.groups, c)) return false;
  for (int64_t i = 1; i < a.dw.count; i++)
    if (rows(a.dw.items[i]) != rows(a.dw.items[0])) return false;
  p.n = present(a.dy_rows) ? numel(a.dy_rows) : rows(a.dy);
  p.parts = int32_t(a.segments);
  p.part_rows = int32_t(rows(a.dw.items[0]));
  p.columns = int32_t(cols(a.dw.items[0]));
  if (p.n == 0 || p.part_rows == 0 || p.columns == 0 || !fits(a.segments * p.part_rows, p) || !rows_aligned(a.dy)) return false;
  if (p.parts > 1 && p.part_rows % 8) return false;
  const bool computed = a.x_act || present(a.dy_scale);
  if (!computed && !rows_aligned(a.x)) return false;
  int32_t which;
  if (!set_a(p.a, operands, a.dy, &a.dy_rows, kArgDyRows, kTileK, &which)) return false;
  if (which >= 0) p.a = sm90::rows_of(a.dy, nullptr, kArgDyRows);  // for the last rows of a group
  if (computed) {
    const int64_t ld = ceil_div(p.columns, 8) * 8;
    bf16* rows_out = c.scratch_of<bf16>(p.n * ld);
    const float* scale = present(a.dy_scale) ? data<float>(a.dy_scale) : nullptr;
    make_activation_rows({activation(a.x, &a.x_rows, kArgXRows), p.columns, activation_of(a.x_act, a.alpha, a.limit), scale,
                          p.offsets, p.groups, p.experts, p.group_count, p.n, rows_out, ld, p.op},
                         c);
    p.b = {rows_out, ld, nullptr, p.n, kArgXRows};
  } else {
    p.b = sm90::rows_of(a.x, &a.x_rows, kArgXRows);
  }
  std::vector<void*> pointers(static_cast<size_t>(a.dw.count));
  std::vector<int64_t> strides(pointers.size());
  for (int64_t i = 0; i < a.dw.count; i++) {
    pointers[size_t(i)] = a.dw.items[i].data;
    strides[size_t(i)] = rows(a.dw.items[i]) <= 1 ? cols(a.dw.items[i]) : a.dw.items[i].ld;
  }
  p.out.accumulate = a.accumulate != 0;
  p.dw = c.constant_of(pointers.data(), a.dw.count);
  p.dw_ld = c.constant_of(strides.data(), a.dw.count);
  launch(operands.maps, p, c.sms, c);
  return true;
}

bool sm90_gemm(const esft_gemm_args& a, Context& c) {
  if (a.a.dtype != ESFT_BF16 || a.b.tensor.dtype != ESFT_BF16 || !rows_aligned(a.a) || !rows_aligned(a.b.tensor)) return false;
  const MmaMode mode = MmaMode(a.mode);
  const int64_t m = rows(a.c), n = cols(a.c), k = mode == kTn ? rows(a.a) : cols(a.a);
  if (m == 0 || n == 0 || k == 0 || m > 0x7fffffff || n > (1 << 30) || k > (1 << 30)) return false;
  Operands operands(c);
  const Out out = operands.out_of(a.c, a.accumulate != 0, 8, &operands.maps.out);
  int32_t which;
  if (mode == kTn) {
    auto p = basics<Role::kTn, Epilogue::kWeightGradient>(ESFT_OP_gemm, c);
    p.n = k;
    p.parts = 1;
    p.part_rows = int32_t(m);
    p.columns = int32_t(n);
    p.out = out;
    if (!operands.add_a(a.a, kTileK, &which) || !encode_tensor_map(&operands.maps.b[0], a.b.tensor, kTileK)) return false;
    launch(operands.maps, p, grid_of(m, n, Shape<Role::kTn, Epilogue::kWeightGradient>::kColumns, c), c);
    return true;
  }
  if (!operands.add_a(a.a, kTileM, &which)) return false;
  const Operands::Weights weights{&a.b.tensor, 1, 1, 0, 1};
  if (mode == kNt) {
    auto p = basics<Role::kNt, Epilogue::kStore>(ESFT_OP_gemm, c);
    p.n = m;
    p.parts = 1;
    p.part_rows = int32_t(n);
    p.out = out;
    p.bias = bias_of(a.bias);
    p.added = added_to(out, &a.residual, 8);
    const NtTiles tiles = tiling_of(n, k, false, !out.f32 && !out.accumulate && !present(a.bias) && !present(a.residual), c);
    if (!operands.add_segment(&p.contraction, which, 0, weights, k, tiles.columns / 2)) return false;
    launch(operands.maps, p, tiles.tiling, grid_of(m, n, tiles.columns, c), c);
    return true;
  }
  if (mode != kNn) no_kernel("mode", mode);
  auto p = basics<Role::kNn, Epilogue::kStore>(ESFT_OP_gemm, c);
  p.n = m;
  p.columns = int32_t(n);
  p.out = out;
  p.added = added_to(out, nullptr, 8);
  if (!operands.add_segment(&p.contraction, which, 0, weights, k, Shape<Role::kNn, Epilogue::kStore>::kBoxRows)) return false;
  launch(operands.maps, p, grid_of(m, n, Shape<Role::kNn, Epilogue::kStore>::kColumns, c), c);
  return true;
}

// dx = dlogits · W with dlogits in f32: the parts lie side by side, as segments of the contraction over one weight. Three are exact, one
// is precision 1.
bool sm90_gemm_f32(const esft_gemm_args& a, Context& c) {
  const int64_t m = rows(a.c), n = cols(a.c), k = cols(a.a);
  if (a.mode != kNn || a.b.tensor.dtype != ESFT_BF16 || k % 8 || !rows_aligned(a.b.tensor)) return false;
  if (m == 0 || n == 0 || k == 0 || m > 0x7fffffff || n > (1 << 30) || 3 * k > (1 << 30)) return false;
  const int count = a.precision ? 1 : 3;
  Operands operands(c);
  auto p = basics<Role::kNn, Epilogue::kStore>(ESFT_OP_gemm, c);
  esft_tensor parts = a.a;
  parts.dtype = ESFT_BF16;
  parts.rank = 2;
  parts.shape[0] = m;
  parts.shape[1] = parts.ld = count * k;
  parts.data = c.scratch_of<bf16>(m * count * k);
  int32_t which;
  if (!operands.add_a(parts, kTileM, &which)) return false;
  for (int i = 0; i < count; i++)
    if (!operands.add_segment(&p.contraction, which, i * k, {&a.b.tensor, 1, 1, 0, 1}, k,
                              Shape<Role::kNn, Epilogue::kStore>::kBoxRows))
      return false;
  ESFT_LAUNCH((split_f32), c, dim3(unsigned(min_of<int64_t>(ceil_div(m * k, 1024), c.sms * 8))), 256, 0,
              SplitParams{data<float>(a.a), a.a.ld, m, k, data<bf16>(parts), count});
  p.n = m;
  p.columns = int32_t(n);
  p.out = operands.out_of(a.c, a.accumulate != 0, 8, &operands.maps.out);
  p.added = added_to(p.out, nullptr, 8);
  launch(operands.maps, p, grid_of(m, n, Shape<Role::kNn, Epilogue::kStore>::kColumns, c), c);
  return true;
}

}  // namespace esft::cuda
