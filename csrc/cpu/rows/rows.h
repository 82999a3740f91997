// How the memory-bound kernels are split over threads and how they write: tasks of fixed size (never derived from the
// thread count, so every result has the same bits on any number of threads), streaming stores for large outputs.
#pragma once
#include "../../core/check.h"
#include "../context.h"
#include "../integers.h"
#include "../simd.h"

namespace esft::cpu::ESFT_ISA {

// 64 KB per operand: long against the hand-out of a task, short against L2.
constexpr int64_t kTaskElements = 16384;
// Below this much work waking a worker costs more than it saves.
constexpr int64_t kSerialElements = 4 * kTaskElements;
// Outputs from this size on leave the caches before their reader comes; streaming saves the read for ownership.
constexpr int64_t kStreamBytes = int64_t(8) << 20;

template <class T>
ESFT_INLINE T* row_of(const esft_tensor& t, int64_t row) {
  return static_cast<T*>(t.data) + row * t.ld;
}

// f(begin, end, worker) over [0, n) in chunks; work = elements moved per index.
template <class F>
static void for_chunks(Context& ctx, int64_t n, int64_t chunk, int64_t work, F f) {
  const int64_t tasks = ceil_div(n, chunk);
  auto task = [&](int64_t i, int w) { f(i * chunk, min_of(n, (i + 1) * chunk), w); };
  if (tasks <= 1 || n * work < kSerialElements) {
    for (int64_t i = 0; i < tasks; i++) task(i, 0);
  } else {
    parallel_for(ctx, tasks, task);
  }
}

// Rows per task when a row moves `work` elements.
ESFT_INLINE int64_t rows_per_task(int64_t work) { return max_of(1, kTaskElements / max_of(work, 1)); }

template <class F>
static void for_rows(Context& ctx, int64_t R, int64_t work, F f) {
  for_chunks(ctx, R, rows_per_task(work), work, f);
}

// A matrix cut into tasks of about kTaskElements: many short rows, or a piece of a long one.
struct Split {
  int64_t R, C, segments, rows, tasks;
  Split(int64_t R, int64_t C)
      : R(R), C(C), segments(ceil_div(C, kTaskElements)), rows(rows_per_task(C)), tasks(ceil_div(R, rows) * segments) {}
  // f(row, first column, columns)
  template <class F>
  ESFT_LAMBDA void run(int64_t task, F f) const {
    const int64_t r0 = task / segments * rows, c0 = task % segments * kTaskElements, n = min_of(C - c0, kTaskElements);
    for (int64_t r = r0; r < min_of(R, r0 + rows); r++) f(r, c0, n);
  }
};

// f(row, first column, columns) over a matrix.
template <class F>
static void for_segments(Context& ctx, int64_t R, int64_t C, F f) {
  const Split split(R, C);
  for_chunks(ctx, split.tasks, 1, split.tasks > 1 ? ceil_div(R * C, split.tasks) : 0, [&](int64_t task, int64_t, int) {
    split.run(task, f);
    stream_fence();
  });
}

ESFT_INLINE bool streams(const esft_tensor& y) { return numel(y) * dtype_size(y.dtype) >= kStreamBytes; }

// Elements before the first address that a vector store may stream to.
ESFT_INLINE int64_t until_aligned(const void* p, int64_t element_size) {
  return int64_t(-reinterpret_cast<uintptr_t>(p) % (W * 4)) / element_size;
}

// Asks for the lines of n floats (n a constant); an address past the end is harmless.
ESFT_INLINE void prefetch(const float* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(p + i);
}

// y[i .. i+n) = f(i, n) with n = W, less at the ends.
template <class F>
ESFT_INLINE void map(float* y, int64_t n, bool nt, F f) {
  int64_t i = 0;
  if (nt) {
    const int64_t head = min_of(n, until_aligned(y, 4));
    if (head > 0) store_part(y, f(0, head), head);
    for (i = head; i + W <= n; i += W) stream(y + i, f(i, W));
  } else {
    for (; i + W <= n; i += W) store(y + i, f(i, W));
  }
  if (i < n) store_part(y + i, f(i, n - i), n - i);
}

// Sum of f(i, n) over [0, n): four independent accumulators, combined in a fixed order.
template <class F>
ESFT_INLINE float reduce(int64_t n, F f) {
  vf s0 = {}, s1 = {}, s2 = {}, s3 = {};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    s0 += f(i, W);
    s1 += f(i + W, W);
    s2 += f(i + 2 * W, W);
    s3 += f(i + 3 * W, W);
  }
  for (; i + W <= n; i += W) s0 += f(i, W);
  if (i < n) s1 += f(i, n - i);
  return hsum((s0 + s1) + (s2 + s3));
}

// The vector w as f32: itself, or its bf16 values expanded into `scratch` (cols(w) floats).
ESFT_INLINE const float* as_f32(const esft_tensor& w, float* scratch) {
  if (w.dtype == ESFT_F32) return static_cast<const float*>(w.data);
  const uint16_t* h = static_cast<const uint16_t*>(w.data);
  const int64_t n = numel(w);
  map(scratch, n, false, [=](int64_t i, int64_t m) ESFT_LAMBDA { return m == W ? load_bf16(h + i) : load_bf16_part(h + i, m); });
  return scratch;
}

}  // namespace esft::cpu::ESFT_ISA
