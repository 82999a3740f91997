// The main kernel of attention_backward with mma.sync, for every supported GPU and head size up to 512.
//
// One kernel serves dk, dv and dq by symmetry. A CTA keeps a tile of "rows" (keys with k and v; queries with q and dout) in
// shared memory and streams tiles of the other side ("columns") past it, the next one arriving meanwhile:
//   s = rows₁·columns₁ᵀ, d = rows₂·columns₂ᵀ, p = exp2(s − lse), ds = p·(d − Δ);  sum₁ += ds·columns₁ (dk or dq), sum₂ += p·columns₂ (dv).
// A warp owns 16 rows (of wide heads two or four do, each part of the sums), so p and ds go from accumulators to operands without passing through shared memory.
#include "attention_backward.cuh"

namespace esft::cuda::attention {

namespace {

// kKeys: rows are keys. kSplit warps share 16 rows, each with its part of the sums' columns.
template <int DQ, int DV, bool kKeys>
struct Shape {
  static constexpr bool kWide = DV > 128, kWidest = DV > 256;
  static constexpr int kSplit = (kWide && kKeys ? 2 : 1) * (kWidest ? 2 : 1);
  static constexpr int kWarps = kWidest || (kWide && !kKeys) ? 4 : 8, kThreads = 32 * kWarps, kRows = kWarps / kSplit * 16;
  static constexpr int kColumns = kWidest && !kKeys ? 16 : kWide || (kKeys && DQ + DV > 256) ? 32 : 64;  // per stage
  static constexpr int kPass = kWidest && !kKeys ? 16 : kWide || (kKeys && DQ + DV >= 256) ? 32 : 64;  // per pass of s and d
  static constexpr int kTiles = tile_bytes(kColumns, DQ) + tile_bytes(kColumns, DV);
  static constexpr int kNumbers = kKeys ? 3 * kColumns * 4 : 0;  // −lse2, −Δ, first of the streamed queries
  static constexpr int kStage = kTiles + kNumbers;
  static constexpr int kFixed = tile_bytes(kRows, DQ) + tile_bytes(kRows, DV);
  // The numbers of both stages lie behind the tiles of both, which start at whole slabs.
  static constexpr int kBytes = kFixed + 2 * kStage;
};

template <int DQ, int DV, bool kKeys, bool kExact>
__global__ void __launch_bounds__(Shape<DQ, DV, kKeys>::kThreads, 1) backward_mma(const BackwardParams p) {
  using S = Shape<DQ, DV, kKeys>;
  constexpr int kRows = S::kRows, kColumns = S::kColumns, kThreads = S::kThreads, kN = S::kPass / 8;
  constexpr int kSum1 = DQ / S::kSplit, kSum2 = kKeys ? DV / S::kSplit : 16;
  ESFT_SHARED(smem);
  unsigned char *const rows1 = smem, *const rows2 = rows1 + tile_bytes(kRows, DQ), *const stages = smem + S::kFixed;
  unsigned char* const numbers = stages + 2 * S::kTiles;
  const Layout& l = p.layout;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // The longest first: the first keys, the last queries.
  const TileOfHead mine = tile_of_head(p.order, blockIdx.x, !kKeys);
  const int tile = mine.tile, head = (kKeys ? p.kv_begin : 0) + mine.head;
  const int row0 = tile * kRows, r0 = warp % (S::kWarps / S::kSplit) * 16, first_row = row0 + r0, last_row = first_row + 15;
  const int column_half = S::kSplit == 1 ? 0 : warp / (S::kWarps / S::kSplit);
  const LanePlace pa = place_a(), pb = place_b();

  // What streams past: for keys the queries that see them, of every query head in turn; for queries the keys they see.
  // Whole tiles of columns: the rows of sums are padded to them. Where keys come in smaller tiles, queries before them are masked.
  const int begin = (kKeys ? row0 : __ldg(p.first + row0)) / kColumns * kColumns;
  const int end = kKeys ? query_end(p, row0, row0 + kRows - 1) : min_of(row0 + kRows, l.T);
  const int per_head = int(ceil_div(end - begin, kColumns)), steps = kKeys ? per_head * l.group : per_head;
  auto load_stage = [&](int step, int stage) {
    unsigned char* const to = stages + stage * S::kTiles;
    const int h = kKeys ? head * l.group + step / per_head : head / l.group;
    const int column0 = begin + (kKeys ? step % per_head : step) * kColumns;
    load_tile<kColumns, DQ, kThreads, kExact>(to, kKeys ? l.q_rows(h) : l.k_rows(h), column0, l.T, l.vector);
    load_tile<kColumns, DV, kThreads, kExact>(to + tile_bytes(kColumns, DQ), kKeys ? p.dout_rows(h) : l.v_rows(h), column0, l.T,
                                              l.vector);
    if constexpr (kKeys) {
      constexpr int kPieces = kColumns / 4;  // of 16 bytes
      const int which = int(threadIdx.x) / kPieces, piece = int(threadIdx.x) % kPieces;
      if (which < 3) {
        const int64_t at = int64_t(h) * p.padded + column0;
        const void* const from = which == 0   ? static_cast<const void*>(p.minus_lse2 + at)
                                 : which == 1 ? static_cast<const void*>(p.minus_delta + at)
                                              : static_cast<const void*>(p.first + column0);
        ptx::cp_async_16(numbers + stage * S::kNumbers + which * (kColumns * 4) + piece * 16,
                         static_cast<const char*>(from) + piece * 16, true);
      }
    }
    ptx::cp_async_commit();
  };

  load_tile<kRows, DQ, kThreads, kExact>(rows1, kKeys ? l.k_rows(head) : l.q_rows(head), row0, l.T, l.vector);
  load_tile<kRows, DV, kThreads, kExact>(rows2, kKeys ? l.v_rows(head) : p.dout_rows(head), row0, l.T, l.vector);
  if (steps > 0) load_stage(0, 0);

  QueryNumbers<kKeys> q;
  if constexpr (!kKeys) q.load(p, head, first_row + lane / 4, first_row, last_row);

  float sum1[1][kSum1 / 8][4] = {}, sum2[1][kSum2 / 8][4] = {};
  for (int step = 0; step < steps; step++) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // this stage is here; the other one is no longer read
    if (step + 1 < steps) load_stage(step + 1, (step + 1) & 1);
    const unsigned char *const columns1 = stages + (step & 1) * S::kTiles, *const columns2 = columns1 + tile_bytes(kColumns, DQ);
    const float* const first_number = reinterpret_cast<const float*>(numbers + (step & 1) * S::kNumbers);
    const int column0 = begin + (kKeys ? step % per_head : step) * kColumns;

#pragma unroll 1
    for (int pass = 0; pass < kColumns; pass += S::kPass) {
      if constexpr (kKeys)
        q = {first_number + pass, first_number + kColumns + pass, reinterpret_cast<const int*>(first_number) + 2 * kColumns + pass};
      if (q.hidden(first_row, last_row, column0 + pass, S::kPass)) continue;
      float s[1][kN][4] = {}, d[1][kN][4] = {};
      product_rows<DQ, kRows, kColumns>(s, rows1, r0, columns1, pass, pa, pb);
      product_rows<DV, kRows, kColumns>(d, rows2, r0, columns2, pass, pa, pb);
      to_probabilities(s[0], q, p.scale2, first_row, column0 + pass, q.crossed(first_row, last_row, column0 + pass, S::kPass));
      to_gradients(d[0], s[0], q);
      uint32_t probs[1][kN / 2][4], ds[1][kN / 2][4];
      pack_fragments(probs[0], s[0]);
      pack_fragments(ds[0], d[0]);
      if constexpr (kKeys) product_columns<kColumns>(sum2, probs, columns2, pass, column_half * (kSum2 / 8), pa);
      product_columns<kColumns>(sum1, ds, columns1, pass, column_half * (kSum1 / 8), pa);
    }
  }

