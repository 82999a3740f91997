// Forward attention: what its kernels (attention.cu, attention_sm90.cu) share.
#pragma once
#include "attention_tile.cuh"

namespace esft::cuda::attention {

struct ForwardParams {
  Layout layout;
  bf16* out;
  float* lse;  // nullptr: not wanted
  int64_t out_ld, lse_ld;
  float scale2;  // |scale| · log2(e), positive
  bool negate;   // scale < 0
  bool store_vector;
  TileOrder order;
  uint32_t* ticket;  // the next tile of persistent CTAs; nullptr: a CTA for each
};

// The kernels of attention_sm90.cu; false: not for this device or these operands.
bool forward_sm90(const ForwardParams& p, const esft_attention_args& a, Context& c);

// Hides what the queries first_row + lane/4 (and + 8) must not see among the keys from key0 on.
template <int kN>
__device__ __forceinline__ void mask_scores(const Layout& l, float (&s)[kN][4], int first_row, int key0) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = first_row + lane / 4 + 8 * half, from = l.first_key(row);
#pragma unroll
    for (int n = 0; n < kN; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int key = key0 + 8 * n + 2 * (lane % 4) + j;
        if (key > row || key < from) s[n][2 * half + j] = -INFINITY;
      }
  }
}

// Half kHalf (0: rows lane/4, 1: rows lane/4 + 8) of 16 rows of scores becomes probabilities under the running maximum `top`. Returns
// the factor of all that was summed before. A row that has seen no key yet stays at top = −∞, sum = 0. `sum` is this lane's share.
template <int kHalf, int kN>
__device__ __forceinline__ float online_softmax(float (&s)[kN][4], float& top, float& sum, float scale2) {
  float high = top;
#pragma unroll
  for (int n = 0; n < kN; n++) high = fmaxf(high, fmaxf(s[n][2 * kHalf], s[n][2 * kHalf + 1]));
  high = fmaxf(high, __shfl_xor_sync(kFullWarp, high, 1));
  high = fmaxf(high, __shfl_xor_sync(kFullWarp, high, 2));
  const float base = high == -INFINITY ? 0.f : high, shift = base * scale2;
  const float decay = ptx::exp2_approx((top - base) * scale2);  // exactly 1 while the maximum stays
  top = high;
  float added = 0.f;
#pragma unroll
  for (int n = 0; n < kN; n++)
#pragma unroll
    for (int j = 2 * kHalf; j < 2 * kHalf + 2; j++) {
      s[n][j] = ptx::exp2_approx(fmaf(s[n][j], scale2, -shift));
      added += s[n][j];
    }
  sum = fmaf(sum, decay, added);
  return decay;
}

// Completes the sum of a row over the four lanes that share it, with the head's sink, which may be above all its scores; writes its
// log-sum-exp, returns the factor of its output.
__device__ __forceinline__ float finish_row(const ForwardParams& p, int row, int h, float top, float sum) {
  sum += __shfl_xor_sync(kFullWarp, sum, 1);
  sum += __shfl_xor_sync(kFullWarp, sum, 2);
  float high = top * p.scale2, factor = 1.f;
  if (p.layout.sinks.data) {
    const float sink = p.layout.sinks.exponent(h), before = high;
    high = fmaxf(high, sink);
    factor = ptx::exp2_approx(before - high);
    sum = fmaf(sum, factor, ptx::exp2_approx(sink - high));
  }
  if (p.lse && row < p.layout.T && threadIdx.x % 4 == 0) p.lse[row * p.lse_ld + h] = fmaf(high, kLn2, logf(sum));
  return factor / sum;
}

// The end of a warp's 16·kM rows, the first of which is `first_row` of the tokens and r0 of `tile`: rows of Q, read for the last time,
// take the output on its way to whole 16-byte stores. v0: its first column of the head.
template <int kRows, int DV, int kM>
__device__ __forceinline__ void store_output(const ForwardParams& p, unsigned char* tile, int r0, int first_row, int lane, int h,
                                             int v0, const float (&out)[kM][DV / 8][4], const float (&top)[kM][2],
                                             const float (&sum)[kM][2]) {
  const int v_dim = p.layout.v_dim;
#pragma unroll
  for (int m = 0; m < kM; m++) {
    const int row = first_row + 16 * m + lane / 4;
    const float lo = finish_row(p, row, h, top[m][0], sum[m][0]), hi = finish_row(p, row + 8, h, top[m][1], sum[m][1]);
    stage_rows<kRows>(tile, r0 + 16 * m, 0, out[m], lo, hi);
  }
  store_rows<kRows, DV>(tile, r0, 16 * kM, p.layout.T - first_row, 0, p.out + first_row * p.out_ld + int64_t(h) * v_dim + v0,
                        p.out_ld, v_dim - v0, p.store_vector);
}

// Lane j of four neighbours gets word j of each: a 4 × 4 transpose.
__device__ __forceinline__ void exchange_in_quad(uint32_t (&w)[4]) {
  const int lane = int(threadIdx.x);
#pragma unroll
  for (int step = 1; step <= 2; step *= 2)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (i & step) continue;
      uint32_t &low = w[i], &high = w[i | step];
      const uint32_t got = __shfl_xor_sync(kFullWarp, lane & step ? low : high, step);
      if (lane & step)
        low = got;
      else
        high = got;
    }
}
// The same for 16 rows straight from the registers: four lanes that share a row exchange what they hold of four chunks of 8 columns, so that
// each has a whole one.
template <int DV>
__device__ __forceinline__ void store_fragments_of_output(const ForwardParams& p, int first_row, int h,
                                                          const float (&out)[DV / 8][4], const float (&top)[2],
                                                          const float (&sum)[2]) {
  const int lane = int(threadIdx.x) % 32, part = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = first_row + lane / 4 + 8 * half;
    const float factor = finish_row(p, row, h, top[half], sum[half]);
    bf16* const to = p.out + row * p.out_ld + int64_t(h) * DV + part * 8;
#pragma unroll
    for (int c = 0; c < DV / 32; c++) {
      Vec16 v;
#pragma unroll
      for (int i = 0; i < 4; i++)
        v.w[i] = ptx::pack_bf16x2(out[4 * c + i][2 * half] * factor, out[4 * c + i][2 * half + 1] * factor);
      exchange_in_quad(v.w);
      if (row >= p.layout.T) continue;
      if (p.store_vector) {
        store16(to + 32 * c, v);
      } else {
#pragma unroll
        for (int j = 0; j < 8; j++) to[32 * c + j] = bf16{uint16_t(v.w[j / 2] >> (16 * (j & 1)))};
      }
    }
  }
}

}  // namespace esft::cuda::attention
