// The gates: one pass over memory. A gate of its own per element goes by whole rows; a gate of many columns is one factor and one sum
// of each of them.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

ESFT_INLINE float sigmoid_one(float x) {
  const vf s = vsigmoid(splat(x));
  return s[0];
}

}  // namespace

void sigmoid_gate(const esft_sigmoid_gate_args& a, Context& ctx) {
  const int64_t R = rows(a.x), C = cols(a.x), G = cols(a.g);
  if (R == 0 || C == 0) return;
  if (G == C) {
    for_segments(ctx, R, C, [&](int64_t r, int64_t c, int64_t n) {
      const float* x = row_of<float>(a.x, r) + c;
      const float* g = row_of<float>(a.g, r) + c;
      map(row_of<float>(a.y, r) + c, n, false,
          [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(x + i, m) * vsigmoid(load_n(g + i, m)); });
    });
    return;
  }
  const int64_t per = C / G;
  for_rows(ctx, R, C, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++)
      for (int64_t j = 0; j < G; j++) {
        const float* x = row_of<float>(a.x, r) + j * per;
        const vf s = splat(sigmoid_one(row_of<float>(a.g, r)[j]));
        map(row_of<float>(a.y, r) + j * per, per, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(x + i, m) * s; });
      }
  });
}

void sigmoid_gate_backward(const esft_sigmoid_gate_backward_args& a, Context& ctx) {
  const int64_t R = rows(a.x), C = cols(a.x), G = cols(a.g);
  if (R == 0 || C == 0) return;
  if (G == C) {
    for_segments(ctx, R, C, [&](int64_t r, int64_t c, int64_t n) {
      const float* dy = row_of<float>(a.dy, r) + c;
      const float* x = row_of<float>(a.x, r) + c;
      const float* g = row_of<float>(a.g, r) + c;
      // dg first: dx may be dy.
      if (a.dg.data)
        map(row_of<float>(a.dg, r) + c, n, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
          const vf gate = load_n(g + i, m);
          return load_n(dy + i, m) * load_n(x + i, m) * (vsigmoid(gate) * vsigmoid(-gate));
        });
      if (a.dx.data)
        map(row_of<float>(a.dx, r) + c, n, false,
            [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(dy + i, m) * vsigmoid(load_n(g + i, m)); });
    });
    return;
  }
  const int64_t per = C / G;
  for_rows(ctx, R, C, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++)
      for (int64_t j = 0; j < G; j++) {
        const float* dy = row_of<float>(a.dy, r) + j * per;
        const float* x = row_of<float>(a.x, r) + j * per;
        const float gate = row_of<float>(a.g, r)[j], s = sigmoid_one(gate);
        if (a.dg.data)
          row_of<float>(a.dg, r)[j] =
              reduce(per, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(dy + i, m) * load_n(x + i, m); }) *
              (s * sigmoid_one(-gate));
        if (a.dx.data) {
          const vf factor = splat(s);
          map(row_of<float>(a.dx, r) + j * per, per, false,
              [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(dy + i, m) * factor; });
        }
      }
  });
}

void scale_rows(const esft_scale_rows_args& a, Context& ctx) {
  check_indices("scale_rows", "positions", a.positions, numel(a.factors));
  const int32_t* positions = data<int32_t>(a.positions);
  const float* factors = data<float>(a.factors);
  for_segments(ctx, rows(a.x), cols(a.x), [&](int64_t r, int64_t c, int64_t n) {
    const float* x = row_of<float>(a.x, r) + c;
    const vf f = splat(factors[positions[r]]);
    map(row_of<float>(a.y, r) + c, n, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(x + i, m) * f; });
  });
}

}  // namespace esft::cpu::ESFT_ISA
