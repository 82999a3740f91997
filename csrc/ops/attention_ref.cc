// Attention written out: per token and head, the scores of all visible keys and the sink, their softmax, the weighted values.
#include <algorithm>
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

namespace {

// Reads q, k, v of one (token, head) at the op's precision.
template <class Args>
struct View {
  const Args& a;
  int64_t dr = present(a.k_shared) ? cols(a.k_shared) : 0;
  int64_t dq = a.k_dim + dr;
  int64_t per_kv = a.heads / a.kv_heads;
  int64_t first(int64_t t) const {
    const int64_t s = data<int32_t>(a.doc_start)[t];
    return a.window ? std::max(s, t - a.window + 1) : s;
  }
  int64_t q_col(int64_t h, int64_t i) const { return h * dq + i; }
  int64_t k_col(int64_t h, int64_t i) const { return a.k_offset + h / per_kv * a.k_stride + i; }
  int64_t v_col(int64_t h, int64_t i) const { return a.v_offset + h / per_kv * a.v_stride + i; }
  double q(int64_t t, int64_t h, int64_t i) const { return operand(at(a.q, t, q_col(h, i)), a.precision); }
  double k(int64_t t, int64_t h, int64_t i) const {
    return operand(i < a.k_dim ? at(a.k, t, k_col(h, i)) : at(a.k_shared, t, i - a.k_dim), a.precision);
  }
  double v(int64_t t, int64_t h, int64_t i) const { return operand(at(a.v, t, v_col(h, i)), a.precision); }
  double score(int64_t t, int64_t j, int64_t h) const {
    double s = 0;
    for (int64_t i = 0; i < dq; i++) s += q(t, h, i) * k(j, h, i);
    return a.scale * s;
  }
  double sink(int64_t h) const { return present(a.sinks) ? vat(a.sinks, h) : -INFINITY; }
};

}  // namespace

void ref_attention(const esft_attention_args& a) {
  check_doc_start("attention", "doc_start", a.doc_start);
  const View<esft_attention_args> w{a};
  const int64_t T = rows(a.q);
  std::vector<double> s(T);
  for (int64_t t = 0; t < T; t++)
    for (int64_t h = 0; h < a.heads; h++) {
      const int64_t j0 = w.first(t);
      double top = w.sink(h), sum = 0;
      for (int64_t j = j0; j <= t; j++) top = std::max(top, s[j] = w.score(t, j, h));
      for (int64_t j = j0; j <= t; j++) sum += std::exp(s[j] - top);
      sum += std::exp(w.sink(h) - top);
      for (int64_t i = 0; i < a.v_dim; i++) {
        double y = 0;
        for (int64_t j = j0; j <= t; j++) y += operand(std::exp(s[j] - top), a.precision) * w.v(j, h, i);
        put(a.out, t, h * a.v_dim + i, y / sum);
      }
      if (present(a.lse)) f32_row(a.lse, t)[h] = float(top + std::log(sum));
    }
}

// With p the probabilities, dp = dout·vᵀ, ds = p·(dp − Δ):  dq = scale·ds·k,  dk = scale·dsᵀ·q,  dv = pᵀ·dout. The sink has dp = 0.
void ref_attention_backward(const esft_attention_backward_args& a) {
  check_doc_start("attention_backward", "doc_start", a.doc_start);
  const View<esft_attention_backward_args> w{a};
  const int64_t T = rows(a.q), dk_width = a.kv_heads * a.k_dim, dv_width = a.kv_heads * a.v_dim;
  std::vector<double> dq(T * a.heads * w.dq, 0), dk(T * dk_width, 0), dv(T * dv_width, 0), shared(T * w.dr, 0), dsinks(a.heads, 0);
  for (int64_t t = 0; t < T; t++)
    for (int64_t h = 0; h < a.heads; h++) {
      auto dout = [&](int64_t i) { return at(a.dout, t, h * a.v_dim + i); };
      const int64_t g = h / w.per_kv;
      double delta = 0;
      for (int64_t i = 0; i < a.v_dim; i++) delta += double(dout(i)) * at(a.out, t, h * a.v_dim + i);
      dsinks[h] -= std::exp(w.sink(h) - f32_row(a.lse, t)[h]) * delta;
      for (int64_t j = w.first(t); j <= t; j++) {
        const double p = std::exp(w.score(t, j, h) - f32_row(a.lse, t)[h]);
        double dp = 0;
        for (int64_t i = 0; i < a.v_dim; i++) {
          dp += operand(dout(i), a.precision) * w.v(j, h, i);
          dv[j * dv_width + g * a.v_dim + i] += operand(p, a.precision) * operand(dout(i), a.precision);
        }
        const double ds = operand(p * (dp - delta), a.precision);
        for (int64_t i = 0; i < w.dq; i++) {
          dq[t * a.heads * w.dq + w.q_col(h, i)] += a.scale * ds * w.k(j, h, i);
          const double d = a.scale * ds * w.q(t, h, i);
          if (i < a.k_dim)
            dk[j * dk_width + g * a.k_dim + i] += d;
          else
            shared[j * w.dr + i - a.k_dim] += d;
        }
      }
    }
  for (int64_t t = 0; t < T; t++) {
    for (int64_t c = 0; c < a.heads * w.dq; c++) put(a.dq, t, c, dq[t * a.heads * w.dq + c]);
    for (int64_t g = 0; g < a.kv_heads; g++) {
      for (int64_t i = 0; i < a.k_dim; i++) put(a.dk, t, a.k_offset + g * a.k_stride + i, dk[t * dk_width + g * a.k_dim + i]);
      for (int64_t i = 0; i < a.v_dim; i++) put(a.dv, t, a.v_offset + g * a.v_stride + i, dv[t * dv_width + g * a.v_dim + i]);
    }
    for (int64_t i = 0; present(a.dk_shared) && i < w.dr; i++) put(a.dk_shared, t, i, shared[t * w.dr + i]);
  }
  for (int64_t h = 0; present(a.dsinks) && h < a.heads; h++) data<float>(a.dsinks)[h] = float(data<float>(a.dsinks)[h] + dsinks[h]);
}

}  // namespace esft
