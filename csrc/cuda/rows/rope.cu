// rope. Bound by reading and writing the rotated columns once (all columns where y is not x); the rows of cos and sin stay in L1
// and L2, since every head of a token reads the same ones.
//
// A unit is what one thread does of one head: kVec pairs whose halves lie R/2 apart (two vectors), kVec/2 neighbouring pairs
// (one vector), or, where y is not x, a vector of columns that are only copied. All of a unit is read before it is written.
#include "../host/launch.h"
#include "index_check.cuh"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kUnits = 2;  // units per thread

struct RopeParams {
  const void* x;
  void* y;
  const int32_t* positions;
  const float* cos;
  const float* sin;
  int64_t x_ld, y_ld, cos_ld, sin_ld, units;  // units of all tokens
  int32_t heads, head, offset, half;          // columns of a head; R/2
  int32_t turned, per_head;                   // units of a head: `turned` rotations, then copies
  float sign;                                 // of sin
  IndexCheck check;
};

// kVec columns per vector, one pair per unit where kVec = 1.
template <class T, int kVec, bool kInterleaved>
__device__ __forceinline__ void do_unit(const RopeParams& p, int64_t t, int32_t head, int32_t unit) {
  const T* x = static_cast<const T*>(p.x) + t * p.x_ld + int64_t(head) * p.head;
  T* y = static_cast<T*>(p.y) + t * p.y_ld + int64_t(head) * p.head;
  if (unit >= p.turned) {  // columns before, then behind the rotated ones
    int32_t c = (unit - p.turned) * kVec;
    if (c >= p.offset) c += 2 * p.half;
    store_elements(y + c, load_elements<kVec>(x + c));
    return;
  }
  const int32_t position = p.positions[t];
  if (!p.check.ok(t, position)) return;
  const float* cos = p.cos + position * p.cos_ld;
  const float* sin = p.sin + position * p.sin_ld;
  x += p.offset;
  y += p.offset;
  if constexpr (!kInterleaved) {
    const int32_t i = unit * kVec;
    const auto u = load_elements<kVec>(x + i), v = load_elements<kVec>(x + p.half + i);
    const auto c = load_elements<kVec>(cos + i), s = load_elements<kVec>(sin + i);
    float uf[kVec], vf[kVec], cf[kVec], sf[kVec];
    to_floats(u, uf);
    to_floats(v, vf);
    to_floats(c, cf);
    to_floats(s, sf);
#pragma unroll
    for (int j = 0; j < kVec; j++) {
      const float a = uf[j], b = vf[j], sine = p.sign * sf[j];
      uf[j] = a * cf[j] - b * sine;
      vf[j] = a * sine + b * cf[j];
    }
    store_elements(y + i, from_floats<T>(uf));
    store_elements(y + p.half + i, from_floats<T>(vf));
  } else if constexpr (kVec > 1) {
    constexpr int kPairs = kVec / 2;
    const int32_t i = unit * kPairs;
    float f[kVec], cf[kPairs], sf[kPairs];
    to_floats(load_elements<kVec>(x + 2 * i), f);
    to_floats(load_elements<kPairs>(cos + i), cf);
    to_floats(load_elements<kPairs>(sin + i), sf);
#pragma unroll
    for (int j = 0; j < kPairs; j++) {
      const float a = f[2 * j], b = f[2 * j + 1], sine = p.sign * sf[j];
      f[2 * j] = a * cf[j] - b * sine;
      f[2 * j + 1] = a * sine + b * cf[j];
    }
    store_elements(y + 2 * i, from_floats<T>(f));
  } else {
    const float a = to_float(x[2 * unit]), b = to_float(x[2 * unit + 1]), c = cos[unit], s = p.sign * sin[unit];
    y[2 * unit] = from_float<T>(a * c - b * s);
    y[2 * unit + 1] = from_float<T>(a * s + b * c);
  }
}

template <class T, int kVec, bool kInterleaved>
__global__ void __launch_bounds__(kThreads) rope_kernel(const EarlyStart early, RopeParams p) {
  early.wait();
  const int64_t first = int64_t(blockIdx.x) * (kThreads * kUnits) + threadIdx.x;
  const int64_t per_token = int64_t(p.heads) * p.per_head;
#pragma unroll
  for (int u = 0; u < kUnits; u++) {
    const int64_t i = first + u * kThreads;
    if (i >= p.units) return;
    const Place at = place_of(i, per_token, 1);  // token, unit of the token
    const uint32_t head = uint32_t(at.col) / uint32_t(p.per_head);
    do_unit<T, kVec, kInterleaved>(p, at.row, int32_t(head), int32_t(uint32_t(at.col) - head * uint32_t(p.per_head)));
  }
}

}  // namespace

void run_rope(const esft_rope_args& a, Context& context) {
  const int64_t T = rows(a.x), C = cols(a.x), head = C / a.heads, half = cols(a.cos);
  if (C > INT32_MAX) fail_status(ESFT_UNSUPPORTED, "rope", "x", "rope: x must have fewer than 2^31 columns on CUDA");
  const bool copies = a.y.data != a.x.data;
  by_float_type(a.x, [&](auto type) {
    using E = typename decltype(type)::type;
    constexpr int kVec = 16 / int(sizeof(E));
    const int64_t pairs = a.interleaved ? kVec / 2 : kVec;  // pairs of a unit
    const bool vectors = rows_aligned16(a.x) && rows_aligned16(a.y) && rows_aligned16(a.cos) && rows_aligned16(a.sin) &&
                         head % kVec == 0 && a.offset % kVec == 0 && 2 * half % kVec == 0 && half % pairs == 0;
    const int64_t turned = vectors ? half / pairs : half, rest = copies ? head - 2 * half : 0;
    const int64_t per_head = turned + (vectors ? rest / kVec : rest);
    const RopeParams p{a.x.data,
                       a.y.data,
                       data<int32_t>(a.positions),
                       data<float>(a.cos),
                       data<float>(a.sin),
                       a.x.ld,
                       a.y.ld,
                       a.cos.ld,
                       a.sin.ld,
                       T * a.heads * per_head,
                       int32_t(a.heads),
                       int32_t(head),
                       int32_t(a.offset),
                       int32_t(half),
                       int32_t(turned),
                       int32_t(per_head),
                       a.inverse ? -1.0f : 1.0f,
                       index_check(context, ESFT_OP_rope, kArgPositions, a.positions, rows(a.cos))};
    if (turned == 0) check_indices_on_device(context, ESFT_OP_rope, kArgPositions, a.positions, rows(a.cos));
    const unsigned grid = grid_of(p.units, kThreads * kUnits);
    if (vectors && a.interleaved)
      ESFT_LAUNCH((rope_kernel<E, kVec, true>), context, grid, kThreads, 0, p);
    else if (vectors)
      ESFT_LAUNCH((rope_kernel<E, kVec, false>), context, grid, kThreads, 0, p);
    else if (a.interleaved)
      ESFT_LAUNCH((rope_kernel<E, 1, true>), context, grid, kThreads, 0, p);
    else
      ESFT_LAUNCH((rope_kernel<E, 1, false>), context, grid, kThreads, 0, p);
  });
}

}  // namespace esft::cuda
