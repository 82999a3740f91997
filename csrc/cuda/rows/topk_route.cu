// topk_route: one warp per token. Lane l holds the choices of experts l, l + 32, … in registers as order-preserving integer keys, so
// a round of the argmax is a scan of its registers and two warp reductions: the largest key, then the lowest id that has it. Taken
// is key 0, below every number. The scores of the K chosen are computed again from their logits (same expression, same bits), one
// lane each. T·E·4 bytes in and, with probs, out: a launch and K rounds of latency decide, all tokens of a batch being resident.
// More than 1024 experts or 32 groups: topk_route_block.cu.
#include "topk_route.cuh"

namespace esft::cuda {

namespace {

constexpr int kWarps = 4;  // tokens per block

// Keys of the experts outside the best groups become that of 0 or −inf. Lane g ranks group g; n_group <= 32.
template <int R>
__device__ __forceinline__ void limit_groups(const RouteParams& p, int lane, uint32_t (&key)[R]) {
  const uint32_t size = uint32_t(p.E / p.n_group);
  uint32_t group = kTaken;
  for (int g = 0; g < p.n_group; g++) {
    uint32_t best = kTaken, second = kTaken;  // of the lane's members of group g
#pragma unroll
    for (int i = 0; i < R; i++) {
      if (uint32_t(32 * i + lane) - g * size >= size) continue;
      second = max_of(second, min_of(best, key[i]));
      best = max_of(best, key[i]);
    }
    uint32_t top = best;
    const uint32_t owner = warp_best(top, lane);
    if (p.group_score == 1) {
      const uint32_t next = __reduce_max_sync(kFullWarp, uint32_t(lane) == owner ? second : best);
      top = key_of(value_of(top) + value_of(next));
    }
    if (lane == g) group = top;
  }
  int better = 0;
  for (int g = 0; g < p.n_group; g++) {
    const uint32_t other = __shfl_sync(kFullWarp, group, g);
    better += other > group || (other == group && g < lane);
  }
  const uint32_t kept = __ballot_sync(kFullWarp, lane < p.n_group && better < p.topk_group);
  const uint32_t dropped = p.drop ? kKeyOfMinusInf : kKeyOfZero;
  const float per_group = 1.0f / float(size);
#pragma unroll
  for (int i = 0; i < R; i++) {
    const int e = 32 * i + lane, g = int((float(e) + 0.5f) * per_group);  // e / size: half a unit is far above the rounding
    if (e < p.E && !(kept >> (g & 31) & 1)) key[i] = dropped;
  }
}

// kMixer: score 3.
template <int R, bool kMixer>
__global__ void __launch_bounds__(32 * kWarps) route_warp(const EarlyStart early, const RouteParams p) {
  early.wait();
  const int lane = threadIdx.x % 32;
  const int64_t t = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32;
  if (t >= p.T) return;
  const float* logits = p.logits + t * p.logits_ld;

  float z[R];
  uint32_t bad = ~0u;
#pragma unroll
  for (int i = 0; i < R; i++) z[i] = 32 * i + lane < p.E ? logits[32 * i + lane] : -__builtin_inff();
#pragma unroll
  for (int i = R - 1; i >= 0; i--)
    if (32 * i + lane < p.E && !finite(z[i])) bad = 32 * i + lane;
  if (__any_sync(kFullWarp, bad != ~0u)) {
    bad = __reduce_min_sync(kFullWarp, bad);
    if (lane == 0) report_logit(p, t, int(bad), logits[bad]);
  }

  float top = -__builtin_inff(), sum = 0;
  if (p.score == 0) {
#pragma unroll
    for (int i = 0; i < R; i++) top = fmaxf(top, z[i]);
    top = warp_max(top);
#pragma unroll
    for (int i = 0; i < R; i++) sum += 32 * i + lane < p.E ? expf(z[i] - top) : 0.0f;
    sum = warp_sum(sum);
  }
  uint32_t key[R];
#pragma unroll
  for (int i = 0; i < R; i++) {
    const int e = 32 * i + lane;
    key[i] = kTaken;
    if (e >= p.E) continue;
    const float s = score_of(p, z[i], top, sum);
    if (p.probs) p.probs[t * p.probs_ld + e] = s;
    if (p.bias && t == 0) report_bias(p, e);
    key[i] = choice_key(p, e, z[i], s);
  }
  if (p.n_group > 1) limit_groups<R>(p, lane, key);

  int32_t* ids = p.ids + t * p.ids_ld;
  float* weights = p.weights + t * p.weights_ld;
  float first = 0;
  for (int begin = 0; begin < p.K; begin += 32) {
    const int rounds = min_of(p.K - begin, 32);
    uint32_t mine = 0;
    float mixed = 0;
    for (int k = 0; k < rounds; k++) {
      uint32_t best = kTaken, id = 0;
#pragma unroll
      for (int i = 0; i < R; i++)
        if (key[i] > best) best = key[i], id = 32 * i + lane;
      id = warp_best(best, id);
#pragma unroll
      for (int i = 0; i < R; i++)
        if (uint32_t(32 * i + lane) == id) key[i] = kTaken;
      if (lane == k) mine = id;
      if constexpr (kMixer) {
        const float m = logits[id];
        float others = 0;
#pragma unroll
        for (int i = 0; i < R; i++)
          if (key[i] != kTaken && near_logit(m, logits[32 * i + lane], p.near_limit)) others += expf(logits[32 * i + lane] - m);
        others = warp_sum(others);
        if (lane == k) mixed = 1.0f / (1.0f + others);
      }
    }
    if (lane < rounds) {
      const float s = kMixer ? mixed : score_of(p, logits[mine], top, sum);
      ids[begin + lane] = int32_t(mine);
      if (begin == 0)
        first = s;
      else
        weights[begin + lane] = s;
    }
  }
  write_weights(p, ids, weights, lane, first);
}

template <int R>
void launch_warp(Context& c, const RouteParams& p) {
  const dim3 grid(unsigned(ceil_div(p.T, kWarps)));
  if (p.score == 3)
    ESFT_LAUNCH((route_warp<R, true>), c, grid, 32 * kWarps, 0, p);
  else
    ESFT_LAUNCH((route_warp<R, false>), c, grid, 32 * kWarps, 0, p);
}

}  // namespace

void run_topk_route(const esft_topk_route_args& a, Context& c) {
  RouteParams p{};
  p.logits = data<float>(a.logits);
  p.bias = present(a.bias) ? data<float>(a.bias) : nullptr;
  p.ids = data<int32_t>(a.ids);
  p.weights = data<float>(a.weights);
  p.probs = present(a.probs) ? data<float>(a.probs) : nullptr;
  p.faults = c.faults;
  p.T = rows(a.logits);
  p.logits_ld = a.logits.ld, p.ids_ld = a.ids.ld, p.weights_ld = a.weights.ld, p.probs_ld = a.probs.ld;
  p.E = int32_t(cols(a.logits)), p.K = int32_t(cols(a.ids));
  p.score = int32_t(a.score), p.n_group = int32_t(a.n_group), p.topk_group = int32_t(a.topk_group);
  p.group_score = int32_t(a.group_score), p.drop = int32_t(a.drop), p.renormalize = int32_t(a.renormalize);
  p.norm_eps = float(a.norm_eps), p.scale = float(a.scale);
  p.near_limit = float(2 * a.jitter), p.expert_scale = expert_scale_of(a.expert_scale);
  if (p.T == 0) return;
  if (p.E > 1024 || p.n_group > 32) {
    route_any(c, p);
  } else if (p.E <= 32) {
    launch_warp<1>(c, p);
  } else if (p.E <= 64) {
    launch_warp<2>(c, p);
  } else if (p.E <= 128) {
    launch_warp<4>(c, p);
  } else if (p.E <= 256) {
    launch_warp<8>(c, p);
  } else if (p.E <= 512) {
    launch_warp<16>(c, p);
  } else {
    launch_warp<32>(c, p);
  }
}

}  // namespace esft::cuda
