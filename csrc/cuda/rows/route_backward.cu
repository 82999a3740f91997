// route_backward: one warp per token, a lane per chosen expert; the row of dlogits is written whole, then the chosen in it. Bound by
// bytes: 4·T·E written, and read too for softmax over all experts.
#include "../host/launch.h"
#include "../reduce.cuh"
#include "index_check.cuh"

namespace esft::cuda {

namespace {

constexpr int kWarps = 4;  // tokens per block

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
__global__ void __launch_bounds__(32 * kWarps) route_backward(const EarlyStart early, const BackwardParams p) {
  early.wait();
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
