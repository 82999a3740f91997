// linear_cross_entropy on CUDA (contract: ops/linear_cross_entropy.h): bf16 x and w, precision 1.
//
// Only supervised rows cost anything: their numbers are compacted first (supervised_rows.cu), then worked on in chunks whose logits
// (bf16, at most 224 MB) stay in device memory. Per chunk: logits with the softmax's tile statistics in the epilogue; a pass over the rows that combines
// them and turns the logits into dZ in place; dX = dZ·W; the sum of its parts to the rows of dx; dW (+)= dZᵀ·x when the head trains.
// The host does not know how many rows are supervised: it launches the chunks that T rows would need, and those past the count
// find an empty group and end at once. A low-rank term is a stretch more of the logits' contraction, and the two products of the backward
// once more with its B and u in place of W and x.
// Logits are kept as bf16(z - maximum of their tile): the large ones, which carry the gradient, keep their precision; loss, maximum
// and the label's logit are f32 throughout.
// Limit: the two products, 4·n·D·V FLOPs; the row pass is bytes (chunk read and written once), about a tenth of the time.
#include "linear_cross_entropy.cuh"

#include "../host/launch.h"
#include "../reduce.cuh"
#include "../rows/index_check.cuh"
#include "../rows/rows.cuh"
#include "../rows/supervised_rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunkBytes = 224'000'000, kMostRows = 2048;

struct SoftmaxParams {
  CeLogits z;
  float* nll;  // [capacity] of this chunk
  int32_t* correct;  // [capacity]
  float* row_loss;  // [T] or nullptr
  float gradient;  // grad_scale · logit_scale; with `scale` on the device in place of grad_scale
  const double* scale;  // or nullptr
  double logit_scale;
  float inverse_cap;  // 0: none; else dz is times the slope of the cap, 1 − (z/cap)²
  int32_t want_gradient;
};

struct Best {
  float z;
  int32_t tile;  // the lowest that has it
};
__device__ __forceinline__ Best better(Best a, Best b) { return b.z > a.z || (b.z == a.z && b.tile < a.tile) ? b : a; }

// A block per row. The tiles' statistics are combined in a fixed order; then z' becomes dz in place.
__global__ void __launch_bounds__(kThreads) softmax_rows(const EarlyStart early, const SoftmaxParams p) {
  early.wait();
  ESFT_SHARED(smem);
  Best* best_of_warp = reinterpret_cast<Best*>(smem);  // [8]
  float* sum_of_warp = reinterpret_cast<float*>(best_of_warp + kThreads / 32);
  const int n = p.z.offsets[1];
  for (int r = blockIdx.x; r < n; r += gridDim.x) {
    const int32_t token = p.z.x.index[r], label = p.z.labels[token];
    const float* tile_max = p.z.tile_max + int64_t(r) * p.z.tiles;
    Best best = {-INFINITY, 0};
    for (int t = threadIdx.x; t < p.z.tiles; t += kThreads) best = better(best, {tile_max[t], t});
#pragma unroll
    for (int step = 16; step > 0; step >>= 1)
      best = better(best, {__shfl_xor_sync(kFullWarp, best.z, step), __shfl_xor_sync(kFullWarp, best.tile, step)});
    if (threadIdx.x % 32 == 0) best_of_warp[threadIdx.x / 32] = best;
    __syncthreads();
    best = best_of_warp[0];
#pragma unroll
    for (int w = 1; w < kThreads / 32; w++) best = better(best, best_of_warp[w]);
    float sum = 0.f;
    for (int t = threadIdx.x; t < p.z.tiles; t += kThreads)
      sum += p.z.tile_sum[int64_t(r) * p.z.tiles + t] * expf(tile_max[t] - best.z);
    sum = block_sum(sum, sum_of_warp);
    const float log_sum = logf(sum), label_z = p.z.label_z[r];
    if (threadIdx.x == 0) {
      const float nll = best.z - label_z + log_sum;
      p.nll[r] = nll;
      p.correct[r] = best.tile == label / kMmaTile && p.z.label_first[r];  // the argmax, ties to the lower id
      if (p.row_loss) p.row_loss[token] = nll;
    }
    if (!p.want_gradient) continue;
    bf16* row = p.z.shifted + int64_t(r) * p.z.shifted_ld;
    constexpr float kLog2e = 1.4426950408889634f;
    constexpr int kAhead = 4;  // vectors in flight
    const float gradient = p.scale ? float(*p.scale * p.logit_scale) : p.gradient;
    const auto slope = [&](float logit) { return 1.f - logit * p.inverse_cap * (logit * p.inverse_cap); };
    const float base = best.z + log_sum, label_dz = gradient * slope(label_z) * (__expf(label_z - base) - 1.f);
    for (int64_t begin = threadIdx.x * 8; begin < p.z.shifted_ld; begin += kThreads * 8 * kAhead) {
      Vec16 in[kAhead];
      float shift[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; a++) {
        const int64_t v = begin + a * (kThreads * 8);
        if (v >= p.z.shifted_ld) continue;
        in[a] = load16(row + v);
        shift[a] = tile_max[v / kMmaTile];
      }
#pragma unroll
      for (int a = 0; a < kAhead; a++) {
        const int64_t v = begin + a * (kThreads * 8);
        if (v >= p.z.shifted_ld) continue;
        const float shift2 = (shift[a] - base) * kLog2e;
        float z[8];
        unpack8(in[a], z);
#pragma unroll
        for (int i = 0; i < 8; i++) z[i] = gradient * slope(z[i] + shift[a]) * ptx::exp2_approx(fmaf(z[i], kLog2e, shift2));
        store16(row + v, pack8(z));
      }
    }
    // The label's own element and the padding are set by the threads that wrote their vectors.
    if (label / 8 % kThreads == int(threadIdx.x)) row[label] = from_float<bf16>(label_dz);
    if ((p.z.shifted_ld / 8 - 1) % kThreads == threadIdx.x)
      for (int64_t v = p.z.vocabulary; v < p.z.shifted_ld; v++) row[v].bits = 0;
  }
}

