// Head and loss, one supervised row at a time.
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_linear_cross_entropy(const esft_linear_cross_entropy_args& a) {
  const int64_t T = rows(a.x), D = cols(a.x), V = rows(a.w), R = present(a.u) ? cols(a.u) : 0;
  check_labels("linear_cross_entropy", "labels", a.labels, V);
  std::vector<double> z(V), dx(D), du(R), db(present(a.db) ? V * R : 0, 0.0);
  std::vector<double> dw(present(a.dw) ? V * D : 0, 0.0), dbias(V, 0.0);
  double loss = 0;
  int64_t correct = 0;
  for (int64_t t = 0; t < T; t++) {
    const int64_t label = data<int32_t>(a.labels)[t];
    if (present(a.row_loss)) data<float>(a.row_loss)[t] = 0;
    dx.assign(D, 0);
    du.assign(R, 0);
    if (label >= 0) {
      int64_t best = 0;
      for (int64_t v = 0; v < V; v++) {
        z[v] = 0;
        for (int64_t d = 0; d < D; d++) z[v] += operand(at(a.x, t, d), a.precision) * operand(at(a.w, v, d), a.precision);
        for (int64_t k = 0; k < R; k++) z[v] += operand(at(a.u, t, k), a.precision) * operand(at(a.b, v, k), a.precision);
        z[v] = a.logit_scale * (z[v] + (present(a.bias) ? vat(a.bias, v) : 0));
        if (a.soft_cap > 0) z[v] = a.soft_cap * std::tanh(z[v] / a.soft_cap);
        if (z[v] > z[best]) best = v;
      }
      double sum = 0;
      for (int64_t v = 0; v < V; v++) sum += std::exp(z[v] - z[best]);
      const double nll = z[best] + std::log(sum) - z[label];
      loss += nll;
      correct += best == label;
      if (present(a.row_loss)) data<float>(a.row_loss)[t] = float(nll);
      for (int64_t v = 0; v < V; v++) {
        const double slope = a.soft_cap > 0 ? 1 - z[v] * z[v] / (a.soft_cap * a.soft_cap) : 1;
        const double dz = slope * (present(a.scale) ? *data<double>(a.scale) : a.grad_scale) * a.logit_scale *
                          (std::exp(z[v] - z[best]) / sum - (v == label));
        dbias[v] += operand(dz, a.precision);
        for (int64_t d = 0; d < D; d++) {
          if (present(a.dx)) dx[d] += operand(dz, a.precision) * operand(at(a.w, v, d), a.precision);
          if (present(a.dw)) dw[v * D + d] += operand(dz, a.precision) * operand(at(a.x, t, d), a.precision);
        }
        for (int64_t k = 0; k < R; k++) {
          if (present(a.du)) du[k] += operand(dz, a.precision) * operand(at(a.b, v, k), a.precision);
          if (present(a.db)) db[v * R + k] += operand(dz, a.precision) * operand(at(a.u, t, k), a.precision);
        }
      }
    }
    for (int64_t d = 0; present(a.dx) && d < D; d++) put(a.dx, t, d, dx[d]);
    for (int64_t k = 0; present(a.du) && k < R; k++) put(a.du, t, k, du[k]);
  }
  for (int64_t v = 0; present(a.dw) && v < V; v++)
    for (int64_t d = 0; d < D; d++) {
      float& sum = f32_row(a.dw, v)[d];
      sum = float((a.accumulate ? sum : 0.0) + dw[v * D + d]);
    }
  for (int64_t v = 0; present(a.db) && v < V; v++)
    for (int64_t k = 0; k < R; k++) {
      float& sum = f32_row(a.db, v)[k];
      sum = float((a.accumulate ? sum : 0.0) + db[v * R + k]);
    }
  for (int64_t v = 0; present(a.dbias) && v < V; v++) {
    float& sum = data<float>(a.dbias)[v];
    sum = float((a.accumulate ? sum : 0.0) + dbias[v]);
  }
  *data<double>(a.loss) += loss;
  if (present(a.correct)) *data<int64_t>(a.correct) += correct;
}

}  // namespace esft
