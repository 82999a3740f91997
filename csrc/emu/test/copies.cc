// cp.async, mbarriers, TMA, stmatrix.
#include "harness.h"

namespace esft::emu::test {

namespace ptx = cuda::ptx;

// Threads 0..63 copy 16 bytes each in two groups of 32 threads' worth; odd ones are zero filled.
static void copy_groups(const uint32_t* in, uint32_t* out) {
  ESFT_SHARED(smem);
  const int t = int(threadIdx.x);
  for (int g = 0; g < 3; g++) {
    ptx::cp_async_16(smem + g * 1024 + t * 16, in + (g * 64 + t) * 4, t % 2 == 0);
    ptx::cp_async_commit();
  }
  for (int g = 0; g < 3; g++) {
    if (g == 0) ptx::cp_async_wait<2>();
    if (g == 1) ptx::cp_async_wait<1>();
    if (g == 2) ptx::cp_async_wait<0>();
    __syncthreads();
    const auto* words = reinterpret_cast<const uint32_t*>(smem + g * 1024);
    for (int i = t; i < 256; i += 64) out[g * 256 + i] = words[255 - i];
  }
}

// A ring of two stages: warp 0 fills with cp.async, warps 1..2 sum; full counts 32 copies, empty 64 readers.
static void ring(const uint32_t* in, uint32_t* out, int steps) {
  ESFT_SHARED(smem);
  auto* full = reinterpret_cast<uint64_t*>(smem);
  uint64_t* empty = full + 2;
  unsigned char* stage = smem + 1024;
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; s++) {
      ptx::mbar_init(&full[s], 32);
      ptx::mbar_init(&empty[s], 64);
    }
    ptx::fence_mbar_init();
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    for (int k = 0; k < steps; k++) {
      const int s = k % 2;
      if (k >= 2) ptx::mbar_wait(&empty[s], uint32_t(k / 2 - 1) & 1);
      ptx::cp_async_16(stage + s * 512 + threadIdx.x * 16, in + (k * 32 + int(threadIdx.x)) * 4, true);
      ptx::cp_async_mbar_arrive(&full[s]);
    }
  } else {
    const int t = int(threadIdx.x) - 32;
    uint32_t sum = 0;
    for (int k = 0; k < steps; k++) {
      const int s = k % 2;
      ptx::mbar_wait(&full[s], uint32_t(k / 2) & 1);
      const auto* words = reinterpret_cast<const uint32_t*>(stage + s * 512);
      sum = sum * 31 + words[t] + words[127 - t];
      ptx::mbar_arrive(&empty[s]);
    }
    out[t] = sum;
  }
}

static void load_box(CUtensorMap map, uint16_t* out, int x, int y, int bytes) {
  ESFT_SHARED(smem);
  auto* bar = reinterpret_cast<uint64_t*>(smem + 32768);
  if (threadIdx.x == 0) {
    ptx::mbar_init(bar, 1);
    ptx::fence_mbar_init();
    ptx::tma_prefetch_map(&map);
    ptx::tma_acquire_map(&map);
    ptx::mbar_arrive_expect_tx(bar, uint32_t(bytes));
    ptx::tma_load_2d(smem, &map, bar, x, y);
  }
  __syncthreads();
  ptx::mbar_wait(bar, 0);
  for (int i = int(threadIdx.x); i < bytes / 2; i += int(blockDim.x)) out[i] = reinterpret_cast<const uint16_t*>(smem)[i];
}

// Box at (x, y) of a 50 x 72 matrix against the definition.
static bool box_matches(int x, int y, int box_rows, int box_cols, CUtensorMapSwizzle swizzle) {
  constexpr int kRows = 50, kCols = 72;
  std::vector<uint16_t> values(size_t(kRows * kCols));
  for (size_t i = 0; i < values.size(); i++) values[i] = uint16_t(i + 1);
  Buffer<uint16_t> in(values), out(size_t(box_rows * box_cols));
  const CUtensorMap map = matrix_map(in.device, kRows, kCols, uint32_t(box_rows), uint32_t(box_cols), swizzle);
  run("load_box", dim3(1), dim3(64), 32768 + 64, [=, p = out.device] { load_box(map, p, x, y, box_rows * box_cols * 2); });
  const auto host = out.host();
  for (int r = 0; r < box_rows; r++) {
    for (int c = 0; c < box_cols; c++) {
      const bool inside = y + r >= 0 && y + r < kRows && x + c >= 0 && x + c < kCols;
      int at = r * box_cols * 2 + c * 2;
      if (swizzle == CU_TENSOR_MAP_SWIZZLE_128B) at = r * 128 + ((c / 8) ^ (r & 7)) * 16 + c % 8 * 2;
      if (host[size_t(at / 2)] != (inside ? values[size_t((y + r) * kCols + x + c)] : 0)) return false;
    }
  }
  return true;
}

