// attention_backward (contract: ops/attention.h) on Hopper, heads of 64/64, 128/128 and 192/128 (keys/values): wgmma fed by the copy
// engine. The scheme of attention_backward_portable.cu: one kernel for dk and dv (rows are keys) and for dq (rows are queries), 128 rows
// per CTA, tiles of the other side streamed past; here one warp loads and two warpgroups multiply, 64 rows each.
//
// Bound by the tensor cores. s and d come from shared memory, p and ds go back as register operands. At 192/128 a warpgroup
// sums 64 x 320 numbers for dk and dv, 160 registers a thread, which leaves 64 for s and d: tiles of 64 queries. The exponentials of
// one warpgroup run under the products of the other, and those of s under the product d.
//
// Shared memory (Shape): both operands of the 128 rows that stay, kStages stages of the other side's tiles, with every stage its numbers
// (first column; for dk and dv also −lse2, −Δ and first of its queries), the barriers, the CTA's work.
//
//   barrier          arrivals          who arrives                                     who waits
//   fixed            1                 first lane of the loading warp (expects bytes)  both warpgroups, once
//   full[kStages]    1; for dk, dv 33  that lane (expects bytes), and each lane of     both warpgroups
//                                      the loading warp when its numbers landed
//   empty[kStages]   8                 first lane of each multiplying warp             the loading warp, one phase behind
//   named 1+g        128               warpgroup g has read its rows                   warpgroup g, before it stores
#include "attention_backward_sm90.cuh"

