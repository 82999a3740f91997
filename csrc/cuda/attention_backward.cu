// attention_backward (contract: ops/attention.h) with mma.sync, for every supported GPU and head size up to 256.
//
// Bound by the tensor cores. Deterministic without atomics: dk, dv and dq each have one owner, so scores and dp are computed twice,
// 2·(4·dq + 3·dv) FLOPs per visible pair and head instead of 2·(3·dq + 2·dv). Launches: the numbers per query (lse, Δ = ⟨dout, out⟩,
// first key); dk and dv; with shared keys the sum of their parts over the kv-heads, in order; dq.
//
// One kernel serves dk, dv and dq by symmetry. A CTA keeps a tile of "rows" (keys with k and v; queries with q and dout) in
// shared memory and streams tiles of the other side ("columns") past it, the next one arriving meanwhile:
//   s = rows₁·columns₁ᵀ, d = rows₂·columns₂ᵀ, p = exp2(s − lse), ds = p·(d − Δ);  sum₁ += ds·columns₁ (dk or dq), sum₂ += p·columns₂ (dv).
// A warp owns 16 rows, so p and ds go from accumulators to operands without passing through shared memory.
#include "attention_backward.cuh"

namespace esft::cuda {

namespace attention {

namespace {

// ---- numbers per query --------------------------------------------------------------------------------------------------

struct RowParams {
  Layout layout;
  const bf16 *dout, *out;
  const float* lse;
  int64_t dout_ld, out_ld, lse_ld;
  float *minus_lse2, *minus_delta;
  int32_t* first;
  int padded, lanes;  // lanes per (token, head): a power of two
  bool vector;
};

// `lanes` lanes per token and head; neighbours take the heads of one token.
__global__ void __launch_bounds__(256) query_numbers(const RowParams p) {
  const Layout& l = p.layout;
  const int64_t count = int64_t(p.padded) * l.heads, per_block = blockDim.x / p.lanes;
  const int part = int(threadIdx.x) % p.lanes;
  for (int64_t base = blockIdx.x * per_block; base < count; base += gridDim.x * per_block) {
    const int64_t i = base + int(threadIdx.x) / p.lanes;
    const int t = int(i / l.heads), h = int(i % l.heads);
    float sum = 0.f;
    if (t < l.T) {
      const bf16 *const a = p.dout + t * p.dout_ld + int64_t(h) * l.v_dim, *const b = p.out + t * p.out_ld + int64_t(h) * l.v_dim;
      if (p.vector) {
        for (int c = part * 8; c < l.v_dim; c += p.lanes * 8) {
          float x[8], y[8];
          unpack8(load16(a + c), x);
          unpack8(load16(b + c), y);
#pragma unroll
          for (int j = 0; j < 8; j++) sum = fmaf(x[j], y[j], sum);
        }
      } else {
        for (int c = part; c < l.v_dim; c += p.lanes) sum = fmaf(to_float(a[c]), to_float(b[c]), sum);
      }
    }
    for (int step = p.lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
    if (part != 0 || i >= count) continue;
    const int64_t at = int64_t(h) * p.padded + t;
    p.minus_delta[at] = -sum;
    p.minus_lse2[at] = t < l.T ? p.lse[t * p.lse_ld + h] * -kLog2e : -INFINITY;
    if (h == 0) p.first[t] = t < l.T ? l.first_key(t) : t;
  }
}

// ---- dk, dv, dq ---------------------------------------------------------------------------------------------------------

// kKeys: rows are keys. kSplit warps share 16 rows, each with its part of the sums' columns.
template <int DQ, int DV, bool kKeys>
struct Shape {
  static constexpr bool kWide = DV > 128;
  static constexpr int kSplit = kWide && kKeys ? 2 : 1;
  static constexpr int kWarps = kWide && !kKeys ? 4 : 8, kThreads = 32 * kWarps, kRows = kWarps / kSplit * 16;
  static constexpr int kColumns = kWide || (kKeys && DQ + DV > 256) ? 32 : 64;  // per stage
  static constexpr int kPass = kWide || (kKeys && DQ + DV >= 256) ? 32 : 64;  // per pass of s and d
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
  const int begin = kKeys ? row0 : __ldg(p.first + row0) / kColumns * kColumns;
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

// ---- shared keys --------------------------------------------------------------------------------------------------------

struct SharedSumParams {
  const float* parts;  // [count, T, width]
  float* sum;  // [T, width]: what earlier launches summed
  bf16* out;  // nullptr: more parts follow
  int64_t ld, elements;
  int width, count;
  bool add;  // to `sum`
};

__global__ void __launch_bounds__(256) sum_shared_keys(const SharedSumParams p) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < p.elements; i += int64_t(gridDim.x) * blockDim.x) {
    float x = p.add ? p.sum[i] : 0.f;
    for (int g = 0; g < p.count; g++) x += p.parts[g * p.elements + i];
    if (p.out)
      p.out[i / p.width * p.ld + i % p.width] = from_float<bf16>(x);
    else
      p.sum[i] = x;
  }
}

// Parts of shared keys kept at a time.
constexpr int64_t kPartBytes = int64_t(256) << 20;

int lanes_of(int v_dim, bool vector) {
  int lanes = 1;
  while (lanes < 32 && lanes * (vector ? 8 : 1) < v_dim) lanes *= 2;
  return lanes;
}

template <bool kKeys>
void launch_mma(BackwardParams p, int heads, Context& c) {
  for_head_sizes(p.layout.qk_dim, p.layout.v_dim, p.layout.vector, [&](auto size) {
    using H = decltype(size);
    using S = Shape<H::DQ, H::DV, kKeys>;
    expect_shared("attention_backward", S::kBytes, c);
    p.order = tile_order(p.layout, !kKeys, heads, S::kRows);
    ESFT_LAUNCH((backward_mma<H::DQ, H::DV, kKeys, H::kExact>), c, dim3(p.order.blocks()), S::kThreads, S::kBytes, p);
  });
}

void launch_query_numbers(const BackwardParams& p, const esft_attention_backward_args& a, Context& c) {
  const Layout& l = p.layout;
  RowParams r{};
  r.layout = l;
  r.dout = p.dout;
  r.out = data<bf16>(a.out);
  r.lse = data<float>(a.lse);
  r.dout_ld = p.dout_ld;
  r.out_ld = a.out.ld;
  r.lse_ld = a.lse.ld;
  r.minus_lse2 = const_cast<float*>(p.minus_lse2);
  r.minus_delta = const_cast<float*>(p.minus_delta);
  r.first = const_cast<int32_t*>(p.first);
  r.padded = p.padded;
  r.vector = l.vector && in_vectors(a.out, 0, l.v_dim, l.heads, l.v_dim);
  r.lanes = lanes_of(l.v_dim, r.vector);
  const int64_t blocks = ceil_div(int64_t(p.padded) * l.heads * r.lanes, 256);
  ESFT_LAUNCH((query_numbers), c, dim3(unsigned(min_of(blocks, int64_t(c.sms) * 16))), 256, 0, r);
}

}  // namespace

}  // namespace attention

void run_attention_backward(const esft_attention_backward_args& a, Context& c) {
  using namespace attention;
  BackwardParams p{};
  p.layout = layout_of(a, "attention_backward");
  Layout& l = p.layout;
  if (l.T == 0) return;
  const int kv_heads = l.heads / l.group, width = l.qk_dim - l.k_dim;
  l.vector = l.vector && in_vectors(a.dout, 0, l.v_dim, l.heads, l.v_dim);
  p.dout = data<bf16>(a.dout);
  p.dout_ld = a.dout.ld;
  p.padded = int(ceil_div(l.T, kRowPadding) * kRowPadding);
  p.minus_lse2 = c.scratch_of<float>(int64_t(p.padded) * l.heads);
  p.minus_delta = c.scratch_of<float>(int64_t(p.padded) * l.heads);
  p.first = c.scratch_of<int32_t>(p.padded);
  p.scale = float(a.scale);
  p.scale2 = float(a.scale * double(kLog2e));
  p.dq = data<bf16>(a.dq);
  p.dk = data<bf16>(a.dk) + a.k_offset;
  p.dv = data<bf16>(a.dv) + a.v_offset;
  p.dq_ld = a.dq.ld;
  p.dk_ld = a.dk.ld;
  p.dv_ld = a.dv.ld;
  p.dk_stride = l.k_stride;
  p.dv_stride = l.v_stride;
  p.dq_vector = in_vectors(a.dq, 0, l.qk_dim, l.heads, l.qk_dim);
  p.dk_vector = in_vectors(a.dk, a.k_offset, a.k_stride, a.kv_heads, a.k_dim);
  p.dv_vector = in_vectors(a.dv, a.v_offset, a.v_stride, a.kv_heads, a.v_dim);

  check_doc_start_on_device(c, ESFT_OP_attention_backward, kArgDocStart, a.doc_start);
  launch_query_numbers(p, a, c);

  const bool shared = width > 0 && present(a.dk_shared);
  const int64_t part = int64_t(l.T) * width;
  const int chunk = shared ? int(max_of(int64_t(1), min_of(int64_t(kv_heads), kPartBytes / (part * 4)))) : kv_heads;
  SharedSumParams sum{};
  if (shared) {
    p.shared_parts = c.scratch_of<float>(part * chunk);
    sum.parts = p.shared_parts;
    sum.sum = chunk < kv_heads ? c.scratch_of<float>(part) : nullptr;
    sum.ld = a.dk_shared.ld;
    sum.elements = part;
    sum.width = width;
  }
  for (p.kv_begin = 0; p.kv_begin < kv_heads; p.kv_begin += chunk) {
    const int count = min_of(chunk, kv_heads - p.kv_begin);
    if (!backward_keys_sm90(p, a, count, c)) {
      expect_portable("attention_backward", c);
      launch_mma<true>(p, count, c);
    }
    if (!shared) continue;
    sum.count = count;
    sum.add = p.kv_begin > 0;
    sum.out = p.kv_begin + chunk >= kv_heads ? data<bf16>(a.dk_shared) : nullptr;
    ESFT_LAUNCH((sum_shared_keys), c, dim3(unsigned(min_of(ceil_div(part, 256), int64_t(c.sms) * 16))), 256, 0, sum);
  }
  if (!backward_queries_sm90(p, a, c)) {
    expect_portable("attention_backward", c);
    launch_mma<false>(p, l.heads, c);
  }
}

}  // namespace esft::cuda
