// The kernel: one warpgroup loads, two multiply. See sm90_tile.cuh for the roles.
//
// Shared memory, bytes from its 1024-byte aligned start (Shape):
//   0           kStages stages, each A [128 x 64] (16 KB), then B [64 x kTileN] (32 KB; in turns 16 KB), 128-byte swizzle
//   then        staging: 2 x 16 KB of outputs, one per multiplying warpgroup; in turns 2 x 64 KB, a tile of h (gate, up) that becomes dh
//   kBarriers   full[kStages], empty[kStages], h_full[2], h_empty[2]
//   kTable      i32 [groups + 2]: rounds before each group, their number, whether the offsets are wrong
//
//   barrier    arrivals                      who arrives                          who waits
//   full       1 by TMA + 128 by cp.async    leading loader (expects bytes),      the multiplying warps of the tile
//                                            each loader when its copies landed
//   empty      8 (in turns 4) x cluster      first lane of each multiplying       loaders, one phase behind
//                                            warp, in both CTAs of a cluster
//   h_full     1                             leading loader (expects bytes)       the warpgroup whose turn it is
//   h_empty    4                             first lanes of that warpgroup        leading loader
//   named 1+g  256                           the other warpgroup, past its last   warpgroup g: its turn to multiply
//                                            product (in turns only)
#pragma once
#include "sm90_epilogue.cuh"
#include "sm90_load.cuh"

namespace esft::cuda::sm90 {

// Gives a stage back to those who fill it: every CTA of the cluster writes into it.
template <int kCluster>
__device__ __forceinline__ void release_stage(uint64_t* empty, int rank) {
  ptx::mbar_arrive(empty);
  if (kCluster > 1) ptx::mbar_arrive_cluster(empty, rank ^ 1);
}

// Both warpgroups on every tile, 64 of its rows each.
template <Role kRole, Epilogue kEpilogue, int kCluster>
__device__ __forceinline__ void consumer_cooperative(const Params& p, unsigned char* smem, const int32_t* table, int rounds,
                                                     int rank, PipelineState<Shape<kRole, kEpilogue>::kStages> state, bool copied) {
  using S = Shape<kRole, kEpilogue>;
  constexpr int kN = S::kTileN;
  constexpr bool kMajorA = kRole == Role::kTn, kMajorB = kRole != Role::kNt;  // true: MN-major
  const int group = threadIdx.x / 128 - 1;  // which 64 rows of the tile
  const bool first_lane = threadIdx.x % 32 == 0;
  unsigned char* staging = smem + S::kStages * S::kStage + group * 2 * kSlabBytes;
  float acc[kN / 2];
  for (int t = blockIdx.x / kCluster; t < rounds; t += gridDim.x / kCluster) {
    const Tile tile = tile_at<kRole, kEpilogue, kCluster>(p, table, t, rank);
    const int steps = steps_of<kRole>(p, tile);
    const int rows = min_of(64, max_of(0, (kRole == Role::kTn ? p.segment_rows - tile.m0 : tile.rows) - 64 * group));
    if (rows == 0) {  // half of the tiles at the end of an expert have an empty half: its stages are given back as they come
#pragma unroll 1
      for (int step = 0; step < steps; step++) {
        ptx::mbar_wait(state.full + state.stage, state.phase, {p.op, kBarrierFull});
        if (first_lane) release_stage<kCluster>(state.empty + state.stage, rank);
        state.advance();
      }
      continue;
    }
    int previous = -1;
    ptx::warpgroup_fence_operand(acc);
    for (int step = 0; step < steps; step++) {
      unsigned char* stage_a = smem + state.stage * S::kStage;
      ptx::mbar_wait(state.full + state.stage, state.phase, {p.op, kBarrierFull});
      // Rows came through the generic proxy, wgmma reads through the async one.
      if (copied) ptx::fence_proxy_async();
      const uint64_t a = ptx::smem_desc(stage_a + group * kSlabBytes, kMajorA ? kSlabBytes : 16, 1024);
      const uint64_t b = ptx::smem_desc(stage_a + S::kStageA, kMajorB ? kSlabBytes : 16, 1024);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kTileK / 16; k++)
        ptx::wgmma<kN, kMajorA, kMajorB>(acc, ptx::desc_advance(a, k * ptx::kAdvance<kMajorA>),
                                         ptx::desc_advance(b, k * ptx::kAdvance<kMajorB>), step > 0 || k > 0);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();  // the step before this one is done: its stage is free
      if (previous >= 0 && first_lane) release_stage<kCluster>(state.empty + previous, rank);
      previous = state.stage;
      state.advance();
    }
    ptx::wgmma_wait<0>();
    ptx::warpgroup_fence_operand(acc);
    if (previous >= 0 && first_lane) release_stage<kCluster>(state.empty + previous, rank);
    if (steps == 0) continue;  // tn: a group without rows leaves its gradient alone

    const int64_t row0 = tile.begin + 64 * group;
    if constexpr (kRole == Role::kTn) {
      epilogue_weight_gradient(p, tile, 64 * group, acc);
    } else if constexpr (kEpilogue == Epilogue::kStore) {
      epilogue_store(p, tile, rows, row0, acc, staging);
    } else if constexpr (kEpilogue == Epilogue::kSwiglu) {
      epilogue_swiglu(p, tile, rows, row0, acc, staging);
    } else {
      epilogue_logits(p, tile, rows, row0, acc, staging);
    }
  }
}

