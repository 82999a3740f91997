// multiply and its backward: one pass over memory (map.cuh).
#include <math.h>

#include "../activation.cuh"
#include "map.cuh"

namespace esft::cuda {

namespace {

// f(b) and f'(b). SiLU of what is rounded to bf16 has the fast sigmoid.
template <class T>
__device__ __forceinline__ void factors(float b, bool silu, float& f, float& slope) {
  f = b;
  slope = 1.0f;
  if (!silu) return;
  const float s = sigmoid<T>(b);
  f = b * s;
  slope = s * (1.0f + b * (1.0f - s));
}

template <class T>
struct Multiply {
  bool silu;
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const {
    float f, slope;
    factors<T>(x[1], silu, f, slope);
    y[0] = x[0] * f;
  }
};
// x = dy, a, b; y = da, db.
template <class T>
struct MultiplyBackward {
  bool silu;
  __device__ void operator()(const float (&x)[3], float (&y)[2]) const {
    float f, slope;
    factors<T>(x[2], silu, f, slope);
    y[0] = x[0] * f;
    y[1] = x[0] * x[1] * slope;
  }
};
template <class T>
struct SecondFactor {
  bool silu;
  __device__ void operator()(const float (&x)[3], float (&y)[1]) const {
    float f, slope;
    factors<T>(x[2], silu, f, slope);
    y[0] = x[0] * x[1] * slope;
  }
};

}  // namespace

void run_multiply(const esft_multiply_args& a, Context& context) {
  by_float_type(a.a, [&](auto type) {
    using T = typename decltype(type)::type;
    map<T, T>(context, rows(a.a), cols(a.a), {Operand(a.a), Operand(a.b)}, {Operand(a.y)}, Multiply<T>{a.silu != 0});
  });
}

void run_multiply_backward(const esft_multiply_backward_args& a, Context& context) {
  const int64_t R = rows(a.a), C = cols(a.a);
  const bool silu = a.silu != 0;
  by_float_type(a.a, [&](auto type) {
    using T = typename decltype(type)::type;
    const Operand dy(a.dy), x(a.a), b(a.b);
    if (present(a.da) && present(a.db))
      map<T, T>(context, R, C, {dy, x, b}, {Operand(a.da), Operand(a.db)}, MultiplyBackward<T>{silu});
    else if (present(a.da))
      map<T, T>(context, R, C, {dy, b}, {Operand(a.da)}, Multiply<T>{silu});
    else if (present(a.db))
      map<T, T>(context, R, C, {dy, x, b}, {Operand(a.db)}, SecondFactor<T>{silu});
  });
}

}  // namespace esft::cuda
