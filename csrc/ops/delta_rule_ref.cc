// gated_delta_rule token by token, its backward from all states, and the gates.
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

namespace {

double softplus(double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }

// One value head: its operands by token, normalised.
template <class Args>
struct Head {
  const Args& a;
  int64_t h, T = rows(a.q), dk = cols(a.q) / a.key_heads, dv = cols(a.v) / a.heads, key = h / (a.heads / a.key_heads);
  const int32_t* start = data<int32_t>(a.doc_start);
  bool opens(int64_t t) const { return start[t] == t; }
  double beta(int64_t t) const { return f32_row(a.beta, t)[h]; }
  double decay(int64_t t) const { return std::exp(double(f32_row(a.g, t)[h])); }
  double v(int64_t t, int64_t j) const { return at(a.v, t, h * dv + j); }
  // 1/√(Σ x² + eps) of this head's row of q or k.
  double rnorm(const esft_tensor& x, int64_t t) const {
    double sum = a.eps;
    for (int64_t i = 0; i < dk; i++) sum += double(at(x, t, key * dk + i)) * at(x, t, key * dk + i);
    return 1 / std::sqrt(sum);
  }
  std::vector<double> unit(const esft_tensor& x, int64_t t) const {
    std::vector<double> u(dk);
    const double r = rnorm(x, t);
    for (int64_t i = 0; i < dk; i++) u[i] = at(x, t, key * dk + i) * r;
    return u;
  }
  // S [dk, dv] ← S' (decayed, 0 at a document's start), then S; error = v − S'ᵀ k̂.
  void step(int64_t t, std::vector<double>& S, std::vector<double>& error, std::vector<double>* decayed = nullptr) const {
    if (opens(t)) S.assign(S.size(), 0);
    step_on(t, S, error, decayed);
  }
  // The same whatever the token opens.
  void step_on(int64_t t, std::vector<double>& S, std::vector<double>& error, std::vector<double>* decayed = nullptr) const {
    const std::vector<double> k = unit(a.k, t);
    for (double& s : S) s *= decay(t);
    if (decayed) *decayed = S;
    for (int64_t j = 0; j < dv; j++) {
      error[j] = v(t, j);
      for (int64_t i = 0; i < dk; i++) error[j] -= S[i * dv + j] * k[i];
    }
    for (int64_t i = 0; i < dk; i++)
      for (int64_t j = 0; j < dv; j++) S[i * dv + j] += k[i] * beta(t) * error[j];
  }
};

}  // namespace

void ref_gated_delta_rule(const esft_gated_delta_rule_args& a) {
  check_doc_start("gated_delta_rule", "doc_start", a.doc_start);
  check_documents("gated_delta_rule", "states", a.doc_start, a.states.count);
  for (int64_t h = 0; h < a.heads; h++) {
    const Head<esft_gated_delta_rule_args> w{a, h};
    std::vector<double> S(w.dk * w.dv, 0), error(w.dv);
    for (int64_t t = 0, document = -1; t < w.T; t++) {
      document += w.opens(t);
      float* state = a.states.count ? data<float>(a.states.items[document]) + h * w.dk * w.dv : nullptr;
      if (state && w.opens(t)) S.assign(state, state + w.dk * w.dv);
      if (state)
        w.step_on(t, S, error);
      else
        w.step(t, S, error);
      if (state && (t + 1 == w.T || w.opens(t + 1)))
        for (int64_t i = 0; i < w.dk * w.dv; i++) state[i] = float(S[i]);
      const std::vector<double> q = w.unit(a.q, t);
      for (int64_t j = 0; j < w.dv; j++) {
        double y = 0;
        for (int64_t i = 0; i < w.dk; i++) y += S[i * w.dv + j] * q[i];
        put(a.o, t, h * w.dv + j, y / std::sqrt(double(w.dk)));
      }
    }
  }
}