// The products of a tile of 128 rows by one warpgroup: rows 0..63, and with kLower 64..127. Two functions, since a branch between the
// products of a step would make the compiler wait for each.
template <bool kLower, class Stages, class Release>
__device__ __forceinline__ void multiply_steps(int op, unsigned char* smem, int steps, Stages& state, bool copied,
                                               float (&upper)[64], float (&lower)[64], const Release& release) {
  using S = Shape<Role::kNn, Epilogue::kSwigluBackward>;
  constexpr int kN = S::kTileN;
  for (int step = 0; step < steps; step++) {
    unsigned char* stage_a = smem + state.stage * S::kStage;
    ptx::mbar_wait(state.full + state.stage, state.phase, {op, kBarrierFull});
    if (copied) ptx::fence_proxy_async();
    const uint64_t a = ptx::smem_desc(stage_a, 16, 1024), b = ptx::smem_desc(stage_a + S::kStageA, kSlabBytes, 1024);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTileK / 16; k++) {
      ptx::wgmma<kN, 0, 1>(upper, ptx::desc_advance(a, k * ptx::kAdvance<0>), ptx::desc_advance(b, k * ptx::kAdvance<1>),
                           step > 0 || k > 0);
      if (kLower)
        ptx::wgmma<kN, 0, 1>(lower, ptx::desc_advance(a, kSlabBytes + k * ptx::kAdvance<0>),
                             ptx::desc_advance(b, k * ptx::kAdvance<1>), step > 0 || k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    if (step > 0 && threadIdx.x % 32 == 0) release(state.before());
    state.advance();
  }
}

// Whole tiles in turn: a warpgroup multiplies while the other one finishes. Stages come in the order of the tiles, so each skips those of
// the other's tile; only the owner of a tile gives its stages back. A warpgroup starts once the other has seen all its stages arrive: a
// barrier's phase is told by its parity alone, so nobody may wait two phases ahead.
template <int kCluster>
__device__ __forceinline__ void consumer_pingpong(const Params& p, unsigned char* smem, const int32_t* table, int rounds, int rank,
                                                  PipelineState<Shape<Role::kNn, Epilogue::kSwigluBackward>::kStages> state,
                                                  bool copied, uint64_t* h_full, uint64_t* h_empty) {
  using S = Shape<Role::kNn, Epilogue::kSwigluBackward>;
  const int group = threadIdx.x / 128 - 1;
  const bool first_lane = threadIdx.x % 32 == 0;
  unsigned char* h = smem + S::kStages * S::kStage + group * S::kTileOfH;
  float upper[64], lower[64];  // rows 0..63 and 64..127
  const int steps = p.segments * int(ceil_div(p.segment_rows, kTileK));  // of every tile
  const int stride = gridDim.x / kCluster;
  int t = blockIdx.x / kCluster;
  if (group == 1 && t < rounds) ptx::named_barrier_arrive(1, 256);  // the first turn is the other's
  for (int turn = 0; t < rounds; t += stride, turn++) {
    if ((turn & 1) != group) {
      state.skip(steps);
      continue;
    }
    // Before the turn comes, when there is time. Kept as one bit: a tile does not fit the registers beside the sums.
    const bool whole = tile_at<Role::kNn, Epilogue::kSwigluBackward, kCluster>(p, table, t, rank).rows > 64;
    const auto release = [&](int stage) { release_stage<kCluster>(state.empty + stage, rank); };
    ptx::named_barrier_sync(1 + group, 256, {p.op, kBarrierTurn});
    ptx::warpgroup_fence_operand(upper);
    ptx::warpgroup_fence_operand(lower);
    if (whole)
      multiply_steps<true>(p.op, smem, steps, state, copied, upper, lower, release);
    else
      multiply_steps<false>(p.op, smem, steps, state, copied, upper, lower, release);
    if (t + stride < rounds) ptx::named_barrier_arrive(2 - group, 256);
    ptx::wgmma_wait<0>();
    ptx::warpgroup_fence_operand(upper);
    ptx::warpgroup_fence_operand(lower);
    if (first_lane) release_stage<kCluster>(state.empty + state.before(), rank);
    ptx::mbar_wait(h_full + group, turn >> 1 & 1, {p.op, kBarrierHFull});
    const Tile tile = tile_at<Role::kNn, Epilogue::kSwigluBackward, kCluster>(p, table, t, rank);
    epilogue_swiglu_backward(p, tile, min_of(64, tile.rows), tile.begin, 0, upper, h);
    epilogue_swiglu_backward(p, tile, min_of(64, max_of(0, tile.rows - 64)), tile.begin + 64, 64, lower, h);
    ptx::fence_proxy_async();  // the copy engine writes here next
    __syncwarp();
    if (first_lane) ptx::mbar_arrive(h_empty + group);
  }
}

template <Role kRole, Epilogue kEpilogue, Load kLoadA, Load kLoadB, int kCluster>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                   const __grid_constant__ CUtensorMap map_h, const __grid_constant__ Params p) {
  using S = Shape<kRole, kEpilogue>;
  constexpr bool kCopies = kLoadA == Load::kRows || kLoadB == Load::kRows;
  constexpr bool kMaps = kLoadA == Load::kTma || kLoadB == Load::kTma;
  // Together 504 = 65536 / 128 registers less a rounding: the loaders need few, unless they work out addresses of rows.
  constexpr int kLoadRegisters = S::kPingpong ? 72 : kCopies ? 56 : 40;
  constexpr int kMultiplyRegisters = (504 - kLoadRegisters) / 2;
  ESFT_SHARED(smem);
  uint64_t* barriers = reinterpret_cast<uint64_t*>(smem + S::kBarriers);
  int32_t* table = reinterpret_cast<int32_t*>(smem + S::kTable);
  PipelineState<S::kStages> state;
  state.full = barriers;
  state.empty = state.full + S::kStages;
  uint64_t* h_full = state.empty + S::kStages;
  uint64_t* h_empty = h_full + 2;
  constexpr int kWarps = S::kPingpong ? 4 : 8;  // that multiply a tile
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; i++) {
      ptx::mbar_init(state.full + i, (kMaps ? 1 : 0) + (kCopies ? 128 : 0));
      ptx::mbar_init(state.empty + i, kWarps * kCluster);
    }
    for (int i = 0; i < 2; i++) {
      ptx::mbar_init(h_full + i, 1);
      ptx::mbar_init(h_empty + i, kWarps);
    }
    ptx::fence_mbar_init();
    if (kLoadA == Load::kTma) ptx::tma_prefetch_map(&map_a);
    if (kRole == Role::kTn && kLoadB == Load::kTma) ptx::tma_prefetch_map(&map_b);
    if (kEpilogue == Epilogue::kSwigluBackward) ptx::tma_prefetch_map(&map_h);
  }
  check_index(p, p.a);
  check_index(p, p.b);
  const int rounds = build_table<kRole, kEpilogue, kCluster>(p, table);  // ends with a barrier: the mbarriers are ready for all
  int rank = 0;
  if (kCluster > 1) {
    rank = int(ptx::cluster_rank());
    ptx::cluster_sync();  // and those of the other CTA
  }
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<kLoadRegisters>();
    producer<kRole, kEpilogue, kLoadA, kLoadB, kCluster>(p, &map_a, &map_b, &map_h, smem, table, rounds, rank, state, h_full,
                                                         h_empty);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    if constexpr (S::kPingpong)
      consumer_pingpong<kCluster>(p, smem, table, rounds, rank, state, kCopies, h_full, h_empty);
    else
      consumer_cooperative<kRole, kEpilogue, kCluster>(p, smem, table, rounds, rank, state, kCopies);
  }
  if (kCluster > 1) ptx::cluster_sync();  // the other CTA still arrives on barriers here
}

}  // namespace esft::cuda::sm90
