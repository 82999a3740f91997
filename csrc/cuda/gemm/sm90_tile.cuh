// Which tile a CTA of the grouped products on Hopper works on (sm90_shape.cuh: the roles).
#pragma once
#include "sm90_params.cuh"
#include "split_count.cuh"

namespace esft::cuda::sm90 {

// Worked out by the loaders, read by the multiplying warpgroups from shared memory.
struct alignas(16) Tile {
  int64_t begin;  // nt, nn: first row of the tile; tn: first row of the group
  int rows;  // nt, nn: rows of the tile that exist; tn: rows of the group
  int steps;  // along the contraction
  int expert, group;
  int part;  // nt, tn: which of the matrices side by side
  int m0;  // tn: first row of the tile in its part
  int n0;  // first column
  int n_tile;
  int split, splits;  // of the contraction: which piece, of how many
  int split_rows;  // rows of one piece of the output
  int shared_b;  // the CTAs of the cluster work on the same columns: each loads its part of B for all
};
static_assert(sizeof(Tile) == 64, "kTiles");

__device__ __forceinline__ int64_t group_begin(const Groups& p, int expert) { return p.offsets ? p.offsets[expert] : 0; }
__device__ __forceinline__ int64_t group_end(const Groups& p, int expert) { return p.offsets ? p.offsets[expert + 1] : p.n; }

// Column tiles of the output.
template <class S>
__device__ __forceinline__ int column_tiles(const Arguments<S::kRole, S::kEpilogue>& p) {
  if constexpr (S::kEpilogue == Epilogue::kSwiglu)
    return int(ceil_div(p.parts * p.part_rows / 2, S::kColumns));
  else if constexpr (S::kRole == Role::kNt)
    return p.parts * int(ceil_div(p.part_rows, S::kColumns));
  else
    return int(ceil_div(p.columns, S::kColumns));
}

// Reports indices outside their matrix: every CTA looks at its share of them once.
__device__ __forceinline__ void check_index(const Groups& p, const Rows& m) {
  if (!m.index || p.n < 0) return;
  const int64_t end = p.offsets ? min_of<int64_t>(p.n, p.offsets[p.experts]) : p.n;
  for (int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x; r < end; r += int64_t(gridDim.x) * kThreads) {
    const int32_t row = m.index[r];
    if (row < 0 || row >= m.limit) report_fault(p.faults, kBadIndex, p.op, FaultArgument(m.argument), r, row, m.limit);
  }
}

// Pieces of the contraction, when there are `tiles` tiles.
template <Role kRole, Epilogue kEpilogue>
__device__ __forceinline__ int splits_of(const Arguments<kRole, kEpilogue>& p, int tiles) {
  if constexpr (kRole == Role::kNn && kEpilogue == Epilogue::kStore)
    return p.split_target ? split_count(p.split_target, tiles, p.contraction.steps) : 1;
  else
    return 1;
}

// Rounds of a cluster through the tiles of a group: a row tile for each CTA; when one is left over, a column tile of it for each.
template <int kCluster>
__device__ __forceinline__ int rounds_of(int m_tiles, int n_tiles) {
  if (kCluster == 1) return m_tiles * n_tiles;
  return m_tiles / 2 * n_tiles + (m_tiles & 1) * ((n_tiles + 1) / 2);
}
__device__ __forceinline__ int row_tiles(const Groups& p, int expert) {
  return int(ceil_div(max_of<int64_t>(group_end(p, expert) - group_begin(p, expert), 0), kTileM));
}

// table[g] = rounds of the groups before g (nt, nn); or the groups, longest first (tn). Called by all threads; returns the number of
// rounds, 0 when the offsets are wrong.
template <class S, int kCluster>
__device__ __forceinline__ int build_table(const Arguments<S::kRole, S::kEpilogue>& p, int32_t* table) {
  constexpr Role kRole = S::kRole;
  int32_t* bad = table + p.group_count + 1;
  if (threadIdx.x == 0) *bad = 0;
  __syncthreads();
  if (p.offsets && p.n >= 0) {
    for (int e = threadIdx.x; e <= p.experts; e += kThreads) {
      const int32_t value = p.offsets[e];
      const int64_t least = e ? p.offsets[e - 1] : 0;
      const bool first = e == 0 && value != 0, falls = value < least, last = e == p.experts && value > p.n;
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
      if (g < p.group_count) rounds = rounds_of<kCluster>(row_tiles(p, p.groups ? p.groups[g] : g), column_tiles<S>(p));
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
  if constexpr (kRole == Role::kTn)
    return p.group_count * p.parts * int(ceil_div(p.part_rows, kTileM)) * column_tiles<S>(p);
  else
    return table[p.group_count] * splits_of(p, table[p.group_count]);
}

// The tile of this CTA in round `t`. Within an expert eight row tiles share a column tile of weights before the next one: what runs at the
// same time meets in L2.
template <class S, int kCluster>
__device__ __forceinline__ Tile tile_at(const Arguments<S::kRole, S::kEpilogue>& p, const int32_t* table, int t, int rank) {
  constexpr Role kRole = S::kRole;
  constexpr Epilogue kEpilogue = S::kEpilogue;
  const int n_tiles = column_tiles<S>(p);
  Tile tile;
  tile.m0 = 0;
  tile.part = 0;
  tile.shared_b = 0;
  tile.split = 0;
  tile.splits = 1;
  tile.split_rows = 0;
  if constexpr (kRole == Role::kTn) {
    const int m_tiles = int(ceil_div(p.part_rows, kTileM)), per_group = p.parts * m_tiles * n_tiles;
    tile.group = table[t / per_group];
    tile.expert = p.groups ? p.groups[tile.group] : tile.group;
    tile.begin = group_begin(p, tile.expert);
    tile.rows = int(group_end(p, tile.expert) - tile.begin);
    // Of a group without rows a gradient that is overwritten takes one step, all zeros; one that is added to, none.
    tile.steps = max_of(p.out.accumulate ? 0 : 1, int(ceil_div(tile.rows, kTileK)));
    const int local = t % per_group, m = local / n_tiles;
    tile.part = m / m_tiles;
    tile.m0 = m % m_tiles * kTileM;
    tile.n_tile = local % n_tiles;
    tile.n0 = tile.n_tile * S::kColumns;
  } else {
    tile.steps = p.contraction.steps;
    if constexpr (kRole == Role::kNn && kEpilogue == Epilogue::kStore && kCluster == 1) {
      if (p.split_target) {  // one group
        const int tiles = table[p.group_count];
        tile.splits = splits_of(p, tiles);
        tile.split = t / tiles;
        tile.split_rows = tiles / n_tiles * kTileM;
        const int64_t all = tile.steps;
        tile.steps = int(all * (tile.split + 1) / tile.splits - all * tile.split / tile.splits);
        t -= tile.split * tiles;
      }
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
    tile.n0 = tile.n_tile * S::kColumns;
    if constexpr (kRole == Role::kNt && kEpilogue != Epilogue::kSwiglu) {
      const int per_part = int(ceil_div(p.part_rows, S::kColumns));
      tile.part = tile.n_tile / per_part;
      tile.n0 = tile.n_tile % per_part * S::kColumns;
    }
  }
  return tile;
}

// The first of the tile's steps of 64 along the contraction.
template <Role kRole, Epilogue kEpilogue>
__device__ __forceinline__ int first_step(const Arguments<kRole, kEpilogue>& p, const Tile& tile) {
  if constexpr (kRole == Role::kNn && kEpilogue == Epilogue::kStore)
    return tile.splits > 1 ? int(int64_t(p.contraction.steps) * tile.split / tile.splits) : 0;
  else
    return 0;
}

}  // namespace esft::cuda::sm90
