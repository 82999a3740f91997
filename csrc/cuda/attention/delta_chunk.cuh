// A chunk of the gated delta rule in shared memory (mathematics and notation: cpu/attention/delta_chunk.h): what forward and backward
// have in common. The portable form: f32 throughout, one thread per output element of a product, a CTA per head and document.
//
// Only the device knows the documents: a CTA has a block of kOpenTokens tokens and walks each document that opens there to its end.
// Values are taken kSlice columns at a time: columns of the state do not depend on each other.
#pragma once
#include "../host/launch.h"
#include "../reduce.cuh"
#include "../rows/index_check.cuh"
#include "../rows/rows.cuh"

namespace esft::cuda::delta {

constexpr int kThreads = 256, kOpenTokens = 64, kSlice = 32;
constexpr float kNothingLeft = -200.0f;  // decays below it are e^−∞ in f32 already

struct DeltaParams {
  const void *q, *k, *v;
  const float *beta, *g;
  const int32_t* doc_start;
  int64_t T, q_ld, k_ld, v_ld, beta_ld, g_ld;
  int dk, dv, group, chunk;  // value heads per key head; tokens of a chunk
  float eps, scale;
};

__device__ __forceinline__ bool opens(const DeltaParams& p, int64_t t) {
  return min_of(max_of(int64_t(p.doc_start[t]), int64_t(0)), t) == t;
}
// Tokens of the document's chunk that begins at t0.
__device__ __forceinline__ int chunk_length(const DeltaParams& p, int64_t t0) {
  int n = 1;
  while (n < p.chunk && t0 + n < p.T && !opens(p, t0 + n)) n++;
  return n;
}

// f(row, column) for every element, over the threads.
template <class F>
__device__ __forceinline__ void each(int m, int n, F f) {
  for (int i = threadIdx.x; i < m * n; i += kThreads) f(i / n, i % n);
}

// A head's rows of q or k, normalised; r: the factors. Barriers inside.
template <class T>
__device__ void load_unit(float* x, float* r, const void* from, int64_t ld, int64_t t0, int n, int64_t col, int d, float eps,
                          float scale) {
  each(n, d, [&](int t, int c) { x[t * d + c] = to_float(static_cast<const T*>(from)[(t0 + t) * ld + col + c]); });
  __syncthreads();
  for (int t = threadIdx.x; t < n; t += kThreads) {
    float sum = eps;
    for (int c = 0; c < d; c++) sum += x[t * d + c] * x[t * d + c];
    r[t] = scale / sqrtf(sum);
  }
  __syncthreads();
  each(n, d, [&](int t, int c) { x[t * d + c] *= r[t]; });
  __syncthreads();
}

// out[t, s] = ⟨a_t, b_s⟩, n rows of d.
__device__ __forceinline__ void dots(float* out, const float* a, const float* b, int n, int d) {
  each(n, n, [&](int t, int s) {
    float sum = 0.0f;
    for (int c = 0; c < d; c++) sum += a[t * d + c] * b[s * d + c];
    out[t * n + s] = sum;
  });
}

struct Decays {
  float *beta, *gamma, *rest, *hi, *lo;  // [chunk] each
  __device__ __forceinline__ float* place(float* at, int chunk) {
    beta = at;
    gamma = at + chunk;
    rest = at + 2 * chunk;
    hi = at + 3 * chunk;
    lo = at + 4 * chunk;
    return at + 5 * chunk;
  }
  __device__ __forceinline__ float between(int t, int s) const { return expf((hi[t] - hi[s]) + (lo[t] - lo[s])); }
  __device__ void make(const DeltaParams& p, int64_t t0, int n, int64_t head) {
    if (threadIdx.x == 0) {
      double sum = 0;
      for (int t = 0; t < n; t++) {
        const float g = p.g[(t0 + t) * p.g_ld + head];
        sum += g < kNothingLeft ? kNothingLeft : g;
        hi[t] = float(sum);
        lo[t] = float(sum - double(hi[t]));
      }
    }
    __syncthreads();
    for (int t = threadIdx.x; t < n; t += kThreads) {
      beta[t] = p.beta[(t0 + t) * p.beta_ld + head];
      gamma[t] = expf(hi[t]);
      rest[t] = between(n - 1, t);
    }
    __syncthreads();
  }
};

// −L and P of a value head from ⟨k̂, k̂⟩ and ⟨q̂, k̂⟩, all [n, n].
__device__ __forceinline__ void triangles(float* nl, float* pm, const float* kk, const float* qk, const Decays& d, int n) {
  each(n, n, [&](int t, int s) {
    const float e = s <= t ? d.between(t, s) : 0.0f;
    nl[t * n + s] = s < t ? -d.beta[t] * e * kk[t * n + s] : 0.0f;
    pm[t * n + s] = s <= t ? e * qk[t * n + s] : 0.0f;
  });
}

// Columns of X ← (I + L)⁻¹ X, or (I + L)⁻ᵀ X: one thread per column.
__device__ __forceinline__ void solve(float* x, const float* nl, int n, int width) {
  for (int c = threadIdx.x; c < width; c += kThreads)
    for (int t = 1; t < n; t++) {
      float sum = x[t * kSlice + c];
      for (int s = 0; s < t; s++) sum += nl[t * n + s] * x[s * kSlice + c];
      x[t * kSlice + c] = sum;
    }
}
__device__ __forceinline__ void solve_transposed(float* x, const float* nl, int n, int width) {
  for (int c = threadIdx.x; c < width; c += kThreads)
    for (int s = n - 2; s >= 0; s--) {
      float sum = x[s * kSlice + c];
      for (int t = s + 1; t < n; t++) sum += nl[t * n + s] * x[t * kSlice + c];
      x[s * kSlice + c] = sum;
    }
}

// Δ of `width` columns of values from c0 on: X_t = β_t (v_t − Γ_t k̂_t S), solved. first: S = 0. Barriers inside.
template <class T>
__device__ void make_deltas(float* x, const DeltaParams& p, const float* k, const float* state, const Decays& d, const float* nl,
                            int64_t t0, int n, int64_t col, int width, bool first) {
  each(n, width, [&](int t, int c) {
    float u = 0.0f;
    for (int i = 0; !first && i < p.dk; i++) u += k[t * p.dk + i] * state[i * kSlice + c];
    x[t * kSlice + c] = d.beta[t] * (to_float(static_cast<const T*>(p.v)[(t0 + t) * p.v_ld + col + c]) - d.gamma[t] * u);
  });
  __syncthreads();
  solve(x, nl, n, width);
  __syncthreads();
}

// S ← Γ_n S + k̂ᵀ (e^{γ_n − γ} Δ).
__device__ __forceinline__ float advanced(const DeltaParams& p, const float* k, const float* state, const float* x, const Decays& d,
                                          int n, int i, int c, bool first) {
  float sum = first ? 0.0f : d.gamma[n - 1] * state[i * kSlice + c];
  for (int t = 0; t < n; t++) sum += k[t * p.dk + i] * (d.rest[t] * x[t * kSlice + c]);
  return sum;
}

// ---- host ---------------------------------------------------------------------------------------------------------------

template <class Args>
DeltaParams params_of(const Args& a) {
  DeltaParams p = {};
  p.q = a.q.data, p.q_ld = a.q.ld;
  p.k = a.k.data, p.k_ld = a.k.ld;
  p.v = a.v.data, p.v_ld = a.v.ld;
  p.beta = data<float>(a.beta), p.beta_ld = a.beta.ld;
  p.g = data<float>(a.g), p.g_ld = a.g.ld;
  p.doc_start = data<int32_t>(a.doc_start);
  p.T = rows(a.q);
  p.dk = int(cols(a.q) / a.key_heads);
  p.dv = int(cols(a.v) / a.heads);
  p.group = int(a.heads / a.key_heads);
  p.eps = float(a.eps);
  p.scale = 1.0f / sqrtf(float(p.dk));
  return p;
}

// The longest chunk whose `floats(chunk)` fit in shared memory.
template <class F>
int pick_chunk(const char* op, const Context& context, const DeltaParams& p, F floats) {
  for (int chunk : {32, 16, 8})
    if (size_t(floats(chunk)) * sizeof(float) <= context.shared_limit) return chunk;
  fail_status(ESFT_UNSUPPORTED, op, "q",
              format("%s: heads of q have %d columns; CUDA's kernels hold a chunk of them in shared memory, where they do not fit",
                     op, p.dk));
}

}  // namespace esft::cuda::delta
