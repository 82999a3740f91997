// causal_conv and its backward. Bound by bytes: a thread walks down one channel of a chunk of rows with the last w values of x in
// registers, so that x, y, dy and dx are read and written once (but for the w − 1 rows where chunks meet); neighbouring threads take
// neighbouring channels. Sums over rows: a partial per chunk, added in order (column_sum.cuh). States of documents that go on are read by the
// forward and replaced by a launch behind it.
#include "../activation.cuh"
#include "../host/launch.h"
#include "column_sum.cuh"
#include "documents.cuh"
#include "index_check.cuh"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int64_t kForwardRows = 32, kLeastRows = 64;

struct ConvParams {
  const void* x;
  const void* weight;
  const void* bias;  // or nullptr
  const int32_t* doc_start;
  void* y;
  const void* dy;
  void* dx;  // or nullptr
  float* partial_w;  // [chunks, C · w] or nullptr
  float* partial_b;  // [chunks, C] or nullptr
  int64_t T, C, x_ld, y_ld, dy_ld, dx_ld, chunk;
  bool silu, wide_weight, wide_bias;
};

__device__ __forceinline__ float number(const void* p, int64_t i, bool wide) {
  return wide ? static_cast<const float*>(p)[i] : to_float(static_cast<const bf16*>(p)[i]);
}
// Inside 0..t whatever doc_start holds.
__device__ __forceinline__ int64_t start_of(const ConvParams& p, int64_t t) {
  return min_of(max_of(int64_t(p.doc_start[t]), int64_t(0)), t);
}

// One channel: its taps, its bias and the window x[t − w + 1 .. t].
template <class T, int kTaps>
struct Channel {
  float tap[kTaps], window[kTaps], bias;
  __device__ __forceinline__ void open(const ConvParams& p, int64_t c, int64_t t) {
    bias = p.bias ? number(p.bias, c, p.wide_bias) : 0.0f;
#pragma unroll
    for (int j = 0; j < kTaps; j++) {
      tap[j] = number(p.weight, c * kTaps + j, p.wide_weight);
      const int64_t row = t - kTaps + j;
      window[j] = row >= 0 ? to_float(static_cast<const T*>(p.x)[row * p.x_ld + c]) : 0.0f;
    }
  }
  // Takes in row t; tap j counts where t − w + 1 + j >= start, else what stands before the document.
  template <class Before>
  __device__ __forceinline__ float step(const ConvParams& p, int64_t c, int64_t t, int64_t start, const Before& before) {
#pragma unroll
    for (int j = 0; j + 1 < kTaps; j++) window[j] = window[j + 1];
    window[kTaps - 1] = to_float(static_cast<const T*>(p.x)[t * p.x_ld + c]);
    float h = bias;
#pragma unroll
    for (int j = 0; j < kTaps; j++) {
      if (t - kTaps + 1 + j >= start)
        h += tap[j] * window[j];
      else
        before.add(h, tap[j], j);
    }
    return h;
  }
};

// What stands before a document: nothing, or rows of a state (where the pointer is one). Functors: lambdas here end nvcc 13.
struct NothingBefore {
  __device__ __forceinline__ void add(float&, float, int) const {}
};
struct RowsBefore {
  const float* rows;
  int64_t pitch;
  __device__ __forceinline__ void add(float& h, float tap, int j) const {
    if (rows) h += tap * rows[j * pitch];
  }
};

// What stands before documents; without items zeros do.
struct ConvStates {
  Documents documents;
  Items<float*> items;  // [w − 1, C] each
};

