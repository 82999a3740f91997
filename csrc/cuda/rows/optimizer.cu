// grad_norm, saliency and adamw over lists of tensors, any number of them in one launch.
//
// The elements of all tensors form one space of chunks; a table of tensors with their first chunk (kept on the device, found
// again by content) says what a block's chunk is. Chunks depend on shapes alone, so sums do not depend on the grid.
// adamw is bound by 30 bytes per parameter: g, m, v and the f32 master read, m, v and master written, a bf16 copy written;
// a thread has eight 16-byte loads in flight. grad_norm is bound by reading g; f64 sums per chunk, then one block adds them.
#include <math.h>

#include <vector>

#include "../host/launch.h"
#include "../reduce.cuh"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kMergeThreads = 1024;
constexpr int64_t kNormChunk = 32768, kAdamChunk = 16384;  // elements

// Tensors as the kernels see them; kArrays matrices of one shape, flattened where all are contiguous.
template <int kArrays>
struct ListItem {
  void* data[kArrays];  // nullptr: absent
  int64_t ld[kArrays];
  int64_t cols, per_row, first;  // columns, chunks of a row, first chunk
  int64_t vectors;               // 1: rows start at multiples of a vector of four elements
};

// What block `chunk` works on: the item, a row of it and the columns [begin, end) of that row.
template <int kArrays>
struct Chunk {
  const ListItem<kArrays>* item;
  int64_t row, begin, end;
};

template <int kArrays>
__device__ __forceinline__ Chunk<kArrays> find_chunk(const ListItem<kArrays>* items, int64_t count, int64_t chunk, int64_t size) {
  int64_t low = 0, high = count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (items[middle].first <= chunk)
      low = middle;
    else
      high = middle - 1;
  }
  const ListItem<kArrays>* item = items + low;
  const int64_t local = chunk - item->first, row = local / item->per_row, begin = (local - row * item->per_row) * size;
  return {item, row, begin, min_of(item->cols, begin + size)};
}

// ---- grad_norm ------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ double square(float x) { return double(x) * double(x); }
__device__ __forceinline__ double square_of(float w, float g) {
  const double product = double(w) * double(g);
  return product * product;
}

__global__ void __launch_bounds__(kThreads)
    sum_squares_kernel(const EarlyStart early, const ListItem<1>* items, int64_t count, double* partial) {
  early.wait();
  ESFT_SHARED(smem);
  const Chunk<1> chunk = find_chunk(items, count, blockIdx.x, kNormChunk);
  const float* g = in_global(static_cast<const float*>(chunk.item->data[0]) + chunk.row * chunk.item->ld[0] + chunk.begin);
  const int64_t n = chunk.end - chunk.begin, whole = chunk.item->vectors ? n / 4 : 0;
  double sum[4] = {0, 0, 0, 0};
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < whole; i += kThreads) {
    float f[4];
    to_floats(load_elements<4>(g + 4 * i), f);
#pragma unroll
    for (int j = 0; j < 4; j++) sum[j] += square(f[j]);
  }
  for (int64_t i = 4 * whole + threadIdx.x; i < n; i += kThreads) sum[0] += square(g[i]);
  const double total = block_sum((sum[0] + sum[1]) + (sum[2] + sum[3]), reinterpret_cast<double*>(smem));
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kMergeThreads)
    merge_norm_kernel(const EarlyStart early, const double* partial, int64_t chunks, double* norm) {
  early.wait();
  ESFT_SHARED(smem);
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < chunks; i += kMergeThreads) sum += partial[i];
  const double total = block_sum(sum, reinterpret_cast<double*>(smem));
  if (threadIdx.x == 0) *norm = sqrt(total);
}

// ---- saliency -------------------------------------------------------------------------------------------------------------

// Σ (w · g)² of a chunk; w and g at its first element.
template <class T>
__device__ __forceinline__ double weighted_squares(const T* w, const float* g, int64_t n) {
  double sum[2] = {0, 0};
  for (int64_t i = threadIdx.x; i < n; i += 2 * kThreads) {
    sum[0] += square_of(to_float(w[i]), g[i]);
    if (i + kThreads < n) sum[1] += square_of(to_float(w[i + kThreads]), g[i + kThreads]);
  }
  return sum[0] + sum[1];
}

