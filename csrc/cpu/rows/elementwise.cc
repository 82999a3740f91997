// Element-wise ops: one pass over memory, bandwidth-bound. Contiguous operands are seen as one long row; anything else
// goes row by row. Large outputs that are not also an input are written with streaming stores.
#include "../activation.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

// Floats between a load and its prefetch where arithmetic is long enough to hide the memory behind it.
constexpr int64_t kAhead = 512;

struct Shape {
  int64_t R, C;
};
ESFT_INLINE Shape shape_of(const esft_tensor& y, bool flat) { return flat ? Shape{1, numel(y)} : Shape{rows(y), cols(y)}; }

// y[r, c] = f(x0[r, c], x1[r, c]); unary ops pass x twice, which costs nothing once inlined.
template <class F>
void binary(Context& ctx, const esft_tensor& x0, const esft_tensor& x1, const esft_tensor& y, F f) {
  const Shape s = shape_of(y, contiguous(x0) && contiguous(x1) && contiguous(y));
  const bool nt = streams(y) && y.data != x0.data && y.data != x1.data;
  for_segments(ctx, s.R, s.C, [&](int64_t r, int64_t c, int64_t n) {
    const float* p0 = row_of<float>(x0, r) + c;
    const float* p1 = row_of<float>(x1, r) + c;
    map(row_of<float>(y, r) + c, n, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA { return f(load_n(p0 + i, m), load_n(p1 + i, m)); });
  });
}

void copy_bytes(char* y, const char* x, int64_t n, bool nt) {
  int64_t i = 0;
  if (nt) {
    i = min_of(n, until_aligned(y, 1));
    memcpy(y, x, i);
    for (; i + W * 4 <= n; i += W * 4) {
      vf v;
      memcpy(&v, x + i, sizeof v);
      stream(reinterpret_cast<float*>(y + i), v);
    }
  }
  memcpy(y + i, x + i, n - i);
}

// A period of 64 bytes holds a whole number of elements of every dtype.
void fill_bytes(char* y, int64_t n, const char* pattern, bool nt) {
  int64_t i = 0;
  if (nt) {
    // The phase survives because the distance to alignment is a whole number of elements.
    i = min_of(n, until_aligned(y, 1));
    memcpy(y, pattern, i);
    const vf v = load(reinterpret_cast<const float*>(pattern));
    for (; i + W * 4 <= n; i += W * 4) stream(reinterpret_cast<float*>(y + i), v);
  }
  for (; i + 64 <= n; i += 64) memcpy(y + i, pattern, 64);
  memcpy(y + i, pattern, n - i);
}

template <class T>
ESFT_INLINE void repeat(char* pattern, T value) {
  for (int i = 0; i < 64; i += int(sizeof(T))) memcpy(pattern + i, &value, sizeof(T));
}
void fill_pattern(char* pattern, int32_t dtype, double value) {
  switch (esft_dtype(dtype)) {
    case ESFT_F32: return repeat(pattern, float(value));
    case ESFT_BF16: return repeat(pattern, f32_to_bf16(float(value)));
    case ESFT_I32: return repeat(pattern, int32_t(value));
    case ESFT_I64: return repeat(pattern, int64_t(value));
    case ESFT_F64: return repeat(pattern, value);
    case ESFT_U8: return repeat(pattern, uint8_t(value));
  }
  fail_with(ESFT_UNSUPPORTED, "fill", "x", "x of dtype %d: no such dtype", int(dtype));
}

}  // namespace

