// The portable matrix kernel: tiles of mma_tile.cuh dealt by mma_schedule.cuh, finished by mma_epilogue.cuh.
//
// Limit: tensor-core FLOPs (arithmetic intensity of a 128 x 128 tile: 64 flop per byte of L2 traffic). 96 KB of shared memory in
// three stages and over 128 registers, so one CTA per SM; expected at 60-75 % of what mma.sync reaches. On Hopper it is the second,
// independent implementation beside the wgmma kernels.
// Rows and columns outside the matrices are zeros in shared memory and never read from global memory; their sums are not stored.
// Matrices whose rows are not 16-byte pieces take the kAligned = false build: guarded 2-byte loads, slow and right.
#pragma once
#include "../host/launch.h"
#include "mma_epilogue.cuh"

namespace esft::cuda {

struct NoExtra {};

template <MmaEpilogue kEpilogue>
struct ExtraOf {
  using type = NoExtra;
};
template <>
struct ExtraOf<kSwiglu> {
  using type = SwigluOutput;
};
template <>
struct ExtraOf<kDswiglu> {
  using type = DswigluInput;
};
template <>
struct ExtraOf<kCeLogits> {
  using type = CeLogits;
};

__device__ __forceinline__ ColumnTile stacked_tile(const MmaParams& p, int32_t i, int64_t total) {
  if (p.stack) return p.stack[i];
  const int32_t first = i * kMmaTile;
  return {0, first, first, int32_t(min_of<int64_t>(kMmaTile, total - first))};
}
__device__ __forceinline__ Matrix weight(const MmaParams& p, int expert, int segment) {
  return p.w ? p.w[int64_t(expert) * p.segments + segment] : p.w_one;
}

// The address of logical row r; nullptr and a fault when its index is out of range.
__device__ __forceinline__ const bf16* source_row(const MmaParams& p, const Rows& rows, int64_t r) {
  int64_t from = r;
  if (rows.index) {
    from = rows.index[r];
    if (from < 0 || from >= rows.count) {
      report_fault(p.faults, kBadIndex, p.op, rows.argument, r, from, rows.count);
      return nullptr;
    }
  }
  return rows.data + from * rows.ld;
}

__device__ __forceinline__ KMajorRows rows_beside(const MmaParams& p, const Rows& rows, const TilePlace& place) {
  KMajorRows a;
  a.valid = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int64_t r = place.begin + threadIdx.x / 8 + 32 * i;
    const bf16* row = r < place.end ? source_row(p, rows, r) : nullptr;
    a.row[i] = row ? row : rows.data;
    a.valid |= uint32_t(row != nullptr) << i;
  }
  return a;
}
__device__ __forceinline__ KMajorRows activation_rows_of(const MmaParams& p, const TilePlace& place) {
  return rows_beside(p, p.a, place);
}

// Rows row0 … of a matrix under a tile of columns.
__device__ __forceinline__ KMajorRows rows_of_tile(const Matrix& w, const ColumnTile& tile) {
  KMajorRows b;
  b.valid = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = threadIdx.x / 8 + 32 * i;
    const bool inside = row < tile.count;
    b.row[i] = static_cast<const bf16*>(w.data) + (inside ? tile.row0 + row : 0) * w.ld;
    b.valid |= uint32_t(inside) << i;
  }
  return b;
}

// Rows of the weight under a tile of columns. SwiGLU: rows 0-31 and 64-95 of the tile are gate, 32-63 and 96-127 the same up.
template <bool kPairs>
__device__ __forceinline__ KMajorRows weight_rows_of(const MmaParams& p, const TilePlace& place, const ColumnTile& tile,
                                                     int64_t features) {
  KMajorRows b;
  b.valid = 0;
  const Matrix w = weight(p, place.expert, tile.segment);
  const Matrix up = kPairs && p.segments == 2 ? weight(p, place.expert, 1) : w;
  const int64_t up_row = kPairs && p.segments == 1 ? features : 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const bool second = kPairs && i % 2;
    const int row = kPairs ? threadIdx.x / 8 + i / 2 * 32 : threadIdx.x / 8 + 32 * i;
    const bool inside = row < tile.count;
    const Matrix& from = second ? up : w;
    const int64_t at = inside ? tile.row0 + row + (second ? up_row : 0) : 0;
    b.row[i] = static_cast<const bf16*>(from.data) + at * from.ld;
    b.valid |= uint32_t(inside) << i;
  }
  return b;
}

