// The element-wise ops as plain loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_swiglu(const esft_swiglu_args& a) {
  const int64_t F = cols(a.a);
  for (int64_t r = 0; r < rows(a.a); r++)
    for (int64_t f = 0; f < F; f++) put(a.a, r, f, gated(a.act, a.alpha, a.limit, at(a.h, r, f), at(a.h, r, F + f)).a);
}

void ref_swiglu_backward(const esft_swiglu_backward_args& a) {
  const int64_t F = cols(a.da);
  for (int64_t r = 0; r < rows(a.da); r++)
    for (int64_t f = 0; f < F; f++) {
      const Gated g = gated(a.act, a.alpha, a.limit, at(a.h, r, f), at(a.h, r, F + f));
      const double da = at(a.da, r, f);
      put(a.dh, r, f, da * g.by_gate);
      put(a.dh, r, F + f, da * g.by_up);
    }
}

void ref_add(const esft_add_args& a) {
  for (int64_t r = 0; r < rows(a.y); r++)
    for (int64_t c = 0; c < cols(a.y); c++) put(a.y, r, c, at(a.a, r, c) + a.alpha * at(a.b, r, c));
}

void ref_scale(const esft_scale_args& a) {
  for (int64_t r = 0; r < rows(a.x); r++)
    for (int64_t c = 0; c < cols(a.x); c++) put(a.x, r, c, at(a.x, r, c) * a.factor * (present(a.by) ? vat(a.by, 0) : 1));
}

void ref_soft_cap(const esft_soft_cap_args& a) {
  for (int64_t r = 0; r < rows(a.x); r++)
    for (int64_t c = 0; c < cols(a.x); c++) put(a.y, r, c, a.cap * std::tanh(at(a.x, r, c) / a.cap));
}

void ref_clamp(const esft_clamp_args& a) {
  for (int64_t r = 0; r < rows(a.x); r++)
    for (int64_t c = 0; c < cols(a.x); c++) {
      const float x = at(a.x, r, c), lo = float(a.lo), hi = float(a.hi);
      put(a.y, r, c, x < lo ? lo : x > hi ? hi : x);  // NaN fails both comparisons
    }
}

void ref_clamp_backward(const esft_clamp_backward_args& a) {
  for (int64_t r = 0; r < rows(a.x); r++)
    for (int64_t c = 0; c < cols(a.x); c++) {
      const float x = at(a.x, r, c);
      put(a.dx, r, c, x >= float(a.lo) && x <= float(a.hi) ? at(a.dy, r, c) : 0.0f);
    }
}

static void put_any(const esft_tensor& t, int64_t i, double value) {
  switch (esft_dtype(t.dtype)) {
    case ESFT_F32: data<float>(t)[i] = float(value); break;
    case ESFT_BF16: data<uint16_t>(t)[i] = to_bf16(float(value)); break;
    case ESFT_I32: data<int32_t>(t)[i] = int32_t(value); break;
    case ESFT_I64: data<int64_t>(t)[i] = int64_t(value); break;
    case ESFT_F64: data<double>(t)[i] = value; break;
    case ESFT_U8: data<uint8_t>(t)[i] = uint8_t(value); break;
  }
}

void ref_fill(const esft_fill_args& a) {
  for (int64_t r = 0; r < rows(a.x); r++)
    for (int64_t c = 0; c < cols(a.x); c++) put_any(a.x, r * a.x.ld + c, a.value);
}

void ref_cast(const esft_cast_args& a) {
  const int64_t size = dtype_size(a.x.dtype);
  for (int64_t r = 0; r < rows(a.x); r++)
    for (int64_t c = 0; c < cols(a.x); c++) {
      const int64_t from = r * a.x.ld + c, to = r * a.y.ld + c;
      if (a.x.dtype == a.y.dtype)
        std::memmove(data<char>(a.y) + to * size, data<char>(a.x) + from * size, size);
      else
        put_any(a.y, to, vat(a.x, from));
    }
}

void ref_mask_grad(const esft_mask_grad_args& a) {
  const int64_t E = a.grad.shape[0], per = E ? rows(a.grad) / E : 0;
  for (int64_t e = 0, kept = 0; e < E; e++) {
    if (kept < a.keep.count && a.keep.items[kept] == e) {
      kept++;
      continue;
    }
    for (int64_t r = e * per; r < (e + 1) * per; r++)
      for (int64_t c = 0; c < cols(a.grad); c++) f32_row(a.grad, r)[c] = 0;
  }
}

void ref_column_sum(const esft_column_sum_args& a) {
  for (int64_t c = 0; c < cols(a.x); c++) {
    double sum = a.accumulate ? data<float>(a.y)[c] : 0.0;
    for (int64_t r = 0; r < rows(a.x); r++) sum += at(a.x, r, c);
    data<float>(a.y)[c] = float(sum);
  }
}

}  // namespace esft
