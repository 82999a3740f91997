// Indices, warp collectives, barriers, atomics.
#include <algorithm>
#include <numeric>

#include "../../cuda/reduce.cuh"
#include "harness.h"

namespace esft::emu::test {

namespace ptx = cuda::ptx;

static void write_indices(int* out) {
  const int cta = int(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  const int threads = int(blockDim.x * blockDim.y * blockDim.z);
  out[cta * threads + thread] += cta * threads + thread;
}

static void shuffles(int* out) {
  const int lane = int(threadIdx.x);
  int* row = out + lane * 8;
  row[0] = __shfl_xor_sync(~0u, lane * 10, 5);
  row[1] = __shfl_up_sync(~0u, lane * 10, 3);
  row[2] = __shfl_down_sync(~0u, lane * 10, 3);
  row[3] = __shfl_sync(~0u, lane * 10, 7);
  row[4] = __shfl_down_sync(~0u, lane * 10, 3, 8);
  row[5] = int(__ballot_sync(~0u, lane % 3 == 0));
  row[6] = __any_sync(~0u, lane == 9) + 2 * __all_sync(~0u, lane < 31) + 4 * __all_sync(~0u, lane < 32);
  row[7] = int(__shfl_sync(~0u, 0x100000000ull * unsigned(lane), 4) >> 32);
}

static void sums(const float* x, float* out, int n) {
  ESFT_SHARED(smem);
  float sum = 0;
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += x[i];
  sum = cuda::block_sum(sum, reinterpret_cast<float*>(smem));
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Two halves of the CTA hand a value back and forth through named barriers 1 (filled) and 2 (emptied).
static void ping_pong(int* out, int rounds) {
  ESFT_SHARED(smem);
  auto* slots = reinterpret_cast<int*>(smem);
  const int t = int(threadIdx.x) % 64;
  int sum = 0;
  for (int r = 0; r < rounds; r++) {
    if (threadIdx.x < 64) {
      if (r > 0) ptx::named_barrier_sync(2, 128);
      slots[t] = r * 100 + t;
      ptx::named_barrier_arrive(1, 128);
    } else {
      ptx::named_barrier_sync(1, 128);
      sum += slots[63 - t];
      if (r + 1 < rounds) ptx::named_barrier_arrive(2, 128);
    }
  }
  if (threadIdx.x >= 64) out[t] = sum;
}

static void count(unsigned* counters, unsigned* order) {
  order[atomicAdd(&counters[0], 1u)] = blockIdx.x;
  atomicMax(&counters[1], blockIdx.x);
  atomicCAS(&counters[2], 0u, blockIdx.x + 1);
}

void test_threads() {
  bool indices = true, shuffled = true, summed = true, passed_on = true, counted = true;
  for (const char* schedule : kSchedules) {
    set_schedule(schedule);
    {
      Buffer<int> out(std::vector<int>(2 * 3 * 2 * 48, 7));
      run("write_indices", dim3(2, 3, 2), dim3(8, 3, 2), 0, [p = out.device] { write_indices(p); });
      const auto host = out.host();
      for (size_t i = 0; i < host.size(); i++) indices &= host[i] == int(i) + 7;
    }
    {
      Buffer<int> out(size_t(32 * 8));
      run("shuffles", dim3(1), dim3(32), 0, [p = out.device] { shuffles(p); });
      const auto host = out.host();
      for (int lane = 0; lane < 32; lane++) {
        const int* row = &host[size_t(lane * 8)];
        shuffled &= row[0] == (lane ^ 5) * 10 && row[1] == (lane < 3 ? lane : lane - 3) * 10;
        shuffled &= row[2] == (lane > 28 ? lane : lane + 3) * 10 && row[3] == 70;
        shuffled &= row[4] == (lane % 8 > 4 ? lane : lane + 3) * 10;
        shuffled &= unsigned(row[5]) == 0x49249249u && row[6] == 1 + 4 && row[7] == 4;
      }
    }
    {
      std::vector<float> x(1000);
      std::iota(x.begin(), x.end(), 1.f);
      Buffer<float> in(x), out(size_t(3));
      run("sums", dim3(3), dim3(96), 64, [p = in.device, q = out.device] { sums(p, q, 1000); });
      for (float v : out.host()) summed &= v == 500500.f;
    }
    {
      Buffer<int> out(size_t(64));
      run("ping_pong", dim3(1), dim3(128), 256, [p = out.device] { ping_pong(p, 5); });
      const auto host = out.host();
      for (int t = 0; t < 64; t++) passed_on &= host[size_t(t)] == 1000 + 5 * (63 - t);
    }
    {
      Buffer<unsigned> counters(std::vector<unsigned>(3, 0)), order(size_t(100));
      run("count", dim3(100), dim3(1), 0, [p = counters.device, q = order.device] { count(p, q); });
      auto all = order.host();
      const bool ascending = std::is_sorted(all.begin(), all.end());
      std::sort(all.begin(), all.end());
      for (unsigned i = 0; i < 100; i++) counted &= all[i] == i;
      counted &= counters.host()[0] == 100 && counters.host()[1] == 99 && counters.host()[2] != 0;
      counted &= ascending == (schedule[0] != 'r');
    }
  }
  check(indices, "indices of grids and blocks of three dimensions");
  check(shuffled, "shuffles, ballot, any, all");
  check(summed, "block sum through __syncthreads");
  check(passed_on, "named barriers: sync and arrive");
  check(counted, "atomics; CTAs in grid order, under random in a random one");
}

}  // namespace esft::emu::test