// Where the contraction of nn stands: segment by segment, each padded to whole steps.
struct Contraction {
  int32_t entry, column0, size, k;  // entry of p.stack, which has no empty segments
  const bf16* w;
  int64_t ld;

  __device__ __forceinline__ void enter(const MmaParams& p, int expert, int i) {
    const ColumnTile s = p.stack ? p.stack[i] : ColumnTile{0, 0, 0, int32_t(p.k)};
    const Matrix m = weight(p, expert, s.segment);
    entry = i, column0 = s.column0, size = s.count, k = 0;
    w = static_cast<const bf16*>(m.data), ld = m.ld;
  }
  __device__ __forceinline__ void advance(const MmaParams& p, int expert) {
    k += kMmaStep;
    if (k >= size && entry + 1 < p.stack_count) enter(p, expert, entry + 1);
  }
  __device__ __forceinline__ void seek(const MmaParams& p, int expert, int step) {
    if (p.stack_count == 0) return;
    enter(p, expert, 0);
    if (p.stack)
      for (int i = 0; i < step; i++) advance(p, expert);
    else
      k = step * kMmaStep;
  }
};

__device__ __forceinline__ int contraction_steps(const MmaParams& p) {
  if (!p.stack) return int(ceil_div(p.k, kMmaStep));
  int steps = 0;
  for (int s = 0; s < p.stack_count; s++) steps += int(ceil_div(p.stack[s].count, kMmaStep));
  return steps;
}

// Columns `column` … of u, K-major, for the rows of a tile.
__device__ __forceinline__ void load_u(const Terms& t, const TilePlace& place, unsigned char* slab, int column) {
  const int r = threadIdx.x / 8, c = threadIdx.x % 8, first = column + c * 8;
#pragma unroll 1
  for (int i = 0; i < 4; i++) {
    const int64_t row = place.begin + r + 32 * i;
    const bool valid = row < place.end;
    const bf16* from = t.u + (valid ? row : 0) * t.ld;
    unsigned char* dst = slab + (r + 32 * i) * 128 + ((c ^ (r & 7)) << 4);
    if (t.vectors)
      load_chunk<true>(dst, from, first, t.columns, valid);
    else
      load_chunk<false>(dst, from, first, t.columns, valid);
  }
}

// The rows of a term under a tile of stacked columns, as weight_rows_of has those of the weights: zeros where another part reads.
template <bool kPairs>
__device__ __forceinline__ void load_term_rows(const Terms& t, const TermItem* items, const ColumnTile& tile, int64_t features,
                                               unsigned char* slab, int column) {
  const int r = threadIdx.x / 8, c = threadIdx.x % 8;
#pragma unroll 1
  for (int i = 0; i < 4; i++) {
    const bool second = kPairs && i % 2;
    const int row = kPairs ? r + i / 2 * 32 : r + 32 * i;
    int64_t m = (kPairs ? tile.row0 : tile.column0) + row + (second ? features : 0);
    const bool inside = row < tile.count;
    int part = 0;
    while (inside && m >= items[part].rows) m -= items[part++].rows;
    const TermItem& item = items[part];
    const bf16* from = static_cast<const bf16*>(item.data) + (inside ? m : 0) * item.ld;
    const int first = column + c * 8 - part * t.rank;
    unsigned char* dst = slab + (r + 32 * i) * 128 + ((c ^ (r & 7)) << 4);
    if (t.vectors) {
      load_chunk<true>(dst, from, first, item.cols, inside && first >= 0);
    } else {
      Vec16 v = {{0, 0, 0, 0}};
      for (int j = 0; j < 8; j++)
        if (inside && first + j >= 0 && first + j < item.cols) v.w[j / 2] |= uint32_t(from[first + j].bits) << (j % 2 * 16);
      store16(dst, v);
    }
  }
}

// Those of a term whose rows are the contraction, from row `k` on.
__device__ __forceinline__ void load_term_columns(const Terms& t, const TermItem* items, unsigned char* slabs, int k,
                                                  int64_t column, int64_t limit) {
  const auto row = [&](int r) -> const bf16* {
    const int part = (k + r) / t.rank, j = k + r - part * t.rank;
    if (part >= t.parts || j >= items[part].rows) return nullptr;
    return static_cast<const bf16*>(items[part].data) + j * items[part].ld;
  };
  if (t.vectors)
    load_mn_major<true>(slabs, t.u, column, limit, row);
  else
    load_mn_major<false>(slabs, t.u, column, limit, row);
}