  ptx::cp_async_wait<0>();
  __syncthreads();  // the tiles of the rows are no longer read
  store_sums<kKeys, kRows>(p, rows1, rows2, head, first_row, r0, column_half * (kSum1 / 8), column_half * (kSum2 / 8), sum1[0],
                           sum2[0]);
}

template <bool kKeys>
void launch_mma(BackwardParams p, int heads, Context& c) {
  expect_portable("attention_backward", c);
  for_head_sizes(p.layout.qk_dim, p.layout.v_dim, p.layout.vector, [&](auto size) {
    using H = decltype(size);
    using S = Shape<H::DQ, H::DV, kKeys>;
    expect_shared("attention_backward", S::kBytes, c);
    p.order = tile_order(p.layout, !kKeys, heads, S::kRows);
    ESFT_LAUNCH((backward_mma<H::DQ, H::DV, kKeys, H::kExact>), c, dim3(p.order.blocks()), S::kThreads, S::kBytes, p);
  });
}

}  // namespace

void backward_keys_portable(const BackwardParams& p, int kv_count, Context& c) { launch_mma<true>(p, kv_count, c); }
void backward_queries_portable(const BackwardParams& p, Context& c) { launch_mma<false>(p, p.layout.heads, c); }

}  // namespace esft::cuda::attention