struct ScatterParams {
  const float* partials;
  const int32_t *offsets, *rows;
  CeSplits splits;
  bf16* dx;
  int64_t dx_ld, features, columns;  // features: of the parts; columns: of dx, no more
};

// A warp per row and 32·kVec columns: the parts in order, rounded once.
template <int kVec>
__global__ void __launch_bounds__(kThreads) scatter_gradient(const EarlyStart early, const ScatterParams p) {
  early.wait();
  const int n = p.offsets[1], parts = ce_parts(p.splits, n, p.features), pieces = int(ceil_div(p.features, 32 * kVec));
  const int64_t stride = ceil_div(n, p.splits.tile_rows) * p.splits.tile_rows * p.features;
  for (int i = blockIdx.x * (kThreads / 32) + threadIdx.x / 32; i < n * pieces; i += gridDim.x * (kThreads / 32)) {
    const int r = i / pieces;
    const int64_t d = int64_t(i - r * pieces) * (32 * kVec) + threadIdx.x % 32 * kVec;
    if (d >= p.columns) continue;
    const float* part = p.partials + r * p.features + d;
    float sum[kVec] = {};
#pragma unroll 4
    for (int s = 0; s < parts; s++) {
      float f[kVec];
      to_floats(load_elements<kVec>(part + s * stride), f);
#pragma unroll
      for (int j = 0; j < kVec; j++) sum[j] += f[j];
    }
    store_elements(p.dx + p.rows[r] * p.dx_ld + d, from_floats<bf16>(sum));
  }
}

struct BiasGradientParams {
  const bf16* dz;
  const int32_t* offsets;
  float* dbias;
  int64_t ld, vocabulary;
  bool accumulate;
};