template <MmaMode kMode, MmaEpilogue kEpilogue, bool kAligned>
__global__ void __launch_bounds__(kMmaThreads, 1) mma_gemm(const MmaParams p, const typename ExtraOf<kEpilogue>::type extra) {
  ESFT_SHARED(smem);
  const int column_tiles = int(ceil_div(p.n, kMmaTile));
  const int64_t columns = kMode == kNt ? p.stack_count : kMode == kNn ? column_tiles : int64_t(p.stack_count) * column_tiles;
  const Schedule schedule = make_schedule<kMode>(p, columns, reinterpret_cast<int32_t*>(smem + p.stages * kStageBytes));
  const int all_steps = kMode == kNn ? contraction_steps(p) : int(ceil_div(p.k, kMmaStep));
  const int splits = p.split_target ? split_count(p.split_target, schedule.tiles, all_steps) : 1;
  const int split_steps = int(ceil_div(all_steps, splits));
  const int64_t split_stride =
      p.split_stride || kMode == kTn || splits == 1 ? p.split_stride : int64_t(schedule.first[1]) * kMmaTile * p.out.ld;

  for (int64_t t = blockIdx.x; t < schedule.tiles * splits; t += gridDim.x) {
    const int split = int(t / schedule.tiles);
    const TilePlace place = place_tile<kMode>(p, schedule, columns, t - split * schedule.tiles);
    int begin = 0, steps = kMode == kTn ? int(ceil_div(place.end - place.begin, kMmaStep)) : all_steps;
    if (splits > 1) begin = min_of(steps, split * split_steps), steps = min_of(steps - begin, split_steps);
    const int64_t column0 = int64_t(place.column) * kMmaTile;  // nn, tn
    MmaSums sums;
    constexpr bool kTerms = kMode != kTn && kEpilogue != kCeLogits;
    const TermItem* term = nullptr;
    const int main_steps = steps;
    if (kTerms && p.terms.first) {
      const int item = p.terms.first[place.expert];
      if (item >= 0) term = p.terms.items + item, steps += int(ceil_div(p.terms.columns, kMmaStep));
    }

    if constexpr (kMode == kNt) {
      const ColumnTile tile = stacked_tile(p, place.stacked, p.n);
      int64_t features = 0;
      if constexpr (kEpilogue == kSwiglu) features = extra.features;
      const KMajorRows a = activation_rows_of(p, place);
      const KMajorRows b = weight_rows_of<kEpilogue == kSwiglu>(p, place, tile, features);
      if constexpr (kEpilogue == kCeLogits) steps += int(ceil_div(extra.rank, kMmaStep));
      multiply_tile<kNt>(sums, smem, p.stages, steps, [&](unsigned char* stage, int step) {
        if constexpr (kEpilogue == kCeLogits) {  // the low-rank term: a stretch of its own behind the features
          if (step >= all_steps) {
            const int64_t k = int64_t(step - all_steps) * kMmaStep;
            const KMajorRows u = rows_beside(p, extra.u, place), beside = rows_of_tile(extra.b, tile);
            if (extra.vectors) {
              u.load<true>(stage, k, extra.rank);
              beside.load<true>(stage + kOperandBytes, k, extra.rank);
            } else {
              u.load<false>(stage, k, extra.rank);
              beside.load<false>(stage + kOperandBytes, k, extra.rank);
            }
            return;
          }
        }
        if (kTerms && step >= main_steps) {
          const int column = (step - main_steps) * kMmaStep;
          load_u(p.terms, place, stage, column);
          load_term_rows<kEpilogue == kSwiglu>(p.terms, term, tile, features, stage + kOperandBytes, column);
          return;
        }
        const int64_t k = int64_t(begin + step) * kMmaStep;
        a.load<kAligned>(stage, k, p.k);
        b.load<kAligned>(stage + kOperandBytes, k, p.k);
      });
      if constexpr (kEpilogue == kSwiglu) {
        epilogue_swiglu(p, extra, sums, place, tile);
      } else if constexpr (kEpilogue == kCeLogits) {
        finish_ce(p, extra, sums, place, tile, smem);
      } else {
        float* partial = static_cast<float*>(p.out.data) + split * split_stride;
        const Bias bias = p.biases ? p.biases[int64_t(place.expert) * p.segments + tile.segment] : p.bias;
        epilogue_store<kNt>(p, sums, splits > 1 ? partial : p.out.data, p.out.ld, place.begin, place.end - place.begin,
                            tile.column0, tile.count, bias, tile.row0);
      }
    } else if constexpr (kMode == kNn) {
      const KMajorRows a = activation_rows_of(p, place);
      Contraction c;
      c.seek(p, place.expert, begin);
      multiply_tile<kNn>(sums, smem, p.stages, steps, [&](unsigned char* stage, int step) {
        if (step >= main_steps) {
          const int column = (step - main_steps) * kMmaStep;
          load_u(p.terms, place, stage, column);
          load_term_columns(p.terms, term, stage + kOperandBytes, column, column0, p.n);
          return;
        }
        a.load<kAligned>(stage, c.column0 + c.k, c.column0 + c.size);
        load_mn_major<kAligned>(stage + kOperandBytes, c.w, column0, p.n,
                                [&](int r) { return c.k + r < c.size ? c.w + (c.k + r) * c.ld : nullptr; });
        c.advance(p, place.expert);
      });
      if constexpr (kEpilogue == kDswiglu) {
        finish_dswiglu(p, extra, sums, place, column0, column_tiles, reinterpret_cast<float*>(smem));
      } else {
        float* partial = static_cast<float*>(p.out.data) + split * split_stride;
        epilogue_store<kNn>(p, sums, splits > 1 ? partial : p.out.data, p.out.ld, place.begin, place.end - place.begin, column0,
                            p.n - column0);
      }
    } else {
      const ColumnTile tile = stacked_tile(p, place.stacked, p.m);
      multiply_tile<kTn>(sums, smem, p.stages, steps, [&](unsigned char* stage, int step) {
        const int64_t first = place.begin + int64_t(begin + step) * kMmaStep;
        load_mn_major<kAligned>(stage, p.a.data, tile.column0, tile.column0 + tile.count,
                                [&](int r) { return first + r < place.end ? source_row(p, p.a, first + r) : nullptr; });
        load_mn_major<kAligned>(stage + kOperandBytes, p.b.data, column0, p.n,
                                [&](int r) { return first + r < place.end ? source_row(p, p.b, first + r) : nullptr; });
      });
      Matrix c = {p.out.data, p.out.ld};
      if (p.out_items) c = p.out_items[int64_t(place.group) * p.segments + tile.segment];
      float* partial = static_cast<float*>(const_cast<void*>(c.data)) + split * split_stride;
      epilogue_store<kTn>(p, sums, splits > 1 ? partial : const_cast<void*>(c.data), c.ld, tile.row0, tile.count, column0,
                          p.n - column0);
    }
  }
}

