// linear_cross_entropy — head, softmax and loss without storing the logits (contract: ops/linear_cross_entropy.h).
//
// Supervised rows are gathered and taken in chunks of M rows. Per chunk, with Z [M, V] the only large scratch:
//     Z = X·Wᵀ                               tasks: blocks of vocabulary
//     nll, Z ← E = exp(s·Z − max) − sum·onehot   tasks: rows, s = logit_scale; ∂nll/∂(s·z) = E / sum
//     dX = f·(E·W), dW += Eᵀ·(f·X)           tasks: blocks of both outputs; per row f = grad_scale · s / sum
// With a bias or a cap the rows are finished first, Z ← cap(s·(Z + bias)); E is then times the slope of the cap, 1 − (Z/cap)².
// Every sum has one order: k inside the products, vocabulary inside a row, rows in chunks of a fixed size.
#include <math.h>

#include "../../ops/checks.h"
#include "../kernels.h"
#include "../rows/rows.h"
#include "gemm_engine.h"

namespace esft::cpu::ESFT_ISA {
namespace {

constexpr int64_t kChunkBytes = int64_t(8) << 20;   // logits of a chunk: about what a core may call its own of L3
constexpr int64_t kFewRows = 192, kManyRows = 512;  // rows per chunk: enough to hide building the panels of W
constexpr int64_t kVocabBlock = 512;
constexpr int64_t kDepth = KC;                      // of the sums over the vocabulary in dX: its operands fit L2
constexpr int64_t kColumnBlock = 256;               // of dX

struct Chunk {
  int32_t* index;   // supervised rows
  float *x, *fx;    // [M, D] the rows and f times them
  float *z, *dx;    // [M, V], [M, D]
  float* factor;    // [M] f
  double* nll;      // [M]
  uint8_t* hit;     // [M] the label is the argmax
  void* panels;     // f·X as the B operand of dW
  float* bias;      // [V] where it is not f32 in memory
  size_t bytes;
  Chunk(void* base, int64_t N, int64_t M, int64_t D, int64_t ldz, bool has_dx, bool has_dw, int64_t bias_floats) {
    bytes = 0;
    auto take = [&](size_t n) {
      char* p = base ? static_cast<char*>(base) + bytes : nullptr;
      bytes += (n + 63) / 64 * 64;
      return static_cast<void*>(p);
    };
    index = static_cast<int32_t*>(take(N * 4));
    x = static_cast<float*>(take(M * D * 4));
    z = static_cast<float*>(take(M * ldz * 4));
    factor = static_cast<float*>(take(M * 4));
    nll = static_cast<double*>(take(M * 8));
    hit = static_cast<uint8_t*>(take(M));
    dx = static_cast<float*>(take(has_dx ? M * D * 4 : 0));
    fx = static_cast<float*>(take(has_dw ? M * D * 4 : 0));
    panels = take(has_dw ? panels_bytes(M, D) : 0);
    bias = static_cast<float*>(take(bias_floats * 4));
  }
};

ESFT_INLINE void scale_row(float* y, const float* x, int64_t n, float f) {
  const vf s = splat(f);
  map(y, n, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return load_n(x + i, m) * s; });
}

// z ← cap(scale · (z + bias)); bias may be null, cap 0 is none.
void finish_row(float* z, int64_t V, float scale, const float* bias, float cap) {
  const vf s = splat(scale), c = splat(cap), inverse = splat(cap > 0 ? 1.0f / cap : 0.0f);
  map(z, V, false, [=](int64_t i, int64_t m) ESFT_LAMBDA {
    const vf u = s * (bias ? load_n(z + i, m) + load_n(bias + i, m) : load_n(z + i, m));
    return cap > 0 ? c * vtanh(u * inverse) : u;
  });
}

// Softmax of one row of logits in place (see the head of this file); returns the sum of exponentials. kCapped: E times the slope of the
// cap, inverse = 1/cap.
template <bool kCapped>
float softmax_row(float* z, int64_t V, float scale, float inverse, int64_t label, bool gradient, double* nll, uint8_t* hit) {
  auto slope = [=](vf u) ESFT_LAMBDA {  // u: scaled logits
    const vf t = u * splat(inverse);
    return splat(1.0f) - t * t;
  };
  const vf s1 = splat(scale);
  vf top = splat(-__builtin_inff()), top2 = top;
  int64_t v = 0;
  for (; v + 2 * W <= V; v += 2 * W) {
    top = vmax(load(z + v) * s1, top);
    top2 = vmax(load(z + v + W) * s1, top2);
  }
  float max = hmax(vmax(top, top2));
  for (; v < V; v++) max = z[v] * scale > max ? z[v] * scale : max;
  const float at_label = z[label] * scale;
  // The lowest id that reaches the maximum is the argmax.
  bool first = at_label == max;
  for (int64_t i = 0; first && i < label; i++) first = z[i] * scale != max;
  *hit = first;

  const vf shift = splat(max);
  double sum = 0;
  for (int64_t v0 = 0; v0 < V; v0 += 4096) {  // short runs in f32, the rest in f64
    const int64_t end = min_of(V, v0 + 4096);
    vf s = {}, s2 = {};
    v = v0;
    for (; v + 2 * W <= end; v += 2 * W) {
      const vf u = load(z + v) * s1, u2 = load(z + v + W) * s1;
      const vf e = vexp(u - shift), e2 = vexp(u2 - shift);
      if (gradient) {
        store(z + v, kCapped ? e * slope(u) : e);
        store(z + v + W, kCapped ? e2 * slope(u2) : e2);
      }
      s += e;
      s2 += e2;
    }
    for (; v < end; v += W) {
      const int64_t n = min_of(W, end - v);
      const vf u = load_n(z + v, n) * s1, e = vexp(u - shift);
      if (gradient) store_n(z + v, kCapped ? e * slope(u) : e, n);
      for (int64_t i = 0; i < n; i++) sum += e[i];
    }
    sum += hsum(s + s2);
  }
  *nll = log(sum) + ((double)max - (double)at_label);
  const float at = at_label * inverse;
  if (gradient) z[label] -= (float)sum * (kCapped ? 1.0f - at * at : 1.0f);
  return (float)sum;
}

}  // namespace