namespace {

template <int32_t kAct>
void forward(const esft_swiglu_args& a, Context& ctx) {
  const int64_t F = cols(a.a);
  const vf alpha = splat(float(a.alpha)), limit = splat(float(a.limit));
  const bool nt = streams(a.a) && a.a.data != a.h.data;
  for_segments(ctx, rows(a.a), F, [&](int64_t r, int64_t c, int64_t n) {
    const float* gate = row_of<float>(a.h, r) + c;
    const float* up = gate + F;
    map(row_of<float>(a.a, r) + c, n, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA {
      prefetch(gate + i + kAhead, W);
      prefetch(up + i + kAhead, W);
      const vf g = load_n(gate + i, m);
      if (kAct != ACT_SWIGLU) return gated<kAct>(g, load_n(up + i, m), alpha, limit);
      return g / (splat(1.0f) + vexp(-g)) * load_n(up + i, m);
    });
  });
}

// silu'(g) = σ(g)·(1 + g·(1 − σ(g)))
template <int32_t kAct>
void backward(const esft_swiglu_backward_args& a, Context& ctx) {
  const int64_t F = cols(a.da);
  const vf alpha = splat(float(a.alpha)), limit = splat(float(a.limit));
  const bool large = streams(a.dh) && a.dh.data != a.h.data;
  for_segments(ctx, rows(a.da), F, [&](int64_t r, int64_t c, int64_t n) {
    const float* gate = row_of<float>(a.h, r) + c;
    const float* da = row_of<float>(a.da, r) + c;
    float* dgate = row_of<float>(a.dh, r) + c;
    auto step = [=](int64_t i, int64_t m, bool nt) ESFT_LAMBDA {
      prefetch(gate + i + kAhead, W);
      prefetch(gate + F + i + kAhead, W);
      prefetch(da + i + kAhead, W);
      const vf g = load_n(gate + i, m), up = load_n(gate + F + i, m), d = load_n(da + i, m);
      vf dg, du;
      if (kAct == ACT_SWIGLU) {
        const vf s = vsigmoid(g);
        dg = d * up * (s * (splat(1.0f) + g * (splat(1.0f) - s)));
        du = d * (g * s);
      } else {
        const GatedSlopes f = gated_slopes<kAct>(g, up, alpha, limit);
        dg = d * f.by_gate;
        du = d * f.by_up;
      }
      if (nt) {
        stream(dgate + i, dg);
        stream(dgate + F + i, du);
      } else {
        store_n(dgate + i, dg, m);
        store_n(dgate + F + i, du, m);
      }
    };
    int64_t i = 0;
    if (large && F % W == 0) {  // both halves share their alignment
      i = min_of(n, until_aligned(dgate, 4));
      if (i > 0) step(0, i, false);
      for (; i + W <= n; i += W) step(i, W, true);
    } else {
      for (; i + W <= n; i += W) step(i, W, false);
    }
    if (i < n) step(i, n - i, false);
  });
}

}  // namespace

void swiglu(const esft_swiglu_args& a, Context& ctx) {
#define RUN(kAct) forward<kAct>(a, ctx)
  ESFT_CHOOSE_ACTIVATION(a.act, RUN)
#undef RUN
}

void swiglu_backward(const esft_swiglu_backward_args& a, Context& ctx) {
#define RUN(kAct) backward<kAct>(a, ctx)
  ESFT_CHOOSE_ACTIVATION(a.act, RUN)
#undef RUN
}

void add(const esft_add_args& a, Context& ctx) {
  const vf alpha = splat(float(a.alpha));
  binary(ctx, a.a, a.b, a.y, [=](vf x, vf b) ESFT_LAMBDA { return x + alpha * b; });
}

void scale(const esft_scale_args& a, Context& ctx) {
  float by = 1.0f;
  if (present(a.by)) by = a.by.dtype == ESFT_BF16 ? bf16_to_f32(*data<uint16_t>(a.by)) : *data<float>(a.by);
  const vf factor = splat(float(a.factor) * by);
  binary(ctx, a.x, a.x, a.x, [=](vf x, vf) ESFT_LAMBDA { return x * factor; });
}

void soft_cap(const esft_soft_cap_args& a, Context& ctx) {
  const vf cap = splat(float(a.cap)), inverse = splat(1.0f / float(a.cap));
  binary(ctx, a.x, a.x, a.y, [=](vf x, vf) ESFT_LAMBDA { return cap * vtanh(x * inverse); });
}

// Comparisons with NaN are false, so NaN passes through both selections.
void clamp(const esft_clamp_args& a, Context& ctx) {
  const vf lo = splat(float(a.lo)), hi = splat(float(a.hi));
  binary(ctx, a.x, a.x, a.y, [=](vf x, vf) ESFT_LAMBDA {
    const vf v = x < lo ? lo : x;
    return v > hi ? hi : v;
  });
}