__global__ void __launch_bounds__(kThreads)
    saliency_kernel(const EarlyStart early, const ListItem<2>* items, const int32_t* is_bf16, int64_t count, double* partial) {
  early.wait();
  ESFT_SHARED(smem);
  const Chunk<2> chunk = find_chunk(items, count, blockIdx.x, kNormChunk);
  const int64_t n = chunk.end - chunk.begin, row = chunk.row * chunk.item->ld[0] + chunk.begin;
  const float* g = in_global(static_cast<const float*>(chunk.item->data[1]) + chunk.row * chunk.item->ld[1] + chunk.begin);
  const double sum = is_bf16[chunk.item - items]
                         ? weighted_squares(in_global(static_cast<const bf16*>(chunk.item->data[0]) + row), g, n)
                         : weighted_squares(in_global(static_cast<const float*>(chunk.item->data[0]) + row), g, n);
  const double total = block_sum(sum, reinterpret_cast<double*>(smem));
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// A block per item: its chunks are first[i] … first[i + 1] − 1.
__global__ void __launch_bounds__(kThreads)
    merge_saliency_kernel(const EarlyStart early, const double* partial, const int64_t* first, double* squares) {
  early.wait();
  ESFT_SHARED(smem);
  double sum = 0;
  for (int64_t i = first[blockIdx.x] + threadIdx.x; i < first[blockIdx.x + 1]; i += kThreads) sum += partial[i];
  const double total = block_sum(sum, reinterpret_cast<double*>(smem));
  if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

// ---- adamw ----------------------------------------------------------------------------------------------------------------

// What changes from step to step.
struct AdamRates {
  float decay, rate, inv_root2;  // lr · weight_decay, lr / (1 − beta1^step), 1 / sqrt(1 − beta2^step)
};
__host__ __device__ inline AdamRates adam_rates(double lr, double step, double beta1, double beta2, double weight_decay) {
  return {float(lr * weight_decay), float(lr / (1.0 - pow(beta1, step))), float(1.0 / sqrt(1.0 - pow(beta2, step)))};
}
// From lr and step in device memory, so that a recorded graph takes those of its launch.
__global__ void adam_rates_kernel(const EarlyStart early, const double* lr_step, double beta1, double beta2, double weight_decay,
                                  AdamRates* out) {
  early.wait();
  *out = adam_rates(lr_step[0], lr_step[1], beta1, beta2, weight_decay);
}

struct AdamParams {
  const ListItem<5>* items;  // p, g, m, v, copy
  int64_t count;
  const double* norm;  // or nullptr
  double max_norm;
  float eps, beta1, rest1, beta2, rest2;  // rest = 1 − beta
  AdamRates rates;
  const AdamRates* device_rates;  // where they lie on the device, else nullptr
};

// One rounding for decay and step together: lr · weight_decay is far below the spacing of 1 − x.
__device__ __forceinline__ void adam(const AdamParams& a, const AdamRates& rates, float clip, float g, float& p, float& m,
                                     float& v) {
  g *= clip;
  m = a.beta1 * m + a.rest1 * g;
  v = a.beta2 * v + a.rest2 * g * g;
  p -= rates.decay * p + rates.rate * m / (sqrtf(v) * rates.inv_root2 + a.eps);
}

// The rows a block works on: read from the table once, since the compiler must think that a store may change the table.
struct AdamRows {
  float *p, *m, *v;
  const float* g;
  bf16* copy;  // or nullptr
};
__device__ __forceinline__ AdamRows adam_rows(const Chunk<5>& chunk) {
  const ListItem<5>& item = *chunk.item;
  AdamRows rows;
  rows.p = in_global(static_cast<float*>(item.data[0]) + chunk.row * item.ld[0]);
  rows.g = in_global(static_cast<const float*>(item.data[1]) + chunk.row * item.ld[1]);
  rows.m = in_global(static_cast<float*>(item.data[2]) + chunk.row * item.ld[2]);
  rows.v = in_global(static_cast<float*>(item.data[3]) + chunk.row * item.ld[3]);
  rows.copy = item.data[4] ? static_cast<bf16*>(item.data[4]) + chunk.row * item.ld[4] : nullptr;
  return rows;
}

// kVec elements from column c, kUnroll times kThreads · kVec columns apart.
template <int kVec, int kUnroll>
__device__ __forceinline__ void adam_columns(const AdamParams& a, const AdamRates& rates, float clip, const AdamRows& rows,
                                             int64_t c) {
  float *p = rows.p, *m = rows.m, *v = rows.v;
  const float* g = rows.g;
  float pf[kUnroll][kVec], gf[kUnroll][kVec], mf[kUnroll][kVec], vf[kUnroll][kVec];
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    const int64_t i = c + u * (kThreads * kVec);
    to_floats(load_elements<kVec>(p + i), pf[u]);
    to_floats(load_elements<kVec>(g + i), gf[u]);
    to_floats(load_elements<kVec>(m + i), mf[u]);
    to_floats(load_elements<kVec>(v + i), vf[u]);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    const int64_t i = c + u * (kThreads * kVec);
#pragma unroll
    for (int j = 0; j < kVec; j++) adam(a, rates, clip, gf[u][j], pf[u][j], mf[u][j], vf[u][j]);
    store_elements(p + i, from_floats<float>(pf[u]));
    store_elements(m + i, from_floats<float>(mf[u]));
    store_elements(v + i, from_floats<float>(vf[u]));
    if (rows.copy) store_elements(in_global(rows.copy) + i, from_floats<bf16>(pf[u]));
  }
}

__global__ void __launch_bounds__(kThreads) adamw_kernel(const EarlyStart early, AdamParams a) {
  early.wait();
  float clip = 1.0f;
  if (a.norm) {
    const double norm = *a.norm;
    if (!(norm - norm == 0)) return;  // not finite
    if (a.max_norm > 0 && a.max_norm < norm + 1e-6) clip = float(a.max_norm / (norm + 1e-6));
  }
  const Chunk<5> chunk = find_chunk(a.items, a.count, blockIdx.x, kAdamChunk);
  const AdamRows rows = adam_rows(chunk);
  const AdamRates rates = a.device_rates ? *a.device_rates : a.rates;
  int64_t done = chunk.begin;
  if (chunk.item->vectors) {
    constexpr int kStep = kThreads * 4;
    for (; done + 2 * kStep <= chunk.end; done += 2 * kStep) adam_columns<4, 2>(a, rates, clip, rows, done + threadIdx.x * 4);
    const int64_t whole = chunk.begin + (chunk.end - chunk.begin) / 4 * 4;
    for (int64_t c = done + threadIdx.x * 4; c < whole; c += kStep) adam_columns<4, 1>(a, rates, clip, rows, c);
    done = whole;
  }
  for (int64_t c = done + threadIdx.x; c < chunk.end; c += kThreads) adam_columns<1, 1>(a, rates, clip, rows, c);
}

// ---- host -----------------------------------------------------------------------------------------------------------------

// The table of `count` groups of kArrays tensors; returns the number of chunks.
template <int kArrays, class TensorOf>
int64_t list_items(int64_t count, int64_t chunk, TensorOf tensor_of, std::vector<ListItem<kArrays>>& items) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; i++) {
    const esft_tensor& shape = *tensor_of(i, 0);
    if (numel(shape) == 0) continue;
    ListItem<kArrays> item{};
    bool flat = true, vectors = true;
    for (int k = 0; k < kArrays; k++)
      if (const esft_tensor* t = tensor_of(i, k)) flat = flat && contiguous(*t);
    const int64_t n_rows = flat ? 1 : rows(shape);
    item.cols = flat ? numel(shape) : cols(shape);
    for (int k = 0; k < kArrays; k++) {
      const esft_tensor* t = tensor_of(i, k);
      if (!t) continue;
      item.data[k] = t->data;
      item.ld[k] = t->ld;
      const int64_t vector = 4 * dtype_size(t->dtype);
      vectors = vectors && reinterpret_cast<uintptr_t>(t->data) % vector == 0 && (n_rows == 1 || t->ld % 4 == 0);
    }
    item.per_row = ceil_div(item.cols, chunk);
    item.first = chunks;
    item.vectors = vectors;
    chunks += n_rows * item.per_row;
    items.push_back(item);
  }
  return chunks;
}

}  // namespace

