// topk_route: a token's E scores fit in a few vectors, so each step is a sweep over one padded row in L1: maximum, exp, sum,
// then K selection sweeps (find the largest, take the first lane that has it, strike it out). Exact ties therefore go to the
// lower id without any comparison of ids. Scratch rows are padded to whole vectors; a struck-out or padding lane is NaN,
// which no comparison selects, so that -inf stays a legal choice.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

constexpr float kInf = __builtin_inff(), kNaN = __builtin_nanf("");

// Largest of n (whole vectors) values, lowest index first; the value is struck out. Some value must be a number.
int64_t take_largest(float* c, int64_t n) {
  vi lanes;
  for (int i = 0; i < W; i++) lanes[i] = i;
  vf top = splat(-kInf);
  for (int64_t i = 0; i < n; i += W) top = vmax(load(c + i), top);
  const vf best = splat(hmax(top));
  for (int64_t block = 0; block < n; block += 64) {  // no branch inside: the place of the largest is not predictable
    uint64_t found = 0;
    for (int64_t i = block; i < min_of(n, block + 64); i += W) found |= uint64_t(lane_bits(load(c + i) == best)) << (i - block);
    if (!found) continue;
    const int64_t index = block + __builtin_ctzll(found), first = index / W * W;
    store(c + first,
          select(lanes == int32_t(index - first), splat(kNaN), load(c + first)));  // whole, so that the next load forwards
    return index;
  }
  return 0;
}

// Copies n values and pads with `pad` to whole vectors.
void copy_padded(float* y, const float* x, int64_t n, float pad) {
  memcpy(y, x, n * 4);
  for (int64_t i = n; i < round_up(n, W); i++) y[i] = pad;
}

// x := exp(x − max x), returns the sum. Padding of -inf contributes nothing.
float exp_row(float* x, int64_t n) {
  vf top = splat(-kInf), sum = {};
  for (int64_t i = 0; i < n; i += W) top = vmax(load(x + i), top);
  const vf shift = splat(hmax(top));
  for (int64_t i = 0; i < n; i += W) {
    const vf e = vexp(load(x + i) - shift);
    store(x + i, e);
    sum += e;
  }
  return hsum(sum);
}

void softmax_row(float* x, int64_t n) {
  const vf sum = splat(exp_row(x, n));
  for (int64_t i = 0; i < n; i += W) store(x + i, load(x + i) / sum);
}

// Score 3: 1 in the lanes of z that are near m, the largest of those left: (m − z) / max(|z|, m) <= limit. NaN lanes are taken.
ESFT_INLINE vi near(vf z, vf m, float limit) { return ~((m - z) / vmax(vmax(z, -z), m) > splat(limit)) & (z == z); }

// Sum of exp(z − m) over them; n whole vectors.
float near_sum(const float* z, int64_t n, float m, float limit) {
  vf sum = {};
  for (int64_t i = 0; i < n; i += W) {
    const vf v = load(z + i);
    sum += select(near(v, splat(m), limit), vexp(v - splat(m)), vf{});
  }
  return hsum(sum);
}

// Element i of a vector of f32 or bf16.
ESFT_INLINE float float_at(const esft_tensor& t, int64_t i) {
  return t.dtype == ESFT_BF16 ? bf16_to_f32(data<uint16_t>(t)[i]) : data<float>(t)[i];
}

struct Router {
  const esft_topk_route_args& a;
  int64_t E, K, padded, groups;

  // Floats of scratch: scores, choices, the K chosen, group scores.
  int64_t scratch() const { return 2 * padded + round_up(K, W) + round_up(groups, W); }

  // Strikes the experts of all but the best groups from the choices.
  void limit_groups(float* c, float* group_score) const {
    const int64_t size = E / groups;
    for (int64_t g = 0; g < groups; g++) {
      float best = -kInf, second = -kInf;
      for (int64_t i = g * size; i < (g + 1) * size; i++) {
        const float low = c[i] < best ? c[i] : best;
        second = low > second ? low : second;
        best = c[i] > best ? c[i] : best;
      }
      group_score[g] = a.group_score == 1 && size > 1 ? best + second : best;
    }
    const int64_t n = round_up(groups, W);
    for (int64_t g = groups; g < n; g++) group_score[g] = kNaN;
    for (int64_t i = 0; i < a.topk_group; i++) take_largest(group_score, n);
    const float dropped = a.drop == 1 ? -kInf : 0.0f;
    for (int64_t g = 0; g < groups; g++)
      if (group_score[g] == group_score[g])  // not taken
        for (int64_t i = g * size; i < (g + 1) * size; i++) c[i] = dropped;
  }

