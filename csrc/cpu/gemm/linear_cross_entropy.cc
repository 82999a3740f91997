// linear_cross_entropy — head, softmax and loss without storing the logits (contract: ops/linear_cross_entropy.h).
//
// Supervised rows are gathered and taken in chunks of M rows. Per chunk, with Z [M, V] the only large scratch:
//     Z = X·Wᵀ (+ U·Bᵀ)                      tasks: blocks of vocabulary
//     nll, Z ← E = exp(s·Z − max) − sum·onehot   tasks: rows, s = logit_scale; ∂nll/∂(s·z) = E / sum
//     dX = f·(E·W), dW += Eᵀ·(f·X)           tasks: blocks of both outputs; per row f = grad_scale · s / sum; dU, dB likewise
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

// A pair of factors: rows X of the activations and the matrix W that they meet; or U and B of the low-rank term.
struct Factor {
  const esft_tensor *x, *w, *dx, *dw;
  int64_t width;
  bool has_dx, has_dw;
  float *rows, *scaled, *gradient;  // [M, width]: the chunk's rows, f times them, dX
  void* panels;                     // f·X as the B operand of dW
};

struct Chunk {
  int32_t* index;   // supervised rows
  float* z;         // [M, V]
  float* factor;    // [M] f
  double* nll;      // [M]
  uint8_t* hit;     // [M] the label is the argmax
  float* bias;      // [V] where it is not f32 in memory
  size_t bytes;
  Chunk(void* base, int64_t N, int64_t M, int64_t ldz, int64_t bias_floats, Factor* factors, int count) {
    bytes = 0;
    auto take = [&](size_t n) {
      char* p = base ? static_cast<char*>(base) + bytes : nullptr;
      bytes += (n + 63) / 64 * 64;
      return static_cast<void*>(p);
    };
    index = static_cast<int32_t*>(take(N * 4));
    z = static_cast<float*>(take(M * ldz * 4));
    factor = static_cast<float*>(take(M * 4));
    nll = static_cast<double*>(take(M * 8));
    hit = static_cast<uint8_t*>(take(M));
    for (int i = 0; i < count; i++) {
      Factor& g = factors[i];
      g.rows = static_cast<float*>(take(M * g.width * 4));
      g.gradient = static_cast<float*>(take(g.has_dx ? M * g.width * 4 : 0));
      g.scaled = static_cast<float*>(take(g.has_dw ? M * g.width * 4 : 0));
      g.panels = take(g.has_dw ? panels_bytes(M, g.width) : 0);
    }
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
  const int64_t T = rows(a.x), V = rows(a.w);
  check_labels("linear_cross_entropy", "labels", a.labels, V);
  const int32_t* labels = static_cast<const int32_t*>(a.labels.data);
  const int precision = (int)a.precision, count = present(a.u) ? 2 : 1;
  Factor factors[2] = {{&a.x, &a.w, &a.dx, &a.dw, cols(a.x), present(a.dx), present(a.dw), 0, 0, 0, 0},
                       {&a.u, &a.b, &a.du, &a.db, count == 2 ? cols(a.u) : 0, present(a.du), present(a.db), 0, 0, 0, 0}};
  const bool has_dbias = present(a.dbias);
  const bool gradient = factors[0].has_dx || factors[0].has_dw || factors[1].has_dx || factors[1].has_dw || has_dbias;
  int64_t N = 0;
  for (int64_t t = 0; t < T; t++) N += labels[t] >= 0;

  // Rows without a label: no loss, no gradient.
  for_rows(ctx, T, factors[0].has_dx ? cols(a.x) : 1, [&](int64_t t0, int64_t t1, int) {
    for (int64_t t = t0; t < t1; t++) {
      if (labels[t] >= 0) continue;
      if (present(a.row_loss)) static_cast<float*>(a.row_loss.data)[t] = 0;
      for (int i = 0; i < count; i++)
        if (factors[i].has_dx) memset(row_of<float>(*factors[i].dx, t), 0, factors[i].width * 4);
    }
  });
  if (N == 0) {
    if (has_dbias && !a.accumulate) memset(data<float>(a.dbias), 0, V * 4);
    for (int i = 0; i < count; i++) {
      const Factor& g = factors[i];
      if (g.has_dw && !a.accumulate)
        for_rows(ctx, V, g.width, [&](int64_t v0, int64_t v1, int) {
          for (int64_t v = v0; v < v1; v++) memset(row_of<float>(*g.dw, v), 0, g.width * 4);
        });
    }
    return;
  }

  const int64_t M = min_of(N, min_of(kManyRows, max_of(kFewRows, kChunkBytes / (4 * V) / 16 * 16)));
  const int64_t ldz = round_up(V, 16) + 16;  // not a power of two: the rows of a tile must not share cache sets
  const int64_t bias_floats = present(a.bias) && a.bias.dtype != ESFT_F32 ? V : 0;
  const size_t bytes = Chunk(nullptr, N, M, ldz, bias_floats, factors, count).bytes;
  const Chunk c(ctx.shared_scratch(bytes), N, M, ldz, bias_floats, factors, count);
  const float* bias = present(a.bias) ? as_f32(a.bias, c.bias) : nullptr;
  const bool finished = bias || a.soft_cap > 0;
  const float s = (float)a.logit_scale, cap = (float)a.soft_cap;
  size_t scratch = 0;
  for (int i = 0; i < count; i++) {
    scratch = max_of(scratch, product_scratch(M, factors[i].width));
    if (factors[i].has_dx) scratch = max_of(scratch, product_scratch(M, kDepth));
    if (factors[i].has_dw) scratch = max_of(scratch, multiply_scratch(kVocabBlock, M));
  }
  for (int64_t t = 0, n = 0; t < T; t++)
    if (labels[t] >= 0) c.index[n++] = (int32_t)t;

  // W from row v, column d on, as B of Z (transposed) or of dX.
  auto weights = [&](const esft_tensor& w, int64_t v, int64_t d, bool transposed) {
    const int64_t at = v * w.ld + d;
    return w.dtype == ESFT_BF16 ? bf16_operand(static_cast<const uint16_t*>(w.data) + at, w.ld, transposed)
                                : f32_operand(static_cast<const float*>(w.data) + at, w.ld, transposed);
  };
  const int64_t vocab_blocks = ceil_div(V, kVocabBlock);
  double loss = 0;
  int64_t correct = 0;
  for (int64_t n0 = 0; n0 < N; n0 += M) {
    const int64_t m = min_of(M, N - n0);
    const int32_t* index = c.index + n0;
    for (int f = 0; f < count; f++) {
      const Factor& g = factors[f];
      for (int64_t i = 0; i < m; i++) memcpy(g.rows + i * g.width, row_of<float>(*g.x, index[i]), g.width * 4);
    }
    parallel_for(ctx, vocab_blocks, [&](int64_t b, int worker) {
      const int64_t v = b * kVocabBlock;
      for (int f = 0; f < count; f++) {
        const Factor& g = factors[f];
        product(f32_operand(g.rows, g.width), weights(*g.w, v, 0, true), m, min_of(kVocabBlock, V - v), g.width, c.z + v, ldz,
                f > 0, precision, ctx.worker_scratch(worker, scratch));
      }
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
        for (int f = 0; f < count; f++)
          if (factors[f].has_dw)
            scale_row(factors[f].scaled + i * factors[f].width, factors[f].rows + i * factors[f].width, factors[f].width,
                      c.factor[i]);
      }
    });
    for (int64_t i = 0; i < m; i++) {
      loss += c.nll[i];
      correct += c.hit[i];
      if (present(a.row_loss)) static_cast<float*>(a.row_loss.data)[index[i]] = (float)c.nll[i];
    }
    if (!gradient) continue;

    // dX in blocks of rows and columns, as many as there are threads at least (the sum of an element runs over all of V). One list of
    // tasks: dX and dW of each factor, then dbias.
    struct Blocks {
      int64_t rows, columns, of_columns, dx_tasks, dw_tasks;
      Panels scaled;
    } blocks[2] = {};
    int64_t tasks = 0;
    for (int f = 0; f < count; f++) {
      const Factor& g = factors[f];
      Blocks& b = blocks[f];
      b.rows = m, b.columns = kColumnBlock;
      auto dx_blocks = [&] { return ceil_div(m, b.rows) * ceil_div(g.width, b.columns); };
      while (dx_blocks() < ctx.threads() && b.rows > 64) b.rows = round_up(ceil_div(b.rows, 2), 16);
      while (dx_blocks() < ctx.threads() && b.columns > 2 * NR) b.columns /= 2;
      b.of_columns = ceil_div(g.width, b.columns);
      b.dx_tasks = g.has_dx ? dx_blocks() : 0;
      b.dw_tasks = g.has_dw ? vocab_blocks : 0;
      if (g.has_dw) b.scaled = pack_panels(f32_operand(g.scaled, g.width), m, g.width, precision, g.panels);
      tasks += b.dx_tasks + b.dw_tasks;
    }
    const bool adds = a.accumulate || n0 > 0;
    parallel_for(ctx, tasks + (has_dbias ? vocab_blocks : 0), [&](int64_t task, int worker) {
      if (task >= tasks) {  // dbias: rows in order
        const int64_t v = (task - tasks) * kVocabBlock, n = min_of(kVocabBlock, V - v);
        float* sum = data<float>(a.dbias) + v;
        map(sum, n, false, [&](int64_t i, int64_t k) ESFT_LAMBDA {
          vf total = adds ? load_n(sum + i, k) : vf{};
          for (int64_t r = 0; r < m; r++) total += splat(c.factor[r]) * load_n(c.z + r * ldz + v + i, k);
          return total;
        });
        return;
      }
      const int f = count == 2 && task >= blocks[0].dx_tasks + blocks[0].dw_tasks;
      if (f) task -= blocks[0].dx_tasks + blocks[0].dw_tasks;
      const Factor& g = factors[f];
      const Blocks& block = blocks[f];
      void* w = ctx.worker_scratch(worker, scratch);
      if (task >= block.dx_tasks) {
        const int64_t v = (task - block.dx_tasks) * kVocabBlock;
        multiply(f32_operand(c.z + v, ldz, true), min_of(kVocabBlock, V - v), block.scaled, row_of<float>(*g.dw, v), g.dw->ld, adds,
                 w);
        return;
      }
      const int64_t i0 = task / block.of_columns * block.rows, i1 = min_of(m, i0 + block.rows);
      const int64_t d = task % block.of_columns * block.columns, n = min_of(block.columns, g.width - d);
      for (int64_t v = 0; v < V; v += kDepth)
        product(f32_operand(c.z + i0 * ldz + v, ldz), weights(*g.w, v, d, false), i1 - i0, n, min_of(kDepth, V - v),
                g.gradient + i0 * g.width + d, g.width, v > 0, precision, w);
      for (int64_t i = i0; i < i1; i++) scale_row(row_of<float>(*g.dx, index[i]) + d, g.gradient + i * g.width + d, n, c.factor[i]);
    });
  }
  *static_cast<double*>(a.loss.data) += loss;
  if (present(a.correct)) *static_cast<int64_t*>(a.correct.data) += correct;
}

}  // namespace esft::cpu::ESFT_ISA
