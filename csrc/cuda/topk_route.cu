// topk_route and its backward.
//
// Forward: one warp per token. Lane l holds the choices of experts l, l+32, … in registers as order-preserving integer keys, so a
// round of the argmax is a scan of its registers and two warp reductions: the largest key, then the lowest id that has it.
// Taken is key 0, below every number. The scores of the K chosen are computed again from their logits (same expression, same
// bits), one lane each. T·E·4 bytes in and out: a launch and K rounds of latency decide, all tokens of a batch being resident.
// Experts beyond 1024 or groups beyond 32 take the plain kernel: a block per token that keeps nothing per expert; it finds each
// choice as the best one after its predecessor.
// Backward: one warp per token; T·E·4 bytes written (read too for softmax).
#include "index_check.cuh"
#include "launch.h"
#include "reduce.cuh"

namespace esft::cuda {

namespace {

constexpr int kWarps = 4;             // tokens per block of the warp kernels
constexpr int kPlainThreads = 256;    // per token
constexpr float kInf = __builtin_inff();
constexpr uint32_t kTaken = 0, kKeyOfZero = 0x80000000u, kKeyOfMinusInf = 0x007fffffu;

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
  float norm_eps, scale;
};

// Integers in the order of floats, −0 and 0 alike; never 0.
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t u = float_to_bits(x + 0.0f);
  return max_of(u >> 31 ? ~u : u | 0x80000000u, 1u);
}
__device__ __forceinline__ float value_of(uint32_t key) { return bits_to_float(key >> 31 ? key & 0x7fffffffu : ~key); }
__device__ __forceinline__ bool finite(float x) { return (float_to_bits(x) & 0x7f800000u) != 0x7f800000u; }

// s of the contract; top and sum: those of the row's softmax.
__device__ __forceinline__ float score_of(const RouteParams& p, float z, float top, float sum) {
  if (p.score == 0) return expf(z - top) / sum;
  return p.score == 1 ? 1.0f / (1.0f + expf(-z)) : z;
}
__device__ __forceinline__ uint32_t choice_key(const RouteParams& p, int e, float s) { return key_of(p.bias ? s + p.bias[e] : s); }

__device__ __forceinline__ void report_logit(const RouteParams& p, int64_t t, int e, float z) {
  report_fault(p.faults, kNotFinite, ESFT_OP_topk_route, kArgLogits, t * p.E + e, float_to_bits(z), 0, p.E);
}
__device__ __forceinline__ void report_bias(const RouteParams& p, int e) {
  if (!finite(p.bias[e])) report_fault(p.faults, kNotFinite, ESFT_OP_topk_route, kArgBias, e, float_to_bits(p.bias[e]), 0);
}

// The chosen scores s[k] of lanes k % 32 become weights. `mine` is the lane's first, the others are in weights[k].
__device__ __forceinline__ void write_weights(const RouteParams& p, float* weights, int lane, float mine) {
  const auto chosen = [&](int k) { return k < 32 ? mine : weights[k]; };
  float top = -kInf, total = 0;
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
  for (int k = lane; k < p.K; k += 32) weights[k] = weight(k) / divisor * p.scale;
}

// Best key and the lowest id that has it, over the warp.
__device__ __forceinline__ uint32_t warp_best(uint32_t& key, uint32_t id) {
  const uint32_t best = __reduce_max_sync(kFullWarp, key);
  id = __reduce_min_sync(kFullWarp, key == best ? id : ~0u);
  key = best;
  return id;
}

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

template <int R>
__global__ void __launch_bounds__(32 * kWarps) route_warp(const RouteParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t t = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32;
  if (t >= p.T) return;
  const float* logits = p.logits + t * p.logits_ld;

  float z[R];
  uint32_t bad = ~0u;
#pragma unroll
  for (int i = 0; i < R; i++) z[i] = 32 * i + lane < p.E ? logits[32 * i + lane] : -kInf;
#pragma unroll
  for (int i = R - 1; i >= 0; i--)
    if (32 * i + lane < p.E && !finite(z[i])) bad = 32 * i + lane;
  if (__any_sync(kFullWarp, bad != ~0u)) {
    bad = __reduce_min_sync(kFullWarp, bad);
    if (lane == 0) report_logit(p, t, int(bad), logits[bad]);
  }

  float top = -kInf, sum = 0;
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
    key[i] = choice_key(p, e, s);
  }
  if (p.n_group > 1) limit_groups<R>(p, lane, key);

  int32_t* ids = p.ids + t * p.ids_ld;
  float* weights = p.weights + t * p.weights_ld;
  float first = 0;
  for (int begin = 0; begin < p.K; begin += 32) {
    const int rounds = min_of(p.K - begin, 32);
    uint32_t mine = 0;
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
    }
    if (lane < rounds) {
      const float s = score_of(p, logits[mine], top, sum);
      ids[begin + lane] = int32_t(mine);
      if (begin == 0)
        first = s;
      else
        weights[begin + lane] = s;
    }
  }
  write_weights(p, weights, lane, first);
}

