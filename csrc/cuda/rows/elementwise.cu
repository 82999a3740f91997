// swiglu, swiglu_backward, add, scale, soft_cap, clamp, clamp_backward, fill, cast: one pass over memory (map.cuh).
// Bound by bytes: swiglu reads 2 and writes 1 element per output, swiglu_backward 3 and 2, add 2 and 1, scale and clamp 1 and 1;
// 16-byte accesses, 32..64 bytes of loads in flight per thread and full occupancy reach the copy rate of the memory.
#include <string.h>

#include "../activation.cuh"
#include "map.cuh"

namespace esft::cuda {

namespace {

template <class T>
struct Swiglu {
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const { y[0] = x[0] * sigmoid<T>(x[0]) * x[1]; }
};
// x = gate, up, da; y = dgate, dup. silu'(g) = σ(g)·(1 + g·(1 − σ(g)))
template <class T>
struct SwigluBackward {
  __device__ void operator()(const float (&x)[3], float (&y)[2]) const {
    const float s = sigmoid<T>(x[0]);
    y[0] = x[2] * x[1] * (s * (1.0f + x[0] * (1.0f - s)));
    y[1] = x[2] * (x[0] * s);
  }
};
// The other activations.
template <class T>
struct OtherGate {
  Activation f;
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const { y[0] = gated_value<T>(f, x[0], x[1]); }
};
template <class T>
struct OtherGateBackward {
  Activation f;
  __device__ void operator()(const float (&x)[3], float (&y)[2]) const {
    const Gated g = gated<T>(f, x[0], x[1]);
    y[0] = x[2] * g.by_gate;
    y[1] = x[2] * g.by_up;
  }
};
struct Add {
  float alpha;
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const { y[0] = x[0] + alpha * x[1]; }
};
struct Scale {
  float factor;
  __device__ void operator()(const float (&x)[1], float (&y)[1]) const { y[0] = x[0] * factor; }
};
// By a number that lies on the device.
template <class B>
struct ScaleBy {
  float factor;
  const B* by;
  __device__ void operator()(const float (&x)[1], float (&y)[1]) const { y[0] = x[0] * (factor * to_float(*by)); }
};
struct SoftCap {
  float cap;
  __device__ void operator()(const float (&x)[1], float (&y)[1]) const { y[0] = cap * tanhf(x[0] / cap); }
};
// Comparisons with NaN are false: NaN passes through both selections.
struct Clamp {
  float lo, hi;
  __device__ void operator()(const float (&x)[1], float (&y)[1]) const {
    const float low = x[0] < lo ? lo : x[0];
    y[0] = low > hi ? hi : low;
  }
};
struct ClampBackward {
  float lo, hi;
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const { y[0] = x[0] >= lo && x[0] <= hi ? x[1] : 0.0f; }
};
struct Identity1 {
  __device__ void operator()(const float (&x)[1], float (&y)[1]) const { y[0] = x[0]; }
};

// ---- bytes: fill, and cast between equal dtypes -------------------------------------------------------------------------

constexpr int kByteThreads = 256;

struct ByteParams {
  const void* in;  // nullptr: fill with `pattern`
  void* out;
  int64_t in_ld, out_ld, cols, per_row, groups;
  Vec16 pattern;  // a whole number of elements
};

template <class T, int kVec, bool kFlat>
__global__ void __launch_bounds__(kByteThreads, 4) byte_kernel(const EarlyStart early, ByteParams p) {
  early.wait();
  constexpr int kByteUnroll = map_unroll(kFlat, 1);
  const int64_t first = int64_t(blockIdx.x) * (kByteThreads * kByteUnroll) + threadIdx.x;
  const T* in = static_cast<const T*>(p.in);
  T* out = static_cast<T*>(p.out);
  const T value = *reinterpret_cast<const T*>(&p.pattern);
  Elements<T, kVec> e[kByteUnroll];
  Place at[kByteUnroll];
#pragma unroll
  for (int u = 0; u < kByteUnroll; u++) {
    const int64_t g = first + u * kByteThreads;
    at[u] = Place{0, p.cols};
    if (g < p.groups) at[u] = kFlat ? Place{0, g * kVec} : place_of(g, p.per_row, kVec);
    if constexpr (kVec == 1) {
      e[u].x = value;
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) e[u].w[i] = p.pattern.w[i];
    }
    if (in && at[u].col + kVec <= p.cols) e[u] = load_elements<kVec>(in + at[u].row * p.in_ld + at[u].col);
  }
#pragma unroll
  for (int u = 0; u < kByteUnroll; u++) {
    if (at[u].col + kVec <= p.cols)
      store_elements(out + at[u].row * p.out_ld + at[u].col, e[u]);
    else
      for (int64_t c = at[u].col; c < p.cols; c++) out[at[u].row * p.out_ld + c] = in ? in[at[u].row * p.in_ld + c] : value;
  }
}

template <class T>
void move_bytes(Context& context, const esft_tensor* in, const esft_tensor& out, const Vec16& pattern) {
  constexpr int kVec = 16 / int(sizeof(T));
  int64_t rows = esft::rows(out), cols = esft::cols(out);
  if (rows == 0 || cols == 0) return;
  if (contiguous(out) && (!in || contiguous(*in))) cols *= rows, rows = 1;
  const bool vectors =
      rows_aligned16(out.data, rows, out.ld, sizeof(T)) && (!in || rows_aligned16(in->data, rows, in->ld, sizeof(T)));
  const int64_t per_row = vectors ? ceil_div(cols, kVec) : cols;
  const ByteParams p{in ? in->data : nullptr, out.data, in ? in->ld : 0, out.ld, cols, per_row, per_row * rows, pattern};
  auto launch = [&](auto vec, auto is_flat) {
    constexpr int kThisVec = decltype(vec)::value;
    constexpr bool kFlat = decltype(is_flat)::value;
    ESFT_LAUNCH((byte_kernel<T, kThisVec, kFlat>), context, grid_of(p.groups, kByteThreads * map_unroll(kFlat, 1)), kByteThreads, 0,
                p);
  };
  with_row_shape<kVec>(vectors, rows == 1, launch);
}

void move_elements(Context& context, const esft_tensor* in, const esft_tensor& out, const Vec16& pattern) {
  switch (dtype_size(out.dtype)) {
    case 1: return move_bytes<uint8_t>(context, in, out, pattern);
    case 2: return move_bytes<uint16_t>(context, in, out, pattern);
    case 4: return move_bytes<uint32_t>(context, in, out, pattern);
    case 8: return move_bytes<uint64_t>(context, in, out, pattern);
  }
  no_kernel("dtype", out.dtype);
}

template <class T>
Vec16 repeat(T value) {
  Vec16 pattern;
  for (size_t i = 0; i < sizeof pattern; i += sizeof value) memcpy(reinterpret_cast<char*>(&pattern) + i, &value, sizeof value);
  return pattern;
}

// Nearest even, on the host.
uint16_t bf16_bits(float f) {
  const uint32_t u = float_to_bits(f);
  if (f != f) return uint16_t((u >> 16) | 0x40);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// `value` as elements of `dtype`.
Vec16 pattern_of(int32_t dtype, double value) {
  switch (esft_dtype(dtype)) {
    case ESFT_F32: return repeat(float(value));
    case ESFT_BF16: return repeat(bf16_bits(float(value)));
    case ESFT_I32: return repeat(int32_t(value));
    case ESFT_I64: return repeat(int64_t(value));
    case ESFT_F64: return repeat(value);
    case ESFT_U8: return repeat(uint8_t(value));
  }
  no_kernel("dtype", dtype);
}

}  // namespace

void run_swiglu(const esft_swiglu_args& a, Context& context) {
  const int64_t F = cols(a.a);
  by_float_type(a.a, [&](auto type) {
    using T = typename decltype(type)::type;
    auto run = [&](auto f) {
      map<T, T>(context, rows(a.a), F, {Operand(a.h), Operand(data<T>(a.h) + F, a.h.ld)}, {Operand(a.a)}, f);
    };
    if (a.act == ACT_SWIGLU) return run(Swiglu<T>{});
    run(OtherGate<T>{{int32_t(a.act), float(a.alpha), float(a.limit)}});
  });
}

void run_swiglu_backward(const esft_swiglu_backward_args& a, Context& context) {
  const int64_t F = cols(a.da);
  by_float_type(a.da, [&](auto type) {
    using T = typename decltype(type)::type;
    auto run = [&](auto f) {
      map<T, T>(context, rows(a.da), F, {Operand(a.h), Operand(data<T>(a.h) + F, a.h.ld), Operand(a.da)},
                {Operand(a.dh), Operand(data<T>(a.dh) + F, a.dh.ld)}, f);
    };
    if (a.act == ACT_SWIGLU) return run(SwigluBackward<T>{});
    run(OtherGateBackward<T>{{int32_t(a.act), float(a.alpha), float(a.limit)}});
  });
}

void run_add(const esft_add_args& a, Context& context) {
  by_float_type(a.y, [&](auto type) {
    using T = typename decltype(type)::type;
    map<T, T>(context, rows(a.y), cols(a.y), {Operand(a.a), Operand(a.b)}, {Operand(a.y)}, Add{float(a.alpha)});
  });
}

void run_scale(const esft_scale_args& a, Context& context) {
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    if (!present(a.by)) return map<T, T>(context, rows(a.x), cols(a.x), {Operand(a.x)}, {Operand(a.x)}, Scale{float(a.factor)});
    by_float_type(a.by, [&](auto by) {
      using B = typename decltype(by)::type;
      map<T, T>(context, rows(a.x), cols(a.x), {Operand(a.x)}, {Operand(a.x)}, ScaleBy<B>{float(a.factor), data<B>(a.by)});
    });
  });
}