template <class T, int kTaps, bool kStates>
__global__ void __launch_bounds__(kThreads) causal_conv_kernel(const ConvParams p, const ConvStates states) {
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= p.C) return;
  const int64_t begin = blockIdx.y * p.chunk, end = min_of(p.T, begin + p.chunk);
  Channel<T, kTaps> channel;
  channel.open(p, c, begin);
  for (int64_t t = begin; t < end; t++) {
    const int64_t start = start_of(p, t);
    const float* before = nullptr;
    if (kStates && t - start < kTaps - 1) {
      const int32_t document = states.documents.of[t];
      if (document >= 0) before = in_global(states.items.at(document)) + (t - start) * p.C + c;
    }
    const float h = kStates ? channel.step(p, c, t, start, RowsBefore{before, p.C}) : channel.step(p, c, t, start, NothingBefore{});
    static_cast<T*>(p.y)[t * p.y_ld + c] = from_float<T>(p.silu ? h * sigmoid<float>(h) : h);
  }
}

// The last `kept` rows of state and document, a thread per channel of a document: upwards, so that a row is read before it is replaced.
template <class T>
__global__ void __launch_bounds__(kThreads) replace_states(const ConvParams p, const ConvStates states, int kept) {
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= p.C || !*states.documents.sound) return;
  for (int64_t i = blockIdx.y; i < states.items.count; i += gridDim.y) {
    const int64_t begin = states.documents.begin[i], end = states.documents.begin[i + 1], n = end - begin;
    float* const state = in_global(states.items.at(i));
    for (int64_t r = 0; r < kept; r++)
      state[r * p.C + c] =
          n + r >= kept ? to_float(static_cast<const T*>(p.x)[(end - kept + r) * p.x_ld + c]) : state[(n + r) * p.C + c];
  }
}

// Rows begin .. end of a chunk, and the w − 1 rows behind it, which reach back into it. sum[j] gathers dx of row t − w + 1 + j.
template <class T, int kTaps>
__global__ void __launch_bounds__(kThreads) causal_conv_backward_kernel(ConvParams p) {
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= p.C) return;
  const int64_t begin = blockIdx.y * p.chunk, end = min_of(p.T, begin + p.chunk);
  Channel<T, kTaps> channel;
  channel.open(p, c, begin);
  float sum[kTaps], dtap[kTaps], dbias = 0.0f;
#pragma unroll
  for (int j = 0; j < kTaps; j++) sum[j] = dtap[j] = 0.0f;
  for (int64_t t = begin; t < end + kTaps - 1; t++) {
    float dh = 0.0f;
    int64_t start = t;
    if (t < p.T) {
      start = start_of(p, t);
      const float h = channel.step(p, c, t, start, NothingBefore{});
      dh = to_float(static_cast<const T*>(p.dy)[t * p.dy_ld + c]);
      if (p.silu) {
        const float s = sigmoid<float>(h);
        dh *= s * (1.0f + h * (1.0f - s));
      }
    }
#pragma unroll
    for (int j = 0; j + 1 < kTaps; j++) sum[j] = sum[j + 1];
    sum[kTaps - 1] = 0.0f;
#pragma unroll
    for (int j = 0; j < kTaps; j++) {
      if (t - kTaps + 1 + j < start) continue;
      sum[j] += channel.tap[j] * dh;
      if (t < end) dtap[j] += dh * channel.window[j];
    }
    if (t < end) dbias += dh;
    const int64_t done = t - kTaps + 1;
    if (p.dx && done >= begin && done < end) static_cast<T*>(p.dx)[done * p.dx_ld + c] = from_float<T>(sum[0]);
  }
  if (p.partial_w) {
#pragma unroll
    for (int j = 0; j < kTaps; j++) p.partial_w[(blockIdx.y * p.C + c) * kTaps + j] = dtap[j];
  }
  if (p.partial_b) p.partial_b[blockIdx.y * p.C + c] = dbias;
}

// f(number of taps as a type)
template <class F>
void by_taps(int64_t w, F f) {
  switch (w) {
    case 1: return f(Constant<1>{});
    case 2: return f(Constant<2>{});
    case 3: return f(Constant<3>{});
    case 4: return f(Constant<4>{});
    case 5: return f(Constant<5>{});
    case 6: return f(Constant<6>{});
    case 7: return f(Constant<7>{});
    case 8: return f(Constant<8>{});
  }
  no_kernel("taps", w);
}

