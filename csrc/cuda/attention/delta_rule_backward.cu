// gated_delta_rule_backward (formulas: cpu/attention/delta_rule_backward.cc): a CTA per key head and block of tokens where documents
// open. It walks a document forwards for the states before its chunks, then back with dS; states and dS lie in device memory, a slice
// of values of both in shared memory. Chunks behind a document's first have places of their own by ⌊t0 / chunk⌋: two of them never
// begin in the same block of `chunk` tokens.
#include "delta_chunk.cuh"

namespace esft::cuda {

namespace {

using namespace delta;

struct BackwardParams {
  DeltaParams d;
  const void* dout;
  void *dq, *dk, *dv;
  float *dbeta, *dg;
  float* states;  // [chunk places][heads][dk · dv]
  float* ds;  // [documents' blocks][heads][dk · dv]
  int64_t dout_ld, dq_ld, dk_ld, dv_ld, dbeta_ld, dg_ld, heads;
};

int64_t backward_floats(const DeltaParams& p, int64_t chunk) {
  return 7 * chunk * p.dk + 3 * chunk * kSlice + 2 * p.dk * kSlice + 6 * chunk * chunk + 8 * chunk + 8;
}

struct Room {
  float *q, *k, *dq, *z, *w, *dq_sum, *dk_sum;  // [chunk, dk]
  float *x, *dx, *dout;  // [chunk, kSlice]
  float *state, *ds;  // [dk, kSlice]
  float *kk, *qk, *nl, *pm, *ga, *gm;  // [n, n]
  float *rq, *rk, *dbeta, *warps;
  Decays d;
  __device__ __forceinline__ Room(float* at, const DeltaParams& p) {
    const auto take = [&](int n) {
      float* const taken = at;
      at += n;
      return taken;
    };
    const int rows = p.chunk * p.dk, slice = p.chunk * kSlice, square = p.chunk * p.chunk;
    q = take(rows), k = take(rows), dq = take(rows), z = take(rows), w = take(rows), dq_sum = take(rows), dk_sum = take(rows);
    x = take(slice), dx = take(slice), dout = take(slice);
    state = take(p.dk * kSlice), ds = take(p.dk * kSlice);
    kk = take(square), qk = take(square), nl = take(square), pm = take(square), ga = take(square), gm = take(square);
    rq = take(p.chunk), rk = take(p.chunk), dbeta = take(p.chunk);
    at = d.place(at, p.chunk);
    warps = take(8);
  }
};

// ⟨x_t, y_t⟩ of row t, d columns.
__device__ __forceinline__ float dot_row(const float* x, const float* y, int t, int d) {
  float sum = 0.0f;
  for (int c = 0; c < d; c++) sum += x[t * d + c] * y[t * d + c];
  return sum;
}

template <class T>
__device__ void load_slice(float* y, const float* from, int dk, int dv, int c0, int width) {
  each(dk, width, [&](int i, int c) { y[i * kSlice + c] = from[int64_t(i) * dv + c0 + c]; });
}

// What the value heads of a key head share of a chunk.
template <class T>
__device__ void load_keys(const Room& s, const DeltaParams& p, int64_t t0, int n, int64_t key_head) {
  load_unit<T>(s.q, s.rq, p.q, p.q_ld, t0, n, key_head * p.dk, p.dk, p.eps, p.scale);
  load_unit<T>(s.k, s.rk, p.k, p.k_ld, t0, n, key_head * p.dk, p.dk, p.eps, 1.0f);
  dots(s.kk, s.k, s.k, n, p.dk);
  dots(s.qk, s.q, s.k, n, p.dk);
  __syncthreads();
}

// One value head of one chunk; `behind`: the state after it (null: the document's last), `before`: the one before (null: its first).
template <class T>
__device__ void chunk_backward(const BackwardParams& b, const Room& s, int64_t t0, int n, int64_t head, const float* before,
                               const float* behind, float* ds_all) {
  const DeltaParams& p = b.d;
  const Decays& d = s.d;
  each(n, p.dk, [&](int t, int c) { s.dq[t * p.dk + c] = s.z[t * p.dk + c] = s.w[t * p.dk + c] = 0.0f; });
  each(n, n, [&](int t, int u) { s.ga[t * n + u] = s.gm[t * n + u] = 0.0f; });
  for (int t = threadIdx.x; t < n; t += kThreads) s.dbeta[t] = 0.0f;
  float end = 0.0f;  // of this thread: ⟨dS, S behind⟩
  __syncthreads();
  for (int c0 = 0; c0 < p.dv; c0 += kSlice) {
    const int width = min_of(kSlice, p.dv - c0);
    const int64_t col = head * p.dv + c0;
    if (before) load_slice<T>(s.state, before, p.dk, p.dv, c0, width);
    if (behind) load_slice<T>(s.ds, ds_all, p.dk, p.dv, c0, width);
    each(n, width,
         [&](int t, int c) { s.dout[t * kSlice + c] = to_float(static_cast<const T*>(b.dout)[(t0 + t) * b.dout_ld + col + c]); });
    __syncthreads();
    make_deltas<T>(s.x, p, s.k, s.state, d, s.nl, t0, n, col, width, !before);
    each(n, width, [&](int t, int c) {
      float sum = 0.0f;
      for (int i = 0; behind && i < p.dk; i++) sum += s.k[t * p.dk + i] * s.ds[i * kSlice + c];
      sum *= d.rest[t];
      for (int u = t; u < n; u++) sum += s.pm[u * n + t] * s.dout[u * kSlice + c];
      s.dx[t * kSlice + c] = sum;
    });
    __syncthreads();
    solve_transposed(s.dx, s.nl, n, width);
    __syncthreads();
    each(n, width, [&](int t, int c) {
      static_cast<T*>(b.dv)[(t0 + t) * b.dv_ld + col + c] = from_float<T>(d.beta[t] * s.dx[t * kSlice + c]);
    });
    for (int t = threadIdx.x; t < n; t += kThreads) {
      float sum = 0.0f;
      for (int c = 0; c < width; c++)
        sum += s.dx[t * kSlice + c] * to_float(static_cast<const T*>(p.v)[(t0 + t) * p.v_ld + col + c]);
      s.dbeta[t] += sum;
    }
    each(n, n, [&](int t, int u) {
      if (u > t) return;
      float a = 0.0f, m = 0.0f;
      for (int c = 0; c < width; c++) {
        a += s.dout[t * kSlice + c] * s.x[u * kSlice + c];
        m += s.dx[t * kSlice + c] * s.x[u * kSlice + c];
      }
      s.ga[t * n + u] += a;
      s.gm[t * n + u] += m;
    });
    each(n, p.dk, [&](int t, int i) {
      float dq = 0.0f, z = 0.0f, w = 0.0f;
      for (int c = 0; c < width; c++) {
        if (before) {
          dq += s.dout[t * kSlice + c] * s.state[i * kSlice + c];
          z += s.dx[t * kSlice + c] * s.state[i * kSlice + c];
        }
        if (behind) w += s.x[t * kSlice + c] * s.ds[i * kSlice + c];
      }
      s.dq[t * p.dk + i] += d.gamma[t] * dq;
      s.z[t * p.dk + i] -= d.gamma[t] * z;
      s.w[t * p.dk + i] += d.rest[t] * w;
    });
    each(p.dk, width, [&](int i, int c) {
      const float ds = behind ? s.ds[i * kSlice + c] : 0.0f;
      if (behind) end += ds * behind[int64_t(i) * p.dv + c0 + c];
      if (!before) return;
      float sum = d.gamma[n - 1] * ds;
      for (int t = 0; t < n; t++)
        sum += d.gamma[t] * (s.q[t * p.dk + i] * s.dout[t * kSlice + c] - d.beta[t] * s.k[t * p.dk + i] * s.dx[t * kSlice + c]);
      ds_all[int64_t(i) * p.dv + c0 + c] = sum;
    });
    __syncthreads();
  }
  for (int t = threadIdx.x; t < n; t += kThreads) {
    float sum = s.dbeta[t] + dot_row(s.z, s.k, t, p.dk);
    for (int u = 0; u < t; u++) sum -= s.gm[t * n + u] * d.between(t, u) * s.kk[t * n + u];
    b.dbeta[(t0 + t) * b.dbeta_ld + head] = sum;
  }
  __syncthreads();
  each(n, n, [&](int t, int u) {
    const float e = u <= t ? d.between(t, u) : 0.0f;
    s.ga[t * n + u] = u <= t ? e * s.ga[t * n + u] : 0.0f;
    s.gm[t * n + u] = u < t ? -d.beta[t] * e * s.gm[t * n + u] : 0.0f;
  });
  __syncthreads();
  each(n, p.dk, [&](int t, int i) {
    float dq = s.dq[t * p.dk + i], r = d.beta[t] * s.z[t * p.dk + i], w = s.w[t * p.dk + i];
    for (int u = 0; u <= t; u++) {
      dq += s.ga[t * n + u] * s.k[u * p.dk + i];
      r += s.gm[t * n + u] * s.k[u * p.dk + i];
    }
    for (int u = t; u < n; u++) w += s.ga[u * n + t] * s.q[u * p.dk + i] + s.gm[u * n + t] * s.k[u * p.dk + i];
    s.dq[t * p.dk + i] = dq;
    s.z[t * p.dk + i] = r;
    s.w[t * p.dk + i] = w;
    s.dq_sum[t * p.dk + i] += dq;
    s.dk_sum[t * p.dk + i] += r + w;
  });
  __syncthreads();
  for (int t = threadIdx.x; t < n; t += kThreads)
    s.dbeta[t] = dot_row(s.q, s.dq, t, p.dk) + dot_row(s.k, s.z, t, p.dk) - dot_row(s.k, s.w, t, p.dk);
  end = block_sum(end, s.warps);
  if (threadIdx.x == 0) {
    float sum = end;
    for (int t = n - 1; t >= 0; t--) {
      sum += s.dbeta[t];
      b.dg[(t0 + t) * b.dg_ld + head] = t == 0 && !before ? 0.0f : sum;  // nothing decays before a document
    }
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads) delta_rule_backward_kernel(BackwardParams b) {
  ESFT_SHARED(smem);
  const DeltaParams& p = b.d;
  Room s(reinterpret_cast<float*>(smem), p);
  const int64_t key_head = blockIdx.x, size = int64_t(p.dk) * p.dv, block = int64_t(blockIdx.y) * kOpenTokens;
  const auto state_at = [&](int64_t t0, int64_t head) { return b.states + (t0 / p.chunk * b.heads + head) * size; };
  const auto ds_of = [&](int64_t head) { return b.ds + (blockIdx.y * b.heads + head) * size; };
  for (int64_t open = block; open < min_of(p.T, block + kOpenTokens); open++) {
    if (!opens(p, open)) continue;
    int64_t t0 = open, last = open;
    for (bool more = true; more;) {
      const int n = chunk_length(p, t0);
      more = t0 + n < p.T && !opens(p, t0 + n);
      last = t0;
      if (!more) break;
      load_keys<T>(s, p, t0, n, key_head);
      for (int i = 0; i < p.group; i++) {
        const int64_t head = key_head * p.group + i;
        s.d.make(p, t0, n, head);
        triangles(s.nl, s.pm, s.kk, s.qk, s.d, n);
        __syncthreads();
        const bool first = t0 == open;
        for (int c0 = 0; c0 < p.dv; c0 += kSlice) {
          const int width = min_of(kSlice, p.dv - c0);
          if (!first) load_slice<T>(s.state, state_at(t0, head), p.dk, p.dv, c0, width);
          __syncthreads();
          make_deltas<T>(s.x, p, s.k, s.state, s.d, s.nl, t0, n, head * p.dv + c0, width, first);
          float* next = state_at(t0 + n, head);
          each(p.dk, width,
               [&](int r, int c) { next[int64_t(r) * p.dv + c0 + c] = advanced(p, s.k, s.state, s.x, s.d, n, r, c, first); });
          __syncthreads();
        }
      }
      t0 += n;
    }
    for (t0 = last; t0 >= open; t0 -= p.chunk) {
      const int n = chunk_length(p, t0);
      load_keys<T>(s, p, t0, n, key_head);
      each(n, p.dk, [&](int t, int c) { s.dq_sum[t * p.dk + c] = s.dk_sum[t * p.dk + c] = 0.0f; });
      for (int i = 0; i < p.group; i++) {
        const int64_t head = key_head * p.group + i;
        s.d.make(p, t0, n, head);
        triangles(s.nl, s.pm, s.kk, s.qk, s.d, n);
        __syncthreads();
        chunk_backward<T>(b, s, t0, n, head, t0 == open ? nullptr : state_at(t0, head),
                          t0 == last ? nullptr : state_at(t0 + n, head), ds_of(head));
      }
      // Through the norms: of q both q̂ and its gradient carry the scale.
      for (int t = threadIdx.x; t < n; t += kThreads) {
        s.d.hi[t] = dot_row(s.q, s.dq_sum, t, p.dk) / (p.scale * p.scale);
        s.d.lo[t] = dot_row(s.k, s.dk_sum, t, p.dk);
      }
      __syncthreads();
      each(n, p.dk, [&](int t, int c) {
        const int at = t * p.dk + c;
        const int64_t col = key_head * p.dk + c;
        static_cast<T*>(b.dq)[(t0 + t) * b.dq_ld + col] = from_float<T>(s.rq[t] * (s.dq_sum[at] - s.q[at] * s.d.hi[t]));
        static_cast<T*>(b.dk)[(t0 + t) * b.dk_ld + col] = from_float<T>(s.rk[t] * (s.dk_sum[at] - s.k[at] * s.d.lo[t]));
      });
      __syncthreads();
    }
  }
}

}  // namespace

void run_gated_delta_rule_backward(const esft_gated_delta_rule_backward_args& a, Context& context) {
  check_doc_start_on_device(context, ESFT_OP_gated_delta_rule_backward, kArgDocStart, a.doc_start);
  BackwardParams b = {};
  b.d = params_of(a);
  DeltaParams& p = b.d;
  if (p.T == 0) return;
  p.chunk = pick_chunk("gated_delta_rule_backward", context, p, [&](int64_t chunk) { return backward_floats(p, chunk); });
  b.dout = a.dout.data, b.dout_ld = a.dout.ld;
  b.dq = a.dq.data, b.dq_ld = a.dq.ld;
  b.dk = a.dk.data, b.dk_ld = a.dk.ld;
  b.dv = a.dv.data, b.dv_ld = a.dv.ld;
  b.dbeta = data<float>(a.dbeta), b.dbeta_ld = a.dbeta.ld;
  b.dg = data<float>(a.dg), b.dg_ld = a.dg.ld;
  b.heads = a.heads;
  const int64_t size = a.heads * p.dk * p.dv, blocks = ceil_div(p.T, kOpenTokens);
  b.states = context.scratch_of<float>(ceil_div(p.T, p.chunk) * size);
  b.ds = context.scratch_of<float>(blocks * size);
  const dim3 grid(unsigned(a.key_heads), unsigned(blocks));
  by_float_type(a.q, [&](auto type) {
    using T = typename decltype(type)::type;
    ESFT_LAUNCH((delta_rule_backward_kernel<T>), context, grid, kThreads, size_t(backward_floats(p, p.chunk)) * sizeof(float), b);
  });
}

}  // namespace esft::cuda
