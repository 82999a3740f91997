// Dense and grouped products on Hopper: which kernel serves a call, and with what parameters.
#include "gemm_sm90.h"

#include <string.h>

#include <vector>

#include "activation_rows.cuh"

namespace esft::cuda {

using namespace sm90;

namespace {

// What all three roles share.
Params basics(int op, Context& c) {
  Params p;
  memset(static_cast<void*>(&p), 0, sizeof p);
  p.experts = p.group_count = 1;
  p.segments = 1;
  p.faults = c.faults;
  p.op = op;
  return p;
}

bool same_rows(const esft_tensor_list& list, int64_t segments) {
  for (int64_t s = 1; s < segments; s++)
    if (rows(list.items[s]) != rows(list.items[0])) return false;
  return true;
}

bool fits(const Params& p) { return p.experts <= kMaxGroups && int64_t(p.segments) * p.segment_rows < (1 << 30); }

// A by the copy engine when its rows are in order, else row by row.
bool set_a(Params& p, Maps& maps, const esft_tensor& t, const esft_tensor* index, FaultArgument argument, int box_rows,
           bool* by_rows) {
  *by_rows = index && present(*index);
  if (!rows_aligned(t)) return false;
  if (*by_rows) {
    p.a = sm90::rows_of(t, index, argument);
    return true;
  }
  return encode_tensor_map(&maps.a, t, box_rows);
}

bool set_groups(Params& p, const esft_tensor& offsets, const esft_ints* groups, Context& c) {
  p.offsets = data<int32_t>(offsets);
  p.experts = p.group_count = int32_t(numel(offsets) - 1);
  if (groups && groups->count > 0) {
    p.groups = c.constant_of(groups->items, groups->count);
    p.group_count = int32_t(groups->count);
  }
  return p.experts <= kMaxGroups;
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

__global__ void __launch_bounds__(256) split_f32(const SplitParams p) {
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

bool sm90_grouped_nt(const esft_grouped_gemm_nt_args& a, Context& c) {
  Maps maps{};
  Params p = basics(ESFT_OP_grouped_gemm_nt, c);
  if (!set_groups(p, a.offsets, nullptr, c) || !same_rows(a.w, a.segments)) return false;
  p.n = rows(a.y);
  p.segments = int32_t(a.segments);
  p.segment_rows = int32_t(rows(a.w.items[0]));
  p.columns = int32_t(cols(a.x));
  p.columns_out = p.segment_rows;
  if (p.n == 0 || p.columns == 0 || cols(a.y) == 0 || !fits(p) || (a.act && a.segments > 2)) return false;
  bool by_rows;
  if (!set_a(p, maps, a.x, &a.rows, kArgRows, kTileM, &by_rows)) return false;
  if (!(p.weights = c.tensor_maps(a.w.items, a.w.count, 128))) return false;
  p.out = out_of(a.y, false, a.act ? 8 : p.segment_rows);
  if (a.act && present(a.h)) p.h = out_of(a.h, false, cols(a.y));
  launch_nt(a.act ? (by_rows ? NtKernel::kSwigluRows : NtKernel::kSwiglu) : (by_rows ? NtKernel::kStoreRows : NtKernel::kStore),
            maps, p, c.sms, c);
  return true;
}

bool sm90_grouped_nn(const esft_grouped_gemm_nn_args& a, Context& c) {
  Maps maps{};
  Params p = basics(ESFT_OP_grouped_gemm_nn, c);
  if (!set_groups(p, a.offsets, &a.groups, c) || !same_rows(a.w, a.segments)) return false;
  p.n = rows(a.dx);
  p.segments = int32_t(a.segments);
  p.segment_rows = int32_t(rows(a.w.items[0]));
  p.columns = p.columns_out = int32_t(cols(a.w.items[0]));
  if (p.n == 0 || p.segment_rows == 0 || p.columns == 0 || !fits(p)) return false;
  bool by_rows;
  if (!set_a(p, maps, a.dy, &a.rows, kArgRows, kTileM, &by_rows)) return false;
  if (by_rows && p.segments > 1 && p.segment_rows % 8) return false;  // a segment's columns would start off a 16-byte boundary
  if (!(p.weights = c.tensor_maps(a.w.items, a.w.count, 64))) return false;
  p.out = out_of(a.dx, false, a.act ? p.columns : 8);
  if (!a.act) {
    launch_nn(by_rows ? NnKernel::kStoreRows : NnKernel::kStore, maps, p, c.sms, c);
    return true;
  }
  if (!encode_tensor_map(&maps.h, a.h, kTileM)) return false;
  p.gate = present(a.gate) ? data<float>(a.gate) : nullptr;
  p.column_tiles = int32_t(ceil_div(p.columns, 128));
  if (present(a.dgate)) p.dgate_parts = c.scratch_of<float>(p.n * p.column_tiles);
  launch_nn(by_rows ? NnKernel::kSwigluRows : NnKernel::kSwiglu, maps, p, c.sms, c);
  if (present(a.dgate)) sum_dgate(p.dgate_parts, p.column_tiles, a, c);
  return true;
}

bool sm90_grouped_tn(const esft_grouped_gemm_tn_args& a, Context& c) {
  if (a.groups.count == 0) return true;
  Maps maps{};
  Params p = basics(ESFT_OP_grouped_gemm_tn, c);
  if (!set_groups(p, a.offsets, &a.groups, c)) return false;
  for (int64_t i = 1; i < a.dw.count; i++)
    if (rows(a.dw.items[i]) != rows(a.dw.items[0])) return false;
  p.n = present(a.dy_rows) ? numel(a.dy_rows) : rows(a.dy);
  p.segments = int32_t(a.segments);
  p.segment_rows = int32_t(rows(a.dw.items[0]));
  p.columns = int32_t(cols(a.dw.items[0]));
  if (p.n == 0 || p.segment_rows == 0 || p.columns == 0 || !fits(p) || !rows_aligned(a.dy)) return false;
  if (p.segments > 1 && p.segment_rows % 8) return false;
  const bool computed = a.x_act || present(a.dy_scale);
  if (!computed && !rows_aligned(a.x)) return false;
  bool dy_by_rows;
  if (!set_a(p, maps, a.dy, &a.dy_rows, kArgDyRows, kTileK, &dy_by_rows)) return false;
  if (!dy_by_rows) p.a = sm90::rows_of(a.dy, nullptr, kArgDyRows);  // for the last rows of a group
  if (computed) {
    const int64_t ld = ceil_div(p.columns, 8) * 8;
    bf16* rows_out = c.scratch_of<bf16>(p.n * ld);
    const float* scale = present(a.dy_scale) ? data<float>(a.dy_scale) : nullptr;
    make_activation_rows({activation(a.x, &a.x_rows, kArgXRows), p.columns, a.x_act != 0, scale, p.offsets, p.groups, p.experts,
                          p.group_count, p.n, rows_out, ld, p.op},
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
  p.dw = c.constant_of(pointers.data(), a.dw.count);
  p.dw_ld = c.constant_of(strides.data(), a.dw.count);
  launch_tn(dy_by_rows ? TnKernel::kRowsBoth : TnKernel::kRowsB, maps, p, c.sms, c);
  return true;
}

bool sm90_gemm(const esft_gemm_args& a, Context& c) {
  if (a.a.dtype != ESFT_BF16 || a.b.dtype != ESFT_BF16 || !rows_aligned(a.a) || !rows_aligned(a.b)) return false;
  Maps maps{};
  Params p = basics(ESFT_OP_gemm, c);
  const MmaMode mode = MmaMode(a.mode);
  const int64_t m = rows(a.c), n = cols(a.c), k = mode == kTn ? rows(a.a) : cols(a.a);
  if (m == 0 || n == 0 || k == 0 || m > 0x7fffffff || n > (1 << 30) || k > (1 << 30)) return false;
  p.out = out_of(a.c, a.accumulate != 0, 8);
  if (mode == kTn) {
    p.n = k;
    p.segment_rows = int32_t(m);
    p.columns = int32_t(n);
    if (!encode_tensor_map(&maps.a, a.a, kTileK) || !encode_tensor_map(&maps.b, a.b, kTileK)) return false;
    launch_tn(TnKernel::kTma, maps, p, int(min_of<int64_t>(c.sms, ceil_div(m, kTileM) * ceil_div(n, 256))), c);
    return true;
  }
  p.n = m;
  p.segment_rows = int32_t(rows(a.b));
  p.columns = int32_t(cols(a.b));
  p.columns_out = int32_t(n);
  if (present(a.bias)) {
    p.bias = a.bias.data;
    p.bias_f32 = a.bias.dtype == ESFT_F32;
  }
  if (!encode_tensor_map(&maps.a, a.a, kTileM) || !(p.weights = c.tensor_maps(&a.b, 1, mode == kNt ? 128 : 64))) return false;
  const int grid = int(min_of<int64_t>(c.sms, ceil_div(m, kTileM) * ceil_div(n, 256)));
  if (mode == kNt)
    launch_nt(NtKernel::kStore, maps, p, grid, c);
  else if (mode == kNn)
    launch_nn(NnKernel::kStore, maps, p, grid, c);
  else
    no_kernel("mode", mode);
  return true;
}

// dx = dlogits · W with dlogits in f32: the parts lie side by side, as segments of the contraction over one weight. Three are exact, one
// is precision 1.
bool sm90_gemm_f32(const esft_gemm_args& a, Context& c) {
  const int64_t m = rows(a.c), n = cols(a.c), k = cols(a.a);
  if (a.mode != kNn || a.b.dtype != ESFT_BF16 || k % 8 || !rows_aligned(a.b)) return false;
  if (m == 0 || n == 0 || k == 0 || m > 0x7fffffff || n > (1 << 30) || 3 * k > (1 << 30)) return false;
  const esft_tensor weights[3] = {a.b, a.b, a.b};
  const int count = a.precision ? 1 : 3;
  Maps maps{};
  Params p = basics(ESFT_OP_gemm, c);
  if (!(p.weights = c.tensor_maps(weights, count, 64))) return false;
  esft_tensor parts = a.a;
  parts.dtype = ESFT_BF16;
  parts.rank = 2;
  parts.shape[0] = m;
  parts.shape[1] = parts.ld = count * k;
  parts.data = c.scratch_of<bf16>(m * count * k);
  if (!encode_tensor_map(&maps.a, parts, kTileM)) return false;
  ESFT_LAUNCH((split_f32), c, dim3(unsigned(min_of<int64_t>(ceil_div(m * k, 1024), c.sms * 8))), 256, 0,
              SplitParams{data<float>(a.a), a.a.ld, m, k, data<bf16>(parts), count});
  p.n = m;
  p.segments = count;
  p.segment_rows = int32_t(k);
  p.columns = p.columns_out = int32_t(n);
  p.out = out_of(a.c, a.accumulate != 0, 8);
  launch_nn(NnKernel::kStore, maps, p, int(min_of<int64_t>(c.sms, ceil_div(m, kTileM) * ceil_div(n, 256))), c);
  return true;
}

}  // namespace esft::cuda
