// load_balance as plain loops.
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_load_balance(const esft_load_balance_args& a) {
  const int64_t T = rows(a.probs), E = cols(a.probs);
  const int32_t* offsets = data<int32_t>(a.offsets);
  check_offsets("load_balance", a.offsets, offsets[E]);
  if (offsets[E] == 0 || T == 0) return;
  std::vector<double> pull(E);  // E · f_e
  for (int64_t e = 0; e < E; e++) pull[e] = double(E) * (offsets[e + 1] - offsets[e]) / offsets[E];
  const double coefficient = present(a.scale) ? *data<double>(a.scale) : a.coefficient;
  double loss = 0;
  for (int64_t t = 0; t < T; t++) {
    const float* p = f32_row(a.probs, t);
    double dot = 0;
    for (int64_t e = 0; e < E; e++) dot += p[e] * pull[e];
    for (int64_t e = 0; e < E; e++) f32_row(a.dlogits, t)[e] += float(coefficient * p[e] * (pull[e] - dot));
    loss += dot;
  }
  if (present(a.loss)) data<double>(a.loss)[0] += loss / double(T);
}

}  // namespace esft
