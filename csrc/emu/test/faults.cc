// Planted faults that end in a report.
#include "harness.h"

namespace esft::emu::test {

namespace ptx = cuda::ptx;

static void fault(const char* name, const char* text, int threads, size_t shared, std::function<void()> kernel) {
  expect_fault(name, text, [&] { run("planted", dim3(1), dim3(unsigned(threads)), shared, kernel); });
}

// A kernel that begins before those before it have ended: what it does before its wait, and without one.
static void early(std::function<void()> kernel) {
  launch(nullptr, "planted", dim3(2), dim3(64), 1024, std::move(kernel), 1, nullptr, true);
  cudaDeviceSynchronize();
}
static void test_early_start() {
  Buffer<float> x(std::vector<float>(64, 1.f));
  float* p = x.device;
  for (const char* schedule : {"eager", "late", "random:1", "random:2", "random:3", "random:4"}) {
    set_schedule(schedule);
    early([p] {
      ESFT_SHARED(smem);
      auto* row = reinterpret_cast<float*>(smem);
      row[threadIdx.x] = 2.f;
      __syncthreads();
      if (threadIdx.x >= 32) ptx::dependency_wait();
      if (threadIdx.x < 32) ptx::dependency_wait();
      if (blockIdx.x == 1) p[threadIdx.x] += row[63 - threadIdx.x];
    });
  }
  check(x.host()[5] == 13.f, "a kernel that begins early waits, and then sees device memory");
  const auto planted = [&](const char* name, const char* text, const char* schedule, std::function<void()> kernel) {
    expect_fault(name, text, [&] {
      set_schedule(schedule);
      for (int i = 0; i < 16; i++) early(kernel);
    });
  };
  for (const char* schedule : {"late", "random:1"}) {
    planted("read before the wait", "read of global memory before the wait for the kernels before this one", schedule, [p] {
      const float value = threadIdx.x == 40 ? p[0] : 0.f;
      ptx::dependency_wait();
      if (value > 100.f) p[1] = value;
    });
    planted("write before the wait", "write of global memory before the wait", schedule, [p] {
      if (threadIdx.x == 3) p[0] = 5.f;
      ptx::dependency_wait();
    });
  }
  for (const char* schedule : {"eager", "late", "random:1"}) {
    planted("no wait", "thread 7: the thread ended without its wait", schedule, [] {
      if (threadIdx.x != 7) ptx::dependency_wait();
    });
    planted("cp.async before the wait", "cp.async before the wait", schedule, [p] {
      ESFT_SHARED(smem);
      ptx::cp_async_16(smem + threadIdx.x * 16 % 1024, p, true);
      ptx::dependency_wait();
    });
  }
  set_schedule("eager");
}

static void test_memory_faults() {
  Buffer<float> x(size_t(100));
  float* p = x.device;
  fault("global read behind an allocation", "read of global memory 0 bytes behind the allocation of 400 bytes", 32, 0, [p] {
    if (threadIdx.x == 3) p[0] = p[100];
  });
  fault("global write behind an allocation", "thread 3: write of global memory 24 bytes behind", 32, 0, [p] {
    if (threadIdx.x == 3) p[106] = 1.f;
  });
  expect_fault("write into the last bytes of the 16-byte rounding",
               "global memory written 3 bytes behind the allocation of 1 bytes", [] {
                 char* odd = nullptr;
                 cudaMalloc(&odd, 1);
                 run("planted", dim3(1), dim3(1), 0, [odd] { odd[4] = 0; });
                 cudaFree(odd);
               });
  expect_fault("use after cudaFree", "into the freed allocation of 64 bytes", [] {
    int* freed = nullptr;
    cudaMalloc(&freed, 64);
    cudaFree(freed);
    run("planted", dim3(1), dim3(1), 0, [freed] { freed[2] = 1; });
  });
  expect_fault("host code that reads device memory", "host code: read of device memory, 8 bytes into the allocation of 400 bytes",
               [p] {
                 set_schedule("late");
                 run("innocent", dim3(1), dim3(1), 0, [p] { p[2] = 1.f; });
                 volatile float value = p[2];
                 (void)value;
               });
  fault("cp.async behind an allocation", "cp.async: 16 bytes at", 32, 1024, [p] {
    ESFT_SHARED(smem);
    ptx::cp_async_16(smem, p + 100, true);
  });
  fault("misaligned cp.async", "is not 16-byte aligned", 32, 1024, [p] {
    ESFT_SHARED(smem);
    ptx::cp_async_16(smem, p + 1, true);
  });
  fault("shared write behind the block", "write at shared offset 2048, outside the block of 2048 bytes", 32, 2048, [] {
    ESFT_SHARED(smem);
    smem[2048] = 1;
  });
  fault("shared write just behind a block that ends inside a page",
        "shared memory written behind the block of 100 bytes, at offset 101", 32, 100, [] {
          ESFT_SHARED(smem);
          smem[101] = 1;
        });
  fault("shared write before the block", "shared memory written before", 32, 100, [] {
    ESFT_SHARED(smem);
    *(smem - 8) = 1;
  });
  fault("misaligned ldmatrix", "ldmatrix: shared offset 8 is not 16-byte aligned", 32, 1024, [] {
    ESFT_SHARED(smem);
    uint32_t r[4];
    ptx::ldmatrix_x4(r, smem + 8);
  });
  fault("misaligned vector load", "thread 5: misaligned access", 32, 0, [p] {
    if (threadIdx.x == 5) p[0] = reinterpret_cast<const float2*>(p + 1)->x;
  });
  fault("index outside a local array", "an index outside its array", 32, 0, [p] {
    float values[4] = {};
    values[threadIdx.x] = p[threadIdx.x];
    p[0] = values[0];
  });
  fault("stack overflow", "stack overflow", 1, 0, [] {
    volatile char big[140000];
    for (volatile char& c : big) c = 1;
  });
  fault("too much shared memory", "launched with 240000 bytes of shared memory", 32, 240000, [] {});
}

static void test_meeting_faults() {
  fault("deadlock, and where each warp waits",
        "deadlock, no thread can run and nothing is in flight:\n  warp 0, threads 0..31: wait at __syncthreads (32 of 64 threads "
        "arrived)\n"
        "  warp 1, threads 32..63: wait for parity 0 of mbarrier at shared offset 0 (its phase has parity 0, 1 of 1 arrivals and 0 "
        "bytes missing)",
        64, 64, [] {
          ESFT_SHARED(smem);
          auto* bar = reinterpret_cast<uint64_t*>(smem);
          if (threadIdx.x == 32) ptx::mbar_init(bar, 1);
          if (threadIdx.x < 32) return __syncthreads();
          __syncwarp();
          ptx::mbar_wait(bar, 0);
        });
  fault("named barrier with different counts", "named barrier 1 used with 64 threads while 32 threads wait for 96", 96, 0,
        [] { ptx::named_barrier_sync(1, threadIdx.x < 32 ? 96 : 64); });
  fault("lanes that diverge at a shuffle", "warp 0 diverged: this lane is at __syncwarp, lanes 0x0000ffff are at __shfl_xor_sync",
        32, 0, [] {
          if (threadIdx.x < 16) {
            __shfl_xor_sync(~0u, 1, 1);
          } else {
            __syncwarp();
          }
        });
  fault("a lane that left before a shuffle", "threads 1..31: wait for their warp at __shfl_down_sync", 32, 0, [] {
    if (threadIdx.x == 0) return;
    __shfl_down_sync(~0u, 1.f, 1);
  });
  fault("barrier left half full", "ended with 32 of 64 threads arrived at named barrier 3", 64, 0, [] {
    if (threadIdx.x < 32) ptx::named_barrier_arrive(3, 64);
  });
  fault("one arrival too many on an mbarrier", "arrival with none pending", 32, 64, [] {
    ESFT_SHARED(smem);
    auto* bar = reinterpret_cast<uint64_t*>(smem);
    if (threadIdx.x == 0) {
      ptx::mbar_init(bar, 2);
      ptx::mbar_arrive_expect_tx(bar, 16);
    }
    __syncwarp();
    if (threadIdx.x < 3) ptx::mbar_arrive(bar);
  });
  fault("mbarrier initialised twice", "holds an mbarrier in use", 32, 64, [] {
    ESFT_SHARED(smem);
    ptx::mbar_init(reinterpret_cast<uint64_t*>(smem), 1);
  });
  fault("mbarrier never initialised", "holds no initialised mbarrier", 32, 64, [] {
    ESFT_SHARED(smem);
    ptx::mbar_wait(reinterpret_cast<uint64_t*>(smem), 0);
  });
}

static void test_async_faults() {
  Buffer<uint16_t> x(random_bf16(64 * 64, 1));
  const CUtensorMap map = matrix_map(x.device, 64, 64, 64, 64, CU_TENSOR_MAP_SWIZZLE_128B);
  const auto load = [map](int offset) {
    ESFT_SHARED(smem);
    auto* bar = reinterpret_cast<uint64_t*>(smem + 16384);
    if (threadIdx.x != 0) return;
    ptx::mbar_init(bar, 1);
    ptx::mbar_arrive_expect_tx(bar, 8192);
    ptx::tma_load_2d(smem + offset, &map, bar, 0, 0);
  };
  fault("TMA into a slab that is not 1024-byte aligned", "TMA load: shared offset 512 is not 1024-byte aligned", 32, 17000,
        [load] { load(512); });
  fault("TMA behind the shared block", "TMA load: 8192 bytes at shared offset 16384, outside", 32, 17000, [load] { load(16384); });
  expect_fault("CTA that ends before its TMA store was read", "ended while a bulk copy reads", [] {
    set_schedule("late");
    Buffer<uint16_t> out(size_t(16 * 64));
    const CUtensorMap map = matrix_map(out.device, 16, 64, 16, 64, CU_TENSOR_MAP_SWIZZLE_128B);
    run("store", dim3(1), dim3(32), 2048, [=] {
      ESFT_SHARED(smem);
      if (threadIdx.x == 0) {
        cuda::ptx::tma_store_2d(&map, smem, 0, 0);
        cuda::ptx::bulk_commit();
      }
    });
  });
  expect_fault("CTA that ends before its TMA load", "ended with a TMA load in flight", [load] {
    set_schedule("late");
    run("planted", dim3(1), dim3(32), 17000, [load] { load(0); });
  });
  fault("tensor map that was never encoded", "no tensor map at", 32, 17000, [] {
    CUtensorMap blank{};
    ptx::tma_prefetch_map(&blank);
  });

  const auto multiply = [](uint64_t a, uint64_t b, bool fence, bool commit) {
    float acc[32] = {};
    if (fence) ptx::wgmma_fence();
    ptx::wgmma<64, 0, 0>(acc, a, b, false);
    if (commit) ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
  };
  const auto desc = [](int offset) {
    ESFT_SHARED(smem);
    return ptx::smem_desc(smem + offset, 16, 1024);
  };
  fault("wgmma without a fence", "no wgmma_fence", 128, 16384, [=] { multiply(desc(0), desc(8192), false, true); });
  fault("wgmma without a commit", "ended with wgmma products in flight", 128, 16384,
        [=] { multiply(desc(0), desc(8192), true, false); });
  fault("wgmma operand behind the shared block", "wgmma: B reads shared offset 16384", 128, 16384,
        [=] { multiply(desc(0), desc(9216), true, true); });
  fault("wgmma descriptor without swizzle", "has layout 0", 128, 16384,
        [=] { multiply(desc(0) & ~(uint64_t(1) << 62), desc(8192), true, true); });
  fault("wgmma descriptors that differ in a warpgroup", "give different shapes, descriptors or scale", 128, 16384,
        [=] { multiply(desc(threadIdx.x == 77 ? 1024 : 0), desc(8192), true, true); });
  fault("warpgroup that diverges", "warpgroup 0 diverged", 128, 16384, [=] {
    if (threadIdx.x < 64) return ptx::wgmma_wait<0>();
    multiply(desc(0), desc(8192), true, true);
  });
  fault("more registers than there are", "setmaxnreg: the warpgroups ask for 69632 registers", 384, 0, [] {
    if (threadIdx.x < 256) {
      ptx::setmaxnreg_inc<248>();
    } else {
      ptx::setmaxnreg_dec<48>();
    }
  });
}

void test_faults() {
  test_early_start();
  set_schedule("eager");
  test_memory_faults();
  test_meeting_faults();
  test_async_faults();
}

}  // namespace esft::emu::test
