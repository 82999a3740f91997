// grad_norm, saliency and adamw as plain loops.
#include <algorithm>

#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_grad_norm(const esft_grad_norm_args& a) {
  double sum = 0;
  for (int64_t i = 0; i < a.grads.count; i++)
    for (int64_t r = 0; r < rows(a.grads.items[i]); r++)
      for (int64_t c = 0; c < cols(a.grads.items[i]); c++) {
        const double g = f32_row(a.grads.items[i], r)[c];
        sum += g * g;
      }
  *data<double>(a.norm) = std::sqrt(sum);
}

void ref_saliency(const esft_saliency_args& a) {
  for (int64_t i = 0; i < a.weights.count; i++) {
    const esft_tensor &w = a.weights.items[i], &g = a.grads.items[i];
    double sum = 0;
    for (int64_t r = 0; r < rows(w); r++)
      for (int64_t c = 0; c < cols(w); c++) {
        const double product = double(at(w, r, c)) * f32_row(g, r)[c];
        sum += product * product;
      }
    data<double>(a.squares)[i] = sum;
  }
}

void ref_adamw(const esft_adamw_args& a) {
  double clip = 1;
  if (present(a.norm)) {
    const double norm = *data<double>(a.norm);
    if (!std::isfinite(norm)) return;
    if (a.max_norm > 0) clip = std::min(1.0, a.max_norm / (norm + 1e-6));
  }
  const double* rates = present(a.rates) ? data<double>(a.rates) : nullptr;
  const double lr = rates ? rates[0] : a.lr, step = rates ? rates[1] : double(a.step);
  const double correct1 = 1 - std::pow(a.beta1, step), correct2 = 1 - std::pow(a.beta2, step);
  for (int64_t i = 0; i < a.params.count; i++)
    for (int64_t r = 0; r < rows(a.params.items[i]); r++)
      for (int64_t c = 0; c < cols(a.params.items[i]); c++) {
        float &p = f32_row(a.params.items[i], r)[c], &m = f32_row(a.m.items[i], r)[c], &v = f32_row(a.v.items[i], r)[c];
        const double g = clip * f32_row(a.grads.items[i], r)[c];
        const double m1 = a.beta1 * m + (1 - a.beta1) * g, v1 = a.beta2 * v + (1 - a.beta2) * g * g;
        const double decayed = p - lr * a.weight_decay * p;
        p = float(decayed - lr * (m1 / correct1) / (std::sqrt(v1 / correct2) + a.eps));
        m = float(m1);
        v = float(v1);
        if (a.copies.count) put(a.copies.items[i], r, c, p);
      }
}

}  // namespace esft
