// A pipelined TMA -> wgmma product, right and with planted faults: what each schedule shows.
#include <cmath>

#include "harness.h"

namespace esft::emu::test {

namespace ptx = cuda::ptx;

enum class Plant { kNone, kReleaseBeforeWait, kFullCount, kNoSync };

constexpr int kStages = 2, kStageBytes = 2 * 8192;
constexpr size_t kSharedBytes = kStages * kStageBytes + 64;

// out[64, 64] = a[64, K] · b[64, K]ᵀ. Warpgroup 0 multiplies, thread 128 loads.
template <Plant kPlant>
static void pipelined(CUtensorMap a, CUtensorMap b, float* out, int steps) {
  ESFT_SHARED(smem);
  auto* full = reinterpret_cast<uint64_t*>(smem + kStages * kStageBytes);
  uint64_t* empty = full + kStages;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; s++) {
      ptx::mbar_init(&full[s], kPlant == Plant::kFullCount ? 2 : 1);
      ptx::mbar_init(&empty[s], 1);
    }
    ptx::fence_mbar_init();
  }
  __syncthreads();
  if (threadIdx.x >= 128) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x > 128) return;
    for (int k = 0; k < steps; k++) {
      const int s = k % kStages;
      if (k >= kStages) ptx::mbar_wait(&empty[s], uint32_t(k / kStages - 1) & 1);
      ptx::mbar_arrive_expect_tx(&full[s], kStageBytes);
      ptx::tma_load_2d(smem + s * kStageBytes, &a, &full[s], k * 64, 0);
      ptx::tma_load_2d(smem + s * kStageBytes + 8192, &b, &full[s], k * 64, 0);
    }
    return;
  }
  ptx::setmaxnreg_inc<232>();
  float acc[32];
  ptx::warpgroup_fence_operand(acc);
  for (int k = 0; k < steps; k++) {
    const int s = k % kStages;
    ptx::mbar_wait(&full[s], uint32_t(k / kStages) & 1);
    const uint64_t da = ptx::smem_desc(smem + s * kStageBytes, 16, 1024),
                   db = ptx::smem_desc(smem + s * kStageBytes + 8192, 16, 1024);
    ptx::wgmma_fence();
    for (int i = 0; i < 4; i++) {
      ptx::wgmma<64, 0, 0>(acc, ptx::desc_advance(da, uint32_t(i) * 32), ptx::desc_advance(db, uint32_t(i) * 32), k > 0 || i > 0);
    }
    ptx::wgmma_commit();
    if (kPlant == Plant::kReleaseBeforeWait && threadIdx.x == 0) ptx::mbar_arrive(&empty[s]);
    ptx::wgmma_wait<0>();
    if (kPlant != Plant::kReleaseBeforeWait) {
      ptx::named_barrier_sync(1, 128);
      if (threadIdx.x == 0) ptx::mbar_arrive(&empty[s]);
    }
  }
  ptx::warpgroup_fence_operand(acc);
  const int t = int(threadIdx.x);
  for (int i = 0; i < 32; i++) {
    out[(16 * (t / 32) + t % 32 / 4 + 8 * ((i >> 1) & 1)) * 64 + 8 * (i >> 2) + 2 * (t % 4) + (i & 1)] = acc[i];
  }
}

template <Plant kPlant>
static std::vector<float> run_pipelined(const char* schedule, int steps) {
  set_schedule(schedule);
  const size_t count = 64 * size_t(steps) * 64;
  Buffer<uint16_t> a(random_bf16(count, 5)), b(random_bf16(count, 6));
  Buffer<float> out(size_t(64 * 64));
  const CUtensorMap ma = matrix_map(a.device, 64, uint64_t(steps) * 64, 64, 64, CU_TENSOR_MAP_SWIZZLE_128B);
  const CUtensorMap mb = matrix_map(b.device, 64, uint64_t(steps) * 64, 64, 64, CU_TENSOR_MAP_SWIZZLE_128B);
  run("pipelined", dim3(1), dim3(256), kSharedBytes, [=, p = out.device] { pipelined<kPlant>(ma, mb, p, steps); });
  return out.host();
}

static bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Reverses 64 numbers through shared memory.
template <bool kSync>
static void reverse(const int* in, int* out) {
  ESFT_SHARED(smem);
  auto* values = reinterpret_cast<int*>(smem);
  values[threadIdx.x] = in[threadIdx.x];
  if (kSync) __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];
}

template <bool kSync>
static bool reverses(const char* schedule) {
  set_schedule(schedule);
  std::vector<int> values(64);
  for (int i = 0; i < 64; i++) values[size_t(i)] = i * i;
  Buffer<int> in(values), out(size_t(64));
  run("reverse", dim3(1), dim3(64), 256, [p = in.device, q = out.device] { reverse<kSync>(p, q); });
  return out.host() == std::vector<int>(values.rbegin(), values.rend());
}

void test_pipeline() {
  constexpr int kSteps = 7;
  const auto a = random_bf16(64 * kSteps * 64, 5), b = random_bf16(64 * kSteps * 64, 6);
  std::vector<float> expected(64 * 64);
  for (size_t i = 0; i < 64; i++) {
    for (size_t j = 0; j < 64; j++) {
      for (size_t k = 0; k < kSteps * 64; k++)
        expected[i * 64 + j] += bf16_value(a[i * kSteps * 64 + k]) * bf16_value(b[j * kSteps * 64 + k]);
    }
  }
  bool right = true;
  for (const char* schedule : kSchedules) right &= same(run_pipelined<Plant::kNone>(schedule, kSteps), expected);
  for (int seed = 10; seed < 40; seed++) {
    right &= same(run_pipelined<Plant::kNone>(("random:" + std::to_string(seed)).c_str(), kSteps), expected);
  }
  check(right, "pipelined TMA and wgmma: the same bits under every schedule");

  const auto wrong = run_pipelined<Plant::kReleaseBeforeWait>("eager", kSteps);
  check(same(wrong, expected), "stage released before the wgmma wait: eager alone does not show it");
  check(!same(run_pipelined<Plant::kReleaseBeforeWait>("late", kSteps), expected),
        "caught: stage released before the wgmma wait (late)");
  int shown = 0;
  for (int seed = 0; seed < 20; seed++) {
    shown += !same(run_pipelined<Plant::kReleaseBeforeWait>(("random:" + std::to_string(seed)).c_str(), kSteps), expected);
  }
  check(shown > 0, "caught: stage released before the wgmma wait (" + std::to_string(shown) + " of 20 random seeds)");
  expect_fault("full barrier with a wrong count", "1 of 2 arrivals", [] { run_pipelined<Plant::kFullCount>("eager", kSteps); });

  check(reverses<true>("eager") && reverses<true>("late") && reverses<true>("random:1"), "__syncthreads orders shared memory");
  shown = 0;
  for (int seed = 0; seed < 5; seed++) shown += !reverses<false>(("random:" + std::to_string(seed)).c_str());
  check(shown == 5 && !reverses<false>("eager") && !reverses<false>("late"), "caught: missing __syncthreads");
}

}  // namespace esft::emu::test
