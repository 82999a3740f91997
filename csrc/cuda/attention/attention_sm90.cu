// attention (contract: ops/attention.h) on Hopper, heads of 64/64, 128/128 and 192/128 (keys/values): wgmma fed by the copy engine.
//
// Bound by the tensor cores: 2·(dq + dv) FLOPs per visible pair and head. A tile is 128 queries of one head; a CTA per multiprocessor draws
// its tiles from a counter, those with the most keys first, or (ESFT_CUDA_ATTENTION_FORWARD=tiles) every tile has a CTA of its own.
// Which CTA has a tile changes none of its numbers. One warpgroup loads: Q once per tile, K and V tiles of 128 keys into two stages
// each, those of the next tile while the end of this one is multiplied and its output written. Two warpgroups multiply, 64 queries each:
// S = Q·Kᵀ from shared memory, P from registers. The scores of a tile are multiplied while the values of the tile before it still are, so
// that the softmax runs under P·V; and the two warpgroups take turns at issuing products, so that it runs under the other one's
// products too. 208 KB of shared memory at 192/128: one CTA per multiprocessor.
//
// Shared memory: Q [128, dq], K [128, dq] x 2, V [128, dv] x 2, in slabs of 64 columns with 128-byte swizzle, then the barriers, the tile.
//
//   barrier      arrivals   who arrives                                      who waits
//   q_full       1          the loading thread (expects bytes)               both warpgroups, once per tile
//   q_empty      8          first lane of each multiplying warp, after the   the loading thread, one phase behind
//                           last S of its tile
//   k_full[2]    1          the loading thread (expects bytes)               both warpgroups
//   v_full[2]    1          the loading thread (expects bytes)               both warpgroups
//   k_empty[2]   8          first lane of each multiplying warp, after S     the loading thread, one phase behind
//   v_empty[2]   8          first lane of each multiplying warp, after P·V   the loading thread, one phase behind
//   named 1+g    256        the other warpgroup has issued its products      warpgroup g, before it issues its own
#include "../host/tensor_map.h"
#include "attention.cuh"