// Two warps store slabs of 16 x 64 numbers by the copy engine, through one place in shared memory: `kWait`, or the next values overwrite
// what has not been read.
template <bool kWait>
static void store_slabs(CUtensorMap map, int slabs) {
  ESFT_SHARED(smem);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  unsigned char* slab = smem + warp * 2048;
  for (int i = 0; i < slabs; i++) {
    if (kWait && lane == 0) ptx::bulk_wait_read<0>();
    __syncwarp();
    for (int j = 0; j < 8; j += 2) {
      uint32_t r[4];
      for (int m = 0; m < 4; m++) {
        const uint32_t row = uint32_t(warp * 16 + m % 2 * 8 + lane / 4), column = uint32_t(i * 64 + (j + m / 2) * 8 + lane % 4 * 2);
        r[m] = (row * 1000 + column) | (row * 1000 + column + 1) << 16;
      }
      const int row = lane % 16, chunk = j + lane / 16;
      ptx::stmatrix_x4(slab + row * 128 + (chunk ^ (row & 7)) * 16, r);
    }
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      ptx::tma_store_2d(&map, slab, i * 64, warp * 16);
      ptx::bulk_commit();
    }
  }
  if (lane == 0) ptx::bulk_wait_read<0>();
}

// Of 29 x 232 numbers, so that the last boxes hang over: what lies outside stays.
template <bool kWait>
static bool stores() {
  constexpr int kRows = 29, kCols = 232;
  Buffer<uint16_t> out(std::vector<uint16_t>(size_t(kRows * kCols + 64), 7));
  const CUtensorMap map = matrix_map(out.device, kRows, kCols, 16, 64, CU_TENSOR_MAP_SWIZZLE_128B);
  run("store_slabs", dim3(1), dim3(64), 4096, [=] { store_slabs<kWait>(map, 4); });
  const auto host = out.host();
  bool right = true;
  for (int i = 0; i < kRows * kCols + 64; i++)
    right &= host[size_t(i)] == (i < kRows * kCols ? uint16_t(i / kCols * 1000 + i % kCols) : 7);
  return right;
}

void test_copies() {
  bool groups = true, ringed = true, swizzled = true, plain = true, filled = true;
  for (const char* schedule : kSchedules) {
    set_schedule(schedule);
    std::vector<uint32_t> values(3 * 256);
    for (size_t i = 0; i < values.size(); i++) values[i] = uint32_t(i * 2654435761u);
    {
      Buffer<uint32_t> in(values), out(values.size());
      run("copy_groups", dim3(2), dim3(64), 3072, [p = in.device, q = out.device] { copy_groups(p, q); });
      const auto host = out.host();
      for (int i = 0; i < 768; i++) {
        const int from = i / 256 * 256 + 255 - i % 256;
        groups &= host[size_t(i)] == (from / 4 % 2 == 0 ? values[size_t(from)] : 0);
      }
    }
    {
      Buffer<uint32_t> in(values), out(size_t(64));
      run("ring", dim3(1), dim3(96), 2048, [p = in.device, q = out.device] { ring(p, q, 6); });
      const auto host = out.host();
      for (int t = 0; t < 64; t++) {
        uint32_t sum = 0;
        for (int k = 0; k < 6; k++) sum = sum * 31 + values[size_t(k * 128 + t)] + values[size_t(k * 128 + 127 - t)];
        ringed &= host[size_t(t)] == sum;
      }
    }
    swizzled &= box_matches(0, 0, 32, 64, CU_TENSOR_MAP_SWIZZLE_128B) && box_matches(8, 5, 8, 64, CU_TENSOR_MAP_SWIZZLE_128B);
    plain &= box_matches(16, 3, 20, 40, CU_TENSOR_MAP_SWIZZLE_NONE);
    filled &= box_matches(64, 40, 32, 64, CU_TENSOR_MAP_SWIZZLE_128B) && box_matches(-5, -3, 16, 64, CU_TENSOR_MAP_SWIZZLE_128B) &&
              box_matches(0, 50, 8, 64, CU_TENSOR_MAP_SWIZZLE_128B) && box_matches(67, 49, 4, 16, CU_TENSOR_MAP_SWIZZLE_NONE);
  }
  bool stored = true;
  for (const char* schedule : kSchedules) {
    set_schedule(schedule);
    stored &= stores<true>();
  }
  set_schedule("late");
  const bool missing = stores<false>();
  check(stored, "stmatrix and TMA store, zero fill's counterpart at every edge");
  check(!missing, "caught: a TMA store's source overwritten before it was read (late)");
  check(groups, "cp.async groups, zero fill");
  check(ringed, "mbarrier phases: cp.async.mbarrier.arrive, full and empty ring");
  check(swizzled, "TMA box with 128-byte swizzle");
  check(plain, "TMA box without swizzle");
  check(filled, "TMA zero fill at every edge");
}

}  // namespace esft::emu::test
