// Backward attention: the parameters, and what its kernels (attention_backward_*.cu) share.
#pragma once
#include "attention_tile.cuh"

namespace esft::cuda::attention {

// Rows of per-query numbers are padded to whole tiles, so that a tile loads them without guards.
constexpr int kRowPadding = 128;
// In one pass: queries whose dq is summed together.
constexpr int kSumRows = 64;

struct BackwardParams {
  Layout layout;
  const bf16* dout;
  int64_t dout_ld;
  // Per query, padded: −lse · log2(e) and −Δ [heads, padded]; first visible key [padded]. In the padding lse = +∞, so p = 0.
  const float *minus_lse2, *minus_delta;
  const int32_t* first;
  int padded;
  float scale, scale2;  // scale, scale · log2(e)
  bf16 *dq, *dk, *dv;   // dk, dv at their first column
  int64_t dq_ld, dk_ld, dv_ld, dk_stride, dv_stride;
  bool dq_vector, dk_vector, dv_vector;
  // Shared keys: f32 [kv heads of this launch, T, qk_dim − k_dim], one part per kv-head; nullptr: not wanted.
  float* shared_parts;
  int kv_begin;     // first kv-head of this launch
  TileOrder order;  // of kv-heads from there on, or of query heads
  // In one pass: sums of dq of the heads of this launch [heads, sum_blocks, slabs of 64 columns, 64 · 64]; per head of the call and block of
  // queries the key blocks that have added to it; the next tile; not 0: first_key decreases somewhere, the call is at fault.
  float* dq_sums;
  uint32_t *turns, *ticket, *bad_order;
  int sum_blocks;

  __device__ HeadRows dout_rows(int h) const {
    return {dout + int64_t(h) * layout.v_dim, nullptr, dout_ld, 0, layout.v_dim, layout.v_dim};
  }
  __device__ int64_t sum_offset(int head, int block, int slabs) const {
    return ((int64_t(head) - int64_t(kv_begin) * layout.group) * sum_blocks + block) * slabs * (kSumRows * 64);
  }
};

// One past the last query that sees a key <= last_key, at least `begin`: `first` does not decrease. By a whole warp, 32 probes a round.
__device__ __forceinline__ int query_end(const BackwardParams& p, int begin, int last_key) {
  int low = begin, high = p.layout.T;  // the answer is in [low, high]
  while (low < high) {
    const int step = (high - low + 31) / 32, probe = low + (int(threadIdx.x) % 32) * step;
    const bool sees = probe < high && __ldg(p.first + probe) <= last_key;
    const int seeing = __popc(__ballot_sync(kFullWarp, sees));  // the first `seeing` probes, since first does not decrease
    if (seeing == 0) return low;
    const int next = low + seeing * step;
    low += (seeing - 1) * step + 1;
    high = min_of(high, next);
  }
  return low;
}

// Numbers of the queries that a tile of scores meets: of its columns in shared memory (rows are keys), or of a lane's two rows.
// hidden: no pair of rows row0..row1 and columns column0..column0+n-1 is visible; crossed: not every pair is.
template <bool kKeys>
struct QueryNumbers;
template <>
struct QueryNumbers<true> {
  const float *minus_lse2, *minus_delta;  // [columns], of the first column
  const int* first;
  __device__ __forceinline__ float minus_lse2_at(int, int c) const { return minus_lse2[c]; }
  __device__ __forceinline__ float minus_delta_at(int, int c) const { return minus_delta[c]; }
  __device__ __forceinline__ bool visible(int row, int column0, int, int c) const { return row <= column0 + c && row >= first[c]; }
  __device__ __forceinline__ bool hidden(int row0, int row1, int column0, int n) const {
    return row0 > column0 + n - 1 || first[0] > row1;
  }
  __device__ __forceinline__ bool crossed(int row0, int row1, int column0, int n) const {
    return row1 > column0 || first[n - 1] > row0;
  }
};
template <>
struct QueryNumbers<false> {
  float minus_lse2[2], minus_delta[2];
  int first[2], seen_from, all_from;
  // The lane's rows are `row` and `row` + 8 of a head; the warps that go together own low_row..high_row. Padding keeps reads inside.
  __device__ __forceinline__ void load(const BackwardParams& p, int head, int row, int low_row, int high_row) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      minus_lse2[i] = p.minus_lse2[int64_t(head) * p.padded + row + 8 * i];
      minus_delta[i] = p.minus_delta[int64_t(head) * p.padded + row + 8 * i];
      first[i] = p.first[row + 8 * i];
    }
    seen_from = p.first[low_row];
    all_from = p.first[high_row];
  }
  __device__ __forceinline__ float minus_lse2_at(int half, int) const { return minus_lse2[half]; }
  __device__ __forceinline__ float minus_delta_at(int half, int) const { return minus_delta[half]; }
  __device__ __forceinline__ bool visible(int row, int column0, int half, int c) const {
    return column0 + c <= row && column0 + c >= first[half];
  }
  __device__ __forceinline__ bool hidden(int, int row1, int column0, int n) const {
    return column0 > row1 || column0 + n - 1 < seen_from;
  }
  __device__ __forceinline__ bool crossed(int row0, int, int column0, int n) const {
    return column0 + n - 1 > row0 || column0 < all_from;
  }
};

