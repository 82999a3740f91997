// The gates as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_sigmoid_gate(const esft_sigmoid_gate_args& a) {
  const int64_t C = cols(a.x), per = cols(a.g) ? C / cols(a.g) : 1;
  for (int64_t r = 0; r < rows(a.x); r++)
    for (int64_t c = 0; c < C; c++) put(a.y, r, c, at(a.x, r, c) * sigmoid(at(a.g, r, c / per)));
}

void ref_sigmoid_gate_backward(const esft_sigmoid_gate_backward_args& a) {
  const int64_t G = cols(a.g), per = G ? cols(a.x) / G : 0;
  for (int64_t r = 0; r < rows(a.x); r++)
    for (int64_t j = 0; j < G; j++) {
      const double s = sigmoid(at(a.g, r, j));
      double sum = 0;
      for (int64_t c = j * per; c < (j + 1) * per; c++) {
        const double dy = at(a.dy, r, c);
        sum += dy * at(a.x, r, c);
        if (a.dx.data) put(a.dx, r, c, dy * s);
      }
      if (a.dg.data) put(a.dg, r, j, sum * s * sigmoid(-at(a.g, r, j)));  // 1 − σ(g) without cancellation
    }
}

void ref_scale_rows(const esft_scale_rows_args& a) {
  check_indices("scale_rows", "positions", a.positions, numel(a.factors));
  for (int64_t r = 0; r < rows(a.x); r++) {
    const double f = data<float>(a.factors)[data<int32_t>(a.positions)[r]];
    for (int64_t c = 0; c < cols(a.x); c++) put(a.y, r, c, at(a.x, r, c) * f);
  }
}

}  // namespace esft
