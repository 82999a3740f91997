// causal_conv: bound by memory. Taps lie as rows [w][C] in scratch, so that a row of y is w multiply-adds of vectors whose rows of x
// are in L1 from the row before. The backward writes dh of a chunk of rows (and of the w − 1 rows behind it, which reach back into the
// chunk) to scratch, a segment of columns at a time; sums over rows are taken per fixed chunk and added in order: no bit depends on
// the threads.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

constexpr int64_t kSegment = 512;  // columns of a pass of the backward: dh of 64 rows stays in L2
constexpr int64_t kChunk = 64;  // rows of it

struct Conv {
  int64_t T, C, w, pitch;
  const float* x;
  int64_t ld;
  const int32_t* doc_start;
  float* taps;  // [w][pitch], then the bias
  const float* bias;
  bool silu;

  // Taps before j0 fall before the document of t.
  int64_t first_tap(int64_t t) const { return max_of(0, w - 1 - (t - doc_start[t])); }
  // `before`: the row that tap 0 reads where the first j0 taps fall before the document; nullptr: zeros.
  ESFT_LAMBDA vf h(int64_t t, int64_t j0, int64_t c, int64_t m, const float* before = nullptr) const {
    vf sum = load_n(bias + c, m);
    for (int64_t j = 0; before && j < j0; j++) sum += load_n(taps + j * pitch + c, m) * load_n(before + j * C + c, m);
    for (int64_t j = j0; j < w; j++) sum += load_n(taps + j * pitch + c, m) * load_n(x + (t - w + 1 + j) * ld + c, m);
    return sum;
  }
};

template <class Args>
size_t conv_bytes(const Args& a) {
  return (cols(a.weight) + 1) * round_up(cols(a.x), 16) * 4;
}

// `scratch`: conv_bytes.
template <class Args>
Conv conv_of(const Args& a, float* scratch) {
  Conv v = {rows(a.x),
            cols(a.x),
            cols(a.weight),
            round_up(cols(a.x), 16),
            data<float>(a.x),
            a.x.ld,
            data<int32_t>(a.doc_start),
            scratch,
            scratch + cols(a.weight) * round_up(cols(a.x), 16),
            a.silu != 0};
  const bool wide = a.weight.dtype == ESFT_F32;
  for (int64_t c = 0; c < v.C; c++)
    for (int64_t j = 0; j < v.w; j++)
      v.taps[j * v.pitch + c] = wide ? data<float>(a.weight)[c * v.w + j] : bf16_to_f32(data<uint16_t>(a.weight)[c * v.w + j]);
  float* bias = scratch + v.w * v.pitch;
  if (!present(a.bias))
    memset(bias, 0, v.C * 4);
  else if (const float* b = as_f32(a.bias, bias); b != bias)
    v.bias = b;
  return v;
}

ESFT_INLINE vf silu_slope(vf h) {
  const vf s = vsigmoid(h);
  return s * (splat(1.0f) + h * (splat(1.0f) - s));
}

}  // namespace

void causal_conv(const esft_causal_conv_args& a, Context& ctx) {
  check_doc_start("causal_conv", "doc_start", a.doc_start);
  check_documents("causal_conv", "states", a.doc_start, a.states.count);
  if (rows(a.x) == 0 || cols(a.x) == 0) return;
  float* scratch = static_cast<float*>(ctx.shared_scratch(conv_bytes(a) + (a.states.count ? rows(a.x) * 4 : 0)));
  const Conv v = conv_of(a, scratch);
  int32_t* document = reinterpret_cast<int32_t*>(scratch) + conv_bytes(a) / 4;  // of each row, where there are states
  for (int64_t t = 0, n = -1; a.states.count && t < v.T; t++) document[t] = (int32_t)(n += v.doc_start[t] == t);
  const bool nt = streams(a.y);
  for_rows(ctx, v.T, v.C, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t j0 = v.first_tap(t);
      float* y = row_of<float>(a.y, t);
      const float* before =
          a.states.count && j0 > 0 ? data<float>(a.states.items[document[t]]) + (t - v.doc_start[t]) * v.C : nullptr;
      if (v.silu)
        map(y, v.C, nt, [=](int64_t c, int64_t m) ESFT_LAMBDA {
          const vf h = v.h(t, j0, c, m, before);
          return h * vsigmoid(h);
        });
      else
        map(y, v.C, nt, [=](int64_t c, int64_t m) ESFT_LAMBDA { return v.h(t, j0, c, m, before); });
    }
    stream_fence();
  });
  for (int64_t begin = 0, end = 0, n = 0; a.states.count && begin < v.T; begin = end, n++) {
    for (end = begin + 1; end < v.T && v.doc_start[end] != end; end++);
    float* state = data<float>(a.states.items[n]);
    for (int64_t r = 0, fresh = end - begin; r < v.w - 1; r++) {
      const float* from = fresh - (v.w - 1) + r >= 0 ? v.x + (end - (v.w - 1) + r) * v.ld : state + (fresh + r) * v.C;
      memmove(state + r * v.C, from, v.C * 4);
    }
  }
}

