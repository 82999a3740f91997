// Backward attention: the parameters and the small kernels that attention_backward.cu and attention_backward_sm90.cu share.
#pragma once
#include "attention_tile.cuh"

namespace esft::cuda::attention {

// Rows of per-query numbers are padded to whole tiles, so that a tile loads them without guards.
constexpr int kRowPadding = 128;

struct BackwardParams {
  Layout layout;
  const bf16* dout;
  int64_t dout_ld;
  // Per query, padded: lse · log2(e) and Δ [heads, padded]; first visible key [padded]. Padding has lse = +∞, so p = 0.
  const float *lse2, *delta;
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

  __device__ HeadRows dout_rows(int h) const {
    return {dout + int64_t(h) * layout.v_dim, nullptr, dout_ld, 0, layout.v_dim, layout.v_dim};
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

}  // namespace esft::cuda::attention
