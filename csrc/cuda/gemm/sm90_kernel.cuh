// The kernel: one warpgroup loads, two multiply. See sm90_shape.cuh for the roles.
//
// Shared memory, bytes from its 1024-byte aligned start (Shape):
//   0           kStages stages, each A [128 x 64] (16 KB), then B [64 x kTileN] (32 KB; in turns 16 KB), 128-byte swizzle
//   then        staging: two slabs of outputs for each multiplying warp, 2 x 2 KB; in turns 2 x 64 KB, a tile of h (gate, up) that becomes dh
//   kBarriers   full[kStages], empty[kStages], h_full[2], h_empty[2], tile_full[kTilesAhead], tile_empty[kTilesAhead]
//   kTiles      Tile [kTilesAhead]
//   kTable      i32 [groups + 2]: rounds before each group, their number, whether the offsets are wrong
//
//   barrier    arrivals                      who arrives                          who waits
//   full       1 by TMA + 128 by cp.async    leading loader (expects bytes),      the multiplying warps of the tile
//                                            each loader when its copies landed
//   empty      8 (in turns 4) x cluster      first lane of each multiplying       loaders, one phase behind
//                                            warp, in both CTAs of a cluster
//   h_full     1                             leading loader (expects bytes)       the warpgroup whose turn it is
//   h_empty    4                             first lanes of that warpgroup        leading loader
//   tile_full  1                             leading loader, which wrote it       the multiplying warps of the tile, loaders
//   tile_empty 8 (in turns 4), + 4 where     first lane of each of those          leading loader, kTilesAhead tiles later
//              rows are copied
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
template <class K>
__device__ __forceinline__ void consumer_cooperative(const typename K::Args& p, const Maps& maps, const Shared<K>& s) {
  using S = typename K::S;
  constexpr Role kRole = K::kRole;
  constexpr Epilogue kEpilogue = K::kEpilogue;
  constexpr int kN = S::kTileN, kCluster = K::kCluster;
  constexpr bool kMajorA = kRole == Role::kTn, kMajorB = kRole != Role::kNt;  // true: MN-major
  typename K::Pipeline state = s.state;
  const int group = threadIdx.x / 128 - 1;  // which 64 rows of the tile
  const bool first_lane = threadIdx.x % 32 == 0;
  unsigned char* staging = s.smem + S::kStages * S::kStage + group * 2 * kSlabBytes;
  float acc[kN / 2];
  for (int turn = 0; turn < s.turns; turn++) {
    const Tile& next = s.tiles.take(turn);
    const int steps = next.steps;
    int rows = next.rows - 64 * group;  // that exist of this warpgroup's
    if constexpr (kRole == Role::kTn) rows = p.part_rows - next.m0 - 64 * group;
    if (rows <= 0) {  // half of the tiles at the end of an expert have an empty half: its stages are given back as they come
#pragma unroll 1
      for (int step = 0; step < steps; step++) {
        ptx::mbar_wait(state.full + state.stage, state.phase, {p.op, kBarrierFull});
        if (first_lane) release_stage<kCluster>(state.empty + state.stage, s.rank);
        state.advance();
      }
      s.tiles.give(turn);
      continue;
    }
    int previous = -1;
    ptx::warpgroup_fence_operand(acc);
    for (int step = 0; step < steps; step++) {
      unsigned char* stage_a = s.smem + state.stage * S::kStage;
      ptx::mbar_wait(state.full + state.stage, state.phase, {p.op, kBarrierFull});
      // Rows came through the generic proxy, wgmma reads through the async one.
      if (K::kCopies) ptx::fence_proxy_async();
      const uint64_t a = ptx::smem_desc(stage_a + group * kSlabBytes, kMajorA ? kSlabBytes : 16, 1024);
      const uint64_t b = ptx::smem_desc(stage_a + S::kStageA, kMajorB ? kSlabBytes : 16, 1024);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kTileK / 16; k++)
        ptx::wgmma<kN, kMajorA, kMajorB>(acc, ptx::desc_advance(a, k * ptx::kAdvance<kMajorA>),
                                         ptx::desc_advance(b, k * ptx::kAdvance<kMajorB>), step > 0 || k > 0);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();  // the step before this one is done: its stage is free
      if (previous >= 0 && first_lane) release_stage<kCluster>(state.empty + previous, s.rank);
      previous = state.stage;
      state.advance();
    }
    ptx::wgmma_wait<0>();
    ptx::warpgroup_fence_operand(acc);
    if (previous >= 0 && first_lane) release_stage<kCluster>(state.empty + previous, s.rank);
    const Tile tile = s.tiles.again(turn);
    s.tiles.give(turn);
    if (steps == 0) continue;  // tn: a group without rows leaves its gradient alone

    const int64_t row0 = tile.begin + 64 * group;
    if constexpr (kEpilogue == Epilogue::kWeightGradient)
      epilogue_weight_gradient(p, tile, 64 * group, acc);
    else if constexpr (kEpilogue == Epilogue::kStore)
      epilogue_store<kRole>(p, maps, tile, min_of(64, rows), row0, acc, staging);
    else if constexpr (kEpilogue == Epilogue::kSwiglu)
      epilogue_swiglu(p, maps, tile, min_of(64, rows), row0, acc, staging);
    else
      epilogue_logits(p, maps, tile, min_of(64, rows), row0, acc, staging);
  }
  if (first_lane) ptx::bulk_wait_read<0>();  // shared memory must last until the copy engine has read it
}

