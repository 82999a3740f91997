// layer_norm: one row at a time; after its first pass the row is in L1 or L2. The gradients of weight and bias are summed per fixed
// chunk of rows, then over the chunks in order: no bit depends on the threads.
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

// x in the first n lanes, 0 beyond.
ESFT_INLINE vf first_lanes(float x, int64_t n) {
  vf v = {};
  for (int64_t i = 0; i < min_of(n, W); i++) v[i] = x;
  return v;
}

}  // namespace

void layer_norm(const esft_layer_norm_args& a, Context& ctx) {
  const int64_t R = rows(a.x), C = cols(a.x), pitch = round_up(C, 16);
  if (R == 0 || C == 0) return;
  float* scratch = static_cast<float*>(ctx.shared_scratch(2 * pitch * 4));
  const float* w = as_f32(a.weight, scratch);
  const float* b = as_f32(a.bias, scratch + pitch);
  const float eps = float(a.eps), inv_C = 1.0f / float(C);
  const bool nt = streams(a.y) && a.y.data != a.x.data;
  float* mean_R = present(a.mean) ? data<float>(a.mean) : nullptr;
  float* rstd_R = present(a.rstd) ? data<float>(a.rstd) : nullptr;
  for_rows(ctx, R, C, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = row_of<float>(a.x, r);
      const float mean = reduce(C, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(x + i, m); }) * inv_C;
      // Lanes beyond a part of a vector load 0: they must not add mean².
      const float squares = reduce(C, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        const vf v = load_n(x + i, m) - (m == W ? splat(mean) : first_lanes(mean, m));
        return v * v;
      });
      const float rstd = 1.0f / __builtin_sqrtf(squares * inv_C + eps);
      if (mean_R) mean_R[r] = mean;
      if (rstd_R) rstd_R[r] = rstd;
      map(row_of<float>(a.y, r), C, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        prefetch(x + a.x.ld + i, W);
        return (load_n(x + i, m) - splat(mean)) * splat(rstd) * load_n(w + i, m) + load_n(b + i, m);
      });
    }
    stream_fence();
  });
}

void layer_norm_backward(const esft_layer_norm_backward_args& a, Context& ctx) {
  const int64_t R = rows(a.x), C = cols(a.x);
  const bool wants_x = present(a.dx), wants_w = present(a.dweight) || present(a.dbias);
  if (C == 0 || (!wants_x && !wants_w)) return;
  // At most 64 chunks: the partial sums stay small, and each chunk's f32 sum is short.
  const int64_t chunk = max_of(rows_per_task(C), ceil_div(R, 64)), chunks = ceil_div(R, chunk);
  const int64_t pitch = round_up(C, 16);
  float* scratch = static_cast<float*>(ctx.shared_scratch((wants_w ? 2 * chunks + 1 : 1) * pitch * 4));
  const float* w = as_f32(a.weight, scratch);
  float* partial = scratch + pitch;  // of each chunk the weight's, then the bias'
  const bool nt = wants_x && !a.accumulate && streams(a.dx) && a.dx.data != a.dy.data;

  for_chunks(ctx, R, chunk, C, [&](int64_t begin, int64_t end, int) {
    float* dw = partial + begin / chunk * 2 * pitch;
    float* db = dw + pitch;
    if (wants_w) memset(dw, 0, 2 * pitch * 4);
    for (int64_t r = begin; r < end; r++) {
      const float* x = row_of<float>(a.x, r);
      const float* dy = row_of<float>(a.dy, r);
      const float mean = data<float>(a.mean)[r], rstd = data<float>(a.rstd)[r];
      if (wants_w) {
        map(dw, C, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
          return load_n(dw + i, m) + load_n(dy + i, m) * ((load_n(x + i, m) - splat(mean)) * splat(rstd));
        });
        map(db, C, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(db + i, m) + load_n(dy + i, m); });
      }
      if (!wants_x) continue;
      // Lanes beyond a part of a vector have dy = 0.
      const float sum = reduce(C, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(dy + i, m) * load_n(w + i, m); });
      const float dot = reduce(C, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        return load_n(dy + i, m) * load_n(w + i, m) * ((load_n(x + i, m) - splat(mean)) * splat(rstd));
      });
      const float mean_g = sum / float(C), mean_gx = dot / float(C);
      float* dx = row_of<float>(a.dx, r);
      auto gradient = [=](int64_t i, int64_t m) ESFT_LAMBDA {
        const vf hat = (load_n(x + i, m) - splat(mean)) * splat(rstd);
        return splat(rstd) * (load_n(dy + i, m) * load_n(w + i, m) - splat(mean_g) - hat * splat(mean_gx));
      };
      if (a.accumulate)
        map(dx, C, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(dx + i, m) + gradient(i, m); });
      else
        map(dx, C, nt, gradient);
    }
    stream_fence();
  });

  if (!wants_w) return;
  const bool adds = a.accumulate_weight != 0;
  for_chunks(ctx, C, 256, chunks, [&](int64_t begin, int64_t end, int) {
    auto add_up = [&](const esft_tensor& to, const float* from) {
      if (!present(to)) return;
      float* y = data<float>(to);
      map(y + begin, end - begin, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        vf sum = {};
        for (int64_t c = 0; c < chunks; c++) sum += load_n(from + c * 2 * pitch + begin + i, m);
        return adds ? load_n(y + begin + i, m) + sum : sum;
      });
    };
    add_up(a.dweight, partial);
    add_up(a.dbias, partial + pitch);
  });
}

}  // namespace esft::cpu::ESFT_ISA
