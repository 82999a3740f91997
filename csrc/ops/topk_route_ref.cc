// Routing as written in the contract. Scores are rounded to f32 before they are compared: ties are part of the meaning.
#include <algorithm>
#include <limits>
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// softmax(z) of n values in f32 steps: the row maximum subtracted, then normalised.
void softmax(const float* z, int64_t n, float* out) {
  float top = -kInf;
  for (int64_t i = 0; i < n; i++) top = std::max(top, z[i]);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += std::exp(double(z[i] - top));
  for (int64_t i = 0; i < n; i++) out[i] = float(std::exp(double(z[i] - top)) / sum);
}

// The largest value not taken yet (the lower index on ties), which then is. -inf may be a value: it does not mean taken.
size_t take_best(const std::vector<float>& v, std::vector<char>& taken) {
  size_t best = v.size();
  for (size_t i = 0; i < v.size(); i++)
    if (!taken[i] && (best == v.size() || v[i] > v[best])) best = i;
  taken.at(best) = 1;
  return best;
}

// Score 3: is the logit z near m, the largest of those that are left? All of them are finite.
bool near(float m, float z, double jitter) { return !((m - z) / std::max(std::fabs(z), m) > float(2 * jitter)); }

// The mask of the experts that score 3's softmax of slot k is over.
std::vector<char> near_of(const float* z, int64_t E, const int32_t* ids, int64_t k, double jitter) {
  std::vector<char> kept(E);
  for (int64_t e = 0; e < E; e++) kept[e] = near(z[ids[k]], z[e], jitter);
  for (int64_t j = 0; j < k; j++) kept[ids[j]] = 0;
  return kept;
}
double softmax_at(const float* z, int64_t E, int32_t id, const std::vector<char>& kept) {
  double sum = 0;
  for (int64_t e = 0; e < E; e++)
    if (kept[e]) sum += std::exp(double(z[e]) - z[id]);
  return 1 / sum;
}

}  // namespace

void ref_topk_route(const esft_topk_route_args& a) {
  const int64_t T = rows(a.logits), E = cols(a.logits), K = cols(a.ids), size = E / a.n_group;
  for (int64_t t = 0; t < T; t++)
    for (int64_t e = 0; e < E; e++)
      if (!std::isfinite(f32_row(a.logits, t)[e]))
        fail_status(ESFT_BAD_ARGUMENT, "topk_route", "logits",
                    format("logits[%lld, %lld] must be finite, received %g (token %lld)", (long long)t, (long long)e,
                           f32_row(a.logits, t)[e], (long long)t));
  for (int64_t e = 0; present(a.bias) && e < E; e++)
    if (!std::isfinite(data<float>(a.bias)[e]))
      fail_status(ESFT_BAD_ARGUMENT, "topk_route", "bias",
                  format("bias[%lld] must be finite, received %g", (long long)e, data<float>(a.bias)[e]));

  std::vector<float> s(E), choice(E), group(a.n_group), chosen(K), w(K);
  for (int64_t t = 0; t < T; t++) {
    const float* z = f32_row(a.logits, t);
    if (a.score == 0) softmax(z, E, s.data());
    for (int64_t e = 0; e < E; e++) {
      if (a.score == 1) s[e] = float(sigmoid(z[e]));
      if (a.score >= 2) s[e] = z[e];
      choice[e] = present(a.bias) ? s[e] + data<float>(a.bias)[e] : a.score == 1 && a.n_group == 1 ? z[e] : s[e];
      if (present(a.probs)) f32_row(a.probs, t)[e] = s[e];
    }
    if (a.n_group > 1) {
      for (int64_t g = 0; g < a.n_group; g++) {
        std::vector<float> c(choice.begin() + g * size, choice.begin() + (g + 1) * size);
        std::sort(c.begin(), c.end(), [](float x, float y) { return x > y; });
        group[g] = a.group_score == 0 ? c[0] : c[0] + c[1];
      }
      std::vector<char> kept(a.n_group, 0);
      for (int64_t i = 0; i < a.topk_group; i++) take_best(group, kept);
      for (int64_t e = 0; e < E; e++)
        if (!kept[e / size]) choice[e] = a.drop ? -kInf : 0.0f;
    }
    std::vector<char> taken(E, 0);
    for (int64_t k = 0; k < K; k++) {
      const size_t best = take_best(choice, taken);
      data<int32_t>(a.ids)[t * a.ids.ld + k] = int32_t(best);
      chosen[k] = s[best];
    }
    const int32_t* ids = data<int32_t>(a.ids) + t * a.ids.ld;
    if (a.score == 2)
      softmax(chosen.data(), K, w.data());
    else if (a.score == 3)
      for (int64_t k = 0; k < K; k++) w[k] = float(softmax_at(z, E, ids[k], near_of(z, E, ids, k, a.jitter)));
    else
      w = chosen;
    double sum = a.norm_eps;
    for (int64_t k = 0; k < K; k++) sum += w[k];
    for (int64_t k = 0; k < K; k++) {
      const double by = present(a.expert_scale) ? a.scale * vat(a.expert_scale, ids[k]) : a.scale;
      f32_row(a.weights, t)[k] = float((a.renormalize ? w[k] / sum : double(w[k])) * by);
    }
  }
}

