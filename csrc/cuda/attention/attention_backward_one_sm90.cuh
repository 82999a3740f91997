// Backward attention in one pass on Hopper (attention_backward_one_sm90.cu): shared memory, what a CTA does in which order, the warp that
// loads and the thread that adds.
#pragma once
#include "attention_backward_sm90.cuh"

namespace esft::cuda::attention {

namespace {

constexpr int kColumns = kSumRows;  // queries of a stage
constexpr int kSlab = kColumns * 128, kSumSlab = kColumns * 64 * 4;
constexpr int kDsFullBarrier = 1, kDsEmptyBarrier = 2;  // named barriers; the second + warpgroup
constexpr int kNumbers = 16 + 3 * kColumns * 4;

template <int DQ, int DV>
struct Shape {
  static constexpr int kSlabs = DQ / 64;
  static constexpr int kFixed1 = tile_bytes(kRows, DQ), kFixed = kFixed1 + tile_bytes(kRows, DV);
  static constexpr int kTile1 = tile_bytes(kColumns, DQ), kTiles = kTile1 + tile_bytes(kColumns, DV);
  static constexpr int kDs = kRows * 128, kSums = kSlabs * kSumSlab;
  // Sums so wide that of scores and gradients one is in registers at a time, and dS none when dK is multiplied.
  static constexpr bool kTight = DQ + DV > 256;
  static constexpr int kStages = kFixed + kDs + kSums + 3 * (kTiles + kNumbers) + 256 <= kSharedLimit ? 3 : 2;
  static constexpr int kDsAt = kFixed + kStages * kTiles, kSumsAt = kDsAt + kDs, kNumbersAt = kSumsAt + kSums;
  static constexpr int kBarriers = kNumbersAt + kStages * kNumbers;
  static constexpr int kWork = kBarriers + (1 + 2 * kStages + 2 * kSlabs) * 8, kBytes = kWork + 32;
  static_assert(kBytes <= kSharedLimit);
};

template <int DQ, int DV>
struct OneBarriers : Barriers {
  using S = Shape<DQ, DV>;
  __device__ uint64_t* dq_full(int slab) const { return base + 1 + 2 * S::kStages + slab; }
  __device__ uint64_t* dq_empty(int slab) const { return base + 1 + 2 * S::kStages + S::kSlabs + slab; }
};

// What the CTA does: its keys of a kv-head, and its steps, through the blocks of 64 queries from `last` down, in each the heads of the group.
struct Work {
  int head, tile, last, steps;
};
__device__ __forceinline__ Work work_of_ticket(const BackwardParams& p, unsigned ticket) {
  const Layout& l = p.layout;
  const TileOfHead t = tile_of_head(p.order, ticket, false);
  const int row0 = t.tile * kRows, begin = row0 / kColumns, end = int(ceil_div(query_end(p, row0, row0 + kRows - 1), kColumns));
  return {p.kv_begin + t.head, t.tile, end - 1, *p.bad_order ? 0 : (end - begin) * l.group};
}
struct Step {
  int head, block;
};
__device__ __forceinline__ Step first_step(const BackwardParams& p, const Work& w) { return {w.head * p.layout.group, w.last}; }
__device__ __forceinline__ void advance(const BackwardParams& p, const Work& w, Step& s) {
  if (++s.head == (w.head + 1) * p.layout.group) s = {w.head * p.layout.group, s.block - 1};
}

// The loading warp: its first lane the tiles, all lanes the numbers of the queries.
template <int DQ, int DV>
__device__ __forceinline__ void load(const BackwardParams& p, const Maps& m, unsigned char* smem, const OneBarriers<DQ, DV>& bars,
                                     const Work& w) {
  using S = Shape<DQ, DV>;
  const int lane = threadIdx.x;
  if (lane == 0) {
    ptx::mbar_arrive_expect_tx(bars.fixed(), S::kFixed);
    load_side<DQ, DV, true, kRows>(p, m, m.fixed, smem, smem + S::kFixed1, bars.fixed(), w.head, w.tile * kRows);
  }
  int stage = 0, parity = 1;
  Step s = first_step(p, w);
#pragma unroll 1
  for (int left = w.steps; left > 0; left--) {
    ptx::mbar_wait(bars.empty(stage), parity, {ESFT_OP_attention_backward, kBarrierEmpty});
    if (lane == 0) {
      unsigned char* const to = smem + S::kFixed + stage * S::kTiles;
      *reinterpret_cast<int*>(smem + S::kNumbersAt + stage * kNumbers) = s.block * kColumns;
      ptx::mbar_arrive_expect_tx(bars.full(stage), S::kTiles);
      load_side<DQ, DV, false, kColumns>(p, m, m.streamed, to, to + S::kTile1, bars.full(stage), s.head, s.block * kColumns);
    }
    load_numbers<kColumns>(p, smem + S::kNumbersAt + stage * kNumbers + 16, bars.full(stage), s.head, s.block * kColumns);
    if (++stage == S::kStages) stage = 0, parity ^= 1;
    advance(p, w, s);
  }
  ptx::cp_async_commit();  // no thread ends with copies in flight
  ptx::cp_async_wait<0>();
}

// One thread: adds the parts of dq when it is this key block's turn.
template <int DQ, int DV>
__device__ __forceinline__ void add(const BackwardParams& p, unsigned char* smem, const OneBarriers<DQ, DV>& bars, const Work& w) {
  using S = Shape<DQ, DV>;
  Step s = first_step(p, w);
#pragma unroll 1
  for (int step = 0; step < w.steps; step++) {
    const int before = w.tile - p.first[s.block * kColumns] / kRows, turn = s.head * p.sum_blocks + s.block;
    float* const to = p.dq_sums + p.sum_offset(s.head, s.block, S::kSlabs);
#pragma unroll 1
    for (int slab = 0; slab < S::kSlabs; slab++) {
      ptx::mbar_wait(bars.dq_full(slab), step & 1, {ESFT_OP_attention_backward, kBarrierDqFull});
      if (slab == 0) ptx::turn_wait(p.turns, turn, before, {ESFT_OP_attention_backward, kBarrierDqTurn});
      const unsigned char* const from = smem + S::kSumsAt + slab * kSumSlab;
      if (before == 0)
        ptx::bulk_store(to + slab * (kSumSlab / 4), from, kSumSlab);
      else
        ptx::bulk_reduce_add(to + slab * (kSumSlab / 4), from, kSumSlab);
      ptx::bulk_commit();
    }
    ptx::bulk_wait_read<0>();
#pragma unroll 1
    for (int slab = 0; slab < S::kSlabs; slab++) ptx::mbar_arrive(bars.dq_empty(slab));
    ptx::bulk_wait<0>();
    ptx::turn_pass(p.turns, turn);
    advance(p, w, s);
  }
}

}  // namespace

}  // namespace esft::cuda::attention
