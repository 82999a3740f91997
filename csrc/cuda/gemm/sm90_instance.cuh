// An instance of the kernel of grouped products on Hopper, and the ring of stages between its warpgroups.
#pragma once
#include "sm90_tile.cuh"

namespace esft::cuda::sm90 {

template <int kStages>
struct PipelineState {
  uint64_t *full, *empty;
  int stage = 0, phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
  __device__ __forceinline__ int before() const { return stage == 0 ? kStages - 1 : stage - 1; }
  __device__ __forceinline__ void skip(int steps) {
    stage += steps;
    phase ^= stage / kStages & 1;
    stage %= kStages;
  }
};

// What an instance is made for; everything that follows from it.
template <Role kRole_, Epilogue kEpilogue_, Load kLoadA_, Load kLoadB_, int kCluster_, Tiling kTiling>
struct Instance {
  static constexpr Role kRole = kRole_;
  static constexpr Epilogue kEpilogue = kEpilogue_;
  static constexpr Load kLoadA = kLoadA_, kLoadB = kLoadB_;
  static constexpr int kCluster = kCluster_;
  static constexpr bool kCopies = kLoadA == Load::kRows || kLoadB == Load::kRows;  // cp.async fills stages too
  static constexpr bool kMaps = kRole != Role::kTn || kLoadA == Load::kTma || kLoadB == Load::kTma;
  using S = Shape<kRole, kEpilogue, kTiling>;
  using Args = Arguments<kRole, kEpilogue>;
  using Pipeline = PipelineState<S::kStages>;
  // Of the CTA's turn. Clusters stride through the rounds.
  static __device__ __forceinline__ Tile tile(const Args& p, const int32_t* table, int turn, int rank) {
    return tile_at<S, kCluster>(p, table, (int(blockIdx.x) + turn * int(gridDim.x)) / kCluster, rank);
  }
};

// The CTA's tiles, worked out by the loaders up to kTilesAhead before they are multiplied: a binary search and dependent loads from global
// memory, which are nothing beside the loads of a tile, and would cost the multiplying warpgroups a thousand cycles at its start.
struct TileQueue {
  Tile* tiles;
  uint64_t *full, *empty;
  int32_t op;
  // By one thread, in the order of turns.
  __device__ __forceinline__ void put(int turn, const Tile& tile) {
    const int i = turn % kTilesAhead;
    ptx::mbar_wait(empty + i, (turn / kTilesAhead & 1) ^ 1, {op, kBarrierTileEmpty});
    tiles[i] = tile;
    ptx::mbar_arrive(full + i);
  }
  // Stays until `give`; kept there, not in registers, while the tile is multiplied.
  __device__ __forceinline__ const Tile& take(int turn) const {
    ptx::mbar_wait(full + turn % kTilesAhead, turn / kTilesAhead & 1, {op, kBarrierTileFull});
    return tiles[turn % kTilesAhead];
  }
  __device__ __forceinline__ const Tile& again(int turn) const { return tiles[turn % kTilesAhead]; }
  // By whole warps: of those that took it, each once.
  __device__ __forceinline__ void give(int turn) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbar_arrive(empty + turn % kTilesAhead);
  }
};

// What the warpgroups of a CTA share, in shared memory (sm90_kernel.cuh has its map).
template <class K>
struct Shared {
  unsigned char* smem;
  const int32_t* table;
  int rank;  // of the CTA in its cluster
  int turns;  // tiles of this CTA
  TileQueue tiles;
  typename K::Pipeline state;
  uint64_t *h_full, *h_empty;
};

}  // namespace esft::cuda::sm90
