// attention_backward (contract: ops/attention.h) on Hopper in one pass, heads of 64/64, 128/128 and 192/128 (keys/values): a CTA holds 128
// keys of a kv-head and walks over the queries that see them, 64 at a time. Scores and their gradients are computed once; dk and dv
// stay in registers; dq is summed over the key blocks in global memory, in f32.
//
// Bound by the tensor cores: 2·(3·dq + 2·dv) FLOPs per visible pair and head, and nearly as much by shared memory. Two warpgroups multiply,
// 64 keys each: S = K·Qᵀ, dP = V·dOᵀ, dV += P·dO, and, when both have written their dS to shared memory, slabs of 64 columns of dQ = dSᵀ·K
// over all 128 keys, and dK += dS·Q. With three slabs (or one) the warpgroups take the last one by turns. At 192/128 a thread
// holds 160 sums of dk and dv, which leave room for 32 scores, their probabilities in bf16 and 32 of dq: dS reaches dK through shared memory.
//
// Order of the sums of dq: key blocks ascending. A thread of its own adds a block's part by the copy engine, when as many CTAs have
// passed the turn of these queries as there are key blocks that see them before its own, and passes it on when all is written. The
// first part overwrites. CTAs draw their tiles from a counter, key blocks of a head ascending, and all walk from the last query down: the
// longest begin first, none waits for one that has not begun, and those that run together wait half a step for each before them, once.
//
// Shared memory (Shape): K and V of the 128 keys; kStages stages of Q and dO; dS [128 keys, 64 queries]; dQ f32 by slabs of 64 columns, in
// the order of the accumulators (sum_place); with every stage its first query and the numbers of its queries; the barriers; the CTA's work.
//
//   barrier          arrivals  who arrives                                                    who waits
//   fixed            1         first lane of the loading warp (expects bytes)                 both warpgroups, once
//   full[kStages]    33        that lane (expects bytes), each lane when its numbers landed   both warpgroups
//   empty[kStages]   8         first lane of each multiplying warp                            the loading warp, one phase behind
//   dq_full[slabs]   4         first lane of each warp of the warpgroup that multiplied it    the adding thread
//   dq_empty[slabs]  1         the adding thread, when it was read                            that warpgroup, one phase behind
//   named 1          256       both warpgroups have written dS                                both; at the end: nobody reads K, V any more
//   named 2+g        256       the other warpgroup has read the dS before                     warpgroup g, before it writes dS
//   turn[head, 64 q] before    the adding threads of earlier key blocks, in global memory     the adding thread
#include "attention_backward_one_sm90.cuh"

