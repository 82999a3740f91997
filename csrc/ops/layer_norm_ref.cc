// layer_norm and its backward as plain loops.
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_layer_norm(const esft_layer_norm_args& a) {
  const int64_t R = rows(a.x), C = cols(a.x);
  for (int64_t r = 0; r < R; r++) {
    auto x = [&](int64_t c) { return double(at(a.x, r, c)); };
    double mean = 0, squares = 0;
    for (int64_t c = 0; c < C; c++) mean += x(c) / C;
    for (int64_t c = 0; c < C; c++) squares += (x(c) - mean) * (x(c) - mean);
    const double rstd = 1 / std::sqrt(squares / C + a.eps);
    for (int64_t c = 0; c < C; c++) put(a.y, r, c, (x(c) - mean) * rstd * vat(a.weight, c) + vat(a.bias, c));
    if (present(a.mean)) data<float>(a.mean)[r] = float(mean);
    if (present(a.rstd)) data<float>(a.rstd)[r] = float(rstd);
  }
}

void ref_layer_norm_backward(const esft_layer_norm_backward_args& a) {
  const int64_t R = rows(a.x), C = cols(a.x);
  std::vector<double> dweight(C, 0), dbias(C, 0);
  for (int64_t r = 0; r < R; r++) {
    const double mean = data<float>(a.mean)[r], rstd = data<float>(a.rstd)[r];
    auto hat = [&](int64_t c) { return (double(at(a.x, r, c)) - mean) * rstd; };
    auto dy = [&](int64_t c) { return double(at(a.dy, r, c)); };
    auto g = [&](int64_t c) { return dy(c) * vat(a.weight, c); };
    double mean_g = 0, mean_gx = 0;
    for (int64_t c = 0; c < C; c++) {
      mean_g += g(c) / C;
      mean_gx += g(c) * hat(c) / C;
      dweight[c] += dy(c) * hat(c);
      dbias[c] += dy(c);
    }
    if (!present(a.dx)) continue;
    for (int64_t c = 0; c < C; c++) {  // dx may be dy: each element is read before it is written
      const double d = rstd * (g(c) - mean_g - hat(c) * mean_gx);
      put(a.dx, r, c, a.accumulate ? at(a.dx, r, c) + d : d);
    }
  }
  auto store = [&](const esft_tensor& sum, const std::vector<double>& terms) {
    for (int64_t c = 0; present(sum) && c < C; c++) {
      float& s = data<float>(sum)[c];
      s = float((a.accumulate_weight ? s : 0.0) + terms[c]);
    }
  };
  store(a.dweight, dweight);
  store(a.dbias, dbias);
}

}  // namespace esft
