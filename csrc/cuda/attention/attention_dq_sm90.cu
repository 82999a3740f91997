// The last step of the backward attention in one pass: the f32 sums of dq (attention_backward_one_sm90.cu), scaled, become dq.
//
// Bound by memory: reads 4 and writes 2 bytes per element. A block of threads takes 64 queries by 64 columns of one head. The sums lie in the
// order in which the multiplying threads held them, 16 bytes each: of thread t the columns 8n + 2·(t % 4) and the next one, of row
// 16·(t / 32) + (t % 32) / 4 and of the row eight below. So four neighbours hold 8 columns of two rows.
#include "attention_backward.cuh"

namespace esft::cuda::attention {

namespace {

struct DqParams {
  const float* sums;
  bf16* dq;  // of the first head
  int64_t ld;
  float scale;
  int T, qk_dim, blocks, slabs;
  bool vector;
};

__device__ __forceinline__ void store_row(const DqParams& p, bf16* to, const float (&x)[8]) {
  if (p.vector) return store16(to, pack8(x));
#pragma unroll
  for (int j = 0; j < 8; j++) to[j] = from_float<bf16>(x[j]);
}

__global__ void __launch_bounds__(256) scale_dq(const EarlyStart early, const DqParams p) {
  early.wait();
  const int slab = int(blockIdx.x) % p.slabs, at = int(blockIdx.x) / p.slabs, block = at % p.blocks, head = at / p.blocks;
  const int n = int(threadIdx.x) % 8, quad = int(threadIdx.x) / 8;
  const int row = block * kSumRows + quad / 8 * 16 + quad % 8;
  const float4* const from = reinterpret_cast<const float4*>(p.sums) + int64_t(blockIdx.x) * (kSumRows * 16) + n * 128 + quad * 4;
  float low[8], high[8];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const float4 x = from[j];
    low[2 * j] = x.x * p.scale;
    low[2 * j + 1] = x.y * p.scale;
    high[2 * j] = x.z * p.scale;
    high[2 * j + 1] = x.w * p.scale;
  }
  bf16* const to = p.dq + row * p.ld + int64_t(head) * p.qk_dim + slab * 64 + n * 8;
  if (row < p.T) store_row(p, to, low);
  if (row + 8 < p.T) store_row(p, to + 8 * p.ld, high);
}

}  // namespace

void finish_dq_sm90(const BackwardParams& p, int heads, Context& c) {
  const Layout& l = p.layout;
  const DqParams d{
      p.dq_sums,  p.dq + int64_t(p.kv_begin) * l.group * l.qk_dim, p.dq_ld, p.scale, l.T, l.qk_dim, p.sum_blocks, l.qk_dim / 64,
      p.dq_vector};
  ESFT_LAUNCH((scale_dq), c, dim3(unsigned(heads) * unsigned(d.blocks) * unsigned(d.slabs)), 256, 0, d);
}

}  // namespace esft::cuda::attention
