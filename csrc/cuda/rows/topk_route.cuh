// What the two kernels of topk_route share: parameters, choices as ordered integers, scores, the weights of the chosen.
#pragma once
#include <math.h>

#include "../fault.cuh"
#include "../host/launch.h"
#include "../reduce.cuh"
#include "float_keys.cuh"

namespace esft::cuda {

constexpr uint32_t kTaken = 0, kKeyOfZero = 0x80000000u;

// One factor per expert, f32 or bf16; none: all 1.
struct ExpertScale {
  const void* data;
  int32_t bf16_data;
};
inline ExpertScale expert_scale_of(const esft_tensor& t) {
  return present(t) ? ExpertScale{t.data, t.dtype == ESFT_BF16} : ExpertScale{nullptr, 0};
}
__device__ __forceinline__ float scale_at(const ExpertScale& s, int id) {
  if (!s.data) return 1.0f;
  return s.bf16_data ? to_float(static_cast<const bf16*>(s.data)[id]) : static_cast<const float*>(s.data)[id];
}

// Score 3: is the logit z near m, the largest of those that are left? (0/0 is.)
__device__ __forceinline__ bool near_logit(float m, float z, float limit) { return !((m - z) / fmaxf(fabsf(z), m) > limit); }

struct RouteParams {
  const float* logits;
  const float* bias;
  int32_t* ids;
  float* weights;
  float* probs;
  uint32_t* group_keys;  // plain kernel: [blocks, n_group]
  FaultRecord* faults;
  int64_t T, logits_ld, ids_ld, weights_ld, probs_ld;
  int32_t E, K, score, n_group, topk_group, group_score, drop, renormalize;
  float norm_eps, scale, near_limit;
  ExpertScale expert_scale;
};

__device__ __forceinline__ bool finite(float x) { return (float_to_bits(x) & 0x7f800000u) != 0x7f800000u; }

// s of the contract; top and sum: those of the row's softmax.
__device__ __forceinline__ float score_of(const RouteParams& p, float z, float top, float sum) {
  if (p.score == 0) return expf(z - top) / sum;
  return p.score == 1 ? 1.0f / (1.0f + expf(-z)) : z;
}
// Of the logit z and its score s.
__device__ __forceinline__ uint32_t choice_key(const RouteParams& p, int e, float z, float s) {
  return key_of(p.bias ? s + p.bias[e] : p.score == 1 && p.n_group == 1 ? z : s);
}

__device__ __forceinline__ void report_logit(const RouteParams& p, int64_t t, int e, float z) {
  report_fault(p.faults, kNotFinite, ESFT_OP_topk_route, kArgLogits, t * p.E + e, float_to_bits(z), 0, p.E);
}
__device__ __forceinline__ void report_bias(const RouteParams& p, int e) {
  if (!finite(p.bias[e])) report_fault(p.faults, kNotFinite, ESFT_OP_topk_route, kArgBias, e, float_to_bits(p.bias[e]), 0);
}

// The chosen scores s[k] of lanes k % 32 become weights; ids[k] was written by the same lane, or before a barrier. `mine` is the lane's first, the others are in weights[k].
__device__ __forceinline__ void write_weights(const RouteParams& p, const int32_t* ids, float* weights, int lane, float mine) {
  const auto chosen = [&](int k) { return k < 32 ? mine : weights[k]; };
  float top = -__builtin_inff(), total = 0;
  if (p.score == 2) {
    for (int k = lane; k < p.K; k += 32) top = fmaxf(top, chosen(k));
    top = warp_max(top);
    for (int k = lane; k < p.K; k += 32) total += expf(chosen(k) - top);
    total = warp_sum(total);
  }
  const auto weight = [&](int k) { return p.score == 2 ? expf(chosen(k) - top) / total : chosen(k); };
  float divisor = 1;
  if (p.renormalize) {
    float sum = 0;
    for (int k = lane; k < p.K; k += 32) sum += weight(k);
    divisor = warp_sum(sum) + p.norm_eps;
  }
  for (int k = lane; k < p.K; k += 32) weights[k] = weight(k) / divisor * p.scale * scale_at(p.expert_scale, ids[k]);
}

// Best key and the lowest id that has it, over the warp.
__device__ __forceinline__ uint32_t warp_best(uint32_t& key, uint32_t id) {
  const uint32_t best = __reduce_max_sync(kFullWarp, key);
  id = __reduce_min_sync(kFullWarp, key == best ? id : ~0u);
  key = best;
  return id;
}

// Any number of experts and groups (topk_route_block.cu).
void route_any(Context& c, RouteParams p);

}  // namespace esft::cuda