// Columns of dz summed over the chunk's rows: a warp takes every eighth of them, a lane eight neighbouring columns.
__global__ void __launch_bounds__(kThreads) bias_gradient(const EarlyStart early, const BiasGradientParams p) {
  early.wait();
  ESFT_SHARED(smem);
  constexpr int kWarps = kThreads / 32, kColumns = 32 * 8;
  float* sums = reinterpret_cast<float*>(smem);  // [warps][columns]
  const int n = p.offsets[1], warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t tile = int64_t(blockIdx.x) * kColumns, v = tile + lane * 8;
  float sum[8] = {};
  if (v < p.ld) {
#pragma unroll 4
    for (int r = warp; r < n; r += kWarps) {
      float dz[8];
      unpack8(load16(p.dz + r * p.ld + v), dz);
#pragma unroll
      for (int i = 0; i < 8; i++) sum[i] += dz[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i++) sums[warp * kColumns + lane * 8 + i] = sum[i];
  __syncthreads();
  const int64_t column = tile + threadIdx.x;
  if (column >= p.vocabulary) return;
  float total = p.accumulate ? p.dbias[column] : 0.f;
#pragma unroll
  for (int w = 0; w < kWarps; w++) total += sums[w * kColumns + threadIdx.x];
  p.dbias[column] = total;
}

struct PadParams {
  Rows from;
  const int32_t* offsets;
  bf16* to;
  int64_t rank, padded;
};

__global__ void __launch_bounds__(kThreads) copy_padded(const EarlyStart early, const PadParams p) {
  early.wait();
  const int64_t items = (p.offsets ? p.offsets[1] : p.from.count) * p.padded;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < items; i += gridDim.x * int64_t(kThreads)) {
    const int64_t r = i / p.padded, column = i - r * p.padded;
    bf16 value;
    value.bits = 0;
    if (column < p.rank) value = p.from.data[(p.from.index ? p.from.index[r] : r) * p.from.ld + column];
    p.to[i] = value;
  }
}

struct LossParams {
  const float* nll;
  const int32_t *correct, *count;
  double* loss;
  int64_t* correct_sum;  // or nullptr
};

// One block, one fixed tree.
__global__ void __launch_bounds__(kThreads) add_loss(const EarlyStart early, const LossParams p) {
  early.wait();
  ESFT_SHARED(smem);
  double loss = 0;
  int64_t correct = 0;
  for (int64_t i = threadIdx.x; i < *p.count; i += kThreads) loss += p.nll[i], correct += p.correct[i];
  loss = block_sum(loss, reinterpret_cast<double*>(smem));
  correct = block_sum(correct, reinterpret_cast<int64_t*>(smem));
  if (threadIdx.x != 0) return;
  *p.loss += loss;
  if (p.correct_sum) *p.correct_sum += correct;
}

dim3 grid_up_to(int64_t items, int64_t most) { return dim3(unsigned(max_of<int64_t>(1, min_of(items, most)))); }

// dx[rows] = dZ·W of a chunk; or du = dZ·B.
void input_gradient(const CeGradient& g, const int32_t* rows, const esft_tensor& dx, Context& c) {
  CeSplits splits;
  if (!(c.hopper && sm90_ce_gradient(g, &splits, c))) {
    expect_portable("linear_cross_entropy", c);
    splits = portable_ce_gradient(g, c);
  }
  const bool vectors = cols(dx) == g.features && g.features % 8 == 0 && rows_aligned16(dx);
  const ScatterParams scatter{g.partials, g.offsets, rows, splits, data<bf16>(dx), dx.ld, g.features, cols(dx)};
  const dim3 grid = grid_up_to(ceil_div(g.capacity * ceil_div(g.features, vectors ? 128 : 32), kThreads / 32), c.sms * 8);
  if (vectors)
    ESFT_LAUNCH((scatter_gradient<4>), c, grid, kThreads, 0, scatter);
  else
    ESFT_LAUNCH((scatter_gradient<1>), c, grid, kThreads, 0, scatter);
}

}  // namespace

void pad_rows(const Rows& rows, const int32_t* offsets, bf16* to, int64_t rank, int64_t padded, Context& c) {
  ESFT_LAUNCH((copy_padded), c, dim3(unsigned(c.sms * 4)), kThreads, 0, PadParams{rows, offsets, to, rank, padded});
}

