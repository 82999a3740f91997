// The three grouped products with mma.sync (mma_gemm.cuh): any shape, any alignment, gathers on load.
#include <vector>

#include "activation_rows.cuh"
#include "gemm_paths.h"
#include "mma_gemm.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256;

const Matrix* matrix_table(const esft_tensor_list& list, Context& c) {
  std::vector<Matrix> items(size_t(list.count));
  for (int64_t i = 0; i < list.count; i++) items[size_t(i)] = {list.items[i].data, list.items[i].ld};
  return c.constant_of(items.data(), list.count);
}
bool all_vector_rows(const esft_tensor_list& list) {
  for (int64_t i = 0; i < list.count; i++)
    if (!vector_rows(list.items[i])) return false;
  return true;
}

// u, the matrices, and which experts they are of. nt: the ranks are columns of the items, nn: rows.
Terms terms_of(const esft_tensor& u, const esft_tensor_list& list, const esft_ints& groups, int64_t experts, Context& c) {
  if (groups.count == 0 || cols(u) == 0) return {};
  const int64_t parts = list.count / groups.count;
  Terms t = {data<bf16>(u), u.ld, int32_t(cols(u)), int32_t(parts), int32_t(cols(u) / parts), 0, nullptr, nullptr};
  bool vectors = vector_rows(u) && t.rank % 8 == 0;
  std::vector<TermItem> items(size_t(list.count));
  for (int64_t i = 0; i < list.count; i++) {
    const esft_tensor& item = list.items[i];
    items[size_t(i)] = {item.data, item.ld, int32_t(rows(item)), int32_t(cols(item))};
    vectors = vectors && vector_rows(item);
  }
  std::vector<int32_t> first(size_t(experts), -1);
  for (int64_t g = 0; g < groups.count; g++) first[size_t(groups.items[g])] = int32_t(g * parts);
  t.vectors = vectors;
  t.items = c.constant_of(items.data(), list.count);
  t.first = c.constant_of(first.data(), experts);
  return t;
}

// Tiles of at most `width` along the stacked segments of the first expert.
std::vector<ColumnTile> stack_tiles(const esft_tensor_list& list, int64_t segments, int64_t width) {
  std::vector<ColumnTile> tiles;
  int64_t column = 0;
  for (int64_t s = 0; s < segments; s++) {
    const int64_t height = rows(list.items[s]), step = width ? width : max_of<int64_t>(height, 1);
    for (int64_t r = 0; r < height; r += step)
      tiles.push_back({int32_t(s), int32_t(r), int32_t(column + r), int32_t(min_of(step, height - r))});
    column += height;
  }
  return tiles;
}
bool columns_multiple_of(const std::vector<ColumnTile>& tiles, int32_t n) {
  for (const ColumnTile& t : tiles)
    if (t.column0 % n) return false;
  return true;
}

MmaParams grouped(const esft_tensor& offsets, const esft_ints* groups, int64_t routed, int64_t segments, int op, Context& c) {
  MmaParams p = {};
  p.offsets = data<int32_t>(offsets);
  p.experts = int32_t(numel(offsets) - 1);
  const bool some = groups && groups->count;
  p.groups = some ? c.constant_of(groups->items, groups->count) : nullptr;
  p.group_count = some ? int32_t(groups->count) : p.experts;
  p.routed = routed;
  p.segments = int32_t(segments);
  p.op = op;
  p.faults = c.faults;
  return p;
}
void set_stack(MmaParams& p, const std::vector<ColumnTile>& tiles, Context& c) {
  p.stack_count = int32_t(tiles.size());
  p.stack = c.constant_of(tiles.data(), int64_t(tiles.size()));
}
// At least one, so that the offsets are looked at in any case.
int64_t row_tiles(int64_t n, int64_t experts) { return max_of<int64_t>(1, n / kMmaTile + min_of(n, experts)); }

struct DgateParams {
  const float* partials;
  float* dgate;
  int64_t n;
  const int32_t *offsets, *groups;
  int32_t tiles, experts, group_count;
};

// A thread per row: a few sums of neighbouring rows.
__global__ void __launch_bounds__(kThreads) add_dgate(const EarlyStart early, const DgateParams p) {
  early.wait();
  for (int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x; r < p.n; r += int64_t(gridDim.x) * kThreads) {
    if (p.groups ? !row_is_listed(p.offsets, p.experts, p.groups, p.group_count, r) : r >= p.offsets[p.experts]) continue;
    float sum = 0.f;
    for (int t = 0; t < p.tiles; t++) sum += p.partials[r * p.tiles + t];
    p.dgate[r] = sum;
  }
}

