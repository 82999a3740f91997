// Grouped products on Hopper: roles, epilogues, and the sizes of their tiles.
//
// One kernel shape serves the three roles of an expert layer and the dense product (one group of all rows):
//   nt  y[r] = x[r] · W_eᵀ      A = x (K-major),  B = W (K-major)        contraction over W's columns
//   nn  dx[r] = dy[r] · W_e     A = dy (K-major), B = W (MN-major)       contraction over W's rows
//   tn  dW_e += dyᵀ · x         A = dy (MN-major), B = x (MN-major)      contraction over the expert's rows
// A CTA of three warpgroups (one loads, two multiply) stays on its multiprocessor and strides through the tiles; the list of tiles is
// a prefix sum over the experts' row counts, taken in shared memory at the start, so the host never learns the routing.
// Limit: tensor cores, 2·M·N·K flop. The 128×256 tile asks L2 for 9.2 TB/s at 788 TFLOP/s; two CTAs of a cluster that work on two
// row tiles of one column tile each load half of the weights for both, and ask for 6.2.
#pragma once
#include <stdint.h>

namespace esft::cuda::sm90 {

enum class Role { kNt, kNn, kTn };
enum class Load { kTma, kRows };  // by the copy engine; row by row with cp.async (gathered, or cut at the group's end)
enum class Epilogue { kStore, kSwiglu, kSwigluBackward, kLogits, kWeightGradient };

// Tiles that y = x·Wᵀ can have besides those of 128 x 256 (gemm_sm90.cu: tiling_of).
//   kNarrow   128 x 64: outputs of a router or of a low rank, for which three quarters of a wide tile would be multiplied for nothing
//   kInTurns  128 x 192, whole tiles by the warpgroups in turn: for short contractions, where the end of a tile is long beside it
enum class Tiling { kWide, kNarrow, kInTurns };

constexpr int kThreads = 384;  // warpgroup 0 loads, 1 and 2 multiply
constexpr int kSlabBytes = 64 * 128;  // 64 rows of 64 bf16
constexpr int kMaxGroups = 512;
constexpr int kTilesAhead = 4;  // that the loaders may have worked out before the multiplying warpgroups come to them
constexpr int kTileM = 128, kTileK = 64;  // rows of a tile, and its step along the contraction

// The multiplying warpgroups take 64 rows each of a tile of 256 columns. The backward of SwiGLU has so much to do once a tile is
// finished that they take whole tiles of 128 columns in turn instead: while one is at its epilogue the other multiplies.
template <Role kRole_, Epilogue kEpilogue_, Tiling kTiling = Tiling::kWide>
struct Shape {
  static constexpr Role kRole = kRole_;
  static constexpr Epilogue kEpilogue = kEpilogue_;
  static constexpr bool kHasH = kEpilogue == Epilogue::kSwigluBackward, kPingpong = kHasH || kTiling == Tiling::kInTurns;
  static constexpr int kTileN = kHasH ? 128 : kTiling == Tiling::kInTurns ? 192 : kTiling == Tiling::kNarrow ? 64 : 256;
  static constexpr int kStages = kHasH ? 3 : kTiling == Tiling::kNarrow ? 8 : 4;
  static constexpr int kColumns = kEpilogue == Epilogue::kSwiglu ? kTileN / 2 : kTileN;  // of the output: gate and up make one
  static constexpr int kBoxRows = kRole == Role::kNt ? kTileN / 2 : kTileK;  // of the weights, 64 columns wide
  static constexpr int kStageA = kTileM / 64 * kSlabBytes, kStageB = kTileN / 64 * kSlabBytes, kStage = kStageA + kStageB;
  // Output staging, 64 rows x 128 columns of bf16 per multiplying warpgroup; or, per warpgroup, the tile of h (gate and up) in whose
  // place dh is made.
  static constexpr int kTileOfH = 8 * kSlabBytes;
  static constexpr int kStaging = kHasH ? 2 * kTileOfH : kRole == Role::kTn ? 0 : 4 * kSlabBytes;
  static constexpr int kBarriers = kStages * kStage + kStaging;
  static constexpr int kTiles = kBarriers + 256;
  static constexpr int kTable = kTiles + kTilesAhead * 64;
  static constexpr int shared_bytes(int groups) { return kTable + (groups + 2) * 4; }
};

}  // namespace esft::cuda::sm90