namespace esft::cuda {

namespace attention {

namespace {

// A warpgroup: 64 keys.
template <int DQ, int DV>
__device__ __forceinline__ void multiply(const BackwardParams& p, unsigned char* smem, const OneBarriers<DQ, DV>& bars,
                                         const Work& w) {
  using S = Shape<DQ, DV>;
  constexpr int kN = kColumns / 8;
  const int group = warpgroup_index() - 1, lane = int(threadIdx.x) % 32;
  const int r0 = 64 * group + int(threadIdx.x) % 128 / 32 * 16;
  const uint64_t keys = ptx::smem_desc(smem + group * (64 * 128), 16, 1024), tiles = ptx::smem_desc(smem + S::kFixed, 16, 1024);
  const uint64_t ds_own = ptx::smem_desc(smem + S::kDsAt + group * (64 * 128), 16, 1024);
  const uint64_t ds_all = ptx::smem_desc(smem + S::kDsAt, kRowSlab, 1024), keys_all = ptx::smem_desc(smem, kRowSlab, 1024);
  // From the K-major descriptor of a tile to the MN-major one: the leading bytes (bits 16 and up, in 16 bytes) are those of a slab.
  constexpr uint64_t kMnMajor = uint64_t((kSlab - 16) / 16) << 16;

  float dk[DQ / 2], dv[DV / 2];
#pragma unroll
  for (int i = 0; i < DQ / 2; i++) dk[i] = 0.f;
#pragma unroll
  for (int i = 0; i < DV / 2; i++) dv[i] = 0.f;

  ptx::mbar_wait(bars.fixed(), 0, {ESFT_OP_attention_backward, kBarrierRowsFull});
#pragma unroll 1
  for (unsigned step = 0; step < unsigned(w.steps); step++) {
    const int stage = int(step % S::kStages), first_row = w.tile * kRows + r0;
    ptx::mbar_wait(bars.full(stage), step / S::kStages & 1, {ESFT_OP_attention_backward, kBarrierFull});
    const unsigned char* const stage_numbers = smem + S::kNumbersAt + stage * kNumbers;
    const int column0 = *reinterpret_cast<const int*>(stage_numbers);
    const float* const numbers = reinterpret_cast<const float*>(stage_numbers + 16);
    const QueryNumbers<true> q{numbers, numbers + kColumns, reinterpret_cast<const int*>(numbers) + 2 * kColumns};
    const uint64_t columns = ptx::desc_advance(tiles, stage * S::kTiles);
    const bool masked = q.crossed(first_row, first_row + 15, column0, kColumns);

    // Two tiles of sums, or where there is no room one for scores, gradients and dq.
    float s[kColumns / 2], more[S::kTight ? 1 : kColumns / 2];
    auto& d = choose<S::kTight>(s, more);
    uint32_t probs[kN / 2][4], ds[kN / 2][4];
    auto& s_tile = reinterpret_cast<float (&)[kN][4]>(s);
    auto& d_tile = reinterpret_cast<float (&)[kN][4]>(d);
    auto multiply_s = [&] {
#pragma unroll
      for (int i = 0; i < DQ / 16; i++)
        ptx::wgmma<kColumns, 0, 0>(s, ptx::desc_advance(keys, i / 4 * kRowSlab + i % 4 * 32),
                                   ptx::desc_advance(columns, i / 4 * kSlab + i % 4 * 32), i > 0);
      ptx::wgmma_commit();
    };
    auto multiply_d = [&] {
#pragma unroll
      for (int i = 0; i < DV / 16; i++)
        ptx::wgmma<kColumns, 0, 0>(d, ptx::desc_advance(keys, S::kFixed1 + i / 4 * kRowSlab + i % 4 * 32),
                                   ptx::desc_advance(columns, S::kTile1 + i / 4 * kSlab + i % 4 * 32), i > 0);
      ptx::wgmma_commit();
    };
    ptx::warpgroup_fence_operand(s);
    if constexpr (S::kTight) {
      ptx::wgmma_fence();
      multiply_s();
      ptx::wgmma_wait<0>();
      ptx::warpgroup_fence_operand(s);
      to_probabilities(s_tile, q, p.scale2, first_row, column0, masked);
      pack_fragments(probs, s_tile);
      ptx::warpgroup_fence_operand(d);
      ptx::wgmma_fence();
      multiply_d();
      ptx::wgmma_wait<0>();
      ptx::warpgroup_fence_operand(d);
      to_gradients(d_tile, probs, q);
      pack_fragments(ds, d_tile);
    } else {
      ptx::warpgroup_fence_operand(d);
      ptx::wgmma_fence();
      multiply_s();
      multiply_d();
      ptx::wgmma_wait<1>();
      ptx::warpgroup_fence_operand(s);
      to_probabilities(s_tile, q, p.scale2, first_row, column0, masked);
      ptx::wgmma_wait<0>();
      ptx::warpgroup_fence_operand(d);
      to_gradients(d_tile, s_tile, q);
      pack_fragments(probs, s_tile);
      pack_fragments(ds, d_tile);
    }
    // The other warpgroup has read what was here.
    if (step > 0) ptx::named_barrier_sync(kDsEmptyBarrier + group, 256, {ESFT_OP_attention_backward, kBarrierDsEmpty});
    store_fragments<kRows>(smem + S::kDsAt, r0, ds);
    ptx::fence_proxy_async();

    ptx::warpgroup_fence_operand(dv);
    ptx::warpgroup_fence_operand(probs);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kN / 2; i++)
      ptx::wgmma_rs<DV, 1>(dv, probs[i], ptx::desc_advance(columns + kMnMajor, S::kTile1 + i * 2048), 1);
    ptx::wgmma_commit();
    ptx::named_barrier_sync(kDsFullBarrier, 256, {ESFT_OP_attention_backward, kBarrierDsFull});

    auto& dq = s;
    auto multiply_dq = [&](int slab) {
#pragma unroll
      for (int i = 0; i < kRows / 16; i++)
        ptx::wgmma<64, 1, 1>(dq, ptx::desc_advance(ds_all, i * 2048), ptx::desc_advance(keys_all, slab * kRowSlab + i * 2048),
                             i > 0);
      ptx::wgmma_commit();
    };
    auto hand_over = [&](int slab) {
      ptx::mbar_wait(bars.dq_empty(slab), (step & 1) ^ 1, {ESFT_OP_attention_backward, kBarrierDqEmpty});
      float4* const to = reinterpret_cast<float4*>(smem + S::kSumsAt + slab * kSumSlab) + int(threadIdx.x) % 128;
#pragma unroll
      for (int n = 0; n < 8; n++) to[n * 128] = make_float4(dq[4 * n], dq[4 * n + 1], dq[4 * n + 2], dq[4 * n + 3]);
      ptx::fence_proxy_async();
      __syncwarp();
      if (lane == 0) ptx::mbar_arrive(bars.dq_full(slab));
    };
    constexpr bool kPair = S::kSlabs > 1, kLast = S::kSlabs % 2 != 0;
    ptx::warpgroup_fence_operand(dk);
    if constexpr (!S::kTight) ptx::warpgroup_fence_operand(ds);
    if constexpr (kPair) ptx::warpgroup_fence_operand(dq);
    ptx::wgmma_fence();
    if constexpr (kPair) multiply_dq(group);
#pragma unroll
    for (int i = 0; i < kN / 2; i++) {
      const uint64_t b = ptx::desc_advance(columns + kMnMajor, i * 2048);
      if constexpr (S::kTight)
        ptx::wgmma<DQ, 0, 1>(dk, ptx::desc_advance(ds_own, i * 32), b, 1);
      else
        ptx::wgmma_rs<DQ, 1>(dk, ds[i], b, 1);
    }
    ptx::wgmma_commit();
    if constexpr (kPair) {
      ptx::wgmma_wait<1>();
      ptx::warpgroup_fence_operand(dq);
      ptx::warpgroup_fence_operand(dv);
      ptx::warpgroup_fence_operand(probs);
      hand_over(group);
    }
    ptx::wgmma_wait<0>();
    ptx::warpgroup_fence_operand(dk);
    if constexpr (!S::kTight) ptx::warpgroup_fence_operand(ds);
    if constexpr (!kPair) {
      ptx::warpgroup_fence_operand(dv);
      ptx::warpgroup_fence_operand(probs);
    }
    if (lane == 0) ptx::mbar_arrive(bars.empty(stage));
    if (kLast && int(step & 1) == group) {
      ptx::warpgroup_fence_operand(dq);
      ptx::wgmma_fence();
      multiply_dq(S::kSlabs - 1);
      ptx::wgmma_wait<0>();
      ptx::warpgroup_fence_operand(dq);
      hand_over(S::kSlabs - 1);
    }
    if (step + 1 < unsigned(w.steps)) ptx::named_barrier_arrive(kDsEmptyBarrier + (group ^ 1), 256);
  }
  ptx::named_barrier_sync(kDsFullBarrier, 256, {ESFT_OP_attention_backward, kBarrierRowsRead});
  store_sums<true, kRows>(p, smem, smem + S::kFixed1, w.head, w.tile * kRows + r0, r0, 0, 0,
                          reinterpret_cast<float (&)[DQ / 8][4]>(dk), reinterpret_cast<float (&)[DV / 8][4]>(dv));
}

template <int DQ, int DV>
__global__ void __launch_bounds__(kThreads, 1)
    backward_one(const EarlyStart early, const BackwardParams p, const __grid_constant__ Maps m) {
  using S = Shape<DQ, DV>;
  ESFT_SHARED(smem);
  const OneBarriers<DQ, DV> bars{{reinterpret_cast<uint64_t*>(smem + S::kBarriers), S::kStages}};
  if (threadIdx.x == 0) {
    ptx::mbar_init(bars.fixed(), 1);
    for (int s = 0; s < S::kStages; s++) {
      ptx::mbar_init(bars.full(s), 33);  // the tiles, and the numbers of each lane
      ptx::mbar_init(bars.empty(s), 8);  // one arrival per multiplying warp
    }
    for (int s = 0; s < S::kSlabs; s++) {
      ptx::mbar_init(bars.dq_full(s), 4);
      ptx::mbar_init(bars.dq_empty(s), 1);
    }
    ptx::fence_mbar_init();
  }
  early.wait();
  Work& work = *reinterpret_cast<Work*>(smem + S::kWork);
  if (threadIdx.x < 32) {
    unsigned ticket = 0;
    if (threadIdx.x == 0) ticket = atomicAdd(p.ticket, 1u);
    const Work mine = work_of_ticket(p, __shfl_sync(kFullWarp, ticket, 0));
    if (threadIdx.x == 0) work = mine;
  }
  __syncthreads();
  if (work.steps == 0) return;  // documents in no order: reported, and nobody would wait for whom he should
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<kLoadRegisters>();
    if (threadIdx.x < 32) load<DQ, DV>(p, m, smem, bars, work);
    if (threadIdx.x == 32) add<DQ, DV>(p, smem, bars, work);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    multiply<DQ, DV>(p, smem, bars, work);
  }
}

}  // namespace

bool one_pass_serves(const BackwardParams& p, const esft_attention_backward_args& a, Context& c) {
  Maps m{};
  return for_hopper_heads(p.layout, c, [&](auto) { return encode_maps(&m, p, a, kColumns); });
}

void backward_one_sm90(BackwardParams& p, const esft_attention_backward_args& a, int kv_count, Context& c) {
  Maps m{};
  encode_maps(&m, p, a, kColumns);
  for_hopper_heads(p.layout, c, [&](auto size) {
    using H = decltype(size);
    // About eight key blocks of a head at a time: more would wait for one another longer, fewer would read Q and dO more often.
    p.order = {int(ceil_div(p.layout.T, kRows)), kv_count, min_of(kv_count, int(ceil_div(c.sms, 8)))};
    ESFT_LAUNCH_TURNS((backward_one<H::DQ, H::DV>), c, dim3(p.order.blocks()), kThreads, (Shape<H::DQ, H::DV>::kBytes), p, m);
    return true;
  });
}

}  // namespace attention

}  // namespace esft::cuda
