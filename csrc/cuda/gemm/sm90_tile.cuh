// Grouped products on Hopper: sizes, parameters, and which tile a CTA works on.
//
// One kernel shape serves the three roles of an expert layer and the dense product (one group of all rows):
//   nt  y[r] = x[r] · W_eᵀ      A = x (K-major),  B = W (K-major)        contraction over K
//   nn  dx[r] = dy[r] · W_e     A = dy (K-major), B = W (MN-major)       contraction over the S segments' rows
//   tn  dW_e += dyᵀ · x         A = dy (MN-major), B = x (MN-major)      contraction over the expert's rows
// A CTA of three warpgroups (one loads, two multiply) stays on its multiprocessor and strides through the tiles; the list of tiles is
// a prefix sum over the experts' row counts, taken in shared memory at the start, so the host never learns the routing.
// Limit: tensor cores, 2·M·N·K flop. The 128×256 tile asks L2 for 9.2 TB/s at 788 TFLOP/s; two CTAs of a cluster that work on two
// row tiles of one column tile each load half of the weights for both, and ask for 6.2.
#pragma once
#include "../fault.cuh"
#include "../types.cuh"
#include "split_count.cuh"

namespace esft::cuda::sm90 {

constexpr int kTileM = 128, kTileK = 64;
constexpr int kThreads = 384;  // warpgroup 0 loads, 1 and 2 multiply
constexpr int kSlabBytes = 64 * 128;  // 64 rows of 64 bf16
constexpr int kMaxGroups = 512;

enum class Role { kNt, kNn, kTn };
enum class Load { kTma, kRows };  // by the copy engine; row by row with cp.async (gathered, or cut at the group's end)
enum class Epilogue { kStore, kSwiglu, kSwigluBackward, kLogits };

// A matrix that is read row by row.
struct Rows {
  const bf16* data;
  int64_t ld;
  const int32_t* index;  // row of logical row r; null: r itself
  int64_t limit;  // rows of the matrix
  int32_t argument;  // FaultArgument of index
};

struct Out {
  void* data;
  int64_t ld;
  int32_t f32;  // else bf16
  int32_t accumulate;  // add to what is there
  int32_t vectors;  // bf16 rows can be written in 16-byte pieces
};

struct Params {
  const int32_t* offsets;  // [experts + 1]; null: one group of `n` rows
  const int32_t* groups;  // [group_count] expert ids; null: all
  int32_t experts, group_count;
  int64_t n;  // rows; -1: offsets and indices are the program's own and need no check

  const CUtensorMap* weights;  // nt, nn: map of item expert · segments + s
  int32_t segments;
  int32_t segment_rows;  // rows of each weight segment
  int32_t columns;  // columns of the weight
  Rows a, b;
  // nn: cuts the contraction of few tiles into parts, f32 partial sums one after the other in `out` (linear_cross_entropy.cuh).
  int32_t split_target;  // CTAs to fill; 0: no parts

  int32_t columns_out;  // nt, nn: width of one segment of the output
  Out out;  // nt: [n, S·segment_rows] or swiglu's y [n, F]; nn: [n, columns] or dh [n, 2F]
  Out h;  // nt swiglu: pre-activation kept for backward (data null: not wanted)
  const void* bias;  // nt: [S·segment_rows]
  int32_t bias_f32;
  void* const* dw;  // tn: item g · segments + s, f32 [segment_rows, columns], row stride dw_ld
  const int64_t* dw_ld;
  const float* gate;  // swiglu backward: [n] or null (1)
  float* dgate_parts;  // swiglu backward: [n, column_tiles] or null
  int32_t column_tiles;  // row length of the per-tile results

  // Tiles of logits (linear_cross_entropy.cu): per row and column tile, [n, column_tiles].
  float *tile_max, *tile_sum;
  int32_t* tile_arg;
  float* label_logit;  // [n]
  const int32_t* labels;  // of token a.index[r]
  float logit_scale;