void ref_gated_delta_rule_backward(const esft_gated_delta_rule_backward_args& a) {
  check_doc_start("gated_delta_rule_backward", "doc_start", a.doc_start);
  const int64_t T = rows(a.q), dk = cols(a.q) / a.key_heads, dv = cols(a.v) / a.heads, C = cols(a.q);
  const double scale = 1 / std::sqrt(double(dk));
  std::vector<double> dq(T * C, 0), dkey(T * C, 0);  // of q̂ / scale and k̂
  for (int64_t h = 0; h < a.heads; h++) {
    const Head<esft_gated_delta_rule_backward_args> w{a, h};
    std::vector<std::vector<double>> S(T), decayed(T), error(T, std::vector<double>(dv));
    std::vector<double> state(dk * dv, 0), dS(dk * dv, 0), ddelta(dv);
    for (int64_t t = 0; t < T; t++) {
      w.step(t, state, error[t], &decayed[t]);
      S[t] = state;
    }
    for (int64_t t = T - 1; t >= 0; t--) {
      if (t + 1 == T || w.opens(t + 1)) dS.assign(dk * dv, 0);
      const std::vector<double> q = w.unit(a.q, t), k = w.unit(a.k, t);
      double* dq_t = &dq[t * C + w.key * dk];
      double* dk_t = &dkey[t * C + w.key * dk];
      const double beta = w.beta(t);
      ddelta.assign(dv, 0);
      for (int64_t i = 0; i < dk; i++)
        for (int64_t j = 0; j < dv; j++) {
          const double dout = at(a.dout, t, h * dv + j);
          dS[i * dv + j] += q[i] * scale * dout;
          dq_t[i] += S[t][i * dv + j] * scale * dout;
          ddelta[j] += dS[i * dv + j] * k[i];
          dk_t[i] += dS[i * dv + j] * beta * error[t][j];
        }
      double dbeta = 0, dg = 0;
      for (int64_t j = 0; j < dv; j++) {
        put(a.dv, t, h * dv + j, beta * ddelta[j]);
        dbeta += ddelta[j] * error[t][j];
      }
      for (int64_t i = 0; i < dk; i++)
        for (int64_t j = 0; j < dv; j++) {
          dk_t[i] -= beta * decayed[t][i * dv + j] * ddelta[j];
          dS[i * dv + j] -= beta * k[i] * ddelta[j];
          dg += dS[i * dv + j] * decayed[t][i * dv + j];
          dS[i * dv + j] *= w.decay(t);
        }
      f32_row(a.dbeta, t)[h] = float(dbeta);
      f32_row(a.dg, t)[h] = float(dg);
    }
  }
  // Through the norms: x̂ = x·r, dx = r·(dx̂ − x̂ ⟨x̂, dx̂⟩).
  for (int64_t key = 0; key < a.key_heads; key++) {
    const Head<esft_gated_delta_rule_backward_args> w{a, key * (a.heads / a.key_heads)};
    for (int64_t t = 0; t < T; t++) {
      auto through = [&](const esft_tensor& x, const esft_tensor& dx, const std::vector<double>& d) {
        const std::vector<double> u = w.unit(x, t);
        double dot = 0;
        for (int64_t i = 0; i < dk; i++) dot += u[i] * d[t * C + key * dk + i];
        for (int64_t i = 0; i < dk; i++) put(dx, t, key * dk + i, w.rnorm(x, t) * (d[t * C + key * dk + i] - u[i] * dot));
      };
      through(a.q, a.dq, dq);
      through(a.k, a.dk, dkey);
    }
  }
}

void ref_delta_gates(const esft_delta_gates_args& a) {
  for (int64_t t = 0; t < rows(a.b); t++)
    for (int64_t h = 0; h < cols(a.b); h++) {
      f32_row(a.beta, t)[h] = float(sigmoid(at(a.b, t, h)));
      f32_row(a.g, t)[h] = float(-std::exp(double(vat(a.a_log, h))) * softplus(double(at(a.a, t, h)) + vat(a.dt_bias, h)));
    }
}

void ref_delta_gates_backward(const esft_delta_gates_backward_args& a) {
  for (int64_t h = 0; h < cols(a.b); h++) {
    const double rate = std::exp(double(vat(a.a_log, h)));
    double da_log = 0, ddt_bias = 0;
    for (int64_t t = 0; t < rows(a.b); t++) {
      const double beta = sigmoid(at(a.b, t, h)), x = double(at(a.a, t, h)) + vat(a.dt_bias, h), dg = f32_row(a.dg, t)[h];
      const double da = -dg * rate * sigmoid(x);
      put(a.db, t, h, f32_row(a.dbeta, t)[h] * beta * (1 - beta));
      put(a.da, t, h, da);
      da_log -= dg * rate * softplus(x);
      ddt_bias += da;
    }
    if (present(a.da_log)) data<float>(a.da_log)[h] = float(data<float>(a.da_log)[h] + da_log);
    if (present(a.ddt_bias)) data<float>(a.ddt_bias)[h] = float(data<float>(a.ddt_bias)[h] + ddt_bias);
  }
}

}  // namespace esft
