// count_experts: a block owns four experts and reads all slots, so it needs no scratch and one launch; bound by L2, E / 4 · 8 bytes
// per slot. The order of a gate sum: thread j of 512 adds slots j, j + 512, … ascending, then warp_sum, then the warps ascending,
// then all of it to the sum so far.
#include "../host/launch.h"
#include "../reduce.cuh"
#include "index_check.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kExperts = 4;  // per block
constexpr int kAhead = 4;  // slots a thread reads at once

struct CountParams {
  const int32_t* ids;
  const float* weights;
  const int32_t* mask;
  int64_t* counts;
  double* gate_sums;
  int64_t N, K, E, ids_ld, weights_ld;
  IndexCheck check;
};

__global__ void __launch_bounds__(kThreads) count_slots(const EarlyStart early, const CountParams p) {
  early.wait();
  ESFT_SHARED(smem);
  double* scratch = reinterpret_cast<double*>(smem);  // [warps]
  int64_t* count_scratch = reinterpret_cast<int64_t*>(scratch + kWarps);  // [warps]
  const int64_t first = blockIdx.x * int64_t(kExperts);
  const bool flat = p.ids_ld == p.K && p.weights_ld == p.K && !p.mask;
  int64_t count[kExperts] = {};
  double sum[kExperts] = {};
  for (int64_t tile = threadIdx.x; tile < p.N; tile += kAhead * kThreads) {
    int32_t id[kAhead];
    float weight[kAhead];
    bool counts[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; j++) {
      const int64_t i = tile + j * kThreads;
      counts[j] = i < p.N;
      id[j] = 0;
      weight[j] = 0;
      if (!counts[j]) continue;
      const int64_t t = flat ? 0 : p.N <= UINT32_MAX ? uint32_t(i) / uint32_t(p.K) : i / p.K, k = i - t * p.K;
      id[j] = p.ids[t * p.ids_ld + k];
      weight[j] = p.weights[t * p.weights_ld + k];
      if (p.mask) counts[j] = p.mask[t] != 0;
    }
#pragma unroll
    for (int j = 0; j < kAhead; j++) {
      if (blockIdx.x == 0) p.check.ok(tile + j * kThreads, id[j]);
      const int64_t local = id[j] - first;
      if (!counts[j] || local < 0 || local >= kExperts) continue;
#pragma unroll
      for (int e = 0; e < kExperts; e++) {
        if (local != e) continue;
        count[e]++;
        sum[e] += double(weight[j]);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kExperts; e++) {
    const int64_t all = block_sum(count[e], count_scratch);
    const double total = block_sum(sum[e], scratch);
    if (threadIdx.x != 0 || first + e >= p.E) continue;
    p.counts[first + e] += all;
    p.gate_sums[first + e] += total;
  }
}

}  // namespace

void run_count_experts(const esft_count_experts_args& a, Context& c) {
  CountParams p{};
  p.ids = data<int32_t>(a.ids);
  p.weights = data<float>(a.weights);
  p.mask = present(a.mask) ? data<int32_t>(a.mask) : nullptr;
  p.counts = data<int64_t>(a.counts);
  p.gate_sums = data<double>(a.gate_sums);
  p.N = numel(a.ids), p.K = cols(a.ids), p.E = numel(a.counts);
  p.ids_ld = rows(a.ids) > 1 ? a.ids.ld : p.K, p.weights_ld = rows(a.weights) > 1 ? a.weights.ld : p.K;
  p.check = index_check(c, ESFT_OP_count_experts, kArgIds, a.ids, p.E);
  if (p.N == 0) return;
  const int64_t blocks = max_of(ceil_div(p.E, int64_t(kExperts)), int64_t(1));
  ESFT_LAUNCH((count_slots), c, dim3(unsigned(blocks)), kThreads, kWarps * (sizeof(double) + sizeof(int64_t)), p);
}

}  // namespace esft::cuda
