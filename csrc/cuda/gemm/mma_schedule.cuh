// Which tile of a grouped product a CTA computes next. Every CTA derives the same list from the offsets in device memory, in
// its shared memory, and strides through it: no host read-back, no list to build beforehand.
//
// nt, nn: expert by expert; within one, groups of 8 tiles of rows with the columns outside, so that a group's rows stay in L2
//   while the weights stream by once per group.
// tn: experts by their number of rows, most first: their tiles are the longest, so the short ones fill the last wave.
#pragma once
#include "../reduce.cuh"
#include "mma_params.h"

namespace esft::cuda {

constexpr int kRowGroup = 8;

// 0 .. total-1 row tiles before each listed expert, or (tn) the experts' order. Lives in shared memory.
struct Schedule {
  int32_t* first;  // nt, nn: [groups + 1] row tiles before group i; tn: [groups] positions in the list, longest first
  int64_t tiles;   // without splits; 0 when the offsets are bad
};

// Where one tile lies.
struct TilePlace {
  int32_t group, expert;  // position in the list of experts, and the expert
  int64_t begin, end;     // nt, nn: logical rows of the tile; tn: logical rows to contract
  int32_t stacked, column;  // nt: tile of stacked columns, -; nn: -, tile of columns; tn: tile of stacked rows, tile of columns
};

inline size_t schedule_bytes(int64_t groups) { return size_t(groups + 2) * sizeof(int32_t); }

__device__ __forceinline__ int listed_expert(const MmaParams& p, int i) { return p.groups ? p.groups[i] : i; }

// One warp: true when offsets[0] = 0, they ascend and end at or before N. Records the first that is not right.
__device__ __forceinline__ bool offsets_ok(const MmaParams& p) {
  const int lane = threadIdx.x % 32;
  for (int base = 0; base <= p.experts; base += 32) {
    const int e = base + lane;
    const bool inside = e <= p.experts;
    const int64_t value = inside ? p.offsets[e] : 0, before = inside && e > 0 ? p.offsets[e - 1] : 0;
    const bool ascends = e == 0 ? value == 0 : value >= before;
    const bool bad = inside && !(ascends && (e < p.experts || value <= p.routed));
    const unsigned vote = __ballot_sync(kFullWarp, bad);
    if (vote == 0) continue;
    if (lane == __ffs(int(vote)) - 1)
      report_fault(p.faults, kBadOffsets, p.op, kArgOffsets, e, value, ascends ? p.routed : before, ascends ? 1 : 0);
    return false;
  }
  return true;
}

__device__ __forceinline__ int warp_prefix(int x) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const int y = __shfl_up_sync(kFullWarp, x, step);
    if (lane >= step) x += y;
  }
  return x;
}

// All threads of the CTA; `columns`: tiles per row tile (nt, nn) or per expert (tn).
template <MmaMode kMode>
__device__ __forceinline__ Schedule make_schedule(const MmaParams& p, int64_t columns, int32_t* memory) {
  const int G = p.offsets ? p.group_count : 1;
  int32_t* first = memory + 1;
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    const bool good = !p.offsets || p.routed < 0 || offsets_ok(p);
    if (lane == 0) memory[0] = good;
    if (kMode != kTn && good) {
      int before = 0;
      for (int base = 0; base < G; base += 32) {
        const int i = base + lane;
        int64_t n = 0;
        if (i < G) {
          const int e = listed_expert(p, i);
          n = p.offsets ? int64_t(p.offsets[e + 1]) - p.offsets[e] : p.m;
        }
        const int tiles = int(ceil_div(n, kMmaTile)), sum = warp_prefix(tiles);
        if (i < G) first[i] = before + sum - tiles;
        before += __shfl_sync(kFullWarp, sum, 31);
      }
      if (lane == 0) first[G] = before;
    }
  }
  if (kMode == kTn) {
    // The place of expert i among the others: how many have more rows, or as many and come earlier.
    __syncthreads();
    for (int i = threadIdx.x; memory[0] && i < G; i += blockDim.x) {
      int place = 0;
      if (p.offsets) {
        const int e = listed_expert(p, i), mine = p.offsets[e + 1] - p.offsets[e];
        for (int j = 0; j < G; j++) {
          const int f = listed_expert(p, j), n = p.offsets[f + 1] - p.offsets[f];
          place += n > mine || (n == mine && j < i);
        }
      }
      first[place] = i;
    }
  }
  __syncthreads();
  const int64_t units = memory[0] ? (kMode == kTn ? G : first[G]) : 0;
  return {first, units * columns};
}

// Tile t of the schedule; columns as above, p.stack_count · column tiles for tn.
template <MmaMode kMode>
__device__ __forceinline__ TilePlace place_tile(const MmaParams& p, const Schedule& s, int64_t columns, int64_t t) {
  TilePlace place;
  if (kMode == kTn) {
    const int64_t unit = t / columns, within = t - unit * columns;
    place.group = s.first[unit];
    place.column = int32_t(within / p.stack_count);
    place.stacked = int32_t(within % p.stack_count);
  } else {
    int low = 0, high = p.offsets ? p.group_count : 1;  // first[low] · columns <= t < first[high] · columns
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (s.first[middle] * columns <= t)
        low = middle;
      else
        high = middle;
    }
    place.group = low;
  }
  place.expert = p.offsets ? listed_expert(p, place.group) : 0;
  place.begin = p.offsets ? p.offsets[place.expert] : 0;
  place.end = p.offsets ? p.offsets[place.expert + 1] : kMode == kTn ? p.k : p.m;
  if (kMode != kTn) {
    const int64_t row_tiles = s.first[place.group + 1] - s.first[place.group], within = t - s.first[place.group] * columns;
    const int64_t block = within / (kRowGroup * columns), rest = within - block * kRowGroup * columns;
    const int64_t height = min_of<int64_t>(kRowGroup, row_tiles - block * kRowGroup);
    const int32_t column = int32_t(rest / height);
    place.stacked = place.column = column;
    place.begin += (block * kRowGroup + rest % height) * kMmaTile;
  }
  return place;
}

}  // namespace esft::cuda
