// combine and its backward as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_combine(const esft_combine_args& a) {
  check_indices("combine", "pos", a.pos, rows(a.x));
  const int64_t T = rows(a.y), D = cols(a.y), K = cols(a.pos);
  for (int64_t t = 0; t < T; t++)
    for (int64_t d = 0; d < D; d++) {
      double sum = a.accumulate ? at(a.y, t, d) : 0.0;
      for (int64_t k = 0; k < K; k++)
        sum += (present(a.weights) ? double(f32_row(a.weights, t)[k]) : 1.0) * at(a.x, i32_at(a.pos, t, k), d);
      if (present(a.residual)) sum = held(a.y, sum) + at(a.residual, t, d);
      put(a.y, t, d, sum);
    }
}

void ref_combine_backward(const esft_combine_backward_args& a) {
  if (present(a.dx))
    check_permutation("combine_backward", "pos", a.pos, rows(a.x));
  else
    check_indices("combine_backward", "pos", a.pos, rows(a.x));
  const int64_t T = rows(a.dy), D = cols(a.dy), K = cols(a.pos);
  for (int64_t t = 0; t < T; t++)
    for (int64_t k = 0; k < K; k++) {
      const int64_t r = i32_at(a.pos, t, k);
      double dot = 0;
      for (int64_t d = 0; d < D; d++) {
        dot += double(at(a.dy, t, d)) * at(a.x, r, d);
        if (present(a.dx)) put(a.dx, r, d, f32_row(a.weights, t)[k] * at(a.dy, t, d));
      }
      if (present(a.dweights)) f32_row(a.dweights, t)[k] = float(dot);
    }
}

}  // namespace esft
