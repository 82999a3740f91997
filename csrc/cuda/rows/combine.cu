// combine and its backward: gathers of whole rows, no arithmetic to speak of.
//
// combine: a warp owns a stretch of columns of one token; per step each lane has 16 bytes of up to eight of the token's rows in
// flight, adds them in the order of k and stores once. (K + 1)·D·2 bytes per token (one more D when it accumulates): the limit
// is the bandwidth of a copy; one more D with a residual. Few tokens are cut by columns, so that a short batch fills the GPU too.
// combine_backward: a warp per token; dy is read once for eight slots, the dots stay with the lane until the row ends.
#include "../host/launch.h"
#include "../reduce.cuh"
#include "index_check.cuh"

namespace esft::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kSlots = 8;  // rows in flight

// kVec elements of T as f32: 16 bytes, or one element where addresses are not aligned and at the end of a row.
template <class T, int kVec>
struct Pack;
template <class T>
struct Pack<T, 1> {
  T value{};
  __device__ __forceinline__ void load(const T* p) { value = *p; }
  __device__ __forceinline__ void unpack(float (&f)[1]) const { f[0] = to_float(value); }
  static __device__ __forceinline__ void store(T* p, const float (&f)[1]) { *p = from_float<T>(f[0]); }
};
template <>
struct Pack<bf16, 8> {
  Vec16 value{};
  __device__ __forceinline__ void load(const bf16* p) { value = load16(p); }
  __device__ __forceinline__ void unpack(float (&f)[8]) const { unpack8(value, f); }
  static __device__ __forceinline__ void store(bf16* p, const float (&f)[8]) { store16(p, pack8(f)); }
};
template <>
struct Pack<float, 4> {
  Vec16 value{};
  __device__ __forceinline__ void load(const float* p) { value = load16(p); }
  __device__ __forceinline__ void unpack(float (&f)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) f[i] = bits_to_float(value.w[i]);
  }
  static __device__ __forceinline__ void store(float* p, const float (&f)[4]) {
    Vec16 v;
#pragma unroll
    for (int i = 0; i < 4; i++) v.w[i] = float_to_bits(f[i]);
    store16(p, v);
  }
};
template <class T>
constexpr int kFullVec = 16 / int(sizeof(T));

// Eight slots of a token, from slot k on: rows (-1: no such slot, or a bad index) and weights. Lane j fetches slot k + j and hands it
// to the warp.
struct Slots {
  int32_t row[kSlots];
  float weight[kSlots];

  __device__ __forceinline__ void take(const IndexCheck& check, int64_t t, const int32_t* pos, const float* weights, int k, int K) {
    const int lane = threadIdx.x % 32, slot = k + lane;
    int32_t own_row = -1;
    float own_weight = 1;
    if (lane < kSlots && slot < K) {
      own_row = pos[slot];
      if (weights) own_weight = weights[slot];
      if (!check.ok(t * K + slot, own_row)) own_row = -1;
    }
#pragma unroll
    for (int j = 0; j < kSlots; j++) {
      row[j] = __shfl_sync(kFullWarp, own_row, j);
      weight[j] = __shfl_sync(kFullWarp, own_weight, j);
    }
  }
};

// ---- combine ------------------------------------------------------------------------------------------------------------

template <class T>
struct CombineParams {
  const T* x;
  const int32_t* pos;
  const float* weights;
  const T* residual;  // or nullptr
  T* y;
  int64_t tokens, D, x_ld, pos_ld, weights_ld, residual_ld, y_ld;
  int64_t span, spans;  // columns per warp, warps per token
  IndexCheck check;
  int32_t K, accumulate;
};

