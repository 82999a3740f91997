// attention (contract: ops/attention.h) on Hopper, heads of 64/64, 128/128 and 192/128 (keys/values): wgmma fed by the copy engine.
//
// Bound by the tensor cores: 2·(dq + dv) FLOPs per visible pair and head. A CTA holds 128 queries of one head. One warpgroup loads: Q
// once, then K and V tiles of 128 keys into two stages each. Two warpgroups multiply, 64 queries each: S = Q·Kᵀ from shared memory,
// P from registers. The scores of a tile are multiplied while the values of the tile before it still are, so that the softmax runs
// under P·V; and the two warpgroups take turns at issuing products, so that it runs under the other one's products too. 208 KB of
// shared memory at 192/128: one CTA per multiprocessor.
//
// Shared memory: Q [128, dq], K [128, dq] x 2, V [128, dv] x 2, in slabs of 64 columns with 128-byte swizzle, then the barriers. The
// rows of O leave through the place of Q.
//
//   barrier      arrivals   who arrives                                      who waits
//   q_full       1          the loading thread (expects bytes)               both warpgroups, once
//   k_full[2]    1          the loading thread (expects bytes)               both warpgroups
//   v_full[2]    1          the loading thread (expects bytes)               both warpgroups
//   k_empty[2]   8          first lane of each multiplying warp, after S     the loading thread, one phase behind
//   v_empty[2]   8          first lane of each multiplying warp, after P·V   the loading thread, one phase behind
//   named 1+g    128        warpgroup g has read Q                           warpgroup g, before it stores O
//   named 3+g    256        the other warpgroup has issued its products      warpgroup g, before it issues its own
#include "../host/tensor_map.h"
#include "attention.cuh"

