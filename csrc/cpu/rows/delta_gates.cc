// delta_gates: β and the log of the decay of the gated delta rule, and their gradients. A few heads per token: rows as they come.
// softplus(x) = max(x, 0) + ln(1 + u) with u = e^−|x|, and ln(1 + u) = 2 artanh(u / (2 + u)): its series in s = u / (2 + u) <= 1/3
// ends after s^17 at an error of 1e-10.
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

constexpr int64_t kGateRows = 256;  // of a task, and of a partial sum

ESFT_INLINE vf softplus(vf x) {
  const vf u = vexp(vmin(x, -x)), s = u / (splat(2.0f) + u), s2 = s * s;
  vf p = splat(1.0f / 17);
  p = p * s2 + splat(1.0f / 15);
  p = p * s2 + splat(1.0f / 13);
  p = p * s2 + splat(1.0f / 11);
  p = p * s2 + splat(1.0f / 9);
  p = p * s2 + splat(1.0f / 7);
  p = p * s2 + splat(1.0f / 5);
  p = p * s2 + splat(1.0f / 3);
  p = p * s2 + splat(1.0f);
  return vmax(x, vf{}) + (s + s) * p;
}

// −exp(a_log) and dt_bias as f32, `pitch` apart.
template <class Args>
void rates_of(const Args& a, float* rates, int64_t pitch) {
  const int64_t H = cols(a.b);
  const float* a_log = as_f32(a.a_log, rates);
  map(rates, H, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return -vexp(load_n(a_log + i, m)); });
  const float* dt_bias = as_f32(a.dt_bias, rates + pitch);
  if (dt_bias != rates + pitch) memcpy(rates + pitch, dt_bias, H * 4);
}

}  // namespace

void delta_gates(const esft_delta_gates_args& a, Context& ctx) {
  const int64_t T = rows(a.b), H = cols(a.b), pitch = round_up(H, 16);
  if (T == 0 || H == 0) return;
  float* rates = static_cast<float*>(ctx.shared_scratch(2 * pitch * 4));
  rates_of(a, rates, pitch);
  for_chunks(ctx, T, kGateRows, 8 * H, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const float *b = row_of<float>(a.b, t), *x = row_of<float>(a.a, t);
      map(row_of<float>(a.beta, t), H, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return vsigmoid(load_n(b + i, m)); });
      map(row_of<float>(a.g, t), H, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        return load_n(rates + i, m) * softplus(load_n(x + i, m) + load_n(rates + pitch + i, m));
      });
    }
  });
}

void delta_gates_backward(const esft_delta_gates_backward_args& a, Context& ctx) {
  const int64_t T = rows(a.b), H = cols(a.b), pitch = round_up(H, 16), chunks = ceil_div(T, kGateRows);
  if (T == 0 || H == 0) return;
  float* rates = static_cast<float*>(ctx.shared_scratch((2 + 2 * chunks) * pitch * 4));
  rates_of(a, rates, pitch);
  float* partial = rates + 2 * pitch;  // [chunks][da_log, ddt_bias][pitch]
  for_chunks(ctx, T, kGateRows, 8 * H, [&](int64_t begin, int64_t end, int) {
    float* da_log = partial + begin / kGateRows * 2 * pitch;
    memset(da_log, 0, 2 * pitch * 4);
    for (int64_t t = begin; t < end; t++) {
      const float *b = row_of<float>(a.b, t), *x = row_of<float>(a.a, t), *dbeta = row_of<float>(a.dbeta, t),
                  *dg = row_of<float>(a.dg, t);
      map(row_of<float>(a.db, t), H, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        const vf beta = vsigmoid(load_n(b + i, m));
        return load_n(dbeta + i, m) * beta * (splat(1.0f) - beta);
      });
      map(row_of<float>(a.da, t), H, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        const vf z = load_n(x + i, m) + load_n(rates + pitch + i, m), d = load_n(dg + i, m) * load_n(rates + i, m),
                 da = d * vsigmoid(z);
        store_n(da_log + i, load_n(da_log + i, m) + d * softplus(z), m);
        store_n(da_log + pitch + i, load_n(da_log + pitch + i, m) + da, m);
        return da;
      });
    }
  });
  const auto add = [&](const esft_tensor& y, int64_t which) {
    for (int64_t h = 0; present(y) && h < H; h++)
      for (int64_t i = 0; i < chunks; i++) data<float>(y)[h] += partial[(2 * i + which) * pitch + h];
  };
  add(a.da_log, 0);
  add(a.ddt_bias, 1);
}

}  // namespace esft::cpu::ESFT_ISA