template <class Args>
ConvParams params_of(const Args& a) {
  ConvParams p = {};
  p.x = a.x.data;
  p.x_ld = a.x.ld;
  p.T = rows(a.x);
  p.C = cols(a.x);
  p.weight = a.weight.data;
  p.wide_weight = a.weight.dtype == ESFT_F32;
  p.bias = present(a.bias) ? a.bias.data : nullptr;
  p.wide_bias = present(a.bias) && a.bias.dtype == ESFT_F32;
  p.doc_start = data<int32_t>(a.doc_start);
  p.silu = a.silu != 0;
  return p;
}

}  // namespace

void run_causal_conv(const esft_causal_conv_args& a, Context& context) {
  ConvStates states = {};
  if (a.states.count)
    states.documents = documents_on_device(context, ESFT_OP_causal_conv, kArgStates, a.doc_start, a.states.count);
  else
    check_doc_start_on_device(context, ESFT_OP_causal_conv, kArgDocStart, a.doc_start);
  ConvParams p = params_of(a);
  if (p.T == 0 || p.C == 0) return;
  states.items = items_of<float*>(context, a.states.count, [&](int64_t i) { return data<float>(a.states.items[i]); });
  const int kept = int(cols(a.weight)) - 1;
  p.y = a.y.data;
  p.y_ld = a.y.ld;
  p.chunk = max_of(kForwardRows, ceil_div(p.T, 65535));
  const dim3 grid(grid_of(p.C, kThreads), grid_of(p.T, p.chunk));
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    by_taps(cols(a.weight), [&](auto taps) {
      constexpr int kTaps = decltype(taps)::value;
      if (a.states.count)
        ESFT_LAUNCH((causal_conv_kernel<T, kTaps, true>), context, grid, kThreads, 0, p, states);
      else
        ESFT_LAUNCH((causal_conv_kernel<T, kTaps, false>), context, grid, kThreads, 0, p, states);
    });
    if (a.states.count == 0 || kept == 0) return;
    const dim3 all(grid_of(p.C, kThreads), unsigned(min_of(a.states.count, int64_t(65535))));
    ESFT_LAUNCH((replace_states<T>), context, all, kThreads, 0, p, states, kept);
  });
}

void run_causal_conv_backward(const esft_causal_conv_backward_args& a, Context& context) {
  check_doc_start_on_device(context, ESFT_OP_causal_conv_backward, kArgDocStart, a.doc_start);
  ConvParams p = params_of(a);
  const bool wants_w = present(a.dweight), wants_b = present(a.dbias);
  if (p.T == 0 || p.C == 0 || !(present(a.dx) || wants_w || wants_b)) return;
  const int64_t w = cols(a.weight);
  p.dy = a.dy.data;
  p.dy_ld = a.dy.ld;
  if (present(a.dx)) p.dx = a.dx.data, p.dx_ld = a.dx.ld;
  p.chunk = rows_per_chunk(p.T, kLeastRows);
  const int64_t chunks = ceil_div(p.T, p.chunk);
  if (wants_w) p.partial_w = context.scratch_of<float>(chunks * p.C * w);
  if (wants_b) p.partial_b = context.scratch_of<float>(chunks * p.C);
  const dim3 grid(grid_of(p.C, kThreads), unsigned(chunks));
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    by_taps(w, [&](auto taps) {
      constexpr int kTaps = decltype(taps)::value;
      ESFT_LAUNCH((causal_conv_backward_kernel<T, kTaps>), context, grid, kThreads, 0, p);
    });
  });
  if (wants_w) add_partials(context, p.partial_w, chunks, p.C * w, data<float>(a.dweight));
  if (wants_b) add_partials(context, p.partial_b, chunks, p.C, data<float>(a.dbias));
}

}  // namespace esft::cuda