void run_grad_norm(const esft_grad_norm_args& a, Context& context) {
  std::vector<ListItem<1>> items;
  const int64_t chunks = list_items(a.grads.count, kNormChunk, [&](int64_t i, int) { return a.grads.items + i; }, items);
  double* partial = nullptr;
  if (chunks > 0) {
    partial = context.scratch_of<double>(chunks);
    ESFT_LAUNCH((sum_squares_kernel), context, unsigned(chunks), kThreads, kThreads / 32 * sizeof(double),
                context.constant_of(items.data(), int64_t(items.size())), int64_t(items.size()), partial);
  }
  ESFT_LAUNCH((merge_norm_kernel), context, 1, kMergeThreads, kMergeThreads / 32 * sizeof(double), partial, chunks,
              data<double>(a.norm));
}

void run_saliency(const esft_saliency_args& a, Context& context) {
  if (a.weights.count == 0) return;
  std::vector<ListItem<2>> items;
  const esft_tensor_list* lists[2] = {&a.weights, &a.grads};
  const int64_t chunks =
      list_items(a.weights.count, kNormChunk, [&](int64_t i, int k) -> const esft_tensor* { return lists[k]->items + i; }, items);
  std::vector<int64_t> first(size_t(a.weights.count + 1), chunks);
  std::vector<int32_t> is_bf16;
  for (int64_t i = 0, listed = 0; i < a.weights.count; i++) {
    first[size_t(i)] = listed < int64_t(items.size()) ? items[size_t(listed)].first : chunks;
    if (numel(a.weights.items[i]) == 0) continue;
    listed++;
    is_bf16.push_back(a.weights.items[i].dtype == ESFT_BF16);
  }
  double* partial = nullptr;
  if (chunks > 0) {
    partial = context.scratch_of<double>(chunks);
    ESFT_LAUNCH((saliency_kernel), context, unsigned(chunks), kThreads, kThreads / 32 * sizeof(double),
                context.constant_of(items.data(), int64_t(items.size())),
                context.constant_of(is_bf16.data(), int64_t(is_bf16.size())), int64_t(items.size()), partial);
  }
  ESFT_LAUNCH((merge_saliency_kernel), context, unsigned(a.weights.count), kThreads, kThreads / 32 * sizeof(double), partial,
              context.constant_of(first.data(), int64_t(first.size())), data<double>(a.squares));
}

