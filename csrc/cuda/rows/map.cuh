// map: outputs[r, c] = f(inputs[r, c]) over matrices with rows apart. Memory-bound: each thread keeps several 16-byte loads
// in flight; contiguous operands are seen as one long row. Outputs may be inputs: a thread reads its elements before it
// writes them, and no other thread touches them.
#pragma once
#include "../host/launch.h"
#include "rows.cuh"

namespace esft::cuda {

constexpr int kMapThreads = 256;

template <int kIn, int kOut>
struct MapParams {
  const void* in[kIn];
  void* out[kOut];
  int64_t in_ld[kIn], out_ld[kOut];
  int64_t cols, per_row, groups;  // vectors of a row, of all rows
};

// Vectors per thread: one long row needs no registers for places.
constexpr int map_unroll(bool flat, int inputs) { return flat && inputs == 1 ? 4 : 2; }

// launch(elements per vector, whether all is one row), as constants.
template <int kVec, class Launch>
void with_row_shape(bool vectors, bool flat, Launch launch) {
  if (!vectors)
    launch(Constant<1>{}, Constant<false>{});
  else if (flat)
    launch(Constant<kVec>{}, Constant<true>{});
  else
    launch(Constant<kVec>{}, Constant<false>{});
}

// f(const float (&x)[kIn], float (&y)[kOut]) for each element. kFlat: one row.
template <class In, class Out, int kVec, bool kFlat, int kIn, int kOut, class F>
__global__ void __launch_bounds__(kMapThreads, 4) map_kernel(const EarlyStart early, MapParams<kIn, kOut> p, F f) {
  early.wait();
  constexpr int kUnroll = map_unroll(kFlat, kIn);
  const int64_t first = int64_t(blockIdx.x) * (kMapThreads * kUnroll) + threadIdx.x;
  Elements<In, kVec> loaded[kUnroll][kIn];
  Place at[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    const int64_t g = first + u * kMapThreads;
    at[u] = Place{0, p.cols};
    if (g < p.groups) at[u] = kFlat ? Place{0, g * kVec} : place_of(g, p.per_row, kVec);
    if (at[u].col + kVec > p.cols) continue;
#pragma unroll
    for (int i = 0; i < kIn; i++)
      loaded[u][i] = load_elements<kVec>(static_cast<const In*>(p.in[i]) + at[u].row * p.in_ld[i] + at[u].col);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    float x[kIn], y[kOut];
    if (at[u].col + kVec <= p.cols) {
      float all_x[kIn][kVec], all_y[kOut][kVec];
#pragma unroll
      for (int i = 0; i < kIn; i++) to_floats(loaded[u][i], all_x[i]);
#pragma unroll
      for (int j = 0; j < kVec; j++) {
#pragma unroll
        for (int i = 0; i < kIn; i++) x[i] = all_x[i][j];
        f(x, y);
#pragma unroll
        for (int o = 0; o < kOut; o++) all_y[o][j] = y[o];
      }
#pragma unroll
      for (int o = 0; o < kOut; o++)
        store_elements(static_cast<Out*>(p.out[o]) + at[u].row * p.out_ld[o] + at[u].col, from_floats<Out>(all_y[o]));
    } else {
      for (int64_t c = at[u].col; c < p.cols; c++) {  // the rest of a row
#pragma unroll
        for (int i = 0; i < kIn; i++) x[i] = to_float(static_cast<const In*>(p.in[i])[at[u].row * p.in_ld[i] + c]);
        f(x, y);
#pragma unroll
        for (int o = 0; o < kOut; o++) static_cast<Out*>(p.out[o])[at[u].row * p.out_ld[o] + c] = from_float<Out>(y[o]);
      }
    }
  }
}

struct Operand {
  void* data;
  int64_t ld;
  Operand(void* data, int64_t ld) : data(data), ld(ld) {}
  Operand(const esft_tensor& t) : data(t.data), ld(t.ld) {}
};

template <class In, class Out, class F, int kIn, int kOut>
void map(Context& context, int64_t rows, int64_t cols, const Operand (&in)[kIn], const Operand (&out)[kOut], F f) {
  if (rows == 0 || cols == 0) return;
  constexpr int kVec = 16 / int(sizeof(In) < sizeof(Out) ? sizeof(In) : sizeof(Out));
  bool flat = true, vectors = true;
  for (const Operand& o : in) flat = flat && (rows == 1 || o.ld == cols);
  for (const Operand& o : out) flat = flat && (rows == 1 || o.ld == cols);
  if (flat) cols *= rows, rows = 1;
  for (const Operand& o : in) vectors = vectors && rows_aligned16(o.data, rows, o.ld, sizeof(In));
  for (const Operand& o : out) vectors = vectors && rows_aligned16(o.data, rows, o.ld, sizeof(Out));

  MapParams<kIn, kOut> p{};
  for (int i = 0; i < kIn; i++) p.in[i] = in[i].data, p.in_ld[i] = in[i].ld;
  for (int o = 0; o < kOut; o++) p.out[o] = out[o].data, p.out_ld[o] = out[o].ld;
  p.cols = cols;
  p.per_row = vectors ? ceil_div(cols, kVec) : cols;
  p.groups = p.per_row * rows;
  auto launch = [&](auto vec, auto is_flat) {
    constexpr int kThisVec = decltype(vec)::value;
    constexpr bool kFlat = decltype(is_flat)::value;
    ESFT_LAUNCH((map_kernel<In, Out, kThisVec, kFlat, kIn, kOut, F>), context,
                grid_of(p.groups, kMapThreads * map_unroll(kFlat, kIn)), kMapThreads, 0, p, f);
  };
  with_row_shape<kVec>(vectors, rows == 1, launch);
}

}  // namespace esft::cuda