void causal_conv_backward(const esft_causal_conv_backward_args& a, Context& ctx) {
  check_doc_start("causal_conv_backward", "doc_start", a.doc_start);
  const bool wants_x = present(a.dx), wants_w = present(a.dweight), wants_b = present(a.dbias), sums = wants_w || wants_b;
  if (rows(a.x) == 0 || cols(a.x) == 0 || !(wants_x || sums)) return;
  const int64_t T = rows(a.x), C = cols(a.x), w = cols(a.weight), chunks = ceil_div(T, kChunk), pitch = round_up(C, 16);
  const size_t own = conv_bytes(a) / 4;
  float* scratch = static_cast<float*>(ctx.shared_scratch((own + (sums ? chunks * (w + 1) * pitch : 0)) * 4));
  const Conv v = conv_of(a, scratch);
  float* partial = scratch + own;  // [chunks][w + 1][pitch]: taps, then the bias

  const size_t halo = (kChunk + w - 1) * kSegment * 4;
  for_chunks(ctx, T, kChunk, C, [&](int64_t begin, int64_t end, int worker) {
    float* dh_rows = static_cast<float*>(ctx.worker_scratch(worker, halo));
    float* mine = partial + begin / kChunk * (w + 1) * pitch;
    for (int64_t c0 = 0; c0 < C; c0 += kSegment) {
      const int64_t n = min_of(kSegment, C - c0), last = min_of(T, end + w - 1);
      for (int64_t t = begin; t < last; t++) {
        const float* dy = row_of<float>(a.dy, t) + c0;
        const int64_t j0 = v.first_tap(t);
        float* dh = dh_rows + (t - begin) * kSegment;
        if (v.silu)
          map(dh, n, false,
              [=](int64_t c, int64_t m) ESFT_LAMBDA { return load_n(dy + c, m) * silu_slope(v.h(t, j0, c0 + c, m)); });
        else
          map(dh, n, false, [=](int64_t c, int64_t m) ESFT_LAMBDA { return load_n(dy + c, m); });
      }
      for (int64_t t = begin; wants_x && t < end; t++) {
        // Row t is read by tap j of row t + w − 1 − j, as far as that row's document reaches back to it.
        int64_t reach = 0;
        while (reach + 1 < w && t + reach + 1 < T && v.doc_start[t + reach + 1] <= t) reach++;
        const float* dh = dh_rows + (t - begin) * kSegment;
        map(row_of<float>(a.dx, t) + c0, n, false, [=](int64_t c, int64_t m) ESFT_LAMBDA {
          vf sum = {};
          for (int64_t i = 0; i <= reach; i++)
            sum += load_n(dh + i * kSegment + c, m) * load_n(v.taps + (w - 1 - i) * pitch + c0 + c, m);
          return sum;
        });
      }
      if (!sums) continue;
      for (int64_t c = 0; c < n; c += W) {
        const int64_t m = min_of(W, n - c);
        vf tap[ESFT_CAUSAL_CONV_TAPS] = {}, bias = {};
        for (int64_t t = begin; t < end; t++) {
          const vf dh = load_n(dh_rows + (t - begin) * kSegment + c, m);
          bias += dh;
          for (int64_t j = v.first_tap(t); j < w; j++) tap[j] += dh * load_n(v.x + (t - w + 1 + j) * v.ld + c0 + c, m);
        }
        for (int64_t j = 0; j < w; j++) store_n(mine + j * pitch + c0 + c, tap[j], m);
        store_n(mine + w * pitch + c0 + c, bias, m);
      }
    }
  });

  if (!sums) return;
  for_chunks(ctx, C, 256, chunks * w, [&](int64_t begin, int64_t end, int) {
    for (int64_t c = begin; c < end; c++)
      for (int64_t j = 0; j <= w; j++) {
        if (j == w ? !wants_b : !wants_w) continue;
        float sum = 0;
        for (int64_t i = 0; i < chunks; i++) sum += partial[(i * (w + 1) + j) * pitch + c];
        *(j == w ? data<float>(a.dbias) + c : data<float>(a.dweight) + c * w + j) += sum;
      }
  });
}

}  // namespace esft::cpu::ESFT_ISA