  // False if a logit is not finite.
  bool route(int64_t t, float* s) const {
    float *c = s + padded, *chosen = c + padded, *group_score = chosen + round_up(K, W);
    const float* logits = row_of<float>(a.logits, t);
    copy_padded(s, logits, E, -kInf);
    vf zero = {};
    for (int64_t i = 0; i + W <= E; i += W) zero += load(s + i) - load(s + i);
    for (int64_t i = E - E % W; i < E; i++) zero[0] += s[i] - s[i];
    if (hsum(zero) != 0.0f) return false;

    if (a.score == 0) softmax_row(s, padded);
    if (a.score == 1)
      for (int64_t i = 0; i < padded; i += W) store(s + i, vsigmoid(load(s + i)));
    if (present(a.probs)) memcpy(row_of<float>(a.probs, t), s, E * 4);

    copy_padded(c, a.score == 1 && groups == 1 && !present(a.bias) ? logits : s, E, kNaN);
    if (present(a.bias)) {
      const float* bias = data<float>(a.bias);
      int64_t i = 0;
      for (; i + W <= E; i += W) store(c + i, load(c + i) + load(bias + i));
      for (; i < E; i++) c[i] += bias[i];
    }
    if (groups > 1) limit_groups(c, group_score);

    int32_t* ids = row_of<int32_t>(a.ids, t);
    float* weights = row_of<float>(a.weights, t);
    for (int64_t k = 0; k < K; k++) {
      ids[k] = int32_t(take_largest(c, padded));
      chosen[k] = s[ids[k]];
      if (a.score == 3) chosen[k] = 1.0f / (1.0f + near_sum(c, padded, chosen[k], float(2 * a.jitter)));
    }
    if (a.score == 2) {
      for (int64_t k = K; k < round_up(K, W); k++) chosen[k] = -kInf;
      softmax_row(chosen, round_up(K, W));
    }
    float sum = 0;
    for (int64_t k = 0; k < K; k++) sum += chosen[k];
    const float factor = float(a.scale), divisor = a.renormalize ? sum + float(a.norm_eps) : 1.0f;
    for (int64_t k = 0; k < K; k++) {
      weights[k] = chosen[k] / divisor * factor;
      if (present(a.expert_scale)) weights[k] *= float_at(a.expert_scale, ids[k]);
    }
    return true;
  }
};

void check_bias(const esft_tensor& bias) {
  const float* b = data<float>(bias);
  for (int64_t e = 0; e < numel(bias); e++)
    if (!__builtin_isfinite(b[e]))
      fail_with(ESFT_BAD_ARGUMENT, "topk_route", "bias", "bias[%lld] must be finite, received %g", (long long)e, double(b[e]));
}

[[noreturn]] void fail_token(const esft_topk_route_args& a, int64_t t) {
  const float* logits = row_of<float>(a.logits, t);
  int64_t e = 0;
  while (__builtin_isfinite(logits[e])) e++;
  fail_with(ESFT_BAD_ARGUMENT, "topk_route", "logits", "logits[%lld, %lld] must be finite, received %g (token %lld)", (long long)t,
            (long long)e, double(logits[e]), (long long)t);
}

}  // namespace

void topk_route(const esft_topk_route_args& a, Context& ctx) {
  const int64_t T = rows(a.logits), E = cols(a.logits), K = cols(a.ids);
  if (T == 0 || E == 0) return;
  if (present(a.bias)) check_bias(a.bias);
  const Router router{a, E, K, round_up(E, W), max_of(a.n_group, 1)};
  const int64_t work = 16 * E, chunk = rows_per_task(work);
  // The first bad token of each chunk: the error names the lowest one, whichever thread met its own first.
  int64_t* bad = static_cast<int64_t*>(ctx.shared_scratch(ceil_div(T, chunk) * 8));
  for_chunks(ctx, T, chunk, work, [&](int64_t begin, int64_t end, int worker) {
    float* scratch = static_cast<float*>(ctx.worker_scratch(worker, router.scratch() * 4));
    int64_t t = begin;
    while (t < end && router.route(t, scratch)) t++;
    bad[begin / chunk] = t < end ? t : -1;
  });
  for (int64_t c = 0; c < ceil_div(T, chunk); c++)
    if (bad[c] >= 0) fail_token(a, bad[c]);
}

