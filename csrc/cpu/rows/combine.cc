// combine: a token owns its output row, so nothing is scattered and nothing is shared. The K rows are read side by side in
// blocks of four vectors whose sums never leave registers.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

// Floats between a load and its prefetch, which goes on into the rows of the next token: they lie anywhere in x, so no
// hardware prefetcher finds them.
constexpr int64_t kAhead = 512;

void combine(const esft_combine_args& a, Context& ctx) {
  const int64_t T = rows(a.y), D = cols(a.y), K = cols(a.pos);
  check_indices("combine", "pos", a.pos, rows(a.x));
  const bool weighted = present(a.weights), adds = a.accumulate != 0;
  const bool nt = !adds && streams(a.y);
  const bool residual = present(a.residual);
  const float* x = data<float>(a.x);
  const int64_t ldx = a.x.ld;
  for_rows(ctx, T, D * (K + 1), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const int32_t* pos = row_of<int32_t>(a.pos, t);
      const int32_t* next = row_of<int32_t>(a.pos, t + 1 < T ? t + 1 : t);
      const float* weights = weighted ? row_of<float>(a.weights, t) : nullptr;
      float* y = row_of<float>(a.y, t);
      const float* last = residual ? row_of<float>(a.residual, t) : nullptr;
      auto one = [=](int64_t i, int64_t m) ESFT_LAMBDA {
        vf s = adds ? load_n(y + i, m) : vf{};
        for (int64_t k = 0; k < K; k++) s += splat(weights ? weights[k] : 1.0f) * load_n(x + pos[k] * ldx + i, m);
        return last ? s + load_n(last + i, m) : s;
      };
      int64_t i = 0;
      const bool aligned = nt && until_aligned(y, 4) == 0;
      for (; i + 4 * W <= D; i += 4 * W) {
        vf s0 = {}, s1 = {}, s2 = {}, s3 = {};
        if (adds) s0 = load(y + i), s1 = load(y + i + W), s2 = load(y + i + 2 * W), s3 = load(y + i + 3 * W);
        const int32_t* ahead_pos = i + kAhead < D ? pos : next;
        const int64_t ahead = i + kAhead < D ? i + kAhead : min_of(i, i + kAhead - D);  // rows shorter than kAhead: the same place
        for (int64_t k = 0; k < K; k++) {
          const float* p = x + pos[k] * ldx + i;
          prefetch(x + ahead_pos[k] * ldx + ahead, 4 * W);
          const vf w = splat(weights ? weights[k] : 1.0f);
          s0 += w * load(p);
          s1 += w * load(p + W);
          s2 += w * load(p + 2 * W);
          s3 += w * load(p + 3 * W);
        }
        if (last) s0 += load(last + i), s1 += load(last + i + W), s2 += load(last + i + 2 * W), s3 += load(last + i + 3 * W);
        if (aligned) {
          stream(y + i, s0), stream(y + i + W, s1), stream(y + i + 2 * W, s2), stream(y + i + 3 * W, s3);
        } else {
          store(y + i, s0), store(y + i + W, s1), store(y + i + 2 * W, s2), store(y + i + 3 * W, s3);
        }
      }
      for (; i + W <= D; i += W) store(y + i, one(i, W));
      if (i < D) store_part(y + i, one(i, D - i), D - i);
    }
    stream_fence();
  });
}

void combine_backward(const esft_combine_backward_args& a, Context& ctx) {
  const int64_t T = rows(a.dy), D = cols(a.dy), K = cols(a.pos);
  const bool wants_x = present(a.dx), wants_w = present(a.dweights);
  if (wants_x)
    check_permutation("combine_backward", "pos", a.pos, rows(a.x));
  else
    check_indices("combine_backward", "pos", a.pos, rows(a.x));
  const bool nt = wants_x && streams(a.dx);
  for_rows(ctx, T, D * (K + 1), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const float* dy = row_of<float>(a.dy, t);
      for (int64_t k = 0; k < K; k++) {
        const int64_t row = row_of<int32_t>(a.pos, t)[k];
        if (wants_w) {
          const float* x = row_of<float>(a.x, row);
          row_of<float>(a.dweights, t)[k] =
              reduce(D, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(dy + i, m) * load_n(x + i, m); });
        }
        if (wants_x) {
          const vf w = splat(row_of<float>(a.weights, t)[k]);
          map(row_of<float>(a.dx, row), D, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA { return w * load_n(dy + i, m); });
        }
      }
    }
    stream_fence();
  });
}

}  // namespace esft::cpu::ESFT_ISA