namespace esft::cuda {

namespace attention {

namespace {

template <int DQ, int DV, bool kKeys>
struct Shape {
  static constexpr int kColumns = kKeys ? 64 : DQ <= 64 ? 128 : 96, kSlab = kColumns * 128;
  static constexpr int kFixed1 = tile_bytes(kRows, DQ), kFixed = kFixed1 + tile_bytes(kRows, DV);
  static constexpr int kTile1 = tile_bytes(kColumns, DQ), kTiles = kTile1 + tile_bytes(kColumns, DV);
  // With every stage: the number of its first column; −lse2, −Δ, first of the streamed queries.
  static constexpr int kNumbers = 16 + (kKeys ? 3 * kColumns * 4 : 0);
  // Sums so wide that probabilities are kept as they are multiplied, rounded, while d is computed.
  static constexpr bool kTight = kKeys && DQ + DV > 256;
  static constexpr int kStages = kFixed + 3 * (kTiles + kNumbers) + 64 <= kSharedLimit ? 3 : 2;
  static constexpr int kNumbersAt = kFixed + kStages * kTiles, kBarriers = kNumbersAt + kStages * kNumbers;
  static constexpr int kWork = kBarriers + (1 + 2 * kStages) * 8, kBytes = kWork + 32;
  static_assert(kBytes <= kSharedLimit);
};

// What the CTA does: its rows, and the steps of the other side. In shared memory: the multiplying threads have no registers to spare.
struct Work {
  int head, row0, begin, per_head, steps;
};
template <int DQ, int DV, bool kKeys>
__device__ __forceinline__ Work work_of_block(const BackwardParams& p) {
  constexpr int kColumns = Shape<DQ, DV, kKeys>::kColumns;
  const Layout& l = p.layout;
  const TileOfHead t = tile_of_head(p.order, blockIdx.x, !kKeys);
  const int row0 = t.tile * kRows, begin = kKeys ? row0 : p.first[row0] / kColumns * kColumns;
  const int end = kKeys ? query_end(p, row0, row0 + kRows - 1) : min_of(row0 + kRows, l.T);
  const int per_head = int(ceil_div(end - begin, kColumns));
  return {(kKeys ? p.kv_begin : 0) + t.head, row0, begin, per_head, kKeys ? per_head * l.group : per_head};
}

// The loading warp: its first lane the tiles, all lanes the numbers of the streamed queries.
template <int DQ, int DV, bool kKeys>
__device__ __forceinline__ void load(const BackwardParams& p, const Maps& m, unsigned char* smem, const Barriers& bars,
                                     const Work& w) {
  using S = Shape<DQ, DV, kKeys>;
  const Layout& l = p.layout;
  const int lane = threadIdx.x;
  if (lane == 0) {
    ptx::mbar_arrive_expect_tx(bars.fixed(), S::kFixed);
    load_side<DQ, DV, kKeys, kRows>(p, m, m.fixed, smem, smem + S::kFixed1, bars.fixed(), w.head, w.row0);
  }
  const int end = w.begin + w.per_head * S::kColumns;
  int stage = 0, parity = 1, column0 = w.begin, head = kKeys ? w.head * l.group : w.head / l.group;
#pragma unroll 1
  for (int left = w.steps; left > 0; left--) {
    ptx::mbar_wait(bars.empty(stage), parity, {ESFT_OP_attention_backward, kBarrierEmpty});
    if (lane == 0) {
      unsigned char* const to = smem + S::kFixed + stage * S::kTiles;
      *reinterpret_cast<int*>(smem + S::kNumbersAt + stage * S::kNumbers) = column0;
      ptx::mbar_arrive_expect_tx(bars.full(stage), S::kTiles);
      load_side<DQ, DV, !kKeys, S::kColumns>(p, m, m.streamed, to, to + S::kTile1, bars.full(stage), head, column0);
    }
    if constexpr (kKeys)
      load_numbers<S::kColumns>(p, smem + S::kNumbersAt + stage * S::kNumbers + 16, bars.full(stage), head, column0);
    if (++stage == S::kStages) stage = 0, parity ^= 1;
    if ((column0 += S::kColumns) == end) column0 = w.begin, head++;
  }
  if constexpr (kKeys) {  // no thread ends with copies in flight
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
  }
}

// A warpgroup: 64 rows.
template <int DQ, int DV, bool kKeys>
__device__ __forceinline__ void multiply(const BackwardParams& p, unsigned char* smem, const Barriers& bars, const Work& w) {
  using S = Shape<DQ, DV, kKeys>;
  constexpr int kColumns = S::kColumns, kN = kColumns / 8, kSum2 = kKeys ? DV : 64;
  const int group = warpgroup_index() - 1, lane = int(threadIdx.x) % 32;
  const int r0 = 64 * group + int(threadIdx.x) % 128 / 32 * 16;
  const uint64_t rows1 = ptx::smem_desc(smem + group * (64 * 128), 16, 1024), tiles = ptx::smem_desc(smem + S::kFixed, 16, 1024);
  // From the K-major descriptor of a tile to the MN-major one: the leading bytes (bits 16 and up, in 16 bytes) are those of a slab.
  constexpr uint64_t kMnMajor = uint64_t((S::kSlab - 16) / 16) << 16;

  float sum1[DQ / 2], sum2[kSum2 / 2], s[kColumns / 2], d[kColumns / 2];
  auto& s_tile = reinterpret_cast<float (&)[kN][4]>(s);
  auto& d_tile = reinterpret_cast<float (&)[kN][4]>(d);
#pragma unroll
  for (int i = 0; i < DQ / 2; i++) sum1[i] = 0.f;
#pragma unroll
  for (int i = 0; i < kSum2 / 2; i++) sum2[i] = 0.f;

  QueryNumbers<kKeys> q;
  if constexpr (!kKeys) q.load(p, w.head, w.row0 + r0 + lane / 4, w.row0 + 64 * group, w.row0 + r0 + 15);

  ptx::mbar_wait(bars.fixed(), 0, {ESFT_OP_attention_backward, kBarrierRowsFull});
#pragma unroll 1
  for (unsigned step = 0; step < unsigned(w.steps); step++) {
    const int stage = int(step % S::kStages);
    ptx::mbar_wait(bars.full(stage), step / S::kStages & 1, {ESFT_OP_attention_backward, kBarrierFull});
    const unsigned char* const stage_numbers = smem + S::kNumbersAt + stage * S::kNumbers;
    const int column0 = *reinterpret_cast<const int*>(stage_numbers), first_row = w.row0 + r0, group0 = w.row0 + 64 * group;
    if constexpr (kKeys) {
      const float* const numbers = reinterpret_cast<const float*>(stage_numbers + 16);
      q = {numbers, numbers + kColumns, reinterpret_cast<const int*>(numbers) + 2 * kColumns};
    }
    if (!q.hidden(group0, group0 + 63, column0, kColumns)) {
      const uint64_t columns = ptx::desc_advance(tiles, stage * S::kTiles);
      auto multiply_s = [&] {
#pragma unroll
        for (int i = 0; i < DQ / 16; i++)
          ptx::wgmma<kColumns, 0, 0>(s, ptx::desc_advance(rows1, i / 4 * kRowSlab + i % 4 * 32),
                                     ptx::desc_advance(columns, i / 4 * S::kSlab + i % 4 * 32), i > 0);
        ptx::wgmma_commit();
      };
      auto multiply_d = [&](float (&d)[kColumns / 2]) {
#pragma unroll
        for (int i = 0; i < DV / 16; i++)
          ptx::wgmma<kColumns, 0, 0>(d, ptx::desc_advance(rows1, S::kFixed1 + i / 4 * kRowSlab + i % 4 * 32),
                                     ptx::desc_advance(columns, S::kTile1 + i / 4 * S::kSlab + i % 4 * 32), i > 0);
        ptx::wgmma_commit();
      };
      uint32_t probs[kN / 2][4], ds[kN / 2][4];
      auto add_probs = [&] {
#pragma unroll
        for (int i = 0; kKeys && i < kN / 2; i++)
          ptx::wgmma_rs<kSum2, 1>(sum2, probs[i], ptx::desc_advance(columns + kMnMajor, S::kTile1 + i * 2048), 1);
        ptx::wgmma_commit();
      };

      ptx::warpgroup_fence_operand(s);
      if constexpr (S::kTight) {
        ptx::wgmma_fence();
        multiply_s();
        ptx::wgmma_wait<0>();
        ptx::warpgroup_fence_operand(s);
        to_probabilities(s_tile, q, p.scale2, first_row, column0, q.crossed(first_row, first_row + 15, column0, kColumns));
        pack_fragments(probs, s_tile);
        ptx::warpgroup_fence_operand(s);
        ptx::wgmma_fence();
        multiply_d(s);
        ptx::wgmma_wait<0>();
        ptx::warpgroup_fence_operand(s);
        to_gradients(s_tile, probs, q);  // not while a product uses the probabilities: PTX forbids to read its registers too
        pack_fragments(ds, s_tile);
        ptx::warpgroup_fence_operand(sum1);
        ptx::warpgroup_fence_operand(sum2);
        ptx::warpgroup_fence_operand(probs);
        ptx::warpgroup_fence_operand(ds);
        ptx::wgmma_fence();
        add_probs();
      } else {
        ptx::warpgroup_fence_operand(d);
        ptx::wgmma_fence();
        multiply_s();
        multiply_d(d);
        ptx::wgmma_wait<1>();
        ptx::warpgroup_fence_operand(s);
        to_probabilities(s_tile, q, p.scale2, first_row, column0, q.crossed(first_row, first_row + 15, column0, kColumns));
        ptx::wgmma_wait<0>();
        ptx::warpgroup_fence_operand(d);
        to_gradients(d_tile, s_tile, q);
        pack_fragments(ds, d_tile);
        ptx::warpgroup_fence_operand(sum1);
        if constexpr (kKeys) {
          pack_fragments(probs, s_tile);
          ptx::warpgroup_fence_operand(sum2);
          ptx::warpgroup_fence_operand(probs);
        }
        ptx::warpgroup_fence_operand(ds);
        ptx::wgmma_fence();
        if constexpr (kKeys) add_probs();
      }
#pragma unroll
      for (int i = 0; i < kN / 2; i++) ptx::wgmma_rs<DQ, 1>(sum1, ds[i], ptx::desc_advance(columns + kMnMajor, i * 2048), 1);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::warpgroup_fence_operand(sum1);
      ptx::warpgroup_fence_operand(ds);
      if constexpr (kKeys) {
        ptx::warpgroup_fence_operand(sum2);
        ptx::warpgroup_fence_operand(probs);
      }
    }
    __syncwarp();  // where nothing was multiplied, lanes may still be reading the numbers of this stage
    if (lane == 0) ptx::mbar_arrive(bars.empty(int(step % S::kStages)));
  }
  ptx::named_barrier_sync(1 + group, 128,
                          {ESFT_OP_attention_backward, kBarrierRowsRead});  // the warpgroup has read its rows for the last time
  store_sums<kKeys, kRows>(p, smem, smem + S::kFixed1, w.head, w.row0 + r0, r0, 0, 0, reinterpret_cast<float (&)[DQ / 8][4]>(sum1),
                           reinterpret_cast<float (&)[kSum2 / 8][4]>(sum2));
}

template <int DQ, int DV, bool kKeys>
__global__ void __launch_bounds__(kThreads, 1) backward_wgmma(const BackwardParams p, const __grid_constant__ Maps m) {
  using S = Shape<DQ, DV, kKeys>;
  ESFT_SHARED(smem);
  const Barriers bars{reinterpret_cast<uint64_t*>(smem + S::kBarriers), S::kStages};
  if (threadIdx.x == 0) {
    ptx::mbar_init(bars.fixed(), 1);
    for (int s = 0; s < S::kStages; s++) {
      ptx::mbar_init(bars.full(s), kKeys ? 33 : 1);  // the tiles, and the numbers of each lane
      ptx::mbar_init(bars.empty(s), 8);  // one arrival per multiplying warp
    }
    ptx::fence_mbar_init();
  }
  Work& work = *reinterpret_cast<Work*>(smem + S::kWork);
  if (threadIdx.x < 32) {
    const Work mine = work_of_block<DQ, DV, kKeys>(p);
    if (threadIdx.x == 0) work = mine;
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<kLoadRegisters>();
    if (threadIdx.x < 32) load<DQ, DV, kKeys>(p, m, smem, bars, work);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    multiply<DQ, DV, kKeys>(p, smem, bars, work);
  }
}

template <int DQ, int DV, bool kKeys>
bool run(BackwardParams p, const esft_attention_backward_args& a, int heads, Context& c) {
  using S = Shape<DQ, DV, kKeys>;
  Maps m{};
  if (!encode_maps(&m, p, a, S::kColumns)) return false;
  p.order = tile_order(p.layout, !kKeys, heads, kRows);
  ESFT_LAUNCH((backward_wgmma<DQ, DV, kKeys>), c, dim3(p.order.blocks()), kThreads, S::kBytes, p, m);
  return true;
}

template <bool kKeys>
bool run_heads(const BackwardParams& p, const esft_attention_backward_args& a, int heads, Context& c) {
  return for_hopper_heads(p.layout, c, [&](auto size) {
    using H = decltype(size);
    return run<H::DQ, H::DV, kKeys>(p, a, heads, c);
  });
}

}  // namespace

bool backward_keys_sm90(const BackwardParams& p, const esft_attention_backward_args& a, int kv_count, Context& c) {
  return run_heads<true>(p, a, kv_count, c);
}
bool backward_queries_sm90(const BackwardParams& p, const esft_attention_backward_args& a, Context& c) {
  return run_heads<false>(p, a, p.layout.heads, c);
}

}  // namespace attention

}  // namespace esft::cuda