  FaultRecord* faults;
  int32_t op;
};

// The multiplying warpgroups take 64 rows each of a tile of 256 columns. The backward of SwiGLU has so much to do once a tile is
// finished that they take whole tiles of 128 columns in turn instead: while one is at its epilogue the other multiplies.
template <Role kRole, Epilogue kEpilogue>
struct Shape {
  static constexpr bool kPingpong = kEpilogue == Epilogue::kSwigluBackward;
  static constexpr int kTileN = kPingpong ? 128 : 256, kStages = kPingpong ? 3 : 4;
  static constexpr int kStageA = 2 * kSlabBytes, kStageB = kTileN / 64 * kSlabBytes, kStage = kStageA + kStageB;
  // Output staging, 64 rows x 128 columns of bf16 per multiplying warpgroup; or, per warpgroup, the tile of h (gate and up) in whose
  // place dh is made.
  static constexpr int kTileOfH = 8 * kSlabBytes;
  static constexpr int kStaging = kPingpong ? 2 * kTileOfH : kRole == Role::kTn ? 0 : 4 * kSlabBytes;
  static constexpr int kBarriers = kStages * kStage + kStaging;
  static constexpr int kTable = kBarriers + 128;
  static constexpr int shared_bytes(int groups) { return kTable + (groups + 2) * 4; }
};

// ---- schedule -----------------------------------------------------------------------------------------------------------

struct Tile {
  int expert, group;
  int64_t begin;  // nt, nn: first row of the tile; tn: first row of the group
  int rows;  // nt, nn: rows of the tile that exist; tn: rows of the group
  int segment;
  int m0;  // tn: first row of the tile in its segment
  int n0;  // first column
  int n_tile;
  bool shared_b;  // the CTAs of the cluster work on the same columns: each loads its part of B for all
  int split, splits;  // of the contraction: which part, of how many
  int split_rows;  // rows of one part of the output
};

__device__ __forceinline__ int64_t group_begin(const Params& p, int expert) { return p.offsets ? p.offsets[expert] : 0; }
__device__ __forceinline__ int64_t group_end(const Params& p, int expert) { return p.offsets ? p.offsets[expert + 1] : p.n; }

// Column tiles of the output.
template <Role kRole, Epilogue kEpilogue>
__device__ __forceinline__ int column_tiles(const Params& p) {
  if (kRole == Role::kNt)
    return kEpilogue == Epilogue::kSwiglu ? int(ceil_div(p.segments * p.segment_rows / 2, 128))
                                          : p.segments * int(ceil_div(p.segment_rows, 256));
  return int(ceil_div(p.columns, Shape<kRole, kEpilogue>::kTileN));
}

// Reports indices outside their matrix: every CTA looks at its share of them once.
__device__ __forceinline__ void check_index(const Params& p, const Rows& m) {
  if (!m.index || p.n < 0) return;
  for (int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x; r < p.n; r += int64_t(gridDim.x) * kThreads) {
    const int32_t row = m.index[r];
    if (row < 0 || row >= m.limit) report_fault(p.faults, kBadIndex, p.op, FaultArgument(m.argument), r, row, m.limit);
  }
}

// Parts of the contraction, when there are `tiles` tiles.
template <Role kRole>
__device__ __forceinline__ int splits_of(const Params& p, int tiles) {
  if (kRole != Role::kNn || !p.split_target) return 1;
  return split_count(p.split_target, tiles, ceil_div(p.segment_rows, kTileK));
}

// Rounds of a cluster through the tiles of a group: a row tile for each CTA; when one is left over, a column tile of it for each.
template <int kCluster>
__device__ __forceinline__ int rounds_of(int m_tiles, int n_tiles) {
  if (kCluster == 1) return m_tiles * n_tiles;
  return m_tiles / 2 * n_tiles + (m_tiles & 1) * ((n_tiles + 1) / 2);
}
__device__ __forceinline__ int row_tiles(const Params& p, int expert) {
  return int(ceil_div(max_of<int64_t>(group_end(p, expert) - group_begin(p, expert), 0), kTileM));
}

// table[g] = rounds of the groups before g (nt, nn); or the groups, longest first (tn). Called by all threads; returns the number of
// rounds, 0 when the offsets are wrong.
template <Role kRole, Epilogue kEpilogue, int kCluster>
__device__ __forceinline__ int build_table(const Params& p, int32_t* table) {
  int32_t* bad = table + p.group_count + 1;
  if (threadIdx.x == 0) *bad = 0;
  __syncthreads();
  if (p.offsets && p.n >= 0) {
    for (int e = threadIdx.x; e <= p.experts; e += kThreads) {
      const int32_t value = p.offsets[e];
      const int64_t least = e ? p.offsets[e - 1] : 0;
      const bool first = e == 0 && value != 0, falls = value < least, last = e == p.experts && value != p.n;
      if (!first && !falls && !last) continue;
      *bad = 1;
      if (blockIdx.x == 0)
        report_fault(p.faults, kBadOffsets, p.op, kArgOffsets, e, value, last && !falls ? p.n : least, last && !falls && !first);
    }
  }
  if (kRole == Role::kTn) {
    for (int g = threadIdx.x; g < p.group_count; g += kThreads) {
      const int e = p.groups ? p.groups[g] : g;
      const int64_t mine = group_end(p, e) - group_begin(p, e);
      int rank = 0;
      for (int j = 0; j < p.group_count; j++) {
        const int other = p.groups ? p.groups[j] : j;
        const int64_t theirs = group_end(p, other) - group_begin(p, other);
        rank += theirs > mine || (theirs == mine && j < g);
      }
      table[rank] = g;
    }
  } else if (threadIdx.x < 32) {
    int total = 0;
    for (int base = 0; base < p.group_count; base += 32) {
      const int g = base + threadIdx.x;
      int rounds = 0;
      if (g < p.group_count)
        rounds = rounds_of<kCluster>(row_tiles(p, p.groups ? p.groups[g] : g), column_tiles<kRole, kEpilogue>(p));
      int sum = rounds;
#pragma unroll
      for (int step = 1; step < 32; step <<= 1) {
        const int below = __shfl_up_sync(0xffffffffu, sum, step);
        if (int(threadIdx.x) >= step) sum += below;
      }
      if (g < p.group_count) table[g] = total + sum - rounds;
      total += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (threadIdx.x == 0) table[p.group_count] = total;
  }
  __syncthreads();
  if (*bad) return 0;
  if (kRole == Role::kTn)
    return p.group_count * p.segments * int(ceil_div(p.segment_rows, kTileM)) * column_tiles<kRole, kEpilogue>(p);
  return table[p.group_count] * splits_of<kRole>(p, table[p.group_count]);
}

// The tile of this CTA in round `t`. Within an expert eight row tiles share a column tile of weights before the next one: what runs at the
// same time meets in L2.
template <Role kRole, Epilogue kEpilogue, int kCluster>
__device__ __forceinline__ Tile tile_at(const Params& p, const int32_t* table, int t, int rank) {
  using S = Shape<kRole, kEpilogue>;
  const int n_tiles = column_tiles<kRole, kEpilogue>(p);
  Tile tile;
  tile.m0 = 0;
  tile.segment = 0;
  tile.shared_b = false;
  tile.split = 0;
  tile.splits = 1;
  tile.split_rows = 0;
  if (kRole == Role::kTn) {
    const int m_tiles = int(ceil_div(p.segment_rows, kTileM)), per_group = p.segments * m_tiles * n_tiles;
    tile.group = table[t / per_group];
    tile.expert = p.groups ? p.groups[tile.group] : tile.group;
    tile.begin = group_begin(p, tile.expert);
    tile.rows = int(group_end(p, tile.expert) - tile.begin);
    const int local = t % per_group, m = local / n_tiles;
    tile.segment = m / m_tiles;
    tile.m0 = m % m_tiles * kTileM;
    tile.n_tile = local % n_tiles;
    tile.n0 = tile.n_tile * S::kTileN;
    return tile;
  }
  if (kRole == Role::kNn && kCluster == 1 && p.split_target) {  // one group
    const int tiles = table[p.group_count];
    tile.splits = splits_of<kRole>(p, tiles);
    tile.split = t / tiles;
    tile.split_rows = tiles / n_tiles * kTileM;
    t -= tile.split * tiles;
  }
  int low = 0, high = p.group_count - 1;  // the last group whose rounds start at or before t, among those that have any
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle] <= t)
      low = middle;
    else
      high = middle - 1;
  }
  tile.group = low;
  tile.expert = p.groups ? p.groups[low] : low;
  const int m_tiles = row_tiles(p, tile.expert), local = t - table[low];
  constexpr int kBand = 8 / kCluster;  // rounds that share a column tile
  const int m_rounds = m_tiles / kCluster;
  int m_tile;
  bool idle = false;
  if (kCluster == 1 || local < m_rounds * n_tiles) {
    const int band = local / (kBand * n_tiles), height = min_of(kBand, m_rounds - kBand * band),
              inside = local - band * kBand * n_tiles;
    m_tile = kCluster * (kBand * band + inside % height) + rank;
    tile.n_tile = inside / height;
    tile.shared_b = kCluster > 1;
  } else {
    m_tile = m_tiles - 1;
    tile.n_tile = kCluster * (local - m_rounds * n_tiles) + rank;
    idle = tile.n_tile >= n_tiles;  // goes along without rows
    if (idle) tile.n_tile = n_tiles - 1;
  }
  const int64_t begin = group_begin(p, tile.expert), end = group_end(p, tile.expert);
  tile.begin = begin + int64_t(m_tile) * kTileM;
  tile.rows = idle ? 0 : int(min_of<int64_t>(kTileM, end - tile.begin));
  if (kRole == Role::kNt && kEpilogue != Epilogue::kSwiglu) {
    const int per_segment = int(ceil_div(p.segment_rows, S::kTileN));
    tile.segment = tile.n_tile / per_segment;
    tile.n0 = tile.n_tile % per_segment * S::kTileN;
  } else {
    tile.n0 = tile.n_tile * (kEpilogue == Epilogue::kSwiglu ? 128 : S::kTileN);
  }
  return tile;
}

// Steps of 64 along the contraction: the first of this tile, and how many.
template <Role kRole>
__device__ __forceinline__ int first_step(const Params& p, const Tile& tile) {
  return kRole == Role::kNn && tile.splits > 1 ? int(ceil_div(p.segment_rows, kTileK) * tile.split / tile.splits) : 0;
}
template <Role kRole>
__device__ __forceinline__ int steps_of(const Params& p, const Tile& tile) {
  if (kRole == Role::kNt) return int(ceil_div(p.columns, kTileK));
  if (kRole == Role::kTn) return int(ceil_div(tile.rows, kTileK));
  const int64_t all = p.segments * ceil_div(p.segment_rows, kTileK);
  return tile.splits > 1 ? int(all * (tile.split + 1) / tile.splits - all * tile.split / tile.splits) : int(all);
}

}  // namespace esft::cuda::sm90
