// route_backward: one warp per token, a lane per chosen expert; the row of dlogits is written whole, then the chosen in it. Bound by
// bytes: 4·T·E written, and read too for softmax over all experts. SparseMixer has a kernel of its own, whose lanes own experts. The
// gradient of the experts' factors: what each slot adds, then a block per expert over the slots that are its.
#include "../host/launch.h"
#include "../reduce.cuh"
#include "index_check.cuh"
#include "topk_route.cuh"

namespace esft::cuda {

namespace {

constexpr int kWarps = 4;  // tokens per block
constexpr int kSumThreads = 256;

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
  float near_limit;
  ExpertScale expert_scale;
  float* share;  // [T, K] of dexpert_scale, or nullptr
};

// With r = u / (Σu + eps):  du[k] = scale · (dw[k] − Σ dw·r) / (Σu + eps);  without renormalisation scale · dw[k].
// Softmax over E: dlogits = s · (ds − Σ s·ds), where ds is zero beside the K chosen; sigmoid: u · (1 − u) · du; score 2 is the
// softmax over the chosen K.
struct Slot {
  int id;
  float u, du;
};

// Slot k of token t before renormalisation, du without the expert's factor; u of score 3 is the caller's.
__device__ __forceinline__ Slot load_slot(const BackwardParams& p, int64_t t, int k) {
  Slot slot{p.ids[t * p.ids_ld + k], 0, 0};
  if (!p.id_check.ok(t * p.K + k, slot.id)) return Slot{-1, 0, 0};
  float dw = 0;
  if (!p.pos) {
    dw = p.dweights[t * p.dweights_ld + k];
  } else {
    const int32_t row = p.pos[t * p.pos_ld + k];
    if (p.pos_check.ok(t * p.K + k, row)) dw = p.dweights[row];
  }
  if (p.score < 2) slot.u = p.probs[t * p.probs_ld + slot.id];
  if (p.score == 2) slot.u = p.weights[t * p.weights_ld + k] * p.back;
  slot.du = p.scale * dw;
  return slot;
}
// Its share of dexpert_scale is kept, its du multiplied with the factor. divisor: Σu + eps, or 1.
__device__ __forceinline__ void scale_slot(const BackwardParams& p, int64_t t, int k, float divisor, Slot& slot) {
  if (p.share) p.share[t * p.K + k] = slot.du * (slot.u / divisor);
  if (slot.id >= 0) slot.du *= scale_at(p.expert_scale, slot.id);
}

__global__ void __launch_bounds__(32 * kWarps) route_backward(const EarlyStart early, const BackwardParams p) {
  early.wait();
  const int lane = threadIdx.x % 32;
  const int64_t t = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32;
  if (t >= p.T) return;
  const float* probs = p.probs ? p.probs + t * p.probs_ld : nullptr;
  float* dlogits = p.dlogits + t * p.dlogits_ld;
  Slot first = lane < p.K ? load_slot(p, t, lane) : Slot{-1, 0, 0};

  float shift = 0, divisor = 1, dot = 0;
  if (p.renormalize) {
    float sum = 0;
    for (int k = lane; k < p.K; k += 32) sum += k < 32 ? first.u : load_slot(p, t, k).u;
    divisor = warp_sum(sum) + p.norm_eps;
  }
  if (lane < p.K) scale_slot(p, t, lane, divisor, first);
  const auto slot_of = [&](int k) {
    if (k < 32) return first;
    Slot slot = load_slot(p, t, k);
    scale_slot(p, t, k, divisor, slot);
    return slot;
  };
  if (p.renormalize) {
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

// Score 3, K <= 32: probs are the logits; lane k has slot k.
__global__ void __launch_bounds__(32 * kWarps) route_backward_mixer(const EarlyStart early, const BackwardParams p) {
  early.wait();
  const int lane = threadIdx.x % 32;
  const int64_t t = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32;
  if (t >= p.T) return;
  const float* z = p.probs + t * p.probs_ld;
  float* dlogits = p.dlogits + t * p.dlogits_ld;
  Slot slot = lane < p.K ? load_slot(p, t, lane) : Slot{-1, 0, 0};
  const float m = slot.id >= 0 ? z[slot.id] : 0.0f;
  // f(k, its id, its logit) for the slots whose softmax expert e is in: up to the one that takes it.
  const auto each = [&](int e, auto f) {
    bool left = e < p.E;
    for (int k = 0; k < p.K; k++) {
      const int id = __shfl_sync(kFullWarp, slot.id, k);
      const float top = __shfl_sync(kFullWarp, m, k);
      f(k, id, left && id >= 0 && near_logit(top, e < p.E ? z[e] : 0.0f, p.near_limit) ? expf(z[e] - top) : 0.0f);
      left = left && e != id;
    }
  };
  for (int k = 0; k < p.K; k++) {
    float sum = 0;
    for (int e0 = 0; e0 < p.E; e0 += 32) each(e0 + lane, [&](int j, int, float power) { sum += j == k ? power : 0.0f; });
    sum = warp_sum(sum);
    if (lane == k && slot.id >= 0) slot.u = 1.0f / sum;
  }
  float divisor = 1, shift = 0;
  if (p.renormalize) divisor = warp_sum(slot.u) + p.norm_eps;
  if (lane < p.K) scale_slot(p, t, lane, divisor, slot);
  if (p.renormalize) shift = warp_sum(slot.du * (slot.u / divisor));
  const float g = (slot.du - shift) / divisor * slot.u;
  for (int e0 = 0; e0 < p.E; e0 += 32) {
    const int e = e0 + lane;
    float d = 0;
    each(e, [&](int k, int id, float power) {
      const float gk = __shfl_sync(kFullWarp, g, k), u = __shfl_sync(kFullWarp, slot.u, k);
      d += gk * ((e == id ? 1.0f : 0.0f) - power * u);
    });
    if (e < p.E) dlogits[e] = d;
  }
}

// dense = 1: dweights of all experts, a lane for every 32nd; see the contract. share is [T, E] here.
__global__ void __launch_bounds__(32 * kWarps) route_backward_dense(const EarlyStart early, const BackwardParams p) {
  early.wait();
  const int lane = threadIdx.x % 32;
  const int64_t t = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32;
  if (t >= p.T) return;
  const float* probs = p.probs + t * p.probs_ld;
  const float* dw = p.dweights + t * p.dweights_ld;
  float* dlogits = p.dlogits + t * p.dlogits_ld;
  const bool divided = p.renormalize || p.score == 2;
  const float factor = p.score == 2 && p.renormalize ? p.scale / (1.0f + p.norm_eps) : p.scale;
  float top = 0, total = 1;
  if (p.score == 2) {
    top = -__builtin_inff(), total = 0;
    for (int e = lane; e < p.E; e += 32) top = fmaxf(top, probs[e]);
    top = warp_max(top);
    for (int e = lane; e < p.E; e += 32) total += expf(probs[e] - top);
    total = warp_sum(total);
  }
  const auto score = [&](int e) { return p.score == 2 ? expf(probs[e] - top) / total : probs[e]; };
  const auto scaled = [&](int e) { return factor * scale_at(p.expert_scale, e) * dw[e]; };
  // A chosen expert, or −1 where its index is bad.
  const auto chosen = [&](int k) {
    const int32_t id = p.ids[t * p.ids_ld + k];
    return p.id_check.ok(t * p.K + k, id) ? id : -1;
  };
  float sum = 1, dot = 0, among = 0;
  if (divided) {
    sum = 0;
    for (int k = lane; k < p.K; k += 32) {
      const int id = chosen(k);
      if (id < 0) continue;
      const float s = score(id);
      sum += s, dot += scaled(id) * s;
    }
    among = warp_sum(sum);
    sum = among + (p.score == 2 ? 0.0f : p.norm_eps);
    dot = warp_sum(dot) / sum;
  }
  float all = 0;
  if (p.score != 1) {
    for (int e = lane; e < p.E; e += 32) all += score(e) * scaled(e);
    all = warp_sum(all) - dot * among;
  }
  const auto gradient = [&](int e, float less) {
    const float s = score(e), d = scaled(e) - less;
    return p.score == 1 ? s * (1.0f - s) * d / sum : s * (d - all) / sum;
  };
  for (int e = lane; e < p.E; e += 32) {
    dlogits[e] = gradient(e, 0.0f);
    if (p.share) p.share[t * p.E + e] = p.scale * dw[e] * score(e) / sum;
  }
  if (!divided) return;
  __syncwarp();  // the chosen lie in elements that other lanes have just written
  for (int k = lane; k < p.K; k += 32) {
    const int id = chosen(k);
    if (id >= 0) dlogits[id] = gradient(id, dot);
  }
}

struct ScaleSumParams {
  const float* share;
  const int32_t* ids;
  float* sum;
  int64_t slots, ids_ld;
  int32_t K;
  bool accumulate;
  bool dense;  // slots are [T, E], their expert is their place; K is E
};

// dexpert_scale of one expert per block: its slots' shares in a fixed order.
__global__ void __launch_bounds__(kSumThreads) sum_shares(const EarlyStart early, const ScaleSumParams p) {
  early.wait();
  ESFT_SHARED(smem);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < p.slots; i += kSumThreads)
    if ((p.dense ? int(i % p.K) : p.ids[i / p.K * p.ids_ld + i % p.K]) == int(blockIdx.x)) sum += p.share[i];
  sum = block_sum(sum, reinterpret_cast<float*>(smem));
  if (threadIdx.x == 0) p.sum[blockIdx.x] = (p.accumulate ? p.sum[blockIdx.x] : 0.0f) + sum;
}

}  // namespace

void run_route_backward(const esft_route_backward_args& a, Context& c) {
  BackwardParams p{};
  p.dweights = data<float>(a.dweights);
  p.pos = present(a.pos) ? data<int32_t>(a.pos) : nullptr;
  p.probs = present(a.probs) && (a.score != 2 || a.dense) ? data<float>(a.probs) : nullptr;
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
  p.near_limit = float(2 * a.jitter), p.expert_scale = expert_scale_of(a.expert_scale);
  const int64_t slots = p.T * (a.dense ? p.E : p.K);
  p.share = present(a.dexpert_scale) ? c.scratch_of<float>(slots) : nullptr;
  const dim3 grid(unsigned(ceil_div(p.T, kWarps)));
  if (p.T > 0 && p.score == 3) ESFT_LAUNCH((route_backward_mixer), c, grid, 32 * kWarps, 0, p);
  if (p.T > 0 && a.dense) ESFT_LAUNCH((route_backward_dense), c, grid, 32 * kWarps, 0, p);
  if (p.T > 0 && p.score != 3 && !a.dense) ESFT_LAUNCH((route_backward), c, grid, 32 * kWarps, 0, p);
  if (!present(a.dexpert_scale)) return;
  const int32_t per_token = a.dense ? p.E : p.K;
  const ScaleSumParams sums{p.share,           p.ids,       data<float>(a.dexpert_scale), slots, p.ids_ld, per_token,
                            a.accumulate != 0, a.dense != 0};
  ESFT_LAUNCH((sum_shares), c, dim3(unsigned(p.E)), kSumThreads, kSumThreads / 32 * sizeof(float), sums);
}

}  // namespace esft::cuda
