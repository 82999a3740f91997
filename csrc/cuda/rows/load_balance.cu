// load_balance: one warp per token, two passes over its row (the second from L1); E·f_e lies in shared memory. Bound by the bytes:
// 12·T·E. The loss: each block sums the tokens of a fixed chunk in order, a last block the chunks.
#include "../host/launch.h"
#include "../reduce.cuh"
#include "index_check.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRows = 32;                // tokens per block
constexpr int64_t kSharedExperts = 8192;  // above, E·f_e is computed where it is used

struct BalanceParams {
  const float* probs;
  const int32_t* offsets;
  float* dlogits;
  double* partial;  // [blocks], nullptr without the loss
  int64_t T, probs_ld, dlogits_ld;
  int32_t E;
  float coefficient;
  const double* scale;  // in its place, or nullptr
};

__device__ __forceinline__ float pull_of(const BalanceParams& p, int e, int32_t n) {
  return float(double(p.E) * (int64_t(p.offsets[e + 1]) - p.offsets[e]) / n);
}

template <bool kShared>
__global__ void __launch_bounds__(kThreads) balance(const EarlyStart early, const BalanceParams p) {
  early.wait();
  ESFT_SHARED(smem);
  double* sums = reinterpret_cast<double*>(smem);         // [warps]
  float* table = reinterpret_cast<float*>(sums + kWarps);  // [E] if kShared
  const int32_t n = p.offsets[p.E];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (n == 0) {
    if (p.partial && threadIdx.x == 0) p.partial[blockIdx.x] = 0;
    return;
  }
  if (kShared) {
    for (int e = threadIdx.x; e < p.E; e += kThreads) table[e] = pull_of(p, e, n);
    __syncthreads();
  }
  const auto pull = [&](int e) { return kShared ? table[e] : pull_of(p, e, n); };
  const float coefficient = p.scale ? float(*p.scale) : p.coefficient;
  double loss = 0;
  for (int i = warp; i < kRows; i += kWarps) {
    const int64_t t = blockIdx.x * int64_t(kRows) + i;
    if (t >= p.T) break;
    const float* probs = p.probs + t * p.probs_ld;
    float* dlogits = p.dlogits + t * p.dlogits_ld;
    float dot = 0;
#pragma unroll 4
    for (int e = lane; e < p.E; e += 32) dot += probs[e] * pull(e);
    dot = warp_sum(dot);
#pragma unroll 4
    for (int e = lane; e < p.E; e += 32) dlogits[e] += coefficient * probs[e] * (pull(e) - dot);
    loss += double(dot);
  }
  if (!p.partial) return;
  if (lane == 0) sums[warp] = loss;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; w++) loss += sums[w];
  p.partial[blockIdx.x] = loss;
}

// loss[0] += Σ partial / T: thread j sums chunks j, j + 256, … in order, then the threads as block_sum does.
__global__ void __launch_bounds__(kThreads)
    add_loss(const EarlyStart early, double* loss, const double* partial, int64_t count, int64_t T) {
  early.wait();
  ESFT_SHARED(smem);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_sum(sum, reinterpret_cast<double*>(smem));
  if (threadIdx.x == 0) loss[0] += sum / double(T);
}

}  // namespace

void run_load_balance(const esft_load_balance_args& a, Context& c) {
  BalanceParams p{};
  p.probs = data<float>(a.probs);
  p.offsets = data<int32_t>(a.offsets);
  p.dlogits = data<float>(a.dlogits);
  p.T = rows(a.probs);
  p.probs_ld = a.probs.ld, p.dlogits_ld = a.dlogits.ld;
  p.E = int32_t(cols(a.probs));
  p.coefficient = float(a.coefficient);
  p.scale = present(a.scale) ? data<double>(a.scale) : nullptr;
  check_offsets_on_device(c, ESFT_OP_load_balance, a.offsets, -1);
  if (p.T == 0) return;
  const int64_t blocks = ceil_div(p.T, kRows);
  if (present(a.loss)) p.partial = c.scratch_of<double>(blocks);
  const size_t sums = kWarps * sizeof(double);
  if (p.E <= kSharedExperts)
    ESFT_LAUNCH((balance<true>), c, dim3(unsigned(blocks)), kThreads, sums + size_t(p.E) * sizeof(float), p);
  else
    ESFT_LAUNCH((balance<false>), c, dim3(unsigned(blocks)), kThreads, sums, p);
  if (p.partial) ESFT_LAUNCH((add_loss), c, dim3(1), kThreads, sums, data<double>(a.loss), p.partial, blocks, p.T);
}

}  // namespace esft::cuda
