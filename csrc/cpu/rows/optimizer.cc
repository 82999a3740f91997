// Optimizer: all tensors of a list are cut into tasks of one fixed size and handed out together, so many small tensors cost
// no more than one large one. AdamW reads p, g, m, v and writes p, m, v once: bandwidth decides. In place, so no streaming.
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

typedef float vfh __attribute__((vector_size(W * 2), aligned(4)));  // half a vector: as many floats as vd has doubles

ESFT_INLINE vd load_f64(const float* p) { return __builtin_convertvector(*reinterpret_cast<const vfh*>(p), vd); }

double sum_squares(const float* g, int64_t n) {
  constexpr int H = W / 2;
  vd s0 = {}, s1 = {}, s2 = {}, s3 = {};
  int64_t i = 0;
  for (; i + 4 * H <= n; i += 4 * H) {
    prefetch(g + i + 1024, 4 * H);
    const vd a = load_f64(g + i), b = load_f64(g + i + H), c = load_f64(g + i + 2 * H), d = load_f64(g + i + 3 * H);
    s0 += a * a;
    s1 += b * b;
    s2 += c * c;
    s3 += d * d;
  }
  s0 = (s0 + s1) + (s2 + s3);
  double sum = 0;
  for (int l = 0; l < H; l++) sum += s0[l];
  for (; i < n; i++) sum += double(g[i]) * double(g[i]);
  return sum;
}

// Σ (w · g)²; w f32 or bf16.
double sum_weighted_squares(const esft_tensor& w, int64_t r, int64_t c, const float* g, int64_t n) {
  constexpr int H = W / 2;
  const float* f32_row = w.dtype == ESFT_BF16 ? nullptr : row_of<float>(w, r) + c;
  const uint16_t* bf16_row = w.dtype == ESFT_BF16 ? row_of<uint16_t>(w, r) + c : nullptr;
  vd s0 = {}, s1 = {};
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    float values[W];
    store(values, f32_row ? load(f32_row + i) : load_bf16(bf16_row + i));
    const vd a = load_f64(values) * load_f64(g + i), b = load_f64(values + H) * load_f64(g + i + H);
    s0 += a * a;
    s1 += b * b;
  }
  s0 += s1;
  double sum = 0;
  for (int l = 0; l < H; l++) sum += s0[l];
  for (; i < n; i++) {
    const double a = double(f32_row ? f32_row[i] : bf16_to_f32(bf16_row[i])) * double(g[i]);
    sum += a * a;
  }
  return sum;
}

// The tasks of a list of tensors in list order; `first` holds each tensor's first task, then the total.
struct ListSplit {
  int64_t count;
  int64_t* first;
  int64_t tasks() const { return first[count]; }
  int64_t tensor_of(int64_t task) const {
    int64_t lo = 0, hi = count - 1;
    while (lo < hi) {
      const int64_t mid = (lo + hi + 1) / 2;
      if (first[mid] <= task)
        lo = mid;
      else
        hi = mid - 1;
    }
    return lo;
  }
};

// A list split over scratch with room for `extra` doubles per task behind the table.
template <class Of>
ListSplit split_list(Context& ctx, int64_t count, bool partials, Of split_of) {
  int64_t tasks = 0;
  for (int64_t i = 0; i < count; i++) tasks += split_of(i).tasks;
  ListSplit list{count, static_cast<int64_t*>(ctx.shared_scratch((count + 1 + (partials ? tasks : 0)) * 8))};
  list.first[0] = 0;
  for (int64_t i = 0; i < count; i++) list.first[i + 1] = list.first[i] + split_of(i).tasks;
  return list;
}

ESFT_INLINE Split split_of(const esft_tensor& t, bool flat) { return flat ? Split(1, numel(t)) : Split(rows(t), cols(t)); }

}  // namespace

void grad_norm(const esft_grad_norm_args& a, Context& ctx) {
  auto split_at = [&](int64_t i) { return split_of(a.grads.items[i], contiguous(a.grads.items[i])); };
  const ListSplit list = split_list(ctx, a.grads.count, true, split_at);
  double* partial = reinterpret_cast<double*>(list.first + list.count + 1);
  for_chunks(ctx, list.tasks(), 1, kTaskElements, [&](int64_t task, int64_t, int) {
    const int64_t item = list.tensor_of(task);
    double sum = 0;
    split_at(item).run(task - list.first[item],
                       [&](int64_t r, int64_t c, int64_t n) { sum += sum_squares(row_of<float>(a.grads.items[item], r) + c, n); });
    partial[task] = sum;
  });
  double total = 0;
  for (int64_t t = 0; t < list.tasks(); t++) total += partial[t];
  *data<double>(a.norm) = __builtin_sqrt(total);
}