void run_adamw(const esft_adamw_args& a, Context& context) {
  const esft_tensor_list* lists[5] = {&a.params, &a.grads, &a.m, &a.v, &a.copies};
  std::vector<ListItem<5>> items;
  const int64_t chunks = list_items(
      a.params.count, kAdamChunk,
      [&](int64_t i, int k) -> const esft_tensor* { return lists[k]->count ? lists[k]->items + i : nullptr; }, items);
  if (chunks == 0) return;
  AdamRates* device_rates = nullptr;
  if (present(a.rates)) {
    device_rates = context.scratch_of<AdamRates>(1);
    ESFT_LAUNCH((adam_rates_kernel), context, 1, 1, 0, data<double>(a.rates), a.beta1, a.beta2, a.weight_decay, device_rates);
  }
  const AdamParams p{context.constant_of(items.data(), int64_t(items.size())),
                     int64_t(items.size()),
                     present(a.norm) ? data<double>(a.norm) : nullptr,
                     a.max_norm,
                     float(a.eps),
                     float(a.beta1),
                     float(1.0 - a.beta1),
                     float(a.beta2),
                     float(1.0 - a.beta2),
                     adam_rates(a.lr, double(a.step), a.beta1, a.beta2, a.weight_decay),
                     device_rates};
  ESFT_LAUNCH((adamw_kernel), context, unsigned(chunks), kThreads, 0, p);
}

}  // namespace esft::cuda