namespace esft::cuda {

namespace attention {

namespace {

constexpr int kTile = 128;  // queries of a CTA, keys of a stage
constexpr int kSlab = kTile * 128, kThreads = 384, kStages = 2;
constexpr int kLoadRegisters = 40, kMultiplyRegisters = 232;
constexpr int kTurnBarrier = 1;  // named barrier, + warpgroup

struct Maps {
  CUtensorMap maps[4];  // q, k, v, k_shared
  int k_offset, v_offset;
};

// A tile of a head and the keys that its queries see. keys = 0: there is none left.
struct Work {
  int tile, head, key_begin, keys;  // keys: tiles of them
};

template <int DQ, int DV>
struct Memory {
  static constexpr int kQ = tile_bytes(kTile, DQ), kK = kQ, kV = tile_bytes(kTile, DV);
  static constexpr int kBarriers = kQ + kStages * (kK + kV), kWork = kBarriers + (2 + 4 * kStages) * 8;
  static constexpr int kBytes = kWork + int(sizeof(Work));
  unsigned char* base;
  __device__ unsigned char* q() const { return base; }
  __device__ unsigned char* k(int stage) const { return base + kQ + stage * kK; }
  __device__ unsigned char* v(int stage) const { return base + kQ + kStages * kK + stage * kV; }
  __device__ uint64_t* q_full() const { return reinterpret_cast<uint64_t*>(base + kBarriers); }
  __device__ uint64_t* q_empty() const { return q_full() + 1; }
  __device__ uint64_t* k_full(int stage) const { return q_full() + 2 + stage; }
  __device__ uint64_t* v_full(int stage) const { return q_full() + 2 + kStages + stage; }
  __device__ uint64_t* k_empty(int stage) const { return q_full() + 2 + 2 * kStages + stage; }
  __device__ uint64_t* v_empty(int stage) const { return q_full() + 2 + 3 * kStages + stage; }
  __device__ Work* work() const { return reinterpret_cast<Work*>(base + kWork); }
};

// The tile of a ticket.
__device__ __forceinline__ Work work_of(const ForwardParams& p, unsigned ticket) {
  const Layout& l = p.layout;
  if (ticket >= p.order.blocks()) return {0, 0, 0, 0};
  const TileOfHead t = tile_of_head(p.order, ticket, true);
  const int begin = l.first_key(t.tile * kTile) / kTile * kTile, end = min_of((t.tile + 1) * kTile, l.T);
  return {t.tile, t.head, begin, int(ceil_div(end - begin, kTile))};
}

// One thread: everything the CTA reads. The tile's number goes with Q; the next one is drawn while this one is loaded.
template <int DQ, int DV>
__device__ __forceinline__ void load(const ForwardParams& p, const Maps& m, Memory<DQ, DV> memory) {
  using M = Memory<DQ, DV>;
  const Layout& l = p.layout;
  const CUtensorMap *const q = m.maps, *const k = m.maps + 1, *const v = m.maps + 2, *const shared = m.maps + 3;
  const auto draw = [&] { return work_of(p, p.ticket ? atomicAdd(p.ticket, 1u) : p.order.blocks()); };
  Work w = p.ticket ? draw() : work_of(p, blockIdx.x);
  int stage = 0, parity = 1, q_parity = 1;
#pragma unroll 1
  for (; w.keys > 0; q_parity ^= 1) {
    Work next{};
    const int g = w.head / l.group, kx = m.k_offset + int(g * l.k_stride), vx = m.v_offset + int(g * l.v_stride);
#pragma unroll 1
    for (int j = 0; j < w.keys; j++) {
      const int row = w.key_begin + j * kTile;
      ptx::mbar_wait(memory.k_empty(stage), parity, {ESFT_OP_attention, kBarrierKeysEmpty});
      ptx::mbar_arrive_expect_tx(memory.k_full(stage), M::kK);
      for (int s = 0; s < DQ / 64; s++) {
        const bool own = s * 64 < l.k_dim;
        ptx::tma_load_2d(memory.k(stage) + s * kSlab, own ? k : shared, memory.k_full(stage), own ? kx + s * 64 : s * 64 - l.k_dim,
                         row);
      }
      if (j == 0) {
        ptx::mbar_wait(memory.q_empty(), q_parity, {ESFT_OP_attention, kBarrierRowsEmpty});
        *memory.work() = w;
        ptx::mbar_arrive_expect_tx(memory.q_full(), M::kQ);
        for (int s = 0; s < DQ / 64; s++)
          ptx::tma_load_2d(memory.q() + s * kSlab, q, memory.q_full(), w.head * DQ + s * 64, w.tile * kTile);
        next = draw();
      }
      ptx::mbar_wait(memory.v_empty(stage), parity, {ESFT_OP_attention, kBarrierValuesEmpty});
      ptx::mbar_arrive_expect_tx(memory.v_full(stage), M::kV);
      for (int s = 0; s < DV / 64; s++) ptx::tma_load_2d(memory.v(stage) + s * kSlab, v, memory.v_full(stage), vx + s * 64, row);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    w = next;
  }
  ptx::mbar_wait(memory.q_empty(), q_parity, {ESFT_OP_attention, kBarrierRowsEmpty});
  *memory.work() = w;
  ptx::mbar_arrive(memory.q_full());
}

// A warpgroup: 64 queries of a tile; `loaded` tiles of keys came before.
template <int DQ, int DV>
__device__ __forceinline__ void multiply(const ForwardParams& p, Memory<DQ, DV> memory, const Work& w, int group, unsigned loaded) {
  constexpr int kN = kTile / 8;
  const Layout& l = p.layout;
  const int lane = int(threadIdx.x) % 32, tiles = w.keys, key_begin = w.key_begin;
  const int first_row = w.tile * kTile + 64 * group + int(threadIdx.x) % 128 / 32 * 16;  // of this warp: 16 rows
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

  const auto stage_of = [&](int j) { return int((loaded + unsigned(j)) % kStages); };
  const auto phase_of = [&](int j) { return (loaded + unsigned(j)) / kStages & 1; };
  ptx::mbar_wait(memory.k_full(stage_of(0)), phase_of(0), {ESFT_OP_attention, kBarrierKeysFull});
  await_turn();
  ptx::warpgroup_fence_operand(s);
  ptx::wgmma_fence();
  multiply_scores(stage_of(0));
  if (group == 0 || tiles > 1) pass_turn();  // every turn passed is taken
  ptx::wgmma_wait<0>();
  ptx::warpgroup_fence_operand(s);
  if (lane == 0) ptx::mbar_arrive(memory.k_empty(stage_of(0)));
  if (lane == 0 && tiles == 1) ptx::mbar_arrive(memory.q_empty());
  softmax(key_begin);
  pack_fragments(probs, reinterpret_cast<float (&)[kN][4]>(s));

#pragma unroll 1
  for (int j = 1; j < tiles; j++) {
    const int stage = stage_of(j), before = stage_of(j - 1);
    ptx::mbar_wait(memory.k_full(stage), phase_of(j), {ESFT_OP_attention, kBarrierKeysFull});
    ptx::mbar_wait(memory.v_full(before), phase_of(j - 1), {ESFT_OP_attention, kBarrierValuesFull});
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
    if (lane == 0 && j + 1 == tiles) ptx::mbar_arrive(memory.q_empty());
    softmax(key_begin + j * kTile);  // while P·V of the tile before is under way
    ptx::wgmma_wait<0>();
    ptx::warpgroup_fence_operand(out);
    ptx::warpgroup_fence_operand(probs);
    if (lane == 0) ptx::mbar_arrive(memory.v_empty(before));
#pragma unroll
    for (int i = 0; i < DV / 2; i++) out[i] *= decay[i / 2 & 1];
    pack_fragments(probs, reinterpret_cast<float (&)[kN][4]>(s));
  }
  const int last = stage_of(tiles - 1);
  ptx::mbar_wait(memory.v_full(last), phase_of(tiles - 1), {ESFT_OP_attention, kBarrierValuesFull});
  ptx::warpgroup_fence_operand(out);
  ptx::warpgroup_fence_operand(probs);
  ptx::wgmma_fence();
  multiply_values(last);
  ptx::wgmma_wait<0>();
  ptx::warpgroup_fence_operand(out);
  ptx::warpgroup_fence_operand(probs);
  if (lane == 0) ptx::mbar_arrive(memory.v_empty(last));
  store_fragments_of_output<DV>(p, first_row, w.head, reinterpret_cast<float (&)[DV / 8][4]>(out), top, sum);
}

template <int DQ, int DV>
__global__ void __launch_bounds__(kThreads, 1)
    forward_wgmma(const EarlyStart early, const ForwardParams p, const __grid_constant__ Maps m) {
  ESFT_SHARED(smem);
  const Memory<DQ, DV> memory{smem};
  if (threadIdx.x == 0) {
    ptx::mbar_init(memory.q_full(), 1);
    ptx::mbar_init(memory.q_empty(), 8);
    for (int s = 0; s < kStages; s++) {
      ptx::mbar_init(memory.k_full(s), 1);
      ptx::mbar_init(memory.v_full(s), 1);
      ptx::mbar_init(memory.k_empty(s), 8);  // one arrival per multiplying warp
      ptx::mbar_init(memory.v_empty(s), 8);
    }
    ptx::fence_mbar_init();
  }
  early.wait();
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<kLoadRegisters>();
    if (threadIdx.x == 0) load<DQ, DV>(p, m, memory);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    const int group = warpgroup_index() - 1;
    unsigned loaded = 0;
#pragma unroll 1
    for (int parity = 0;; parity ^= 1) {
      ptx::mbar_wait(memory.q_full(), parity, {ESFT_OP_attention, kBarrierRowsFull});
      const Work w = *memory.work();
      if (w.keys == 0) break;
      multiply<DQ, DV>(p, memory, w, group, loaded);
      loaded += unsigned(w.keys);
    }
  }
}

template <int DQ, int DV>
bool run(ForwardParams p, const esft_attention_args& a, Context& c) {
  const esft_tensor operands[] = {a.q, a.k, a.v, a.k_shared};
  Maps m{{}, int(a.k_offset), int(a.v_offset)};
  for (int i = 0; i < (p.layout.shared ? 4 : 3); i++)
    if (!encode_tensor_map(&m.maps[i], operands[i], kTile)) return false;
  p.order = tile_order(p.layout, true, p.layout.heads, kTile);
  unsigned ctas = p.order.blocks();
  if (c.attention_persistent && ctas > unsigned(c.sms)) {
    ctas = unsigned(c.sms);
    p.ticket = c.scratch_of<uint32_t>(1);
    check_cuda(cudaMemsetAsync(p.ticket, 0, sizeof(uint32_t), c.stream), "attention");
  }
  ESFT_LAUNCH((forward_wgmma<DQ, DV>), c, dim3(ctas), kThreads, (Memory<DQ, DV>::kBytes), p, m);
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