struct BiasDgateParams {
  DgateParams d;
  Rows dy;
  const Bias* biases;
  int32_t segments;
};

// A warp per row: dgate += ⟨dy[r], bias_e⟩. Rows that do not exist were reported by the product.
__global__ void __launch_bounds__(kThreads) add_bias_dgate(const EarlyStart early, const BiasDgateParams p) {
  early.wait();
  const DgateParams& d = p.d;
  const int lane = threadIdx.x % 32;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  for (int64_t r = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; r < d.n; r += warps) {
    if (d.groups ? !row_is_listed(d.offsets, d.experts, d.groups, d.group_count, r) : r >= d.offsets[d.experts]) continue;
    const int64_t from = p.dy.index ? p.dy.index[r] : r;
    if (from < 0 || from >= p.dy.count) continue;
    const bf16* dy = p.dy.data + from * p.dy.ld;
    const Bias* bias = p.biases + int64_t(expert_of_row(d.offsets, d.experts, r)) * p.segments;
    float sum = 0.f;
    for (int s = 0; s < p.segments; dy += bias[s].size, s++)
      for (int i = lane; i < bias[s].size; i += 32) sum += to_float(dy[i]) * bias_at(bias[s], i);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
    if (lane == 0) d.dgate[r] += sum;
  }
}

}  // namespace

const Bias* bias_table(const esft_tensor_list& list, Context& c) {
  if (list.count == 0) return nullptr;
  std::vector<Bias> items(size_t(list.count));
  for (int64_t i = 0; i < list.count; i++) items[size_t(i)] = bias_of(list.items[i]);
  return c.constant_of(items.data(), list.count);
}

void sum_dgate(const float* partials, int tiles, const esft_grouped_gemm_nn_args& a, Context& c) {
  const int64_t n = rows(a.dx);
  if (n == 0) return;
  const int32_t* groups = a.groups.count ? c.constant_of(a.groups.items, a.groups.count) : nullptr;
  const DgateParams p{partials,
                      data<float>(a.dgate),
                      n,
                      data<int32_t>(a.offsets),
                      groups,
                      tiles,
                      int32_t(numel(a.offsets) - 1),
                      int32_t(a.groups.count)};
  ESFT_LAUNCH((add_dgate), c, dim3(unsigned(min_of<int64_t>(ceil_div(n, kThreads), c.sms * 8))), kThreads, 0, p);
  if (a.bias.count == 0) return;
  const BiasDgateParams b{p, activation(a.dy, &a.rows, kArgRows), bias_table(a.bias, c), int32_t(a.segments)};
  ESFT_LAUNCH((add_bias_dgate), c, dim3(unsigned(min_of<int64_t>(ceil_div(n, kThreads / 32), c.sms * 8))), kThreads, 0, b);
}

void portable_grouped_nt(const esft_grouped_gemm_nt_args& a, Context& c) {
  const int64_t n = rows(a.y);
  MmaParams p = grouped(a.offsets, &a.groups, n, a.segments, ESFT_OP_grouped_gemm_nt, c);
  p.a = activation(a.x, &a.rows, kArgRows);
  p.w = matrix_table(tensors_of(a.w), c);
  p.k = cols(a.x);
  p.out = output(a.y, a.accumulate != 0, a.residual);
  p.factor = float(a.factor);
  p.terms = terms_of(a.u, a.terms, a.term_groups, p.experts, c);
  p.biases = bias_table(a.bias, c);
  const bool aligned = vector_rows(a.x) && all_vector_rows(tensors_of(a.w));
  if (!a.act) {
    const std::vector<ColumnTile> tiles = stack_tiles(tensors_of(a.w), a.segments, kMmaTile);
    set_stack(p, tiles, c);
    p.n = cols(a.y);
    p.out.pairs = p.out.pairs && columns_multiple_of(tiles, 2);
    return launch_mma<kNt, kStore>(p, {}, aligned, row_tiles(n, p.group_count) * p.stack_count, c);
  }
  const int64_t features = cols(a.y);
  std::vector<ColumnTile> tiles;
  for (int64_t f = 0; f < features; f += kMmaSwiglu)
    tiles.push_back({0, int32_t(f), int32_t(f), int32_t(min_of<int64_t>(kMmaSwiglu, features - f))});
  set_stack(p, tiles, c);
  p.n = features;
  SwigluOutput h = {nullptr, 0, features, activation_of(a.act, a.alpha, a.limit), 0};
  if (present(a.h)) h = {data<bf16>(a.h), a.h.ld, features, h.act, output(a.h, false).pairs && features % 2 == 0};
  launch_mma<kNt, kSwiglu>(p, h, aligned, row_tiles(n, p.group_count) * p.stack_count, c);
}

