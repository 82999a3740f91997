// gemm as three loops.
#include "ref_math.h"

namespace esft {
using namespace ref;

void ref_gemm(const esft_gemm_args& a) {
  const int64_t M = rows(a.c), N = cols(a.c), K = a.mode == 2 ? rows(a.a) : cols(a.a);
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      double sum = 0;
      for (int64_t k = 0; k < K; k++) {
        const float x = a.mode == 2 ? at(a.a, k, m) : at(a.a, m, k);
        const float w = a.mode == 0 ? at(a.b.tensor, n, k) : at(a.b.tensor, k, n);
        sum += operand(x, a.precision) * operand(w, a.precision);
      }
      if (present(a.bias)) sum += vat(a.bias, n);
      if (present(a.residual)) sum = held(a.c, sum) + at(a.residual, m, n);
      put(a.c, m, n, a.accumulate ? at(a.c, m, n) + sum : sum);
    }
}

}  // namespace esft
