// Clusters: two CTAs load halves of each tile for both, and give its stage back to both. Right, and with the release of the other
// CTA forgotten.
#include "harness.h"

namespace esft::emu::test {

namespace ptx = cuda::ptx;

constexpr int kRows = 64, kHalf = 32 * 128, kTile = 2 * kHalf, kRing = 2;
constexpr size_t kSharedBytes = kRing * kTile + 64;

// out[rank][column] = Σ over steps and rows of x[step * 64 + row, column], by thread `column` of each CTA; thread 64 loads. One CTA
// dawdles between reading a tile and giving it back.
template <bool kForgetOther>
static void shared_sums(CUtensorMap x, float* out, int steps) {
  ESFT_SHARED(smem);
  auto* full = reinterpret_cast<uint64_t*>(smem + kRing * kTile);
  uint64_t* empty = full + kRing;
  const uint32_t rank = ptx::cluster_rank();
  if (threadIdx.x == 0) {
    for (int s = 0; s < kRing; s++) {
      ptx::mbar_init(&full[s], 1);
      ptx::mbar_init(&empty[s], kForgetOther ? 64 : 128);
    }
    ptx::fence_mbar_init();
  }
  ptx::cluster_sync();
  if (threadIdx.x == 64) {
    for (int k = 0; k < steps; k++) {
      const int s = k % kRing;
      if (k >= kRing) ptx::mbar_wait(&empty[s], uint32_t(k / kRing - 1) & 1);
      ptx::mbar_arrive_expect_tx(&full[s], kTile);
      ptx::tma_load_2d_multicast(smem + s * kTile + rank * kHalf, &x, &full[s], 0, k * kRows + int(rank) * 32, 3);
    }
  } else if (threadIdx.x < 64) {
    float sum = 0;
    for (int k = 0; k < steps; k++) {
      const int s = k % kRing;
      ptx::mbar_wait(&full[s], uint32_t(k / kRing) & 1);
      const auto* tile = reinterpret_cast<const uint16_t*>(smem + s * kTile);
      for (int r = 0; r < kRows; r++) {
        if (rank == 1 && r % 8 == 0) ptx::mbar_wait(&full[s], uint32_t(k / kRing) & 1);
        sum += cuda::to_float(cuda::bf16{tile[r * 64 + int(threadIdx.x)]});
      }
      ptx::mbar_arrive(&empty[s]);
      if (!kForgetOther) ptx::mbar_arrive_cluster(&empty[s], rank ^ 1);
    }
    out[rank * 64 + threadIdx.x] = sum;
  }
  ptx::cluster_sync();
}

template <bool kForgetOther>
static bool sums_are_right(const char* schedule) {
  set_schedule(schedule);
  constexpr int kSteps = 7;
  const std::vector<uint16_t> x = random_bf16(size_t(kSteps) * kRows * 64, 5);
  std::vector<float> want(64, 0.f);
  for (size_t i = 0; i < x.size(); i++) want[i % 64] += bf16_value(x[i]);
  Buffer<uint16_t> device(x);
  Buffer<float> out(256);
  const CUtensorMap map = matrix_map(device.device, kSteps * kRows, 64, 32, 64, CU_TENSOR_MAP_SWIZZLE_NONE);
  launch(
      nullptr, "shared_sums", dim3(2), dim3(96), kSharedBytes, [=, to = out.device] { shared_sums<kForgetOther>(map, to, kSteps); },
      2);
  cudaStreamSynchronize(nullptr);
  const std::vector<float> got = out.host();
  for (int i = 0; i < 128; i++)
    if (got[size_t(i)] != want[size_t(i % 64)]) return false;
  return true;
}

// rank of each CTA, and its number in the grid
static void ranks(uint32_t* out) {
  if (threadIdx.x == 0) out[blockIdx.x] = ptx::cluster_rank() * 16 + blockIdx.x;
  ptx::cluster_sync();
}

static void arrive_outside(uint32_t rank) {
  ESFT_SHARED(smem);
  auto* bar = reinterpret_cast<uint64_t*>(smem);
  if (threadIdx.x == 0) ptx::mbar_init(bar, 1);
  ptx::cluster_sync();
  if (threadIdx.x == 0) ptx::mbar_arrive_cluster(bar, rank);
}

void test_clusters() {
  for (const char* schedule : kSchedules) check(sums_are_right<false>(schedule), std::string("multicast tiles, ") + schedule);
  int caught = 0;
  for (int seed = 1; seed <= 20; seed++) caught += !sums_are_right<true>(("random:" + std::to_string(seed)).c_str());
  check(caught > 0, "a stage taken back without the other CTA's release is seen in " + std::to_string(caught) + " of 20 seeds");
  set_schedule("eager");
  Buffer<uint32_t> out(4);
  launch(nullptr, "ranks", dim3(4), dim3(32), 0, [=, p = out.device] { ranks(p); }, 2);
  cudaStreamSynchronize(nullptr);
  check(out.host() == std::vector<uint32_t>({0, 17, 2, 19}), "ranks of neighbouring CTAs");
  expect_fault("arrival outside the cluster", "rank 2 of a cluster of 2", [] {
    launch(nullptr, "arrive_outside", dim3(2), dim3(32), 64, [] { arrive_outside(2); }, 2);
    cudaStreamSynchronize(nullptr);
  });
  expect_fault("grid not a multiple of the cluster", "clusters of 2 with grid.x = 3", [] {
    launch(nullptr, "ranks", dim3(3), dim3(32), 0, [] {}, 2);
    cudaStreamSynchronize(nullptr);
  });
}

}  // namespace esft::emu::test
