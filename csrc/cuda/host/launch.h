// launch<kernel>(context, grid, block, shared bytes, arguments…): the one way a kernel is started, on the GPU and in emulation.
#pragma once
#include <atomic>

#include "context.h"
#include "early_start.cuh"

#if defined(ESFT_EMU)
#include "emu.h"
#endif

namespace esft::cuda {

template <class T>
struct Identity {
  using type = T;
};

#if defined(ESFT_CUDA_DEBUG) && !defined(ESFT_EMU)
static inline size_t with_debug(size_t shared) { return (shared + 7) / 8 * 8 + kDebugBytes; }
// Once per device and source file, whose kernels have a copy of their own: where they record waits without end.
static inline void set_wait_record(Context& context) {
  static std::atomic<bool> done[64];
  if (done[context.ordinal % 64].exchange(true)) return;
  check_cuda(cudaMemcpyToSymbol(ptx::wait_record, &context.faults, sizeof context.faults), "debug");
}
#else
static inline size_t with_debug(size_t shared) { return shared; }
#endif

// More than 48 KB of shared memory must be asked for, per kernel and device.
template <auto kKernel>
void allow_shared(const char* name, Context& context, size_t shared) {
  constexpr size_t kFree = 48 * 1024;
  static std::atomic<size_t> asked[64];
  std::atomic<size_t>& allowed = asked[context.ordinal % 64];
  if (shared <= kFree || shared <= allowed) return;
  const void* const kernel = reinterpret_cast<const void*>(kKernel);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)), name);
  allowed = shared;
}

struct LaunchConfig {
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config;
  LaunchConfig(int cluster, bool early, Context& context, dim3 grid, int block, size_t shared)
      : config{grid, dim3(unsigned(block)), shared, context.stream, attributes, 0} {
    if (cluster > 1) {
      cudaLaunchAttribute& a = attributes[config.numAttrs++];
      a.id = cudaLaunchAttributeClusterDimension;
      a.val.clusterDim.x = unsigned(cluster);
      a.val.clusterDim.y = a.val.clusterDim.z = 1;
    }
    if (early) {
      cudaLaunchAttribute& a = attributes[config.numAttrs++];
      a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      a.val.programmaticStreamSerializationAllowed = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
};

// Clusters that run at the same time, 0 where none fits: fewer than the multiprocessors would hold where one of their groups (GPC) has an
// odd number, or where others use the GPU. A persistent grid of more would end with a round of latecomers.
template <auto kKernel>
int active_clusters(const char* name, int cluster, Context& context, int block, size_t shared) {
  shared = with_debug(shared);
  static std::atomic<int64_t> known[64];  // shared << 32 | answer + 1
  std::atomic<int64_t>& last = known[context.ordinal % 64];
  const int64_t seen = last;
  if (seen >> 32 == int64_t(shared) && (seen & 0xffffffff)) return int(seen & 0xffffffff) - 1;
  allow_shared<kKernel>(name, context, shared);
  const LaunchConfig launch(cluster, false, context, dim3(unsigned(cluster)), block, shared);
  int clusters = 0;
  check_cuda(cudaOccupancyMaxActiveClusters(&clusters, reinterpret_cast<const void*>(kKernel), &launch.config), name);
  last = int64_t(shared) << 32 | (clusters + 1);
  return clusters;
}

#if defined(ESFT_EMU)
template <class Kernel>
void launch_emulated(const char* name, int cluster, bool early, Context& context, dim3 grid, int block, size_t shared,
                     Kernel kernel) {
  const auto hung = [record = context.faults](const emu::Hang& h) {
    *record = {kHungWait, h.op, h.barrier, h.thread, h.cta, h.at, h.parity};
  };
  emu::launch(context.stream, name, grid, dim3(block), shared, kernel, cluster, hung, early);
}
#else
template <auto kKernel>
void launch_pointers(const char* name, int cluster, bool early, Context& context, dim3 grid, int block, size_t shared,
                     void** pointers) {
#if defined(ESFT_CUDA_DEBUG)
  set_wait_record(context);
#endif
  shared = with_debug(shared);
  allow_shared<kKernel>(name, context, shared);
  const LaunchConfig launch(cluster, early, context, grid, block, shared);
  check_cuda(cudaLaunchKernelExC(&launch.config, reinterpret_cast<const void*>(kKernel), pointers), name);
}
#endif

template <auto kKernel, class... P>
void launch_typed(void (*)(P...), const char* name, int cluster, Context& context, dim3 grid, int block, size_t shared,
                  typename Identity<P>::type... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(ESFT_EMU)
  launch_emulated(name, cluster, false, context, grid, block, shared, [=] { kKernel(args...); });
#else
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))..., nullptr};
  launch_pointers<kKernel>(name, cluster, false, context, grid, block, shared, pointers);
#endif
}

// A kernel that waits for those before it by itself.
template <auto kKernel, class... P>
void launch_typed(void (*)(EarlyStart, P...), const char* name, int cluster, Context& context, dim3 grid, int block, size_t shared,
                  typename Identity<P>::type... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(ESFT_EMU)
  launch_emulated(name, cluster, context.early_start, context, grid, block, shared, [=] { kKernel(EarlyStart{}, args...); });
#else
  EarlyStart start;
  void* pointers[] = {&start, const_cast<void*>(static_cast<const void*>(&args))...};
  launch_pointers<kKernel>(name, cluster, context.early_start, context, grid, block, shared, pointers);
#endif
}

// Where a switch over the kernels that there are ends: none of them was meant. Such switches have no default (-Werror=switch).
[[noreturn]] inline void no_kernel(const char* of, int64_t number) {
  fail_status(ESFT_UNSUPPORTED, "launch", of, format("launch: there is no kernel for %s %lld", of, (long long)number));
}

// ESFT_LAUNCH((kernel<…>), context, grid, block, shared, args…)
#define ESFT_UNPAREN(...) __VA_ARGS__
#define ESFT_LAUNCH(kernel, context, grid, block, shared, ...)                                                         \
  ::esft::cuda::launch_typed<ESFT_UNPAREN kernel>(ESFT_UNPAREN kernel, #kernel, 1, context, grid, block, shared, __VA_ARGS__)
// The same for CTAs that wait for one another (ptx::turn_wait), but never for one that begins later.
#define ESFT_LAUNCH_TURNS(kernel, context, grid, block, shared, ...)                                                   \
  ::esft::cuda::launch_typed<ESFT_UNPAREN kernel>(ESFT_UNPAREN kernel, #kernel, 0, context, grid, block, shared, __VA_ARGS__)
// The same in clusters of `cluster` neighbouring CTAs (grid.x a multiple of it).
#define ESFT_LAUNCH_CLUSTER(kernel, cluster, context, grid, block, shared, ...)                                        \
  ::esft::cuda::launch_typed<ESFT_UNPAREN kernel>(ESFT_UNPAREN kernel, #kernel, cluster, context, grid, block, shared, __VA_ARGS__)

}  // namespace esft::cuda
