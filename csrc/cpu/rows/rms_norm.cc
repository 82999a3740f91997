// rms_norm: one row at a time; its second pass finds the row in L1 or L2, so memory is read once and written once, and asks
// for the next row meanwhile.
// The weight gradient is summed per fixed chunk of rows, then over the chunks in order: no bit depends on the threads.
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

// The factors as f32, in `scratch` (C floats) unless they are just that in memory; ones without a weight.
const float* factors_of(const esft_tensor& weight, int64_t C, bool zero_centred, float* scratch) {
  if (!present(weight)) {
    map(scratch, C, false, [=](int64_t, int64_t) ESFT_LAMBDA { return splat(1.0f); });
    return scratch;
  }
  const float* w = as_f32(weight, scratch);
  if (!zero_centred) return w;
  map(scratch, C, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return splat(1.0f) + load_n(w + i, m); });
  return scratch;
}

}  // namespace

void rms_norm(const esft_rms_norm_args& a, Context& ctx) {
  const int64_t R = rows(a.x), C = cols(a.x);
  if (R == 0 || C == 0) return;
  const float* w = factors_of(a.weight, C, a.zero_centred, static_cast<float*>(ctx.shared_scratch(C * 4)));
  const float eps = float(a.eps), inv_C = 1.0f / float(C);
  const bool nt = streams(a.y) && a.y.data != a.x.data;
  float* rstd_R = present(a.rstd) ? data<float>(a.rstd) : nullptr;
  for_rows(ctx, R, C, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = row_of<float>(a.x, r);
      const float sum = reduce(C, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        const vf v = load_n(x + i, m);
        return v * v;
      });
      const float rstd = 1.0f / __builtin_sqrtf(sum * inv_C + eps);
      if (rstd_R) rstd_R[r] = rstd;
      map(row_of<float>(a.y, r), C, nt, [=](int64_t i, int64_t m) ESFT_LAMBDA {
        prefetch(x + a.x.ld + i, W);
        return load_n(x + i, m) * splat(rstd) * load_n(w + i, m);
      });
    }
    stream_fence();
  });
}

void rms_norm_backward(const esft_rms_norm_backward_args& a, Context& ctx) {
  const int64_t R = rows(a.x), C = cols(a.x);
  const bool wants_x = present(a.dx), wants_w = present(a.dweight);
  if (C == 0 || (!wants_x && !wants_w)) return;
  // At most 64 chunks: the partial sums stay small, and each chunk's f32 sum is short.
  const int64_t chunk = max_of(rows_per_task(C), ceil_div(R, 64)), chunks = ceil_div(R, chunk);
  const int64_t pitch = round_up(C, 16);
  float* scratch = static_cast<float*>(ctx.shared_scratch((wants_w ? chunks + 1 : 1) * pitch * 4));
  const float* w = factors_of(a.weight, C, a.zero_centred, scratch);
  float* partial = scratch + pitch;
  const float* rstd_R = data<float>(a.rstd);
  const bool nt = wants_x && !a.accumulate && streams(a.dx) && a.dx.data != a.dy.data && a.dx.data != a.x.data;

  for_chunks(ctx, R, chunk, C, [&](int64_t begin, int64_t end, int) {
    float* dw = partial + begin / chunk * pitch;
    if (wants_w) memset(dw, 0, C * 4);
    for (int64_t r = begin; r < end; r++) {
      const float* x = row_of<float>(a.x, r);
      const float* dy = row_of<float>(a.dy, r);
      const float rstd = rstd_R[r];
      auto product = [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(dy + i, m) * load_n(x + i, m); };
      const float dot = !wants_w ? reduce(C, [=](int64_t i, int64_t m) ESFT_LAMBDA { return product(i, m) * load_n(w + i, m); })
                                 : reduce(C, [=](int64_t i, int64_t m) ESFT_LAMBDA {
                                     const vf p = product(i, m);
                                     store_n(dw + i, load_n(dw + i, m) + p * splat(rstd), m);
                                     return p * load_n(w + i, m);
                                   });
      if (!wants_x) continue;
      const float k = rstd * (dot * rstd / float(C));
      float* dx = row_of<float>(a.dx, r);
      auto gradient = [=](int64_t i, int64_t m) ESFT_LAMBDA {
        return splat(rstd) * (load_n(dy + i, m) * load_n(w + i, m) - load_n(x + i, m) * splat(k));
      };
      if (a.accumulate)
        map(dx, C, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(dx + i, m) + gradient(i, m); });
      else
        map(dx, C, nt, gradient);
    }
    stream_fence();
  });

  if (!wants_w) return;
  float* dweight = data<float>(a.dweight);
  const bool adds = a.accumulate_weight != 0;
  for_chunks(ctx, C, 256, chunks, [&](int64_t begin, int64_t end, int) {
    map(dweight + begin, end - begin, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
      vf sum = {};
      for (int64_t c = 0; c < chunks; c++) sum += load_n(partial + c * pitch + begin + i, m);
      return adds ? load_n(dweight + begin + i, m) + sum : sum;
    });
  });
}

}  // namespace esft::cpu::ESFT_ISA
