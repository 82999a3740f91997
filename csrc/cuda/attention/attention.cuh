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

// Completes the sum of a row over the four lanes that share it, writes its log-sum-exp, returns the factor of its output.
__device__ __forceinline__ float finish_row(const ForwardParams& p, int row, int h, float top, float sum) {
  sum += __shfl_xor_sync(kFullWarp, sum, 1);
  sum += __shfl_xor_sync(kFullWarp, sum, 2);
  if (p.lse && row < p.layout.T && threadIdx.x % 4 == 0) p.lse[row * p.lse_ld + h] = fmaf(top * p.scale2, kLn2, logf(sum));
  return 1.f / sum;
}

// The end of a warp's 16·kM rows, the first of which is `first_row` of the tokens and r0 of `tile`: rows of Q, read for the last time,
// take the output on its way to whole 16-byte stores.
template <int kRows, int DV, int kM>
__device__ __forceinline__ void store_output(const ForwardParams& p, unsigned char* tile, int r0, int first_row, int lane, int h,
                                             int v_dim, const float (&out)[kM][DV / 8][4], const float (&top)[kM][2],
                                             const float (&sum)[kM][2]) {
#pragma unroll
  for (int m = 0; m < kM; m++) {
    const int row = first_row + 16 * m + lane / 4;
    const float lo = finish_row(p, row, h, top[m][0], sum[m][0]), hi = finish_row(p, row + 8, h, top[m][1], sum[m][1]);
    stage_rows<kRows>(tile, r0 + 16 * m, 0, out[m], lo, hi);
  }
  store_rows<kRows, DV>(tile, r0, 16 * kM, p.layout.T - first_row, 0, p.out + first_row * p.out_ld + int64_t(h) * v_dim, p.out_ld,
                        v_dim, p.store_vector);
}

}  // namespace esft::cuda::attention