// Scores become probabilities: a lane's part of 16 rows from first_row on, columns from column0 on.
template <int kN, class Numbers>
__device__ __forceinline__ void to_probabilities(float (&s)[kN][4], const Numbers& q, float scale2, int first_row, int column0,
                                                 bool masked) {
  const int row = first_row + int(threadIdx.x) % 32 / 4, c0 = 2 * (int(threadIdx.x) % 4);
#pragma unroll
  for (int n = 0; n < kN; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) s[n][i] = ptx::exp2_approx(fmaf(s[n][i], scale2, q.minus_lse2_at(i / 2, c0 + 8 * n + (i & 1))));
  if (!masked) return;
#pragma unroll
  for (int n = 0; n < kN; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int c = c0 + 8 * n + (i & 1);
      if (!q.visible(row + 8 * (i / 2), column0, i / 2, c)) s[n][i] = 0.f;
    }
}
// d = p·(d − Δ): the gradients of the scaled scores.
template <int kN, class Numbers>
__device__ __forceinline__ void to_gradients(float (&d)[kN][4], const float (&probs)[kN][4], const Numbers& q) {
  const int c0 = 2 * (int(threadIdx.x) % 4);
#pragma unroll
  for (int n = 0; n < kN; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) d[n][i] = probs[n][i] * (d[n][i] + q.minus_delta_at(i / 2, c0 + 8 * n + (i & 1)));
}
// The same with the probabilities as the A operand of a product (pack_fragments).
template <int kN, class Numbers>
__device__ __forceinline__ void to_gradients(float (&d)[kN][4], const uint32_t (&probs)[kN / 2][4], const Numbers& q) {
  const int c0 = 2 * (int(threadIdx.x) % 4);
#pragma unroll
  for (int n = 0; n < kN; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t pair = probs[n / 2][n % 2 * 2 + i / 2];
      d[n][i] = (i & 1 ? hi_float(pair) : lo_float(pair)) * (d[n][i] + q.minus_delta_at(i / 2, c0 + 8 * n + (i & 1)));
    }
}

// What a warp summed for rows r0..r0+15 of its tiles, from chunk1 and chunk2 (8 columns) on, goes to dk, dv and the parts of the shared
// keys, or to dq: through the tiles of the rows, which nobody reads any more, for whole 16-byte stores.
template <bool kKeys, int kRows, int kN1, int kN2>
__device__ __forceinline__ void store_sums(const BackwardParams& p, unsigned char* rows1, unsigned char* rows2, int head,
                                           int first_row, int r0, int chunk1, int chunk2, const float (&sum1)[kN1][4],
                                           const float (&sum2)[kN2][4]) {
  const Layout& l = p.layout;
  const int left = l.T - first_row, lane = int(threadIdx.x) % 32;
  stage_rows<kRows>(rows1, r0, chunk1, sum1, p.scale, p.scale);
  if constexpr (kKeys) {
    stage_rows<kRows>(rows2, r0, chunk2, sum2, 1.f, 1.f);
    store_rows<kRows, 8 * kN1>(rows1, r0, 16, left, chunk1 * 8, p.dk + first_row * p.dk_ld + head * p.dk_stride, p.dk_ld, l.k_dim,
                               p.dk_vector);
    store_rows<kRows, 8 * kN2>(rows2, r0, 16, left, chunk2 * 8, p.dv + first_row * p.dv_ld + head * p.dv_stride, p.dv_ld, l.v_dim,
                               p.dv_vector);
    if (!p.shared_parts) return;
    const int width = l.qk_dim - l.k_dim;
#pragma unroll
    for (int n = 0; n < kN1; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int row = first_row + lane / 4 + 8 * (i / 2), c = (chunk1 + n) * 8 + 2 * (lane % 4) + (i & 1) - l.k_dim;
        if (row < l.T && c >= 0 && c < width)
          p.shared_parts[(int64_t(head - p.kv_begin) * l.T + row) * width + c] = sum1[n][i] * p.scale;
      }
  } else {
    store_rows<kRows, 8 * kN1>(rows1, r0, 16, left, chunk1 * 8, p.dq + first_row * p.dq_ld + int64_t(head) * l.qk_dim, p.dq_ld,
                               l.qk_dim, p.dq_vector);
  }
}

// dk and dv of kv_count kv-heads from p.kv_begin on, and dq.
void backward_keys_portable(const BackwardParams& p, int kv_count, Context& c);
void backward_queries_portable(const BackwardParams& p, Context& c);
// False: not for this device or these operands.
bool backward_keys_sm90(const BackwardParams& p, const esft_attention_backward_args& a, int kv_count, Context& c);
bool backward_queries_sm90(const BackwardParams& p, const esft_attention_backward_args& a, Context& c);
// All of them in one pass: dk, dv and the sums of dq of kv_count kv-heads from p.kv_begin on; then dq of their `heads` query heads.
bool one_pass_serves(const BackwardParams& p, const esft_attention_backward_args& a, Context& c);
void backward_one_sm90(BackwardParams& p, const esft_attention_backward_args& a, int kv_count, Context& c);
void finish_dq_sm90(const BackwardParams& p, int heads, Context& c);

}  // namespace esft::cuda::attention
