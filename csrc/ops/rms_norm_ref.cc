// rms_norm and its backward as plain loops.
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_rms_norm(const esft_rms_norm_args& a) {
  const int64_t R = rows(a.x), C = cols(a.x);
  auto w = [&](int64_t c) { return present(a.weight) ? double(a.zero_centred) + vat(a.weight, c) : 1.0; };
  for (int64_t r = 0; r < R; r++) {
    auto x = [&](int64_t c) { return double(at(a.x, r, c)); };
    double sum = 0;
    for (int64_t c = 0; c < C; c++) sum += x(c) * x(c);
    const double rstd = 1 / std::sqrt(sum / C + a.eps);
    for (int64_t c = 0; c < C; c++) put(a.y, r, c, x(c) * rstd * w(c));
    if (present(a.rstd)) data<float>(a.rstd)[r] = float(rstd);
  }
}

void ref_rms_norm_backward(const esft_rms_norm_backward_args& a) {
  const int64_t R = rows(a.x), C = cols(a.x);
  auto w = [&](int64_t c) { return present(a.weight) ? double(a.zero_centred) + vat(a.weight, c) : 1.0; };
  std::vector<double> dweight(C, 0);
  for (int64_t r = 0; r < R; r++) {
    auto x = [&](int64_t c) { return double(at(a.x, r, c)); };
    auto dy = [&](int64_t c) { return double(at(a.dy, r, c)); };
    const double rstd = data<float>(a.rstd)[r];
    double mean = 0;  // of dy·w·x̂
    for (int64_t c = 0; c < C; c++) {
      mean += dy(c) * w(c) * x(c) * rstd / C;
      dweight[c] += dy(c) * x(c) * rstd;
    }
    if (!present(a.dx)) continue;
    for (int64_t c = 0; c < C; c++) {  // dx may be dy: each element is read before it is written
      const double g = rstd * (dy(c) * w(c) - x(c) * rstd * mean);
      put(a.dx, r, c, a.accumulate ? at(a.dx, r, c) + g : g);
    }
  }
  for (int64_t c = 0; present(a.dweight) && c < C; c++) {
    float& sum = data<float>(a.dweight)[c];
    sum = float((a.accumulate_weight ? sum : 0.0) + dweight[c]);
  }
}

}  // namespace esft
