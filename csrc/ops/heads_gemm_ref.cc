// heads_gemm as loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_heads_gemm(const esft_heads_gemm_args& a) {
  const esft_tensor& w = a.w.tensor;
  const int64_t x_dim = cols(a.x) / a.heads, y_dim = cols(a.y) / a.heads, w_dim = rows(w) / a.heads;
  const int64_t K = a.mode == 0 ? cols(w) : a.head_rows, N = a.mode == 0 ? a.head_rows : cols(w);
  for (int64_t t = 0; t < rows(a.x); t++)
    for (int64_t h = 0; h < a.heads; h++)
      for (int64_t n = 0; n < N; n++) {
        const int64_t row = h * w_dim + a.first_row;
        double sum = 0;
        for (int64_t k = 0; k < K; k++)
          sum += operand(at(a.x, t, h * x_dim + k), a.precision) *
                 operand(a.mode == 0 ? at(w, row + n, k) : at(w, row + k, n), a.precision);
        put(a.y, t, h * y_dim + n, sum);
      }
}

}  // namespace esft