void clamp_backward(const esft_clamp_backward_args& a, Context& ctx) {
  const vf lo = splat(float(a.lo)), hi = splat(float(a.hi));
  binary(ctx, a.x, a.dy, a.dx, [=](vf x, vf dy) ESFT_LAMBDA { return (vf)((vi)dy & (x >= lo) & (x <= hi)); });
}

void fill(const esft_fill_args& a, Context& ctx) {
  alignas(64) char pattern[64];
  fill_pattern(pattern, a.x.dtype, a.value);
  const int64_t size = dtype_size(a.x.dtype);
  const Shape s = shape_of(a.x, contiguous(a.x));
  const bool nt = streams(a.x);
  for_segments(ctx, s.R, s.C, [&](int64_t r, int64_t c, int64_t n) {
    fill_bytes(static_cast<char*>(a.x.data) + (r * a.x.ld + c) * size, n * size, pattern, nt);
  });
}

void cast(const esft_cast_args& a, Context& ctx) {
  const Shape s = shape_of(a.y, contiguous(a.x) && contiguous(a.y));
  const bool nt = streams(a.y) && a.y.data != a.x.data;
  if (a.x.dtype == a.y.dtype) {
    if (a.y.data == a.x.data) return;
    const int64_t size = dtype_size(a.y.dtype);
    for_segments(ctx, s.R, s.C, [&](int64_t r, int64_t c, int64_t n) {
      copy_bytes(static_cast<char*>(a.y.data) + (r * a.y.ld + c) * size,
                 static_cast<const char*>(a.x.data) + (r * a.x.ld + c) * size, n * size, nt);
    });
  } else if (a.y.dtype == ESFT_F32) {
    for_segments(ctx, s.R, s.C, [&](int64_t r, int64_t c, int64_t n) {
      const uint16_t* x = row_of<uint16_t>(a.x, r) + c;
      map(row_of<float>(a.y, r) + c, n, nt,
          [=](int64_t i, int64_t m) ESFT_LAMBDA { return m == W ? load_bf16(x + i) : load_bf16_part(x + i, m); });
    });
  } else {
    for_segments(ctx, s.R, s.C, [&](int64_t r, int64_t c, int64_t n) {
      const float* x = row_of<float>(a.x, r) + c;
      uint16_t* y = row_of<uint16_t>(a.y, r) + c;
      int64_t i = 0;
      for (; i + W <= n; i += W) store_bf16(y + i, load(x + i));
      if (i < n) store_bf16_part(y + i, load_part(x + i, n - i), n - i);
    });
  }
}

void mask_grad(const esft_mask_grad_args& a, Context& ctx) {
  const esft_tensor& g = a.grad;
  const int64_t E = g.shape[0];
  if (numel(g) == 0) return;
  uint8_t* kept = static_cast<uint8_t*>(ctx.shared_scratch(E));
  memset(kept, 0, E);
  for (int64_t i = 0; i < a.keep.count; i++) kept[a.keep.items[i]] = 1;
  const int64_t rows_per_slice = rows(g) / E;
  for_segments(ctx, rows(g), cols(g), [&](int64_t r, int64_t c, int64_t n) {
    if (!kept[r / rows_per_slice]) memset(row_of<float>(g, r) + c, 0, n * 4);
  });
}

// Each task owns W·4 columns and walks all rows, so the order of the sum never depends on the threads.
void column_sum(const esft_column_sum_args& a, Context& ctx) {
  constexpr int64_t kColumns = 4 * W;
  const int64_t R = rows(a.x), C = cols(a.x);
  float* y = data<float>(a.y);
  for_chunks(ctx, C, kColumns, R, [&](int64_t begin, int64_t end, int) {
    float sum[kColumns] = {};
    for (int64_t r = 0; r < R; r++) {
      const float* x = row_of<const float>(a.x, r) + begin;
      for (int64_t c = 0; c < end - begin; c++) sum[c] += x[c];
    }
    for (int64_t c = begin; c < end; c++) y[c] = (a.accumulate ? y[c] : 0.0f) + sum[c - begin];
  });
}

}  // namespace esft::cpu::ESFT_ISA