// Columns begin..end-1 (a multiple of kVec) of one token. kFew: K <= 8, the slots have been taken.
template <class T, int kVec, bool kFew>
__device__ __forceinline__ void combine_columns(const CombineParams<T>& p, int64_t t, int64_t begin, int64_t end, Slots& slots) {
  T* y = p.y + t * p.y_ld;
  for (int64_t first = begin; first < end; first += 32 * kVec) {
    const int64_t d = first + int64_t(threadIdx.x % 32) * kVec;
    const bool inside = d < end;
    float sum[kVec] = {};
    Pack<T, kVec> old;  // zeros where nothing is added to; used when the rows are under way too
    if (p.accumulate && inside) old.load(y + d);
    Pack<T, kVec> last;
    if (p.residual && inside) last.load(p.residual + t * p.residual_ld + d);
    if (p.K == 0) old.unpack(sum);
    for (int k = 0; k < p.K; k += kSlots) {
      if (!kFew) slots.take(p.check, t, p.pos + t * p.pos_ld, p.weights ? p.weights + t * p.weights_ld : nullptr, k, p.K);
      Pack<T, kVec> in[kSlots];
#pragma unroll
      for (int j = 0; j < kSlots; j++)
        if (inside && slots.row[j] >= 0) in[j].load(p.x + slots.row[j] * p.x_ld + d);
      if (k == 0) old.unpack(sum);
#pragma unroll
      for (int j = 0; j < kSlots; j++) {
        if (slots.row[j] < 0) continue;
        float f[kVec];
        in[j].unpack(f);
#pragma unroll
        for (int i = 0; i < kVec; i++) sum[i] = fmaf(slots.weight[j], f[i], sum[i]);
      }
      if (kFew) break;
    }
    if (p.residual) {
      float f[kVec];
      last.unpack(f);
#pragma unroll
      for (int i = 0; i < kVec; i++) sum[i] = to_float(from_float<T>(sum[i])) + f[i];
    }
    if (inside) Pack<T, kVec>::store(y + d, sum);
  }
}

template <class T, int kVec, bool kFew>
__global__ void __launch_bounds__(32 * kWarps) combine_rows(const EarlyStart early, const CombineParams<T> p) {
  early.wait();
  const int64_t task = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32, t = task / p.spans;
  if (t >= p.tokens) return;
  const int64_t begin = (task - t * p.spans) * p.span, end = min_of(p.D, begin + p.span), whole = end - (end - begin) % kVec;
  Slots slots;
  if (kFew) slots.take(p.check, t, p.pos + t * p.pos_ld, p.weights ? p.weights + t * p.weights_ld : nullptr, 0, p.K);
  combine_columns<T, kVec, kFew>(p, t, begin, whole, slots);
  if (kVec > 1 && whole < end) combine_columns<T, 1, kFew>(p, t, whole, end, slots);
}

bool aligned(const esft_tensor& t) {
  const int64_t size = dtype_size(t.dtype);
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (rows(t) <= 1 || t.ld * size % 16 == 0);
}

template <class T, int kVec>
void launch_combine(Context& c, const CombineParams<T>& p) {
  const dim3 grid(unsigned(ceil_div(p.tokens * p.spans, kWarps)));
  if (p.K <= kSlots)
    ESFT_LAUNCH((combine_rows<T, kVec, true>), c, grid, 32 * kWarps, 0, p);
  else
    ESFT_LAUNCH((combine_rows<T, kVec, false>), c, grid, 32 * kWarps, 0, p);
}

template <class T>
void combine_as(const esft_combine_args& a, Context& c) {
  CombineParams<T> p{};
  p.x = data<T>(a.x);
  p.pos = data<int32_t>(a.pos);
  p.weights = present(a.weights) ? data<float>(a.weights) : nullptr;
  p.residual = present(a.residual) ? data<T>(a.residual) : nullptr;
  p.residual_ld = a.residual.ld;
  p.y = data<T>(a.y);
  p.tokens = rows(a.y), p.D = cols(a.y), p.K = int32_t(cols(a.pos));
  p.x_ld = a.x.ld, p.pos_ld = a.pos.ld, p.weights_ld = a.weights.ld, p.y_ld = a.y.ld;
  p.check = index_check(c, ESFT_OP_combine, kArgPos, a.pos, rows(a.x));
  p.accumulate = int32_t(a.accumulate);
  // One warp per token unless that leaves multiprocessors without work; a stretch is at least one step of the warp.
  const int64_t step = 32 * kFullVec<T>, steps = max_of(ceil_div(p.D, step), int64_t(1)), wanted = int64_t(16) * c.sms;
  p.spans = min_of(steps, max_of(ceil_div(wanted, max_of(p.tokens, int64_t(1))), int64_t(1)));
  p.span = ceil_div(steps, p.spans) * step;
  p.spans = max_of(ceil_div(p.D, p.span), int64_t(1));
  if (aligned(a.x) && aligned(a.y) && (!p.residual || aligned(a.residual)))
    launch_combine<T, kFullVec<T>>(c, p);
  else
    launch_combine<T, 1>(c, p);
}

// ---- combine_backward ---------------------------------------------------------------------------------------------------

template <class T>
struct CombineBackwardParams {
  const T* dy;
  const T* x;
  const int32_t* pos;
  const float* weights;
  T* dx;
  float* dweights;
  int64_t tokens, D, dy_ld, x_ld, pos_ld, weights_ld, dx_ld, dweights_ld;
  IndexCheck check;
  int32_t K;
};