void saliency(const esft_saliency_args& a, Context& ctx) {
  if (a.weights.count == 0) return;
  auto split_at = [&](int64_t i) {
    return split_of(a.grads.items[i], contiguous(a.grads.items[i]) && contiguous(a.weights.items[i]));
  };
  const ListSplit list = split_list(ctx, a.weights.count, true, split_at);
  double* partial = reinterpret_cast<double*>(list.first + list.count + 1);
  for_chunks(ctx, list.tasks(), 1, kTaskElements, [&](int64_t task, int64_t, int) {
    const int64_t item = list.tensor_of(task);
    double sum = 0;
    split_at(item).run(task - list.first[item], [&](int64_t r, int64_t c, int64_t n) {
      sum += sum_weighted_squares(a.weights.items[item], r, c, row_of<float>(a.grads.items[item], r) + c, n);
    });
    partial[task] = sum;
  });
  for (int64_t i = 0; i < list.count; i++) {
    double total = 0;
    for (int64_t t = list.first[i]; t < list.first[i + 1]; t++) total += partial[t];
    data<double>(a.squares)[i] = total;
  }
}

void adamw(const esft_adamw_args& a, Context& ctx) {
  double clip_by = 1.0;
  if (present(a.norm)) {
    const double norm = *data<double>(a.norm);
    if (!__builtin_isfinite(norm)) return;
    if (a.max_norm > 0 && a.max_norm < norm + 1e-6) clip_by = a.max_norm / (norm + 1e-6);
  }
  const double* rates = present(a.rates) ? data<double>(a.rates) : nullptr;
  const double lr = rates ? rates[0] : a.lr, step = rates ? rates[1] : double(a.step);
  const double correction1 = 1.0 - __builtin_pow(a.beta1, step), correction2 = 1.0 - __builtin_pow(a.beta2, step);
  const vf clip = splat(float(clip_by)), decay = splat(float(lr * a.weight_decay)), eps = splat(float(a.eps));
  const vf b1 = splat(float(a.beta1)), rest1 = splat(float(1.0 - a.beta1)), b2 = splat(float(a.beta2)),
           rest2 = splat(float(1.0 - a.beta2));
  const vf rate = splat(float(lr / correction1)), inv_root2 = splat(float(1.0 / __builtin_sqrt(correction2)));

  auto split_at = [&](int64_t i) {
    const esft_tensor &p = a.params.items[i], &g = a.grads.items[i], &m = a.m.items[i], &v = a.v.items[i];
    return split_of(
        p, contiguous(p) && contiguous(g) && contiguous(m) && contiguous(v) && (!a.copies.count || contiguous(a.copies.items[i])));
  };
  const ListSplit list = split_list(ctx, a.params.count, false, split_at);
  for_chunks(ctx, list.tasks(), 1, 4 * kTaskElements, [&](int64_t task, int64_t, int) {
    const int64_t item = list.tensor_of(task);
    split_at(item).run(task - list.first[item], [&](int64_t r, int64_t c, int64_t n) {
      float* p = row_of<float>(a.params.items[item], r) + c;
      const float* g = row_of<float>(a.grads.items[item], r) + c;
      float* m = row_of<float>(a.m.items[item], r) + c;
      float* v = row_of<float>(a.v.items[item], r) + c;
      uint16_t* copy = a.copies.count ? row_of<uint16_t>(a.copies.items[item], r) + c : nullptr;
      auto update = [=](int64_t i, int64_t k) ESFT_LAMBDA {
        const vf gi = clip * load_n(g + i, k), pi = load_n(p + i, k);
        const vf mi = b1 * load_n(m + i, k) + rest1 * gi;
        const vf vi = b2 * load_n(v + i, k) + rest2 * gi * gi;
        store_n(m + i, mi, k);
        store_n(v + i, vi, k);
        // One rounding for decay and step together: lr · weight_decay is far below the spacing of 1 − x.
        const vf updated = pi - (decay * pi + rate * mi / (vsqrt(vi) * inv_root2 + eps));
        store_n(p + i, updated, k);
        if (copy) k == W ? store_bf16(copy + i, updated) : store_bf16_part(copy + i, updated, k);
      };
      int64_t i = 0;
      for (; i + W <= n; i += W) update(i, W);
      if (i < n) update(i, n - i);
    });
  });
}

}  // namespace esft::cpu::ESFT_ISA
