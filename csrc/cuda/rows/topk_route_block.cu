// topk_route for more than 1024 experts or 32 groups: a block per token that keeps nothing per expert. A choice is the best one after
// its predecessor, so K rounds read the row of logits K times (from L1 or L2) and score it anew; groups are ranked the same way.
#include "topk_route.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// Key and complement of the id in one number: larger is chosen earlier.
__device__ __forceinline__ uint64_t rank_of(uint32_t key, int id) { return uint64_t(key) << 32 | uint32_t(~id); }
__device__ __forceinline__ int id_of(uint64_t rank) { return int(~uint32_t(rank)); }

// The largest over the block, to all threads. scratch: one per warp.
template <class T>
__device__ __forceinline__ T block_max(T x, T* scratch) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  for (int w = 0; w < kWarps; w++) x = max_of(x, scratch[w]);
  __syncthreads();
  return x;
}

__global__ void __launch_bounds__(kThreads) route_block(const EarlyStart early, const RouteParams p) {
  early.wait();
  ESFT_SHARED(smem);
  uint64_t* ranks = reinterpret_cast<uint64_t*>(smem);  // [warps]
  float* floats = reinterpret_cast<float*>(ranks + kWarps);  // [warps]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, size = p.E / p.n_group;
  uint32_t* group_keys = p.group_keys ? p.group_keys + blockIdx.x * int64_t(p.n_group) : nullptr;

  for (int64_t t = blockIdx.x; t < p.T; t += gridDim.x) {
    const float* logits = p.logits + t * p.logits_ld;
    float top = -__builtin_inff(), sum = 0;
    uint64_t bad = 0;
    for (int e = threadIdx.x; e < p.E; e += kThreads) {
      if (!finite(logits[e])) bad = max_of(bad, rank_of(0, e));
      top = fmaxf(top, logits[e]);
      if (p.bias && t == 0) report_bias(p, e);
    }
    top = block_max(top, floats);
    bad = block_max(bad, ranks);
    if (bad && threadIdx.x == 0) report_logit(p, t, id_of(bad), logits[id_of(bad)]);
    if (p.score == 0)
      for (int e = threadIdx.x; e < p.E; e += kThreads) sum += expf(logits[e] - top);
    sum = block_sum(sum, floats);
    const auto choice = [&](int e) { return choice_key(p, e, logits[e], score_of(p, logits[e], top, sum)); };

    uint64_t last_group = 0;  // groups ranked lower are dropped
    if (p.n_group > 1) {
      for (int g = warp; g < p.n_group; g += kWarps) {
        uint32_t best = kTaken, second = kTaken;
        for (int i = lane; i < size; i += 32) {
          const uint32_t key = choice(g * size + i);
          second = max_of(second, min_of(best, key));
          best = max_of(best, key);
        }
        uint32_t group = best;
        const uint32_t owner = warp_best(group, lane);
        if (p.group_score == 1) {
          const uint32_t next = __reduce_max_sync(kFullWarp, uint32_t(lane) == owner ? second : best);
          group = key_of(value_of(group) + value_of(next));
        }
        if (lane == 0) group_keys[g] = group;
      }
      __syncthreads();
      last_group = ~uint64_t(0);
      for (int i = 0; i < p.topk_group; i++) {
        uint64_t best = 0;
        for (int g = threadIdx.x; g < p.n_group; g += kThreads) {
          const uint64_t rank = rank_of(group_keys[g], g);
          if (rank < last_group) best = max_of(best, rank);
        }
        last_group = block_max(best, ranks);
      }
    }

    float* weights = p.weights + t * p.weights_ld;
    uint64_t last = ~uint64_t(0);
    for (int k = 0; k < p.K; k++) {
      uint64_t best = 0;
      for (int e = threadIdx.x; e < p.E; e += kThreads) {
        uint32_t key = choice(e);
        if (p.n_group > 1 && rank_of(group_keys[e / size], e / size) < last_group) key = p.drop ? kKeyOfMinusInf : kKeyOfZero;
        const uint64_t rank = rank_of(key, e);
        if (rank < last) best = max_of(best, rank);
      }
      last = block_max(best, ranks);
      const float chosen = logits[id_of(last)];
      float others = 0;
      if (p.score == 3) {
        for (int e = threadIdx.x; e < p.E; e += kThreads)
          if (rank_of(choice(e), e) < last && near_logit(chosen, logits[e], p.near_limit)) others += expf(logits[e] - chosen);
        others = block_sum(others, floats);
      }
      if (threadIdx.x == 0) {
        p.ids[t * p.ids_ld + k] = id_of(last);
        weights[k] = p.score == 3 ? 1.0f / (1.0f + others) : score_of(p, chosen, top, sum);
      }
    }
    if (p.probs)
      for (int e = threadIdx.x; e < p.E; e += kThreads) p.probs[t * p.probs_ld + e] = score_of(p, logits[e], top, sum);
    __syncthreads();
    if (warp == 0) write_weights(p, p.ids + t * p.ids_ld, weights, lane, lane < p.K ? weights[lane] : 0.0f);
    __syncthreads();
  }
}

}  // namespace

void route_any(Context& c, RouteParams p) {
  const int64_t blocks = min_of(p.T, int64_t(4) * c.sms);
  if (p.n_group > 1) p.group_keys = c.scratch_of<uint32_t>(blocks * p.n_group);
  ESFT_LAUNCH((route_block), c, dim3(unsigned(blocks)), kThreads, kWarps * (sizeof(uint64_t) + sizeof(float)), p);
}

}  // namespace esft::cuda
