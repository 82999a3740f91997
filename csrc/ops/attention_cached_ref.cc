// attention_cached written out: new rows stored, then per token and head the scores of all positions that it sees, their softmax, the values.
#include <algorithm>
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

namespace {

struct Caches {
  const esft_attention_cached_args& a;
  int64_t dr = present(a.k_shared) ? cols(a.k_shared) : 0;
  int64_t row(int64_t document, int64_t p) const { return p % rows(a.k_cache.items[document]); }

  void put_number(const esft_tensor& cache, int64_t r, int64_t c, float x) const { put(cache, r, c, operand(x, a.precision)); }
  void store(int64_t document, int64_t t, int64_t p) const {
    const esft_tensor& keys = a.k_cache.items[document];
    for (int64_t g = 0; g < a.kv_heads; g++) {
      for (int64_t i = 0; i < a.k_dim; i++)
        put_number(keys, row(document, p), g * a.k_dim + i, at(a.k, t, a.k_offset + g * a.k_stride + i));
      for (int64_t i = 0; present(a.v) && i < a.v_dim; i++)
        put_number(a.v_cache.items[document], row(document, p), g * a.v_dim + i, at(a.v, t, a.v_offset + g * a.v_stride + i));
    }
    for (int64_t i = 0; i < dr; i++) put_number(keys, row(document, p), a.kv_heads * a.k_dim + i, at(a.k_shared, t, i));
  }
  double key(int64_t document, int64_t p, int64_t g, int64_t i) const {
    return operand(at(a.k_cache.items[document], row(document, p), i < a.k_dim ? g * a.k_dim + i : (a.kv_heads - 1) * a.k_dim + i),
                   a.precision);
  }
  double value(int64_t document, int64_t p, int64_t g, int64_t i) const {
    return operand(present(a.v) ? at(a.v_cache.items[document], row(document, p), g * a.v_dim + i)
                                : at(a.k_cache.items[document], row(document, p), i),
                   a.precision);
  }
};

}  // namespace

void ref_attention_cached(const esft_attention_cached_args& a) {
  check_cached_rows("attention_cached", a.doc_start, a.positions, a.k_cache, a.window, a.chunk);
  const Caches caches{a};
  const int64_t T = rows(a.q), dq = a.k_dim + caches.dr;
  const int32_t *start = data<int32_t>(a.doc_start), *positions = data<int32_t>(a.positions);
  std::vector<int64_t> document(T);
  for (int64_t t = 0, n = -1; t < T; t++) {
    document[t] = n += start[t] == t;
    caches.store(n, t, positions[t]);
  }
  for (int64_t t = 0; present(a.out) && t < T; t++)
    for (int64_t h = 0; h < a.heads; h++) {
      const int64_t p = positions[t], first = first_cached(p, a.window, a.chunk), g = h / (a.heads / a.kv_heads);
      std::vector<double> s(p - first + 1, 0);
      const double sink = present(a.sinks) ? vat(a.sinks, h) : -INFINITY;
      double top = sink, sum = 0;
      for (int64_t j = first; j <= p; j++) {
        double& x = s[j - first];
        for (int64_t i = 0; i < dq; i++) x += operand(at(a.q, t, h * dq + i), a.precision) * caches.key(document[t], j, g, i);
        top = std::max(top, x *= a.scale);
      }
      for (double& x : s) sum += x = std::exp(x - top);
      sum += std::exp(sink - top);
      for (int64_t i = 0; i < a.v_dim; i++) {
        double y = 0;
        for (int64_t j = first; j <= p; j++) y += operand(s[j - first], a.precision) * caches.value(document[t], j, g, i);
        put(a.out, t, h * a.v_dim + i, y / sum);
      }
    }
}

}  // namespace esft
