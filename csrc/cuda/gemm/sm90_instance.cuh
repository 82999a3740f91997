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
template <Role kRole_, Epilogue kEpilogue_, Load kLoadA_, Load kLoadB_, int kCluster_>
struct Instance {
  static constexpr Role kRole = kRole_;
  static constexpr Epilogue kEpilogue = kEpilogue_;
  static constexpr Load kLoadA = kLoadA_, kLoadB = kLoadB_;
  static constexpr int kCluster = kCluster_;
  static constexpr bool kCopies = kLoadA == Load::kRows || kLoadB == Load::kRows;  // cp.async fills stages too
  static constexpr bool kMaps = kRole != Role::kTn || kLoadA == Load::kTma || kLoadB == Load::kTma;
  using S = Shape<kRole, kEpilogue>;
  using Args = Arguments<kRole, kEpilogue>;
  using Pipeline = PipelineState<S::kStages>;
  static __device__ __forceinline__ Tile tile(const Args& p, const int32_t* table, int t, int rank) {
    return tile_at<kRole, kEpilogue, kCluster>(p, table, t, rank);
  }
};

// What the warpgroups of a CTA share, in shared memory (sm90_kernel.cuh has its map).
template <class K>
struct Shared {
  unsigned char* smem;
  const int32_t* table;
  int rounds, rank;  // of the CTA in its cluster
  typename K::Pipeline state;
  uint64_t *h_full, *h_empty;
};

}  // namespace esft::cuda::sm90
