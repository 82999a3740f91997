// delta_gates and its backward: a thread per token and head; sums over tokens as partials of fixed chunks of rows (column_sum.cuh).
#include "../activation.cuh"
#include "../host/launch.h"
#include "column_sum.cuh"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int64_t kLeastRows = 64;

struct GateParams {
  const void *b, *a, *a_log, *dt_bias;
  const float *dbeta, *dg;
  float *beta, *g;
  void *db, *da;
  float *partial_a, *partial_dt;  // [chunks, heads] or nullptr
  int64_t T, H, b_ld, a_ld, beta_ld, g_ld, db_ld, da_ld, chunk;
  bool wide_a_log, wide_dt;
};

__device__ __forceinline__ float number(const void* p, int64_t i, bool wide) {
  return wide ? static_cast<const float*>(p)[i] : to_float(static_cast<const bf16*>(p)[i]);
}
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

template <class T>
__global__ void __launch_bounds__(kThreads) delta_gates_kernel(GateParams p) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.T * p.H) return;
  const int64_t t = i / p.H, h = i % p.H;
  const float x = to_float(static_cast<const T*>(p.a)[t * p.a_ld + h]) + number(p.dt_bias, h, p.wide_dt);
  p.beta[t * p.beta_ld + h] = sigmoid<float>(to_float(static_cast<const T*>(p.b)[t * p.b_ld + h]));
  p.g[t * p.g_ld + h] = -expf(number(p.a_log, h, p.wide_a_log)) * softplus(x);
}

// A thread per head and chunk of rows.
template <class T>
__global__ void __launch_bounds__(kThreads) delta_gates_backward_kernel(GateParams p) {
  const int64_t h = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (h >= p.H) return;
  const int64_t begin = blockIdx.y * p.chunk, end = min_of(p.T, begin + p.chunk);
  const float rate = -expf(number(p.a_log, h, p.wide_a_log)), dt = number(p.dt_bias, h, p.wide_dt);
  float sum_a = 0.0f, sum_dt = 0.0f;
  for (int64_t t = begin; t < end; t++) {
    const float beta = sigmoid<float>(to_float(static_cast<const T*>(p.b)[t * p.b_ld + h]));
    const float x = to_float(static_cast<const T*>(p.a)[t * p.a_ld + h]) + dt, d = p.dg[t * p.g_ld + h] * rate,
                da = d * sigmoid<float>(x);
    static_cast<T*>(p.db)[t * p.db_ld + h] = from_float<T>(p.dbeta[t * p.beta_ld + h] * beta * (1.0f - beta));
    static_cast<T*>(p.da)[t * p.da_ld + h] = from_float<T>(da);
    sum_a += d * softplus(x);
    sum_dt += da;
  }
  if (p.partial_a) p.partial_a[blockIdx.y * p.H + h] = sum_a;
  if (p.partial_dt) p.partial_dt[blockIdx.y * p.H + h] = sum_dt;
}

template <class Args>
GateParams params_of(const Args& a) {
  GateParams p = {};
  p.b = a.b.data, p.b_ld = a.b.ld;
  p.a = a.a.data, p.a_ld = a.a.ld;
  p.a_log = a.a_log.data, p.wide_a_log = a.a_log.dtype == ESFT_F32;
  p.dt_bias = a.dt_bias.data, p.wide_dt = a.dt_bias.dtype == ESFT_F32;
  p.T = rows(a.b);
  p.H = cols(a.b);
  return p;
}

}  // namespace

void run_delta_gates(const esft_delta_gates_args& a, Context& context) {
  GateParams p = params_of(a);
  if (p.T == 0 || p.H == 0) return;
  p.beta = data<float>(a.beta), p.beta_ld = a.beta.ld;
  p.g = data<float>(a.g), p.g_ld = a.g.ld;
  by_float_type(a.b, [&](auto type) {
    using T = typename decltype(type)::type;
    ESFT_LAUNCH((delta_gates_kernel<T>), context, grid_of(p.T * p.H, kThreads), kThreads, 0, p);
  });
}

void run_delta_gates_backward(const esft_delta_gates_backward_args& a, Context& context) {
  GateParams p = params_of(a);
  if (p.T == 0 || p.H == 0) return;
  p.dbeta = data<float>(a.dbeta), p.beta_ld = a.dbeta.ld;
  p.dg = data<float>(a.dg), p.g_ld = a.dg.ld;
  p.db = a.db.data, p.db_ld = a.db.ld;
  p.da = a.da.data, p.da_ld = a.da.ld;
  p.chunk = rows_per_chunk(p.T, kLeastRows);
  const int64_t chunks = ceil_div(p.T, p.chunk);
  if (present(a.da_log)) p.partial_a = context.scratch_of<float>(chunks * p.H);
  if (present(a.ddt_bias)) p.partial_dt = context.scratch_of<float>(chunks * p.H);
  by_float_type(a.b, [&](auto type) {
    using T = typename decltype(type)::type;
    ESFT_LAUNCH((delta_gates_backward_kernel<T>), context, dim3(grid_of(p.H, kThreads), unsigned(chunks)), kThreads, 0, p);
  });
  if (present(a.da_log)) add_partials(context, p.partial_a, chunks, p.H, data<float>(a.da_log));
  if (present(a.ddt_bias)) add_partials(context, p.partial_dt, chunks, p.H, data<float>(a.ddt_bias));
}

}  // namespace esft::cuda