// Starts it: p complete but for stages. max_tiles: an upper bound of the number of tiles, splits included.
template <MmaMode kMode, MmaEpilogue kEpilogue>
void launch_mma(MmaParams p, const typename ExtraOf<kEpilogue>::type& extra, bool aligned, int64_t max_tiles, Context& c) {
  if (max_tiles <= 0) return;
  const size_t table = schedule_bytes(p.offsets ? p.group_count : 1);
  p.stages = 3 * kStageBytes + table <= c.shared_limit ? 3 : 2;
  const size_t shared = p.stages * kStageBytes + table;
  if (shared > c.shared_limit)
    fail_status(ESFT_UNSUPPORTED, "product", "offsets", "product: too many experts for the shared memory of this device");
  const void* legal = p.faults;  // an empty tensor has no address of its own; nothing is read from this one
  if (!p.a.data) p.a.data = static_cast<const bf16*>(legal);
  if (!p.b.data) p.b.data = static_cast<const bf16*>(legal);
  const dim3 grid(unsigned(min_of<int64_t>(max_tiles, c.sms)));
  if (aligned)
    ESFT_LAUNCH((mma_gemm<kMode, kEpilogue, true>), c, grid, kMmaThreads, shared, p, extra);
  else
    ESFT_LAUNCH((mma_gemm<kMode, kEpilogue, false>), c, grid, kMmaThreads, shared, p, extra);
}

// Dense and grouped products share these: compiled once, in gemm_portable.cu.
extern template void launch_mma<kNt, kStore>(MmaParams, const NoExtra&, bool, int64_t, Context&);
extern template void launch_mma<kNn, kStore>(MmaParams, const NoExtra&, bool, int64_t, Context&);
extern template void launch_mma<kTn, kStore>(MmaParams, const NoExtra&, bool, int64_t, Context&);

}  // namespace esft::cuda
