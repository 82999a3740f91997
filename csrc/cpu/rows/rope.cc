// rope: the angles of a token are shared by its heads. Interleaved pairs are rotated as v·C + swap(v)·S with the cosines
// doubled and the sines doubled with alternating sign, written once per token, so both forms run on whole vectors.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

ESFT_INLINE vf swap_pairs(vf v) {
#if defined(__AVX512F__)
  return ESFT_SHUFFLE(vi, v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif defined(__AVX2__)
  return ESFT_SHUFFLE(vi, v, v, 1, 0, 3, 2, 5, 4, 7, 6);
#else
  return ESFT_SHUFFLE(vi, v, v, 1, 0, 3, 2);
#endif
}

}  // namespace

void rope(const esft_rope_args& a, Context& ctx) {
  const int64_t T = rows(a.x), H = a.heads, half = cols(a.cos), R = 2 * half;
  if (T == 0 || cols(a.x) == 0) return;
  const int64_t head_dim = cols(a.x) / H, tail = head_dim - a.offset - R;
  check_indices("rope", "positions", a.positions, rows(a.cos));
  const int32_t* positions = data<int32_t>(a.positions);
  const bool in_place = a.y.data == a.x.data, pairs = a.interleaved != 0;
  const float sign = a.inverse ? -1.0f : 1.0f;
  for_rows(ctx, T, cols(a.x), [&](int64_t begin, int64_t end, int worker) {
    float* C = static_cast<float*>(ctx.worker_scratch(worker, 2 * round_up(R, 16) * 4 + 64));
    float* S = C + round_up(R, 16);
    for (int64_t t = begin; t < end; t++) {
      const float* cos = row_of<float>(a.cos, positions[t]);
      const float* sin = row_of<float>(a.sin, positions[t]);
      if (pairs)
        for (int64_t i = 0; i < half; i++) {
          C[2 * i] = C[2 * i + 1] = cos[i];
          S[2 * i] = -sign * sin[i];
          S[2 * i + 1] = sign * sin[i];
        }
      for (int64_t h = 0; h < H; h++) {
        const float* x = row_of<float>(a.x, t) + h * head_dim;
        float* y = row_of<float>(a.y, t) + h * head_dim;
        if (!in_place) {
          memcpy(y, x, a.offset * 4);
          memcpy(y + a.offset + R, x + a.offset + R, tail * 4);
        }
        x += a.offset;
        y += a.offset;
        if (pairs) {
          map(y, R, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
            const vf v = load_n(x + i, m);
            return v * load_n(C + i, m) + swap_pairs(v) * load_n(S + i, m);
          });
        } else {
          auto step = [=](int64_t i, int64_t m) ESFT_LAMBDA {
            const vf p = load_n(x + i, m), q = load_n(x + half + i, m), c = load_n(cos + i, m),
                     s = splat(sign) * load_n(sin + i, m);
            store_n(y + i, p * c - q * s, m);
            store_n(y + half + i, p * s + q * c, m);
          };
          int64_t i = 0;
          for (; i + W <= half; i += W) step(i, W);
          if (i < half) step(i, half - i);
        }
      }
    }
  });
}

}  // namespace esft::cpu::ESFT_ISA
