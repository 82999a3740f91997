// attention_cached: what its kernels share. Where rows lie in the caches, which keys a token sees, what a stretch leaves for the join.
#pragma once
#include "../rows/documents.cuh"
#include "../rows/rows.cuh"
#include "attention.cuh"

namespace esft::cuda::attention {

constexpr int kStretch = 512;  // positions of a CTA, from a multiple of it on
constexpr int kCachedRows = 16;  // of a CTA: query heads of a token, or of several where a group has fewer

struct CacheItem {
  void *k, *v;
  int32_t rows;
};

struct CachedParams {
  Items<CacheItem> caches;
  Documents documents;
  const int32_t* positions;
  const bf16 *q, *k, *v, *shared;  // of the new tokens; k and v at their first column
  bf16* out;
  int64_t q_ld, k_ld, v_ld, shared_ld, out_ld, k_stride, v_stride;
  int64_t k_width, v_width;  // of a row of the caches
  int64_t T, window, chunk;
  int64_t t0;  // first token of this launch
  int64_t tokens;  // of this launch
  float* partial;  // [tokens, heads, slots][v_dim + 2]: values, maximum as an exponent of two, sum
  int heads, group, head_blocks, per_token, per_block, kv_heads, k_dim, dr, v_dim, slots;
  float scale2;  // |scale| · log2(e), positive
  bool negate, latent, vector, q_vector;
  Sinks sinks;

  __device__ __forceinline__ int64_t first(int64_t position) const { return first_cached(position, window, chunk); }
  // Of a token: how many stretches it sees keys of.
  __device__ __forceinline__ int64_t stretches(int64_t position) const {
    return position / kStretch - first(position) / kStretch + 1;
  }
  __device__ __forceinline__ float* partial_of(int64_t t, int64_t h, int64_t slot) const {
    return partial + (((t - t0) * heads + h) * slots + slot) * (v_dim + 2);
  }
};

// What remains of a head's maximum `high` (an exponent of two) and sum beside its sink: returns the factor of its values.
__device__ __forceinline__ float cached_factor(const CachedParams& p, int64_t h, float high, float sum) {
  if (!p.sinks.data) return 1.f / sum;
  const float sink = p.sinks.exponent(int(h)), top = fmaxf(high, sink), rest = ptx::exp2_approx(high - top);
  return rest / fmaf(sum, rest, ptx::exp2_approx(sink - top));
}

}  // namespace esft::cuda::attention