void linear_cross_entropy(const esft_linear_cross_entropy_args& a, Context& ctx) {
  const int64_t T = rows(a.x), D = cols(a.x), V = rows(a.w);
  check_labels("linear_cross_entropy", "labels", a.labels, V);
  const int32_t* labels = static_cast<const int32_t*>(a.labels.data);
  const bool has_dx = present(a.dx), has_dw = present(a.dw), has_db = present(a.dbias), gradient = has_dx || has_dw || has_db;
  const bool bf16 = a.w.dtype == ESFT_BF16;
  const int precision = (int)a.precision;
  int64_t N = 0;
  for (int64_t t = 0; t < T; t++) N += labels[t] >= 0;

  // Rows without a label: no loss, no gradient.
  for_rows(ctx, T, has_dx ? D : 1, [&](int64_t t0, int64_t t1, int) {
    for (int64_t t = t0; t < t1; t++) {
      if (labels[t] >= 0) continue;
      if (present(a.row_loss)) static_cast<float*>(a.row_loss.data)[t] = 0;
      if (has_dx) memset(row_of<float>(a.dx, t), 0, D * 4);
    }
  });
  if (N == 0) {
    if (has_db && !a.accumulate) memset(data<float>(a.dbias), 0, V * 4);
    if (has_dw && !a.accumulate)
      for_rows(ctx, V, D, [&](int64_t v0, int64_t v1, int) {
        for (int64_t v = v0; v < v1; v++) memset(row_of<float>(a.dw, v), 0, D * 4);
      });
    return;
  }

  const int64_t M = min_of(N, min_of(kManyRows, max_of(kFewRows, kChunkBytes / (4 * V) / 16 * 16)));
  const int64_t ldz = round_up(V, 16) + 16;  // not a power of two: the rows of a tile must not share cache sets
  const int64_t bias_floats = present(a.bias) && a.bias.dtype != ESFT_F32 ? V : 0;
  const size_t bytes = Chunk(nullptr, N, M, D, ldz, has_dx, has_dw, bias_floats).bytes;
  const Chunk c(ctx.shared_scratch(bytes), N, M, D, ldz, has_dx, has_dw, bias_floats);
  const float* bias = present(a.bias) ? as_f32(a.bias, c.bias) : nullptr;
  const bool finished = bias || a.soft_cap > 0;
  const float s = (float)a.logit_scale, cap = (float)a.soft_cap;
  size_t scratch = product_scratch(M, D);
  if (has_dx) scratch = max_of(scratch, product_scratch(M, kDepth));
  if (has_dw) scratch = max_of(scratch, multiply_scratch(kVocabBlock, M));
  for (int64_t t = 0, n = 0; t < T; t++)
    if (labels[t] >= 0) c.index[n++] = (int32_t)t;

  // W from row v, column d on, as B of Z (transposed) or of dX.
  auto weights = [&](int64_t v, int64_t d, bool transposed) {
    const int64_t at = v * a.w.ld + d;
    return bf16 ? bf16_operand(static_cast<const uint16_t*>(a.w.data) + at, a.w.ld, transposed)
                : f32_operand(static_cast<const float*>(a.w.data) + at, a.w.ld, transposed);
  };
  const int64_t vocab_blocks = ceil_div(V, kVocabBlock);
  double loss = 0;
  int64_t correct = 0;
  for (int64_t n0 = 0; n0 < N; n0 += M) {
    const int64_t m = min_of(M, N - n0);
    const int32_t* index = c.index + n0;
    for (int64_t i = 0; i < m; i++) memcpy(c.x + i * D, row_of<float>(a.x, index[i]), D * 4);
    parallel_for(ctx, vocab_blocks, [&](int64_t b, int worker) {
      const int64_t v = b * kVocabBlock;
      product(f32_operand(c.x, D), weights(v, 0, true), m, min_of(kVocabBlock, V - v), D, c.z + v, ldz, false, precision,
              ctx.worker_scratch(worker, scratch));
    });
    constexpr int64_t kRows = 4;
    parallel_for(ctx, ceil_div(m, kRows), [&](int64_t b, int) {
      for (int64_t i = b * kRows; i < min_of(m, (b + 1) * kRows); i++) {
        float* z = c.z + i * ldz;
        if (finished) finish_row(z, V, s, bias, cap);
        const int32_t label = labels[index[i]];
        const float sum = cap > 0 ? softmax_row<true>(z, V, 1.0f, 1.0f / cap, label, gradient, c.nll + i, c.hit + i)
                                  : softmax_row<false>(z, V, finished ? 1.0f : s, 0.0f, label, gradient, c.nll + i, c.hit + i);
        c.factor[i] = (float)((present(a.scale) ? *data<double>(a.scale) : a.grad_scale) * a.logit_scale) / sum;
        if (has_dw) scale_row(c.fx + i * D, c.x + i * D, D, c.factor[i]);
      }
    });
    for (int64_t i = 0; i < m; i++) {
      loss += c.nll[i];
      correct += c.hit[i];
      if (present(a.row_loss)) static_cast<float*>(a.row_loss.data)[index[i]] = (float)c.nll[i];
    }
    if (!gradient) continue;

    // dX in blocks of rows and columns, as many as there are threads at least (the sum of an element runs over all of V).
    int64_t row_block = m, column_block = kColumnBlock;
    auto dx_blocks = [&] { return ceil_div(m, row_block) * ceil_div(D, column_block); };
    while (dx_blocks() < ctx.threads() && row_block > 64) row_block = round_up(ceil_div(row_block, 2), 16);
    while (dx_blocks() < ctx.threads() && column_block > 2 * NR) column_block /= 2;
    const int64_t column_blocks = ceil_div(D, column_block), dx_tasks = has_dx ? dx_blocks() : 0;
    Panels fx = {};
    if (has_dw) fx = pack_panels(f32_operand(c.fx, D), m, D, precision, c.panels);
    const int64_t dw_tasks = has_dw ? vocab_blocks : 0;
    parallel_for(ctx, dx_tasks + dw_tasks + (has_db ? vocab_blocks : 0), [&](int64_t task, int worker) {
      if (task >= dx_tasks + dw_tasks) {  // dbias: rows in order
        const int64_t v = (task - dx_tasks - dw_tasks) * kVocabBlock, n = min_of(kVocabBlock, V - v);
        float* sum = data<float>(a.dbias) + v;
        const bool adds = a.accumulate || n0 > 0;
        map(sum, n, false, [&](int64_t i, int64_t k) ESFT_LAMBDA {
          vf total = adds ? load_n(sum + i, k) : vf{};
          for (int64_t r = 0; r < m; r++) total += splat(c.factor[r]) * load_n(c.z + r * ldz + v + i, k);
          return total;
        });
        return;
      }
      void* w = ctx.worker_scratch(worker, scratch);
      if (task >= dx_tasks) {
        const int64_t v = (task - dx_tasks) * kVocabBlock;
        multiply(f32_operand(c.z + v, ldz, true), min_of(kVocabBlock, V - v), fx, row_of<float>(a.dw, v), a.dw.ld,
                 a.accumulate || n0 > 0, w);
        return;
      }
      const int64_t i0 = task / column_blocks * row_block, i1 = min_of(m, i0 + row_block);
      const int64_t d = task % column_blocks * column_block, n = min_of(column_block, D - d);
      for (int64_t v = 0; v < V; v += kDepth)
        product(f32_operand(c.z + i0 * ldz + v, ldz), weights(v, d, false), i1 - i0, n, min_of(kDepth, V - v), c.dx + i0 * D + d, D,
                v > 0, precision, w);
      for (int64_t i = i0; i < i1; i++) scale_row(row_of<float>(a.dx, index[i]) + d, c.dx + i * D + d, n, c.factor[i]);
    });
  }
  *static_cast<double*>(a.loss.data) += loss;
  if (present(a.correct)) *static_cast<int64_t*>(a.correct.data) += correct;
}

}  // namespace esft::cpu::ESFT_ISA
