// sigmoid_gate, sigmoid_gate_backward, scale_rows. Bound by bytes: the forward moves x and y once, the backward dy, x and dx.
//
// A gate per element is a map over memory (map.cuh). A gate of several columns is one warp: its lanes walk the columns, 16 bytes each
// where rows allow it, and add up their parts of dg by shuffles, so that the order of the sum is fixed.

#include "../activation.cuh"
#include "index_check.cuh"
#include "map.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <class T>
struct Gate {
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const { y[0] = x[0] * sigmoid<T>(x[1]); }
};
// x = dy, x, g; y = dx, dg.
template <class T>
struct GateBackward {
  __device__ void operator()(const float (&x)[3], float (&y)[2]) const {
    const float s = sigmoid<T>(x[2]);
    y[0] = x[0] * s;
    y[1] = x[0] * x[1] * (s * sigmoid<T>(-x[2]));
  }
};
template <class T>
struct GateOfGate {
  __device__ void operator()(const float (&x)[3], float (&y)[1]) const {
    y[0] = x[0] * x[1] * (sigmoid<T>(x[2]) * sigmoid<T>(-x[2]));
  }
};

struct GroupParams {
  const void* a;  // what the factor multiplies: x, or dy
  const void* b;  // x, where dg is wanted
  const void* g;  // [R, G]; nullptr: factors by position
  void* out;  // optional
  void* dg;  // optional
  const int32_t* positions;
  const float* factors;
  int64_t a_ld, b_ld, g_ld, out_ld, dg_ld, groups;  // groups of all rows
  int32_t per_row, columns;  // groups of a row, columns of a group
  IndexCheck check;
};

template <class T, int kVec>
__global__ void __launch_bounds__(kThreads) group_kernel(GroupParams p) {
  const int64_t group = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (group >= p.groups) return;
  const Place at = place_of(group, p.per_row, 1);
  float factor, rest = 0;  // rest: 1 - factor without cancellation
  if (p.g) {
    const float g = to_float(static_cast<const T*>(p.g)[at.row * p.g_ld + at.col]);
    factor = sigmoid<T>(g);
    rest = sigmoid<T>(-g);
  } else {
    const int32_t position = p.positions[at.row];
    if (lane == 0 ? !p.check.ok(at.row, position) : position < 0 || position >= p.check.limit) return;
    factor = p.factors[position];
  }
  const int64_t column = at.col * p.columns;
  const T* a = static_cast<const T*>(p.a) + at.row * p.a_ld + column;
  const T* b = p.dg ? static_cast<const T*>(p.b) + at.row * p.b_ld + column : nullptr;
  T* out = p.out ? static_cast<T*>(p.out) + at.row * p.out_ld + column : nullptr;
  float sum = 0;
  for (int32_t c = lane * kVec; c < p.columns; c += 32 * kVec) {
    float x[kVec], y[kVec];
    to_floats(load_elements<kVec>(a + c), x);
    if (b) {
      to_floats(load_elements<kVec>(b + c), y);
#pragma unroll
      for (int i = 0; i < kVec; i++) sum += x[i] * y[i];
    }
    if (!out) continue;
#pragma unroll
    for (int i = 0; i < kVec; i++) x[i] *= factor;
    store_elements(out + c, from_floats<T>(x));
  }
  if (!b) return;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane == 0) static_cast<T*>(p.dg)[at.row * p.dg_ld + at.col] = from_float<T>(sum * (factor * rest));
}

template <class T>
void launch_groups(Context& context, const GroupParams& p, bool aligned) {
  constexpr int kVec = 16 / int(sizeof(T));
  const unsigned grid = grid_of(p.groups, kWarps);
  if (p.groups == 0 || p.columns == 0) return;
  if (aligned && p.columns % kVec == 0)
    ESFT_LAUNCH((group_kernel<T, kVec>), context, grid, kThreads, 0, p);
  else
    ESFT_LAUNCH((group_kernel<T, 1>), context, grid, kThreads, 0, p);
}

int32_t columns_of(const char* op, const esft_tensor& x, int64_t groups) {
  if (cols(x) > INT32_MAX)
    fail_status(ESFT_UNSUPPORTED, op, "x", std::string(op) + ": x must have fewer than 2^31 columns on CUDA");
  return groups ? int32_t(cols(x) / groups) : 0;
}

}  // namespace

void run_sigmoid_gate(const esft_sigmoid_gate_args& a, Context& context) {
  const int64_t R = rows(a.x), G = cols(a.g);
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    if (G == cols(a.x)) return map<T, T>(context, R, G, {Operand(a.x), Operand(a.g)}, {Operand(a.y)}, Gate<T>{});
    GroupParams p{};
    p.a = a.x.data, p.a_ld = a.x.ld, p.g = a.g.data, p.g_ld = a.g.ld, p.out = a.y.data, p.out_ld = a.y.ld;
    p.groups = R * G, p.per_row = int32_t(G), p.columns = columns_of("sigmoid_gate", a.x, G);
    launch_groups<T>(context, p, rows_aligned16(a.x) && rows_aligned16(a.y));
  });
}

void run_sigmoid_gate_backward(const esft_sigmoid_gate_backward_args& a, Context& context) {
  const int64_t R = rows(a.x), G = cols(a.g);
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    if (G == cols(a.x)) {
      if (a.dx.data && a.dg.data)
        return map<T, T>(context, R, G, {Operand(a.dy), Operand(a.x), Operand(a.g)}, {Operand(a.dx), Operand(a.dg)},
                         GateBackward<T>{});
      if (a.dg.data) return map<T, T>(context, R, G, {Operand(a.dy), Operand(a.x), Operand(a.g)}, {Operand(a.dg)}, GateOfGate<T>{});
      if (a.dx.data) return map<T, T>(context, R, G, {Operand(a.dy), Operand(a.g)}, {Operand(a.dx)}, Gate<T>{});
      return;
    }
    if (!a.dx.data && !a.dg.data) return;
    GroupParams p{};
    p.a = a.dy.data, p.a_ld = a.dy.ld, p.b = a.x.data, p.b_ld = a.x.ld, p.g = a.g.data, p.g_ld = a.g.ld;
    p.out = a.dx.data, p.out_ld = a.dx.ld, p.dg = a.dg.data, p.dg_ld = a.dg.ld;
    p.groups = R * G, p.per_row = int32_t(G), p.columns = columns_of("sigmoid_gate_backward", a.x, G);
    launch_groups<T>(context, p, rows_aligned16(a.dy) && rows_aligned16(a.x) && (!a.dx.data || rows_aligned16(a.dx)));
  });
}

void run_scale_rows(const esft_scale_rows_args& a, Context& context) {
  const int64_t R = rows(a.x), P = numel(a.factors);
  if (cols(a.x) == 0) check_indices_on_device(context, ESFT_OP_scale_rows, kArgPositions, a.positions, P);
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    GroupParams p{};
    p.a = a.x.data, p.a_ld = a.x.ld, p.out = a.y.data, p.out_ld = a.y.ld;
    p.positions = data<int32_t>(a.positions), p.factors = data<float>(a.factors);
    p.groups = R, p.per_row = 1, p.columns = columns_of("scale_rows", a.x, 1);
    p.check = index_check(context, ESFT_OP_scale_rows, kArgPositions, a.positions, P);
    launch_groups<T>(context, p, rows_aligned16(a.x) && rows_aligned16(a.y));
  });
}

}  // namespace esft::cuda
