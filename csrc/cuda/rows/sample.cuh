// What the kernels of sample share: parameters, the state of a row between launches, weights, and how blocks of one row meet.
#pragma once
#include <math.h>

#include "../fault.cuh"
#include "../host/launch.h"
#include "../reduce.cuh"
#include "float_keys.cuh"

namespace esft::cuda {

using u64 = unsigned long long;  // the type of the atomics

constexpr int kSampleThreads = 256, kSamplePer = 16, kSampleChunk = kSampleThreads * kSamplePer;  // logits of a block
constexpr int kSampleBins = 2048, kSampleRounds = 3;
constexpr int kSampleWarps = kSampleThreads / 32;
static_assert((1 << sampling::kMaxVocabularyBits) <= kSampleChunk * kSampleThreads, "a thread for every chunk of a row");

// Written by its own block; `rank`: of the highest z, all ones where a logit is NaN or +inf.
struct SampleChunk {
  double sum;  // of exp(logit − highest of the chunk)
  u64 rank, weight;
};

enum SamplePass : int32_t { kPassNone, kPassCount, kPassWeight };  // what a selection adds up: tokens (top_k) or weights (top_p)

struct SampleRow {
  double log_sum;
  u64 above, target;  // of the selection: what lies above its bin, what is sought
  float top, raw_top, temperature, top_p, min_p;
  float cut, floor;  // kept: z > cut, or z == cut and id <= last; sought in the first round: z >= floor
  int32_t last, top_k, round;
  uint32_t prefix;  // bits known of the bound
  SamplePass pass;
  int32_t penalised;  // z is a copy
  int32_t draws;  // a distribution, and temperature > 0
};

struct SampleParams {
  const float *logits, *temperature, *top_p, *min_p, *penalty;
  const double* u;
  const int32_t *top_k, *seen, *seen_offsets;
  int32_t *ids, *top_ids;
  float *logprob, *top_logprobs;
  float* z;  // [R, V], or nullptr without a penalty
  SampleRow* rows;  // [R]
  SampleChunk* chunks;  // [R, count]
  u64* ranks;  // [R, count, N]
  u64* bins;  // [R, kSampleBins + 1], the last for what lies below the floor; 0 between launches
  uint32_t* tickets;  // [R]; 0 between launches
  FaultRecord* faults;
  int64_t logits_ld, top_ids_ld, top_logprobs_ld, seen_count;
  int32_t V, N, count;
};

// Key and complement of the id in one number: larger is earlier in the order of tokens.
__device__ __forceinline__ u64 rank_of(float z, int id) { return u64(key_of(z)) << 32 | uint32_t(~id); }
__device__ __forceinline__ int id_of(u64 rank) { return int(~uint32_t(rank)); }
__device__ __forceinline__ float top_of(u64 rank) { return value_of(uint32_t(rank >> 32)); }

__device__ __forceinline__ float exp_step(float p, float r, float c) { return __fadd_rn(__fmul_rn(p, r), c); }

// The weight of the contract.
__device__ __forceinline__ u64 weight_of(float z, float top, float temperature) {
  using namespace sampling;
  const float x = __fdiv_rn(__fsub_rn(z, top), temperature);
  if (!(x >= kExpLowest)) return 0;
  const float s = __fadd_rn(__fmul_rn(x, kExpLog2), kExpRound), n = __fsub_rn(s, kExpRound);
  const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, kExpHigh)), __fmul_rn(n, kExpLow));
  float p = exp_step(kExp5, r, kExp4);
  p = exp_step(p, r, kExp3);
  p = exp_step(p, r, kExp2);
  p = exp_step(p, r, kExp1);
  p = exp_step(p, r, kExp0);
  const uint32_t e = float_to_bits(__fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0f));
  const int down = 127 - int(e >> 23) - int(float_to_bits(s) - float_to_bits(kExpRound));
  return u64((e & 0x7fffffu) | 0x800000u) << (kWeightBits - 23) >> down;
}

// ⌊x · 2^64⌋ of x in [0, 1).
__device__ __forceinline__ u64 fraction_of(double x) { return u64(x * 18446744073709551616.0); }

// The largest over the block, to all threads. scratch: one per warp.
__device__ __forceinline__ u64 block_best(u64 x, u64* scratch) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  for (int w = 0; w < kSampleWarps; w++) x = max_of(x, scratch[w]);
  __syncthreads();
  return x;
}
// The sum up to and with this thread's x; total: of all.
__device__ __forceinline__ u64 block_prefix(u64 x, u64* scratch, u64& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int step = 1; step < 32; step *= 2) {
    const u64 before = __shfl_up_sync(kFullWarp, x, step);
    if (lane >= step) x += before;
  }
  if (lane == 31) scratch[warp] = x;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kSampleWarps; w++) {
    if (w < warp) x += scratch[w];
    total += scratch[w];
  }
  __syncthreads();
  return x;
}

// True in the block of a row that comes here last, to all its threads: it sees what the others wrote.
__device__ __forceinline__ bool last_of_row(const SampleParams& p, int row, u64* scratch) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const bool last = atomicAdd(&p.tickets[row], 1u) + 1 == uint32_t(p.count);
    if (last) p.tickets[row] = 0;
    scratch[0] = last;
  }
  __syncthreads();
  const bool last = scratch[0] != 0;
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// First round and the two that follow: bits of the key that they look at, and where these lie.
__device__ __forceinline__ int bits_of(int round) { return round < 2 ? 11 : 10; }
__device__ __forceinline__ int shift_of(int round) { return round == 0 ? 21 : round == 1 ? 10 : 0; }

__device__ __forceinline__ const float* row_z(const SampleParams& p, const SampleRow& s, int row) {
  return s.penalised ? p.z + int64_t(row) * p.V : p.logits + row * p.logits_ld;
}

}  // namespace esft::cuda
