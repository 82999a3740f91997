// causal_conv and its backward as plain loops.
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

namespace {

// Pre-activation of channel c at token t, and the row that tap j reads (-1: before the document).
template <class Args>
struct Taps {
  const Args& a;
  int64_t w = cols(a.weight);
  int64_t row(int64_t t, int64_t j) const {
    const int64_t r = t - w + 1 + j;
    return r < data<int32_t>(a.doc_start)[t] ? -1 : r;
  }
  double x(int64_t t, int64_t j, int64_t c) const { return row(t, j) < 0 ? 0 : at(a.x, row(t, j), c); }
  double h(int64_t t, int64_t c) const {
    double sum = present(a.bias) ? vat(a.bias, c) : 0;
    for (int64_t j = 0; j < w; j++) sum += double(vat(a.weight, c * w + j)) * x(t, j, c);
    return sum;
  }
};

}  // namespace

void ref_causal_conv(const esft_causal_conv_args& a) {
  check_doc_start("causal_conv", "doc_start", a.doc_start);
  check_documents("causal_conv", "states", a.doc_start, a.states.count);
  const Taps<esft_causal_conv_args> taps{a};
  const int64_t T = rows(a.x), C = cols(a.x), w = taps.w;
  const int32_t* start = data<int32_t>(a.doc_start);
  for (int64_t t = 0, document = -1; t < T; t++) {
    document += start[t] == t;
    for (int64_t c = 0; c < C; c++) {
      double h = taps.h(t, c);
      for (int64_t j = 0; a.states.count && j < w; j++)
        if (taps.row(t, j) < 0) h += double(vat(a.weight, c * w + j)) * at(a.states.items[document], t - start[t] + j, c);
      put(a.y, t, c, a.silu ? silu(h) : h);
    }
  }
  for (int64_t begin = 0, end = 0, document = 0; a.states.count && begin < T; begin = end, document++) {
    for (end = begin + 1; end < T && start[end] != end; end++);
    const esft_tensor& state = a.states.items[document];
    for (int64_t r = 0, n = end - begin; r < w - 1; r++)
      for (int64_t c = 0; c < C; c++) put(state, r, c, n - (w - 1) + r >= 0 ? at(a.x, end - (w - 1) + r, c) : at(state, n + r, c));
  }
}

void ref_causal_conv_backward(const esft_causal_conv_backward_args& a) {
  check_doc_start("causal_conv_backward", "doc_start", a.doc_start);
  const Taps<esft_causal_conv_backward_args> taps{a};
  const int64_t T = rows(a.x), C = cols(a.x), w = taps.w;
  std::vector<double> dx(T * C, 0), dweight(C * w, 0), dbias(C, 0);
  for (int64_t t = 0; t < T; t++)
    for (int64_t c = 0; c < C; c++) {
      const double dh = at(a.dy, t, c) * (a.silu ? silu_grad(taps.h(t, c)) : 1.0);
      dbias[c] += dh;
      for (int64_t j = 0; j < w; j++) {
        dweight[c * w + j] += dh * taps.x(t, j, c);
        if (taps.row(t, j) >= 0) dx[taps.row(t, j) * C + c] += dh * vat(a.weight, c * w + j);
      }
    }
  for (int64_t t = 0; present(a.dx) && t < T; t++)
    for (int64_t c = 0; c < C; c++) put(a.dx, t, c, dx[t * C + c]);
  for (int64_t i = 0; present(a.dweight) && i < C * w; i++)
    data<float>(a.dweight)[i] = float(data<float>(a.dweight)[i] + dweight[i]);
  for (int64_t c = 0; present(a.dbias) && c < C; c++) data<float>(a.dbias)[c] = float(data<float>(a.dbias)[c] + dbias[c]);
}

}  // namespace esft