void run_soft_cap(const esft_soft_cap_args& a, Context& context) {
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    map<T, T>(context, rows(a.x), cols(a.x), {Operand(a.x)}, {Operand(a.y)}, SoftCap{float(a.cap)});
  });
}

void run_clamp(const esft_clamp_args& a, Context& context) {
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    map<T, T>(context, rows(a.x), cols(a.x), {Operand(a.x)}, {Operand(a.y)}, Clamp{float(a.lo), float(a.hi)});
  });
}

void run_clamp_backward(const esft_clamp_backward_args& a, Context& context) {
  by_float_type(a.x, [&](auto type) {
    using T = typename decltype(type)::type;
    map<T, T>(context, rows(a.x), cols(a.x), {Operand(a.x), Operand(a.dy)}, {Operand(a.dx)},
              ClampBackward{float(a.lo), float(a.hi)});
  });
}

void run_fill(const esft_fill_args& a, Context& context) { move_elements(context, nullptr, a.x, pattern_of(a.x.dtype, a.value)); }

void run_cast(const esft_cast_args& a, Context& context) {
  if (a.x.dtype == a.y.dtype) {
    if (a.x.data != a.y.data) move_elements(context, &a.x, a.y, Vec16{});
  } else if (a.x.dtype == ESFT_F32) {
    map<float, bf16>(context, rows(a.x), cols(a.x), {Operand(a.x)}, {Operand(a.y)}, Identity1{});
  } else {
    map<bf16, float>(context, rows(a.x), cols(a.x), {Operand(a.x)}, {Operand(a.y)}, Identity1{});
  }
}

}  // namespace esft::cuda