// dx rows and the lane's share of the dots of eight slots, columns begin..end-1 (a multiple of kVec).
template <class T, int kVec>
__device__ __forceinline__ void backward_columns(const CombineBackwardParams<T>& p, int64_t t, int64_t begin, int64_t end,
                                                 const Slots& slots, float (&dot)[kSlots]) {
  const T* dy = p.dy + t * p.dy_ld;
  for (int64_t d = begin + int64_t(threadIdx.x % 32) * kVec; d < end; d += 32 * kVec) {
    Pack<T, kVec> up, x[kSlots];
    up.load(dy + d);
    if (p.dweights) {
#pragma unroll
      for (int j = 0; j < kSlots; j++)
        if (slots.row[j] >= 0) x[j].load(p.x + slots.row[j] * p.x_ld + d);
    }
    float g[kVec];
    up.unpack(g);
    if (p.dweights) {
#pragma unroll
      for (int j = 0; j < kSlots; j++) {
        float f[kVec];
        x[j].unpack(f);  // zeros where there is no row
#pragma unroll
        for (int i = 0; i < kVec; i++) dot[j] = fmaf(g[i], f[i], dot[j]);
      }
    }
    if (p.dx) {
#pragma unroll
      for (int j = 0; j < kSlots; j++) {
        if (slots.row[j] < 0) continue;
        float f[kVec];
#pragma unroll
        for (int i = 0; i < kVec; i++) f[i] = slots.weight[j] * g[i];
        Pack<T, kVec>::store(p.dx + slots.row[j] * p.dx_ld + d, f);
      }
    }
  }
}

template <class T, int kVec>
__global__ void __launch_bounds__(32 * kWarps) combine_backward_rows(const EarlyStart early, const CombineBackwardParams<T> p) {
  early.wait();
  const int lane = threadIdx.x % 32;
  const int64_t t = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32;
  if (t >= p.tokens) return;
  const int32_t* pos = p.pos + t * p.pos_ld;
  const float* weights = p.weights + t * p.weights_ld;
  const int64_t whole = p.D - p.D % kVec;
  for (int k = 0; k < p.K; k += kSlots) {
    Slots slots;
    slots.take(p.check, t, pos, weights, k, p.K);
    float dot[kSlots] = {};
    backward_columns<T, kVec>(p, t, 0, whole, slots, dot);
    if (kVec > 1 && whole < p.D) backward_columns<T, 1>(p, t, whole, p.D, slots, dot);
    if (!p.dweights) continue;
#pragma unroll
    for (int j = 0; j < kSlots; j++) {
      const float total = warp_sum(dot[j]);
      if (lane == j && k + j < p.K) p.dweights[t * p.dweights_ld + k + j] = total;
    }
  }
}

template <class T>
void combine_backward_as(const esft_combine_backward_args& a, Context& c) {
  CombineBackwardParams<T> p{};
  p.dy = data<T>(a.dy);
  p.x = data<T>(a.x);
  p.pos = data<int32_t>(a.pos);
  p.weights = data<float>(a.weights);
  p.dx = present(a.dx) ? data<T>(a.dx) : nullptr;
  p.dweights = present(a.dweights) ? data<float>(a.dweights) : nullptr;
  p.tokens = rows(a.dy), p.D = cols(a.dy), p.K = int32_t(cols(a.pos));
  p.dy_ld = a.dy.ld, p.x_ld = a.x.ld, p.pos_ld = a.pos.ld, p.weights_ld = a.weights.ld, p.dx_ld = a.dx.ld;
  p.dweights_ld = a.dweights.ld;
  p.check = index_check(c, ESFT_OP_combine_backward, kArgPos, a.pos, rows(a.x));
  if (p.dx) check_permutation_on_device(c, ESFT_OP_combine_backward, kArgPos, a.pos, rows(a.x));
  const dim3 grid(unsigned(ceil_div(p.tokens, kWarps)));
  if (aligned(a.dy) && (!p.dweights || aligned(a.x)) && (!p.dx || aligned(a.dx)))
    ESFT_LAUNCH((combine_backward_rows<T, kFullVec<T>>), c, grid, 32 * kWarps, 0, p);
  else
    ESFT_LAUNCH((combine_backward_rows<T, 1>), c, grid, 32 * kWarps, 0, p);
}

}  // namespace

void run_combine(const esft_combine_args& a, Context& c) {
  a.y.dtype == ESFT_BF16 ? combine_as<bf16>(a, c) : combine_as<float>(a, c);
}

void run_combine_backward(const esft_combine_backward_args& a, Context& c) {
  a.dy.dtype == ESFT_BF16 ? combine_backward_as<bf16>(a, c) : combine_backward_as<float>(a, c);
}

}  // namespace esft::cuda
