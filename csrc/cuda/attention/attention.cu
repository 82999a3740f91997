// attention (contract: ops/attention.h) with mma.sync, for every supported GPU and head size up to 512 (above 256: where a block
// may have 160 KB of shared memory; others are refused).
//
// Bound by the tensor cores: 2·(dq + dv) FLOPs per visible pair and head. One CTA of four warps holds a tile of queries of one head
// (32 or 16 rows per warp, Q in shared memory, the running maximum, sum and output in registers) and walks over its keys, 32 or 64 at a
// time: S = Q·Kᵀ, online softmax in base 2, O += P·V with P straight from the accumulators. The next keys and values arrive meanwhile;
// two CTAs per multiprocessor fill each other's gaps. Warps of 32 rows use every K and V fragment twice, which keeps shared memory
// below the speed of the tensor cores. Only tiles that the diagonal, the window or the start of a document crosses are masked.
// The longest rows of tiles run first. Values wider than 256 are served in parts by CTAs of their own, each with all of the scores.
#include "attention.cuh"

namespace esft::cuda {

namespace attention {

namespace {

constexpr int kThreads = 128;
constexpr int kPart = 256;  // most columns of values per CTA

// Queries per warp / 16: two where the output fits the registers.
constexpr int m_tiles(int dv) { return dv > 128 ? 1 : 2; }
constexpr int keys_of(int dv) { return dv > 64 ? 32 : 64; }
constexpr int forward_bytes(int dq, int dv) {
  return tile_bytes(64 * m_tiles(dv), dq) + 2 * (tile_bytes(keys_of(dv), dq) + tile_bytes(keys_of(dv), dv));
}

template <int DQ, int DV, bool kExact>
__global__ void __launch_bounds__(kThreads, DV > 128 ? 1 : 2) forward_mma(const ForwardParams p) {
  constexpr int kM = m_tiles(DV), kQueries = 64 * kM, kKeys = keys_of(DV), kN = kKeys / 8;
  constexpr int kStage = tile_bytes(kKeys, DQ) + tile_bytes(kKeys, DV);
  ESFT_SHARED(smem);
  unsigned char *const sq = smem, *const stages = smem + tile_bytes(kQueries, DQ);  // per stage: K, V
  const Layout& l = p.layout;
  const int v0 = DQ > kPart ? int(blockIdx.y) * kPart : 0;  // first of its columns of values
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto [tile, h] = tile_of_head(p.order, blockIdx.x, true);
  const int q0 = tile * kQueries, r0 = warp * 16 * kM, first_row = q0 + r0, last_row = first_row + 16 * kM - 1, g = h / l.group;
  const LanePlace pa = place_a(), pb = place_b();

  const int key_begin = l.first_key(q0) / kKeys * kKeys, key_end = min_of(q0 + kQueries, l.T);
  auto load_keys = [&](int key0, int stage) {
    unsigned char* const to = stages + stage * kStage;
    load_tile<kKeys, DQ, kThreads, kExact>(to, l.k_rows(g), key0, l.T, l.vector);
    load_tile<kKeys, DV, kThreads, kExact>(to + tile_bytes(kKeys, DQ), l.v_rows(g, v0), key0, l.T, l.vector);
    ptx::cp_async_commit();
  };
  load_tile<kQueries, DQ, kThreads, kExact>(sq, l.q_rows(h), q0, l.T, l.vector);
  load_keys(key_begin, 0);

  // This warp's rows see keys from seen_from on; keys below all_from are hidden from some of them.
  const int seen_from = l.first_key(first_row), all_from = l.first_key(last_row);
  float out[kM][DV / 8][4] = {}, top[kM][2], sum[kM][2] = {};
#pragma unroll
  for (int m = 0; m < kM; m++) top[m][0] = top[m][1] = -INFINITY;

  for (int key0 = key_begin, stage = 0; key0 < key_end; key0 += kKeys, stage ^= 1) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // these keys and values are here; the stage before is no longer read
    if (key0 + kKeys < key_end) load_keys(key0 + kKeys, stage ^ 1);
    if (key0 > last_row || key0 + kKeys <= seen_from) continue;

    const unsigned char *const sk = stages + stage * kStage, *const sv = sk + tile_bytes(kKeys, DQ);
    float s[kM][kN][4] = {};
    product_rows<DQ, kQueries, kKeys>(s, sq, r0, sk, 0, pa, pb);
    if (p.negate) {
#pragma unroll
      for (int m = 0; m < kM; m++)
#pragma unroll
        for (int n = 0; n < kN; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) s[m][n][i] = -s[m][n][i];
    }
    if (key0 + kKeys - 1 > first_row || key0 < all_from) {
#pragma unroll
      for (int m = 0; m < kM; m++) mask_scores(l, s[m], first_row + 16 * m, key0);
    }
    uint32_t probs[kM][kN / 2][4];
#pragma unroll
    for (int m = 0; m < kM; m++) {
      float decay[2];
      decay[0] = online_softmax<0>(s[m], top[m][0], sum[m][0], p.scale2);
      decay[1] = online_softmax<1>(s[m], top[m][1], sum[m][1], p.scale2);
      pack_fragments(probs[m], s[m]);
      // The maximum moves seldom after the first tiles.
      if (!__any_sync(kFullWarp, decay[0] != 1.f || decay[1] != 1.f)) continue;
#pragma unroll
      for (int n = 0; n < DV / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) out[m][n][i] *= decay[i / 2];
    }
    product_columns<kKeys>(out, probs, sv, 0, 0, pa);
  }

  __syncwarp();  // each warp alone reads its rows of Q
  store_output<kQueries, DV>(p, sq, r0, first_row, lane, h, v0, out, top, sum);
}

}  // namespace

}  // namespace attention

void run_attention(const esft_attention_args& a, Context& c) {
  using namespace attention;
  ForwardParams p{};
  p.layout = layout_of(a, "attention");
  const Layout& l = p.layout;
  if (l.T == 0) return;
  p.out = data<bf16>(a.out);
  p.out_ld = a.out.ld;
  p.store_vector = in_vectors(a.out, 0, l.v_dim, l.heads, l.v_dim);
  p.lse = present(a.lse) ? data<float>(a.lse) : nullptr;
  p.lse_ld = p.lse ? a.lse.ld : 0;
  p.negate = a.scale < 0;
  // Never zero, so that a hidden score stays −∞; 1e-30 is zero to every score that is finite in practice.
  p.scale2 = max_of(float(std::fabs(a.scale) * double(kLog2e)), 1e-30f);
  check_doc_start_on_device(c, ESFT_OP_attention, kArgDocStart, a.doc_start);
  if (forward_sm90(p, a, c)) return;
  expect_portable("attention", c);
  for_head_sizes(l.qk_dim, l.v_dim, l.vector, [&](auto heads) {
    using H = decltype(heads);
    constexpr int DV = H::DV < kPart ? H::DV : kPart, kBytes = forward_bytes(H::DQ, DV);
    const unsigned parts = H::DQ > kPart ? unsigned(ceil_div(l.v_dim, kPart)) : 1;
    expect_shared("attention", kBytes, c);
    p.order = tile_order(l, true, l.heads, 64 * m_tiles(DV));
    ESFT_LAUNCH((forward_mma<H::DQ, DV, H::kExact>), c, dim3(p.order.blocks(), parts), kThreads, kBytes, p);
  });
}

}  // namespace esft::cuda