void portable_grouped_nn(const esft_grouped_gemm_nn_args& a, Context& c) {
  const int64_t n = rows(a.dx);
  MmaParams p = grouped(a.offsets, &a.groups, n, a.segments, ESFT_OP_grouped_gemm_nn, c);
  p.a = activation(a.dy, &a.rows, kArgRows);
  p.w = matrix_table(tensors_of(a.w), c);
  p.out = output(a.dx, a.accumulate != 0);
  p.factor = float(a.factor);
  p.terms = terms_of(a.u, a.terms, a.term_groups, p.experts, c);
  const std::vector<ColumnTile> segments = stack_tiles(tensors_of(a.w), a.segments, 0);
  const bool aligned = vector_rows(a.dy) && all_vector_rows(tensors_of(a.w)) && columns_multiple_of(segments, 8);
  set_stack(p, segments, c);
  p.n = a.act ? cols(a.dx) / 2 : cols(a.dx);
  const int64_t columns = ceil_div(p.n, kMmaTile), tiles = row_tiles(n, p.group_count) * columns;
  if (!a.act) return launch_mma<kNn, kStore>(p, {}, aligned, tiles, c);
  DswigluInput in = {data<bf16>(a.h),
                     a.h.ld,
                     present(a.gate) ? data<float>(a.gate) : nullptr,
                     nullptr,
                     p.n,
                     activation_of(a.act, a.alpha, a.limit),
                     0};
  in.pairs = p.out.pairs && output(a.h, false).pairs && p.n % 2 == 0;
  if (present(a.dgate)) in.dgate_partials = c.scratch_of<float>(n * columns);
  launch_mma<kNn, kDswiglu>(p, in, aligned, tiles, c);
  if (present(a.dgate)) sum_dgate(in.dgate_partials, int(columns), a, c);
}

void portable_grouped_tn(const esft_grouped_gemm_tn_args& a, Context& c) {
  if (a.groups.count == 0) return;
  const int64_t n = present(a.dy_rows) ? numel(a.dy_rows) : rows(a.dy);
  MmaParams p = grouped(a.offsets, &a.groups, n, a.segments, ESFT_OP_grouped_gemm_tn, c);
  p.a = activation(a.dy, &a.dy_rows, kArgDyRows);
  p.b = activation(a.x, &a.x_rows, kArgXRows);
  p.n = a.x_act ? cols(a.x) / 2 : cols(a.x);
  p.m = cols(a.dy);
  bool aligned = vector_rows(a.dy);
  if (a.x_act || present(a.dy_scale)) {
    const int64_t ld = ceil_div(p.n, 8) * 8;
    bf16* made = c.scratch_of<bf16>(n * ld);
    make_activation_rows(
        {p.b, p.n, activation_of(a.x_act, a.alpha, a.limit), present(a.dy_scale) ? data<float>(a.dy_scale) : nullptr, p.offsets,
         p.groups, p.experts, p.group_count, n, made, ld, p.op},
        c);
    p.b = {made, ld, n, nullptr, kArgXRows};
  } else {
    aligned = aligned && vector_rows(a.x);
  }
  const std::vector<ColumnTile> tiles = stack_tiles(a.dw, a.segments, kMmaTile);
  aligned = aligned && columns_multiple_of(tiles, 8);
  set_stack(p, tiles, c);
  p.out = {nullptr, 0, 0, a.accumulate != 0, 1};
  for (int64_t i = 0; i < a.dw.count; i++) p.out.pairs = p.out.pairs && output(a.dw.items[i], true).pairs;
  p.out_items = matrix_table(a.dw, c);
  launch_mma<kTn, kStore>(p, {}, aligned, p.group_count * p.stack_count * ceil_div(p.n, kMmaTile), c);
}

}  // namespace esft::cuda