// ---- any E, any groups: a block per token -------------------------------------------------------------------------------

// Key and complement of the id in one number: larger is chosen earlier.
__device__ __forceinline__ uint64_t rank_of(uint32_t key, int id) { return uint64_t(key) << 32 | uint32_t(~id); }
__device__ __forceinline__ int id_of(uint64_t rank) { return int(~uint32_t(rank)); }

// The largest over the block, to all threads. scratch: one per warp.
template <class T>
__device__ __forceinline__ T block_max(T x, T* scratch) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  for (int w = 0; w < kPlainThreads / 32; w++) x = max_of(x, scratch[w]);
  __syncthreads();
  return x;
}

__global__ void __launch_bounds__(kPlainThreads) route_block(const RouteParams p) {
  ESFT_SHARED(smem);
  uint64_t* ranks = reinterpret_cast<uint64_t*>(smem);             // [warps]
  float* floats = reinterpret_cast<float*>(ranks + kPlainThreads / 32);  // [warps]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, size = p.E / p.n_group;
  uint32_t* group_keys = p.group_keys ? p.group_keys + blockIdx.x * int64_t(p.n_group) : nullptr;

  for (int64_t t = blockIdx.x; t < p.T; t += gridDim.x) {
    const float* logits = p.logits + t * p.logits_ld;
    float top = -kInf, sum = 0;
    uint64_t bad = 0;
    for (int e = threadIdx.x; e < p.E; e += kPlainThreads) {
      if (!finite(logits[e])) bad = max_of(bad, rank_of(0, e));
      top = fmaxf(top, logits[e]);
      if (p.bias && t == 0) report_bias(p, e);
    }
    top = block_max(top, floats);
    bad = block_max(bad, ranks);
    if (bad && threadIdx.x == 0) report_logit(p, t, id_of(bad), logits[id_of(bad)]);
    if (p.score == 0)
      for (int e = threadIdx.x; e < p.E; e += kPlainThreads) sum += expf(logits[e] - top);
    sum = block_sum(sum, floats);
    const auto choice = [&](int e) { return choice_key(p, e, score_of(p, logits[e], top, sum)); };

    uint64_t last_group = 0;  // groups ranked lower are dropped
    if (p.n_group > 1) {
      for (int g = warp; g < p.n_group; g += kPlainThreads / 32) {
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
        for (int g = threadIdx.x; g < p.n_group; g += kPlainThreads) {
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
      for (int e = threadIdx.x; e < p.E; e += kPlainThreads) {
        uint32_t key = choice(e);
        if (p.n_group > 1 && rank_of(group_keys[e / size], e / size) < last_group) key = p.drop ? kKeyOfMinusInf : kKeyOfZero;
        const uint64_t rank = rank_of(key, e);
        if (rank < last) best = max_of(best, rank);
      }
      last = block_max(best, ranks);
      if (threadIdx.x == 0) {
        p.ids[t * p.ids_ld + k] = id_of(last);
        weights[k] = score_of(p, logits[id_of(last)], top, sum);
      }
    }
    if (p.probs)
      for (int e = threadIdx.x; e < p.E; e += kPlainThreads) p.probs[t * p.probs_ld + e] = score_of(p, logits[e], top, sum);
    __syncthreads();
    if (warp == 0) write_weights(p, weights, lane, lane < p.K ? weights[lane] : 0.0f);
    __syncthreads();
  }
}

template <int R>
void launch_warp(Context& c, const RouteParams& p) {
  ESFT_LAUNCH((route_warp<R>), c, dim3(unsigned(ceil_div(p.T, kWarps))), 32 * kWarps, 0, p);
}

// ---- backward -----------------------------------------------------------------------------------------------------------

struct BackwardParams {
  const float* dweights;
  const int32_t* pos;
  const float* probs;
  const int32_t* ids;
  const float* weights;
  float* dlogits;
  int64_t T, dweights_ld, pos_ld, probs_ld, ids_ld, weights_ld, dlogits_ld;
  IndexCheck id_check, pos_check;
  int32_t E, K, score, renormalize;
  float norm_eps, scale, back;  // back: from a weight to its softmax over the chosen (score 2)
};

// With r = u / (Σu + eps):  du[k] = scale · (dw[k] − Σ dw·r) / (Σu + eps);  without renormalisation scale · dw[k].
// Softmax over E: dlogits = s · (ds − Σ s·ds), where ds is zero beside the K chosen; sigmoid: u · (1 − u) · du; score 2 is the
// softmax over the chosen K.
__global__ void __launch_bounds__(32 * kWarps) route_backward(const BackwardParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t t = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32;
  if (t >= p.T) return;
  const float* probs = p.probs ? p.probs + t * p.probs_ld : nullptr;
  float* dlogits = p.dlogits + t * p.dlogits_ld;

  struct Slot {
    int id;
    float u, du;
  };
  const auto load = [&](int k) {
    Slot slot{p.ids[t * p.ids_ld + k], 0, 0};
    if (!p.id_check.ok(t * p.K + k, slot.id)) return Slot{-1, 0, 0};
    float dw = 0;
    if (!p.pos) {
      dw = p.dweights[t * p.dweights_ld + k];
    } else {
      const int32_t row = p.pos[t * p.pos_ld + k];
      if (p.pos_check.ok(t * p.K + k, row)) dw = p.dweights[row];
    }
    slot.u = p.score == 2 ? p.weights[t * p.weights_ld + k] * p.back : probs[slot.id];
    slot.du = p.scale * dw;
    return slot;
  };
  const Slot first = lane < p.K ? load(lane) : Slot{-1, 0, 0};
  const auto slot_of = [&](int k) { return k < 32 ? first : load(k); };

  float shift = 0, divisor = 1, dot = 0;
  if (p.renormalize) {
    float sum = 0;
    for (int k = lane; k < p.K; k += 32) sum += slot_of(k).u;
    divisor = warp_sum(sum) + p.norm_eps;
    for (int k = lane; k < p.K; k += 32) {
      const Slot s = slot_of(k);
      shift += s.du * (s.u / divisor);
    }
    shift = warp_sum(shift);
  }
  if (p.score != 1) {
    for (int k = lane; k < p.K; k += 32) {
      const Slot s = slot_of(k);
      dot += s.u * ((s.du - shift) / divisor);
    }
    dot = warp_sum(dot);
  }
#pragma unroll 4
  for (int e = lane; e < p.E; e += 32) dlogits[e] = p.score == 0 ? -probs[e] * dot : 0.0f;
  __syncwarp();  // the chosen lie in elements that other lanes have just written
  for (int k = lane; k < p.K; k += 32) {
    const Slot s = slot_of(k);
    const float du = (s.du - shift) / divisor;
    if (s.id >= 0) dlogits[s.id] = s.u * (p.score == 1 ? (1.0f - s.u) * du : du - dot);
  }
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
  if (p.T == 0) return;
  if (p.E > 1024 || p.n_group > 32) {
    const int64_t blocks = min_of(p.T, int64_t(4) * c.sms);
    if (p.n_group > 1) p.group_keys = c.scratch_of<uint32_t>(blocks * p.n_group);
    const size_t shared = kPlainThreads / 32 * (sizeof(uint64_t) + sizeof(float));
    ESFT_LAUNCH((route_block), c, dim3(unsigned(blocks)), kPlainThreads, shared, p);
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

void run_route_backward(const esft_route_backward_args& a, Context& c) {
  BackwardParams p{};
  p.dweights = data<float>(a.dweights);
  p.pos = present(a.pos) ? data<int32_t>(a.pos) : nullptr;
  p.probs = present(a.probs) && a.score != 2 ? data<float>(a.probs) : nullptr;
  p.ids = data<int32_t>(a.ids);
  p.weights = data<float>(a.weights);
  p.dlogits = data<float>(a.dlogits);
  p.T = rows(a.dlogits);
  p.dweights_ld = a.dweights.ld, p.pos_ld = a.pos.ld, p.probs_ld = a.probs.ld, p.ids_ld = a.ids.ld;
  p.weights_ld = a.weights.ld, p.dlogits_ld = a.dlogits.ld;
  p.E = int32_t(cols(a.dlogits)), p.K = int32_t(cols(a.ids));
  p.id_check = index_check(c, ESFT_OP_route_backward, kArgIds, a.ids, p.E);
  if (p.pos) p.pos_check = index_check(c, ESFT_OP_route_backward, kArgPos, a.pos, numel(a.dweights));
  p.score = int32_t(a.score), p.renormalize = int32_t(a.renormalize);
  p.norm_eps = float(a.norm_eps), p.scale = float(a.scale);
  p.back = p.scale == 0 ? 0.0f : (p.renormalize ? 1.0f + p.norm_eps : 1.0f) / p.scale;
  ESFT_LAUNCH((route_backward), c, dim3(unsigned(ceil_div(p.T, kWarps))), 32 * kWarps, 0, p);
}

}  // namespace esft::cuda