void run_linear_cross_entropy(const esft_linear_cross_entropy_args& a, Context& c) {
  expect_bf16_activation("linear_cross_entropy", "x", a.x);
  expect_bf16_weight("linear_cross_entropy", a.w);
  expect_bf16_precision("linear_cross_entropy", a.precision);
  if (present(a.b)) expect_bf16_weight("linear_cross_entropy", a.b);
  const int64_t T = rows(a.x), D = cols(a.x), V = rows(a.w), R = present(a.u) ? cols(a.u) : 0;
  const bool want_dx = present(a.dx), want_dw = present(a.dw), want_du = present(a.du), want_db = present(a.db),
             want_dbias = present(a.dbias);
  if (T == 0) {
    if (want_dbias && !a.accumulate) run_fill({a.dbias, 0.0}, c);
    if (want_db && !a.accumulate) run_fill({a.db, 0.0}, c);
    if (want_dw && !a.accumulate) run_fill({a.dw, 0.0}, c);
    return;
  }
  // Rows of B that do not begin on 16 bytes are copied for Hopper's kernels; zeros behind them.
  const bool pads = R > 0 && c.hopper && !(R % 8 == 0 && rows_aligned16(a.b));
  const int64_t padded_rank = pads ? ceil_div(R, 8) * 8 : R;
  const int64_t padded = ceil_div(V, 8) * 8, fits = kChunkBytes / (padded * 2) / kMmaTile * kMmaTile;
  const int64_t capacity = min_of(ceil_div(T, kMmaTile) * kMmaTile, max_of<int64_t>(kMmaTile, min_of(kMostRows, fits)));
  const int64_t chunks = ceil_div(T, capacity);

  check_labels_on_device(c, ESFT_OP_linear_cross_entropy, kArgLabels, a.labels, V);
  const int32_t* labels = data<int32_t>(a.labels);
  const SupervisedRows supervised = list_supervised(labels, T, V, capacity, c);
  float* nll = c.scratch_of<float>(chunks * capacity);
  int32_t* correct = c.scratch_of<int32_t>(chunks * capacity);
  float* row_loss = present(a.row_loss) ? data<float>(a.row_loss) : nullptr;
  clear_unsupervised_rows(labels, V, a.dx, row_loss, T, c);
  if (want_du) clear_unsupervised_rows(labels, V, a.du, nullptr, T, c);

  CeLogits z = {};
  z.x = activation(a.x, nullptr, kArgRows);
  z.w = {a.w.data, a.w.ld};
  if (R > 0) {
    z.u = activation(a.u, nullptr, kArgRows);
    z.b = {a.b.data, a.b.ld};
    z.rank = R;
    if (pads) {
      bf16* copy = c.scratch_of<bf16>(V * padded_rank);
      pad_rows({static_cast<const bf16*>(a.b.data), a.b.ld, V, nullptr, kArgRows}, nullptr, copy, R, padded_rank, c);
      z.b = {copy, padded_rank};
    }
  }
  z.capacity = capacity, z.vocabulary = V, z.features = D;
  z.labels = labels;
  z.finish = {present(a.bias) ? a.bias.data : nullptr, present(a.bias) && a.bias.dtype == ESFT_BF16, float(a.logit_scale),
              float(a.soft_cap)};
  z.tiles = int32_t(ceil_div(V, kMmaTile));
  z.gathered = c.hopper ? c.scratch_of<bf16>(capacity * D) : nullptr;
  z.shifted_ld = padded;
  z.shifted = c.scratch_of<bf16>(capacity * padded);
  z.tile_max = c.scratch_of<float>(capacity * z.tiles);
  z.tile_sum = c.scratch_of<float>(capacity * z.tiles);
  z.label_z = c.scratch_of<float>(capacity);
  z.label_first = c.scratch_of<int32_t>(capacity);
  const int64_t widest = max_of(want_dx ? D : 0, want_du ? padded_rank : 0);
  float* partials = widest > 0 ? c.scratch_of<float>(ce_partials_size(capacity, widest, c.sms)) : nullptr;

  for (int64_t i = 0; i < chunks; i++) {
    z.x.index = z.u.index = supervised.rows + i * capacity;
    z.offsets = supervised.offsets + 2 * i;
    if (!(c.hopper && sm90_ce_logits(z, c))) {
      expect_portable("linear_cross_entropy", c);
      portable_ce_logits(z, c);
    }
    ESFT_LAUNCH(
        (softmax_rows), c, grid_up_to(capacity, c.sms * 8), kThreads, kThreads / 32 * (sizeof(Best) + sizeof(float)),
        SoftmaxParams{z, nll + i * capacity, correct + i * capacity, row_loss, float(a.grad_scale * a.logit_scale),
                      present(a.scale) ? data<double>(a.scale) : nullptr, a.logit_scale,
                      a.soft_cap > 0 ? float(1 / a.soft_cap) : 0.f, want_dx || want_dw || want_du || want_db || want_dbias});
    const Rows dz = {z.shifted, padded, capacity, nullptr, kArgRows};
    if (want_dx && D > 0) input_gradient({dz, z.w, z.offsets, capacity, V, D, partials}, z.x.index, a.dx, c);
    if (want_du) input_gradient({dz, z.b, z.offsets, capacity, V, padded_rank, partials}, z.x.index, a.du, c);
    if (want_dbias)
      ESFT_LAUNCH((bias_gradient), c, dim3(unsigned(ceil_div(padded, 256))), kThreads, kThreads / 32 * 256 * sizeof(float),
                  BiasGradientParams{z.shifted, z.offsets, data<float>(a.dbias), padded, V, a.accumulate || i > 0});
    if (want_dw && D > 0) portable_ce_weight_gradient(dz, z.x, z.offsets, a.dw, a.accumulate || i > 0, c);
    if (want_db) portable_ce_weight_gradient(dz, z.u, z.offsets, a.db, a.accumulate || i > 0, c);
  }
  ESFT_LAUNCH(
      (add_loss), c, dim3(1), kThreads, kThreads / 32 * sizeof(double),
      LossParams{nll, correct, supervised.count, data<double>(a.loss), present(a.correct) ? data<int64_t>(a.correct) : nullptr});
}

}  // namespace esft::cuda
