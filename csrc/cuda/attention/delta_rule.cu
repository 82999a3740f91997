// gated_delta_rule: a CTA per value head, slice of its values and block of tokens where documents open (delta_chunk.cuh). The same CTA reads
// the state that a document goes on from and writes the one it leaves.
#include "../rows/documents.cuh"
#include "delta_chunk.cuh"

namespace esft::cuda {

namespace {

using namespace delta;

int64_t forward_floats(const DeltaParams& p, int64_t chunk) {
  return 2 * chunk * p.dk + chunk * kSlice + p.dk * kSlice + 4 * chunk * chunk + 7 * chunk;
}

// Of documents that go on; without items S = 0 before each.
struct DeltaStates {
  Documents documents;
  Items<float*> items;  // [heads · dk, dv] each
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    delta_rule_kernel(const DeltaParams p, void* o, int64_t o_ld, const DeltaStates states) {
  ESFT_SHARED(smem);
  const int64_t head = blockIdx.x, key_head = head / p.group;
  const int c0 = blockIdx.z * kSlice, width = min_of(kSlice, p.dv - c0);
  const int64_t col = head * p.dv + c0;
  float* q = reinterpret_cast<float*>(smem);
  float* k = q + p.chunk * p.dk;
  float* x = k + p.chunk * p.dk;
  float* state = x + p.chunk * kSlice;
  float* kk = state + p.dk * kSlice;
  float* qk = kk + p.chunk * p.chunk;
  float* nl = qk + p.chunk * p.chunk;
  float* pm = nl + p.chunk * p.chunk;
  float* r = pm + p.chunk * p.chunk;
  Decays d;
  d.place(r + 2 * p.chunk, p.chunk);

  const int64_t block = int64_t(blockIdx.y) * kOpenTokens;
  for (int64_t open = block; open < min_of(p.T, block + kOpenTokens); open++) {
    if (!opens(p, open)) continue;
    const int32_t document = states.items.count ? states.documents.of[open] : -1;
    const bool goes_on = document >= 0;
    float* const kept = goes_on ? in_global(states.items.at(document)) + head * p.dk * p.dv + c0 : nullptr;
    // The product that reads it comes behind a barrier.
    if (goes_on) each(p.dk, width, [&](int i, int c) { state[i * kSlice + c] = kept[int64_t(i) * p.dv + c]; });
    bool first = !goes_on, more = true;
    for (int64_t t0 = open; more; first = false) {
      const int n = chunk_length(p, t0);
      more = t0 + n < p.T && !opens(p, t0 + n);
      load_unit<T>(q, r, p.q, p.q_ld, t0, n, key_head * p.dk, p.dk, p.eps, p.scale);
      load_unit<T>(k, r, p.k, p.k_ld, t0, n, key_head * p.dk, p.dk, p.eps, 1.0f);
      d.make(p, t0, n, head);
      dots(kk, k, k, n, p.dk);
      dots(qk, q, k, n, p.dk);
      __syncthreads();
      triangles(nl, pm, kk, qk, d, n);
      __syncthreads();
      make_deltas<T>(x, p, k, state, d, nl, t0, n, col, width, first);
      each(n, width, [&](int t, int c) {
        float sum = 0.0f;
        for (int i = 0; !first && i < p.dk; i++) sum += q[t * p.dk + i] * state[i * kSlice + c];
        sum *= d.gamma[t];
        for (int s = 0; s <= t; s++) sum += pm[t * n + s] * x[s * kSlice + c];
        static_cast<T*>(o)[(t0 + t) * o_ld + col + c] = from_float<T>(sum);
      });
      __syncthreads();
      if (more) each(p.dk, width, [&](int i, int c) { state[i * kSlice + c] = advanced(p, k, state, x, d, n, i, c, first); });
      if (!more && goes_on && *states.documents.sound)
        each(p.dk, width, [&](int i, int c) { kept[int64_t(i) * p.dv + c] = advanced(p, k, state, x, d, n, i, c, first); });
      __syncthreads();
      t0 += n;
    }
  }
}

}  // namespace

void run_gated_delta_rule(const esft_gated_delta_rule_args& a, Context& context) {
  DeltaStates states = {};
  if (a.states.count)
    states.documents = documents_on_device(context, ESFT_OP_gated_delta_rule, kArgStates, a.doc_start, a.states.count);
  else
    check_doc_start_on_device(context, ESFT_OP_gated_delta_rule, kArgDocStart, a.doc_start);
  DeltaParams p = params_of(a);
  if (p.T == 0) return;
  states.items = items_of<float*>(context, a.states.count, [&](int64_t i) { return data<float>(a.states.items[i]); });
  p.chunk = pick_chunk("gated_delta_rule", context, p, [&](int64_t chunk) { return forward_floats(p, chunk); });
  const dim3 grid(unsigned(a.heads), grid_of(p.T, kOpenTokens), grid_of(p.dv, kSlice));
  by_float_type(a.q, [&](auto type) {
    using T = typename decltype(type)::type;
    ESFT_LAUNCH((delta_rule_kernel<T>), context, grid, kThreads, size_t(forward_floats(p, p.chunk)) * sizeof(float), p, a.o.data,
                a.o.ld, states);
  });
}

}  // namespace esft::cuda