namespace {

// dlogits of score 3: the softmax of slot k is over what was left before it and is near its logit.
void mixer_gradient(float* dlogits, const float* z, float* left, const int32_t* ids, const float* u, const float* du, float limit,
                    int64_t E, int64_t K) {
  copy_padded(left, z, E, kNaN);
  memset(dlogits, 0, E * 4);
  for (int64_t k = 0; k < K; k++) {
    const float m = z[ids[k]], g = u[k] * du[k];
    const vf top = splat(m), by = splat(g * u[k]);
    map(dlogits, E, false, [=](int64_t i, int64_t n) ESFT_LAMBDA {
      const vf v = load(left + i);  // padded to whole vectors
      return load_n(dlogits + i, n) - select(near(v, top, limit), vexp(v - top) * by, vf{});
    });
    dlogits[ids[k]] += g;
    left[ids[k]] = kNaN;
  }
}

// dexpert_scale (+)= Σ of the slots' shares, in their order.
void add_shares(const esft_route_backward_args& a, const float* share, double* sum) {
  const int64_t T = rows(a.ids), K = cols(a.ids), E = numel(a.dexpert_scale);
  float* to = data<float>(a.dexpert_scale);
  for (int64_t e = 0; e < E; e++) sum[e] = a.accumulate ? double(to[e]) : 0.0;
  for (int64_t t = 0; t < T; t++)
    for (int64_t k = 0; k < K; k++) sum[row_of<int32_t>(a.ids, t)[k]] += double(share[t * K + k]);
  for (int64_t e = 0; e < E; e++) to[e] = float(sum[e]);
}

// dense = 1: dweights of all experts; see the contract. share [T, E] of dexpert_scale, or nullptr.
void dense_backward(const esft_route_backward_args& a, float* share, Context& ctx) {
  const int64_t T = rows(a.dlogits), E = cols(a.dlogits), K = cols(a.ids), padded = round_up(E, W);
  const float eps = float(a.norm_eps), scale = float(a.scale);
  const float factor = a.score == 2 && a.renormalize ? scale / (1.0f + eps) : scale;
  const bool divided = a.renormalize || a.score == 2, scaled = present(a.expert_scale), sigmoid = a.score == 1;
  for_rows(ctx, T, 4 * E + 16 * K, [&](int64_t begin, int64_t end, int worker) {
    float* s = static_cast<float*>(ctx.worker_scratch(worker, (3 * padded) * 4));
    float* f = s + padded;   // factor of each expert
    float* du = f + padded;  // f · dw, then its gradient before softmax or sigmoid
    for (int64_t i = 0; i < padded; i++) f[i] = i >= E ? 0.0f : scaled ? factor * float_at(a.expert_scale, i) : factor;
    for (int64_t t = begin; t < end; t++) {
      const int32_t* ids = row_of<int32_t>(a.ids, t);
      copy_padded(s, row_of<float>(a.probs, t), E, a.score == 2 ? -kInf : 0.0f);
      copy_padded(du, row_of<float>(a.dweights, t), E, 0.0f);
      if (a.score == 2) softmax_row(s, padded);
      float sum = divided ? (a.score == 2 ? 0.0f : eps) : 1.0f, dot = 0;
      for (int64_t k = 0; divided && k < K; k++) sum += s[ids[k]];
      const float inverse = 1.0f / sum;
      if (share)
        map(share + t * E, E, false,
            [=](int64_t i, int64_t) ESFT_LAMBDA { return splat(scale * inverse) * load(du + i) * load(s + i); });
      for (int64_t k = 0; divided && k < K; k++) dot += f[ids[k]] * du[ids[k]] * (s[ids[k]] * inverse);
      for (int64_t i = 0; i < padded; i += W) store(du + i, load(f + i) * load(du + i));
      for (int64_t k = 0; divided && k < K; k++) du[ids[k]] -= dot;
      vf all = {};
      if (!sigmoid)
        for (int64_t i = 0; i < padded; i += W) all += load(s + i) * load(du + i);
      const vf mean = splat(hsum(all)), by = splat(inverse);
      map(row_of<float>(a.dlogits, t), E, false, [=](int64_t i, int64_t) ESFT_LAMBDA {
        const vf v = load(s + i), d = load(du + i);
        return sigmoid ? v * (splat(1.0f) - v) * d * by : v * (d - mean) * by;
      });
    }
  });
}

// dexpert_scale (+)= Σ over tokens of share [T, E], in their order.
void add_dense_shares(const esft_route_backward_args& a, const float* share, double* sum) {
  const int64_t T = rows(a.ids), E = numel(a.dexpert_scale);
  float* to = data<float>(a.dexpert_scale);
  for (int64_t e = 0; e < E; e++) sum[e] = a.accumulate ? double(to[e]) : 0.0;
  for (int64_t t = 0; t < T; t++)
    for (int64_t e = 0; e < E; e++) sum[e] += double(share[t * E + e]);
  for (int64_t e = 0; e < E; e++) to[e] = float(sum[e]);
}

}  // namespace

