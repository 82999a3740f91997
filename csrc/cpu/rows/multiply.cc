// multiply and its backward: one pass over memory.
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

ESFT_INLINE vf silu(vf x) { return x * vsigmoid(x); }
ESFT_INLINE vf silu_slope(vf x) {
  const vf s = vsigmoid(x);
  return s * (splat(1.0f) + x * (splat(1.0f) - s));
}

}  // namespace

void multiply(const esft_multiply_args& a, Context& ctx) {
  const bool nt = streams(a.y) && a.y.data != a.a.data && a.y.data != a.b.data;
  for_segments(ctx, rows(a.a), cols(a.a), [&](int64_t r, int64_t c, int64_t n) {
    const float *x = row_of<float>(a.a, r) + c, *b = row_of<float>(a.b, r) + c;
    float* y = row_of<float>(a.y, r) + c;
    if (a.silu)
      map(y, n, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(x + i, m) * silu(load_n(b + i, m)); });
    else
      map(y, n, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(x + i, m) * load_n(b + i, m); });
  });
}

void multiply_backward(const esft_multiply_backward_args& a, Context& ctx) {
  if (!present(a.da) && !present(a.db)) return;
  for_segments(ctx, rows(a.a), cols(a.a), [&](int64_t r, int64_t c, int64_t n) {
    const float *x = row_of<float>(a.a, r) + c, *b = row_of<float>(a.b, r) + c, *dy = row_of<float>(a.dy, r) + c;
    float* da = present(a.da) ? row_of<float>(a.da, r) + c : nullptr;
    float* db = present(a.db) ? row_of<float>(a.db, r) + c : nullptr;
    // All of a vector is read before any of it is written: outputs may be inputs.
    const auto step = [=](int64_t i, int64_t m, bool silu_of_b) ESFT_LAMBDA {
      const vf d = load_n(dy + i, m), xa = load_n(x + i, m), xb = load_n(b + i, m);
      if (da) store_n(da + i, d * (silu_of_b ? silu(xb) : xb), m);
      if (db) store_n(db + i, d * xa * (silu_of_b ? silu_slope(xb) : splat(1.0f)), m);
    };
    const bool activated = a.silu != 0;
    int64_t i = 0;
    for (; i + W <= n; i += W) step(i, W, activated);
    if (i < n) step(i, n - i, activated);
  });
}

}  // namespace esft::cpu::ESFT_ISA