namespace esft::cuda {

namespace attention {

namespace {

constexpr int kTile = 128;  // queries of a CTA, keys of a stage
constexpr int kSlab = kTile * 128, kThreads = 384, kStages = 2;
constexpr int kLoadRegisters = 24, kMultiplyRegisters = 240;
constexpr int kRowsBarrier = 1, kTurnBarrier = 3;  // named barriers, + warpgroup

struct Maps {
  CUtensorMap maps[4];  // q, k, v, k_shared
  int k_offset, v_offset;
};

template <int DQ, int DV>
struct Memory {
  static constexpr int kQ = tile_bytes(kTile, DQ), kK = kQ, kV = tile_bytes(kTile, DV);
  static constexpr int kBarriers = kQ + kStages * (kK + kV), kBytes = kBarriers + (1 + 4 * kStages) * 8;
  unsigned char* base;
  __device__ unsigned char* q() const { return base; }
  __device__ unsigned char* k(int stage) const { return base + kQ + stage * kK; }
  __device__ unsigned char* v(int stage) const { return base + kQ + kStages * kK + stage * kV; }
  __device__ uint64_t* q_full() const { return reinterpret_cast<uint64_t*>(base + kBarriers); }
  __device__ uint64_t* k_full(int stage) const { return q_full() + 1 + stage; }
  __device__ uint64_t* v_full(int stage) const { return q_full() + 1 + kStages + stage; }
  __device__ uint64_t* k_empty(int stage) const { return q_full() + 1 + 2 * kStages + stage; }
  __device__ uint64_t* v_empty(int stage) const { return q_full() + 1 + 3 * kStages + stage; }
};

// One thread: everything the CTA reads.
template <int DQ, int DV>
__device__ __forceinline__ void load(const ForwardParams& p, const Maps& m, Memory<DQ, DV> memory, TileOfHead t, int key_begin,
                                     int tiles) {
  using M = Memory<DQ, DV>;
  const Layout& l = p.layout;
  const CUtensorMap *const q = m.maps, *const k = m.maps + 1, *const v = m.maps + 2, *const shared = m.maps + 3;
  const int g = t.head / l.group, kx = m.k_offset + int(g * l.k_stride), vx = m.v_offset + int(g * l.v_stride);
  ptx::mbar_arrive_expect_tx(memory.q_full(), M::kQ);
  for (int s = 0; s < DQ / 64; s++)
    ptx::tma_load_2d(memory.q() + s * kSlab, q, memory.q_full(), t.head * DQ + s * 64, t.tile * kTile);
  for (int j = 0; j < tiles; j++) {
    const int stage = j % kStages, parity = (j / kStages & 1) ^ 1, row = key_begin + j * kTile;
    ptx::mbar_wait(memory.k_empty(stage), parity, {ESFT_OP_attention, kBarrierKeysEmpty});
    ptx::mbar_arrive_expect_tx(memory.k_full(stage), M::kK);
    for (int s = 0; s < DQ / 64; s++) {
      const bool own = s * 64 < l.k_dim;
      ptx::tma_load_2d(memory.k(stage) + s * kSlab, own ? k : shared, memory.k_full(stage), own ? kx + s * 64 : s * 64 - l.k_dim,
                       row);
    }
    ptx::mbar_wait(memory.v_empty(stage), parity, {ESFT_OP_attention, kBarrierValuesEmpty});
    ptx::mbar_arrive_expect_tx(memory.v_full(stage), M::kV);
    for (int s = 0; s < DV / 64; s++) ptx::tma_load_2d(memory.v(stage) + s * kSlab, v, memory.v_full(stage), vx + s * 64, row);
  }
}

// A warpgroup: 64 queries.
template <int DQ, int DV>
__device__ __forceinline__ void multiply(const ForwardParams& p, Memory<DQ, DV> memory, TileOfHead t, int key_begin, int tiles) {
  constexpr int kN = kTile / 8;
  const Layout& l = p.layout;
  const int group = warpgroup_index() - 1, lane = int(threadIdx.x) % 32;
  const int r0 = 64 * group + int(threadIdx.x) % 128 / 32 * 16, first_row = t.tile * kTile + r0;  // of this warp: 16 rows
  const int all_from = l.first_key(first_row + 15);
  const uint64_t q = ptx::smem_desc(memory.q() + group * (64 * 128), 16, 1024);
  const uint64_t k = ptx::smem_desc(memory.k(0), 16, 1024), v = ptx::smem_desc(memory.v(0), kSlab, 1024);

  float s[kTile / 2], out[DV / 2], top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  uint32_t probs[kTile / 16][4];
#pragma unroll
  for (int i = 0; i < DV / 2; i++) out[i] = 0.f;

  auto multiply_scores = [&](int stage) {
    const uint64_t b = ptx::desc_advance(k, stage * Memory<DQ, DV>::kK);
#pragma unroll
    for (int i = 0; i < DQ / 16; i++) {
      const int at = i / 4 * kSlab + i % 4 * 32;
      ptx::wgmma<kTile, 0, 0>(s, ptx::desc_advance(q, at), ptx::desc_advance(b, at), i > 0);
    }
    ptx::wgmma_commit();
  };
  auto multiply_values = [&](int stage) {
    const uint64_t b = ptx::desc_advance(v, stage * Memory<DQ, DV>::kV);
#pragma unroll
    for (int i = 0; i < kTile / 16; i++) ptx::wgmma_rs<DV, 1>(out, probs[i], ptx::desc_advance(b, i * 2048), 1);
    ptx::wgmma_commit();
  };
  float decay[2];
  auto softmax = [&](int key0) {
    auto& scores = reinterpret_cast<float (&)[kN][4]>(s);
    if (key0 + kTile - 1 > first_row || key0 < all_from) mask_scores(l, scores, first_row, key0);
    decay[0] = online_softmax<0>(scores, top[0], sum[0], p.scale2);
    decay[1] = online_softmax<1>(scores, top[1], sum[1], p.scale2);
  };

  // Turns: a warpgroup issues its products after the other one has issued those before.
  auto await_turn = [&] { ptx::named_barrier_sync(kTurnBarrier + group, 256, {ESFT_OP_attention, kBarrierTurn}); };
  auto pass_turn = [&] { ptx::named_barrier_arrive(kTurnBarrier + (group ^ 1), 256); };
  if (group == 1) pass_turn();

  ptx::mbar_wait(memory.q_full(), 0, {ESFT_OP_attention, kBarrierRowsFull});
  ptx::mbar_wait(memory.k_full(0), 0, {ESFT_OP_attention, kBarrierKeysFull});
  await_turn();
  ptx::warpgroup_fence_operand(s);
  ptx::wgmma_fence();
  multiply_scores(0);
  if (group == 0 || tiles > 1) pass_turn();  // every turn passed is taken
  ptx::wgmma_wait<0>();
  ptx::warpgroup_fence_operand(s);
  if (lane == 0) ptx::mbar_arrive(memory.k_empty(0));
  softmax(key_begin);
  pack_fragments(probs, reinterpret_cast<float (&)[kN][4]>(s));

#pragma unroll 1
  for (int j = 1; j < tiles; j++) {
    const int stage = j % kStages, before = (j - 1) % kStages;
    ptx::mbar_wait(memory.k_full(stage), j / kStages & 1, {ESFT_OP_attention, kBarrierKeysFull});
    ptx::mbar_wait(memory.v_full(before), (j - 1) / kStages & 1, {ESFT_OP_attention, kBarrierValuesFull});
    await_turn();
    ptx::warpgroup_fence_operand(s);
    ptx::warpgroup_fence_operand(out);
    ptx::warpgroup_fence_operand(probs);
    ptx::wgmma_fence();
    multiply_scores(stage);
    multiply_values(before);
    if (group == 0 || j + 1 < tiles) pass_turn();
    ptx::wgmma_wait<1>();
    ptx::warpgroup_fence_operand(s);
    if (lane == 0) ptx::mbar_arrive(memory.k_empty(stage));
    softmax(key_begin + j * kTile);  // while P·V of the tile before is under way
    ptx::wgmma_wait<0>();
    ptx::warpgroup_fence_operand(out);
    ptx::warpgroup_fence_operand(probs);
    if (lane == 0) ptx::mbar_arrive(memory.v_empty(before));
#pragma unroll
    for (int i = 0; i < DV / 2; i++) out[i] *= decay[i / 2 & 1];
    pack_fragments(probs, reinterpret_cast<float (&)[kN][4]>(s));
  }
  const int last = (tiles - 1) % kStages;
  ptx::mbar_wait(memory.v_full(last), (tiles - 1) / kStages & 1, {ESFT_OP_attention, kBarrierValuesFull});
  ptx::warpgroup_fence_operand(out);
  ptx::warpgroup_fence_operand(probs);
  ptx::wgmma_fence();
  multiply_values(last);
  ptx::wgmma_wait<0>();
  ptx::warpgroup_fence_operand(out);
  ptx::warpgroup_fence_operand(probs);

  ptx::named_barrier_sync(kRowsBarrier + group, 128,
                          {ESFT_OP_attention, kBarrierRowsRead});  // the warpgroup has read its rows of Q for the last time
  store_output<kTile, DV>(p, memory.q(), r0, first_row, lane, t.head, DV, reinterpret_cast<float (&)[1][DV / 8][4]>(out),
                          reinterpret_cast<float (&)[1][2]>(top), reinterpret_cast<float (&)[1][2]>(sum));
}

template <int DQ, int DV>
__global__ void __launch_bounds__(kThreads, 1) forward_wgmma(const ForwardParams p, const __grid_constant__ Maps m) {
  ESFT_SHARED(smem);
  const Memory<DQ, DV> memory{smem};
  if (threadIdx.x == 0) {
    ptx::mbar_init(memory.q_full(), 1);
    for (int s = 0; s < kStages; s++) {
      ptx::mbar_init(memory.k_full(s), 1);
      ptx::mbar_init(memory.v_full(s), 1);
      ptx::mbar_init(memory.k_empty(s), 8);  // one arrival per multiplying warp
      ptx::mbar_init(memory.v_empty(s), 8);
    }
    ptx::fence_mbar_init();
  }
  __syncthreads();
  const Layout& l = p.layout;
  const TileOfHead t = tile_of_head(p.order, blockIdx.x, true);
  const int key_begin = l.first_key(t.tile * kTile) / kTile * kTile, key_end = min_of((t.tile + 1) * kTile, l.T);
  const int tiles = int(ceil_div(key_end - key_begin, kTile));
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<kLoadRegisters>();
    if (threadIdx.x == 0) load<DQ, DV>(p, m, memory, t, key_begin, tiles);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    multiply<DQ, DV>(p, memory, t, key_begin, tiles);
  }
}

template <int DQ, int DV>
bool run(ForwardParams p, const esft_attention_args& a, Context& c) {
  const esft_tensor operands[] = {a.q, a.k, a.v, a.k_shared};
  Maps m{{}, int(a.k_offset), int(a.v_offset)};
  for (int i = 0; i < (p.layout.shared ? 4 : 3); i++)
    if (!encode_tensor_map(&m.maps[i], operands[i], kTile)) return false;
  p.order = tile_order(p.layout, true, p.layout.heads, kTile);
  ESFT_LAUNCH((forward_wgmma<DQ, DV>), c, dim3(p.order.blocks()), kThreads, (Memory<DQ, DV>::kBytes), p, m);
  return true;
}

}  // namespace

bool forward_sm90(const ForwardParams& p, const esft_attention_args& a, Context& c) {
  return !p.negate && for_hopper_heads(p.layout, c, [&](auto heads) {
    using H = decltype(heads);
    return run<H::DQ, H::DV>(p, a, c);
  });
}

}  // namespace attention

}  // namespace esft::cuda