// With r = s[ids] / (Σ s[ids] + eps):  ds[k] = scale · (dw[k] − Σ dw·r) / (Σ s + eps);  without renormalisation scale · dw[k].
// Softmax over E: dlogits = s · (ds − Σ s·ds), where ds is zero beside the K chosen; sigmoid: ds · s · (1 − s).
// Score 2 is the softmax over the chosen K, read back from the weights; score 3 one for each k over the logits near it.
void route_backward(const esft_route_backward_args& a, Context& ctx) {
  const int64_t T = rows(a.dlogits), E = cols(a.dlogits), K = cols(a.ids);
  if (T == 0) {
    if (present(a.dexpert_scale) && !a.accumulate) memset(data<float>(a.dexpert_scale), 0, E * 4);
    return;
  }
  check_indices("route_backward", "ids", a.ids, E);
  const bool sorted = present(a.pos);
  if (sorted) check_indices("route_backward", "pos", a.pos, numel(a.dweights));
  const float scale = float(a.scale), eps = float(a.norm_eps), limit = float(2 * a.jitter);
  const int64_t padded = round_up(E, W);
  const bool scaled = present(a.expert_scale), wants_scale = present(a.dexpert_scale);
  if (a.dense) {
    float* share = wants_scale ? static_cast<float*>(ctx.shared_scratch(round_up(T * E, 2) * 4 + E * 8)) : nullptr;
    dense_backward(a, share, ctx);
    if (wants_scale) add_dense_shares(a, share, reinterpret_cast<double*>(share + round_up(T * E, 2)));
    return;
  }
  // What each slot adds to dexpert_scale, and the sums.
  float* share = wants_scale ? static_cast<float*>(ctx.shared_scratch(round_up(T * K, 2) * 4 + E * 8)) : nullptr;
  const bool nt = streams(a.dlogits);
  for_rows(ctx, T, E + 16 * K, [&](int64_t begin, int64_t end, int worker) {
    float* s_K = static_cast<float*>(ctx.worker_scratch(worker, (2 * K + padded) * 4 + 64));
    float* ds_K = s_K + K;
    float* left = ds_K + K;  // score 3: logits of the experts that are left, NaN where taken
    for (int64_t t = begin; t < end; t++) {
      const int32_t* ids = row_of<int32_t>(a.ids, t);
      const float* weights = row_of<float>(a.weights, t);
      const float* probs = a.score == 2 ? nullptr : row_of<float>(a.probs, t);
      float* dlogits = row_of<float>(a.dlogits, t);
      float sum = 0, back = scale == 0 ? 0.0f : (a.renormalize ? 1.0f + eps : 1.0f) / scale;
      if (a.score == 3) copy_padded(left, probs, E, kNaN);
      for (int64_t k = 0; k < K; k++) {
        s_K[k] = probs ? probs[ids[k]] : weights[k] * back;
        if (a.score == 3) {
          left[ids[k]] = kNaN;
          s_K[k] = 1.0f / (1.0f + near_sum(left, padded, s_K[k], limit));
        }
        ds_K[k] = scale * (sorted ? data<float>(a.dweights)[row_of<int32_t>(a.pos, t)[k]] : row_of<float>(a.dweights, t)[k]);
        sum += s_K[k];
      }
      for (int64_t k = 0; scaled && k < K; k++) {
        if (share) share[t * K + k] = ds_K[k] * (a.renormalize ? s_K[k] / (sum + eps) : s_K[k]);
        ds_K[k] *= float_at(a.expert_scale, ids[k]);
      }
      if (a.renormalize) {
        float dot = 0;
        for (int64_t k = 0; k < K; k++) dot += ds_K[k] * (s_K[k] / (sum + eps));
        for (int64_t k = 0; k < K; k++) ds_K[k] = (ds_K[k] - dot) / (sum + eps);
      }
      if (a.score == 3) {
        mixer_gradient(dlogits, probs, left, ids, s_K, ds_K, limit, E, K);
        continue;
      }
      float dot = 0;
      if (a.score != 1)
        for (int64_t k = 0; k < K; k++) dot += s_K[k] * ds_K[k];
      if (a.score == 0)
        map(dlogits, E, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA { return splat(-dot) * load_n(probs + i, m); });
      else
        map(dlogits, E, nt, [=](int64_t, int64_t) ESFT_LAMBDA { return vf{}; });
      for (int64_t k = 0; k < K; k++)
        dlogits[ids[k]] += s_K[k] * (a.score == 0 ? ds_K[k] : a.score == 1 ? ds_K[k] * (1.0f - s_K[k]) : ds_K[k] - dot);
    }
    stream_fence();
  });
  if (wants_scale) add_shares(a, share, reinterpret_cast<double*>(share + round_up(T * K, 2)));
}

}  // namespace esft::cpu::ESFT_ISA