// The products of a tile of 128 rows by one warpgroup: rows 0..63, and with kLower 64..127. Two functions, since a branch between the
// products of a step would make the compiler wait for each.
template <class K, bool kLower, class Release>
__device__ __forceinline__ void multiply_steps(int op, unsigned char* smem, int steps, typename K::Pipeline& state,
                                               float (&upper)[K::S::kTileN / 2], float (&lower)[K::S::kTileN / 2],
                                               const Release& release) {
  using S = typename K::S;
  constexpr int kN = S::kTileN;
  constexpr bool kMajorB = K::kRole != Role::kNt;
  for (int step = 0; step < steps; step++) {
    unsigned char* stage_a = smem + state.stage * S::kStage;
    ptx::mbar_wait(state.full + state.stage, state.phase, {op, kBarrierFull});
    if (K::kCopies) ptx::fence_proxy_async();
    const uint64_t a = ptx::smem_desc(stage_a, 16, 1024), b = ptx::smem_desc(stage_a + S::kStageA, kMajorB ? kSlabBytes : 16, 1024);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTileK / 16; k++) {
      ptx::wgmma<kN, 0, kMajorB>(upper, ptx::desc_advance(a, k * ptx::kAdvance<0>),
                                 ptx::desc_advance(b, k * ptx::kAdvance<kMajorB>), step > 0 || k > 0);
      if (kLower)
        ptx::wgmma<kN, 0, kMajorB>(lower, ptx::desc_advance(a, kSlabBytes + k * ptx::kAdvance<0>),
                                   ptx::desc_advance(b, k * ptx::kAdvance<kMajorB>), step > 0 || k > 0);
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
template <class K>
__device__ __forceinline__ void consumer_pingpong(const typename K::Args& p, const Maps& maps, const Shared<K>& s) {
  using S = typename K::S;
  constexpr int kCluster = K::kCluster;
  typename K::Pipeline state = s.state;
  const int group = threadIdx.x / 128 - 1;
  const bool first_lane = threadIdx.x % 32 == 0;
  unsigned char* staging = s.smem + S::kStages * S::kStage + group * (S::kStaging / 2);  // or this warpgroup's tile of h
  float upper[S::kTileN / 2], lower[S::kTileN / 2];  // rows 0..63 and 64..127
  const int steps = p.contraction.steps;  // of every tile
  if (group == 1 && s.turns > 0) ptx::named_barrier_arrive(1, 256);  // the first turn is the other's
  for (int turn = 0; turn < s.turns; turn++) {
    if ((turn & 1) != group) {
      state.skip(steps);
      continue;
    }
    const bool whole = s.tiles.take(turn).rows > 64;
    const auto release = [&](int stage) { release_stage<kCluster>(state.empty + stage, s.rank); };
    ptx::named_barrier_sync(1 + group, 256, {p.op, kBarrierTurn});
    ptx::warpgroup_fence_operand(upper);
    ptx::warpgroup_fence_operand(lower);
    if (whole)
      multiply_steps<K, true>(p.op, s.smem, steps, state, upper, lower, release);
    else
      multiply_steps<K, false>(p.op, s.smem, steps, state, upper, lower, release);
    if (turn + 1 < s.turns) ptx::named_barrier_arrive(2 - group, 256);
    ptx::wgmma_wait<0>();
    ptx::warpgroup_fence_operand(upper);
    ptx::warpgroup_fence_operand(lower);
    if (first_lane) release_stage<kCluster>(state.empty + state.before(), s.rank);
    if constexpr (S::kHasH) ptx::mbar_wait(s.h_full + group, turn >> 1 & 1, {p.op, kBarrierHFull});
    const Tile tile = s.tiles.again(turn);
    s.tiles.give(turn);
    const int of_upper = min_of(64, tile.rows), of_lower = min_of(64, max_of(0, tile.rows - 64));
    if constexpr (S::kHasH) {
      epilogue_swiglu_backward(p, maps, tile, of_upper, tile.begin, 0, upper, staging);
      epilogue_swiglu_backward(p, maps, tile, of_lower, tile.begin + 64, 64, lower, staging);
      ptx::fence_proxy_async();  // the copy engine writes here next, once it has read what it stores
      if (first_lane) ptx::bulk_wait_read<0>();
      __syncwarp();
      if (first_lane) ptx::mbar_arrive(s.h_empty + group);
    } else {
      epilogue_plain(p, maps, tile, of_upper, tile.begin, upper, staging);
      if (of_lower > 0) epilogue_plain(p, maps, tile, of_lower, tile.begin + 64, lower, staging);
    }
  }
  if (first_lane) ptx::bulk_wait_read<0>();
}

template <Role kRole, Epilogue kEpilogue, Load kLoadA, Load kLoadB, int kCluster, Tiling kTiling = Tiling::kWide>
__global__ void __launch_bounds__(kThreads, 1) grouped_kernel(const EarlyStart early, const __grid_constant__ Maps maps,
                                                              const __grid_constant__ Arguments<kRole, kEpilogue> p) {
  using K = Instance<kRole, kEpilogue, kLoadA, kLoadB, kCluster, kTiling>;
  using S = typename K::S;
  // Together 504 = 65536 / 128 registers less a rounding: the loaders need few, unless they work out addresses of rows.
  constexpr int kLoadRegisters = S::kHasH || K::kCopies ? 72 : kRole == Role::kTn ? 56 : 40;
  constexpr int kMultiplyRegisters = (504 - kLoadRegisters) / 2;
  ESFT_SHARED(smem);
  uint64_t* barriers = reinterpret_cast<uint64_t*>(smem + S::kBarriers);
  int32_t* table = reinterpret_cast<int32_t*>(smem + S::kTable);
  Shared<K> s;
  s.smem = smem;
  s.table = table;
  s.rank = 0;
  s.state.full = barriers;
  s.state.empty = barriers + S::kStages;
  s.h_full = s.state.empty + S::kStages;
  s.h_empty = s.h_full + 2;
  s.tiles = {reinterpret_cast<Tile*>(smem + S::kTiles), s.h_empty + 2, s.h_empty + 2 + kTilesAhead, p.op};
  constexpr int kWarps = S::kPingpong ? 4 : 8;  // that multiply a tile
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; i++) {
      ptx::mbar_init(s.state.full + i, (K::kMaps ? 1 : 0) + (K::kCopies ? 128 : 0));
      ptx::mbar_init(s.state.empty + i, kWarps * kCluster);
    }
    for (int i = 0; i < 2; i++) {
      ptx::mbar_init(s.h_full + i, 1);
      ptx::mbar_init(s.h_empty + i, kWarps);
    }
    for (int i = 0; i < kTilesAhead; i++) {
      ptx::mbar_init(s.tiles.full + i, 1);
      ptx::mbar_init(s.tiles.empty + i, kWarps + (K::kCopies ? 4 : 0));
    }
    ptx::fence_mbar_init();
    if (kLoadA == Load::kTma) ptx::tma_prefetch_map(&maps.a[0]);
    if (kRole == Role::kTn && kLoadB == Load::kTma) ptx::tma_prefetch_map(&maps.b[0]);
    if (kEpilogue == Epilogue::kSwigluBackward) ptx::tma_prefetch_map(&maps.h);
  }
  early.wait();
  check_index(p, p.a);
  if constexpr (kRole == Role::kTn) check_index(p, p.b);
  const int rounds = build_table<S, kCluster>(p, table);  // ends with a barrier: the mbarriers are ready for all
  s.turns = max_of(0, int(ceil_div(rounds - int(blockIdx.x) / kCluster, int(gridDim.x) / kCluster)));
  if (kCluster > 1) {
    s.rank = int(ptx::cluster_rank());
    ptx::cluster_sync();  // and those of the other CTA
  }
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<kLoadRegisters>();
    Producer<kRole>::template run<K>(p, maps, s);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    if constexpr (S::kPingpong)
      consumer_pingpong<K>(p, maps, s);
    else
      consumer_cooperative<K>(p, maps, s);
  }
  if (kCluster > 1) ptx::cluster_sync();  // the other CTA still arrives on barriers here
}

}  // namespace esft::cuda::sm90