namespace {

// One token of dense = 1; dscale [E] gets its share of the gradient of expert_scale.
void dense_backward(const esft_route_backward_args& a, int64_t t, std::vector<double>& dscale) {
  const int64_t E = cols(a.dlogits), K = cols(a.ids);
  std::vector<double> s(E), f(E), ds(E);
  std::vector<char> chosen(E, 0);
  for (int64_t k = 0; k < K; k++) chosen[i32_at(a.ids, t, k)] = 1;
  const float* probs = f32_row(a.probs, t);
  double top = -kInf, total = 0;
  for (int64_t e = 0; e < E; e++) top = std::max(top, double(probs[e]));
  for (int64_t e = 0; e < E; e++) total += std::exp(double(probs[e]) - top);
  for (int64_t e = 0; e < E; e++) {
    s[e] = a.score == 2 ? std::exp(double(probs[e]) - top) / total : double(probs[e]);
    f[e] = a.scale * (present(a.expert_scale) ? vat(a.expert_scale, e) : 1);
    if (a.score == 2 && a.renormalize) f[e] /= 1 + a.norm_eps;
  }
  const bool divided = a.renormalize || a.score == 2;
  double sum = divided ? (a.score == 2 ? 0 : a.norm_eps) : 1, dot = 0;
  for (int64_t e = 0; divided && e < E; e++) sum += chosen[e] ? s[e] : 0;
  const float* dw = f32_row(a.dweights, t);
  for (int64_t e = 0; divided && e < E; e++) dot += chosen[e] ? f[e] * dw[e] * s[e] / sum : 0;
  for (int64_t e = 0; e < E; e++) {
    ds[e] = (f[e] * dw[e] - (chosen[e] ? dot : 0)) / sum;
    dscale[e] += a.scale * dw[e] * s[e] / sum;
  }
  double all = 0;
  for (int64_t e = 0; e < E; e++) all += s[e] * ds[e];
  for (int64_t e = 0; e < E; e++) f32_row(a.dlogits, t)[e] = float(a.score == 1 ? s[e] * (1 - s[e]) * ds[e] : s[e] * (ds[e] - all));
}

}  // namespace

// u = s[ids] (score 2, 3: softmax over the chosen logits, over those near), w = scale · u or scale · u / (Σu + eps), times expert_scale.
void ref_route_backward(const esft_route_backward_args& a) {
  const int64_t T = rows(a.dlogits), E = cols(a.dlogits), K = cols(a.ids);
  check_indices("route_backward", "ids", a.ids, E);
  if (present(a.pos)) check_indices("route_backward", "pos", a.pos, T * K);
  std::vector<double> u(K), du(K), dscale(E, 0.0);
  for (int64_t t = 0; t < T; t++) {
    if (a.dense) {
      dense_backward(a, t, dscale);
      continue;
    }
    const float* w = f32_row(a.weights, t);
    float* dlogits = f32_row(a.dlogits, t);
    double sum = a.norm_eps;
    for (int64_t k = 0; k < K; k++) {
      const int32_t* ids = data<int32_t>(a.ids) + t * a.ids.ld;
      const float* s = present(a.probs) ? f32_row(a.probs, t) : nullptr;
      if (a.score == 3)
        u[k] = softmax_at(s, E, ids[k], near_of(s, E, ids, k, a.jitter));
      else if (a.score != 2)
        u[k] = f32_row(a.probs, t)[i32_at(a.ids, t, k)];
      else
        u[k] = a.scale == 0 ? 0 : w[k] / a.scale * (a.renormalize ? 1 + a.norm_eps : 1);
      sum += u[k];
      const float dw = present(a.pos) ? data<float>(a.dweights)[i32_at(a.pos, t, k)] : f32_row(a.dweights, t)[k];
      du[k] = a.scale * dw;
    }
    for (int64_t k = 0; present(a.expert_scale) && k < K; k++) {
      const int32_t id = i32_at(a.ids, t, k);
      dscale[id] += du[k] * (a.renormalize ? u[k] / sum : u[k]);
      du[k] *= vat(a.expert_scale, id);
    }
    if (a.renormalize) {  // d(u/sum) = du/sum − u·Σ(du·u)/sum²
      double dot = 0;
      for (int64_t k = 0; k < K; k++) dot += du[k] * u[k] / sum;
      for (int64_t k = 0; k < K; k++) du[k] = (du[k] - dot) / sum;
    }
    double dot = 0;  // Σ s·ds of the softmax backward; experts not chosen have ds = 0
    for (int64_t k = 0; k < K; k++) dot += u[k] * du[k];
    for (int64_t e = 0; e < E; e++) dlogits[e] = a.score == 0 ? float(-double(f32_row(a.probs, t)[e]) * dot) : 0.0f;
    if (a.score == 3) {
      std::vector<double> d(E, 0.0);
      const int32_t* ids = data<int32_t>(a.ids) + t * a.ids.ld;
      const float* z = f32_row(a.probs, t);
      for (int64_t k = 0; k < K; k++) {
        const std::vector<char> kept = near_of(z, E, ids, k, a.jitter);
        for (int64_t e = 0; e < E; e++)
          if (kept[e]) d[e] += du[k] * u[k] * ((e == ids[k]) - std::exp(double(z[e]) - z[ids[k]]) * u[k]);
      }
      for (int64_t e = 0; e < E; e++) dlogits[e] = float(d[e]);
      continue;
    }
    for (int64_t k = 0; k < K; k++) {
      float& d = dlogits[i32_at(a.ids, t, k)];
      if (a.score == 0) d = float(u[k] * (du[k] - dot));
      if (a.score == 1) d = float(u[k] * (1 - u[k]) * du[k]);
      if (a.score == 2) d = float(u[k] * (du[k] - dot));
    }
  }
  for (int64_t e = 0; present(a.dexpert_scale) && e < E; e++) {
    float& sum = data<float>(a.dexpert_scale)[e];
    sum = float((a.accumulate ? sum : 0.0) + dscale[e]);
  }
}

}  // namespace esft
