// launch<kernel>(context, grid, block, shared bytes, arguments…): the one way a kernel is started, on the GPU and in emulation.
#pragma once
#include <atomic>

#include "context.h"

#if defined(ESFT_EMU)
#include "emu.h"
#endif

namespace esft::cuda {

template <class T>
struct Identity {
  using type = T;
};

template <auto kKernel, class... P>
void launch_typed(void (*)(P...), const char* name, int cluster, Context& context, dim3 grid, int block, size_t shared,
                  typename Identity<P>::type... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(ESFT_EMU)
  emu::launch(context.stream, name, grid, dim3(block), shared, [=] { kKernel(args...); }, cluster);
#else
  // More than 48 KB must be asked for, per kernel and device.
  constexpr size_t kFree = 48 * 1024;
  static std::atomic<size_t> asked[64];
  std::atomic<size_t>& allowed = asked[context.ordinal % 64];
  if (shared > kFree && shared > allowed) {
    check_cuda(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kKernel), cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)),
        name);
    allowed = shared;
  }
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))..., nullptr};
  if (cluster == 1) {
    check_cuda(cudaLaunchKernel(reinterpret_cast<const void*>(kKernel), grid, dim3(block), pointers, shared, context.stream), name);
    return;
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(block);
  config.dynamicSmemBytes = shared;
  config.stream = context.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kKernel), pointers), name);
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
// The same in clusters of `cluster` neighbouring CTAs (grid.x a multiple of it).
#define ESFT_LAUNCH_CLUSTER(kernel, cluster, context, grid, block, shared, ...)                                        \
  ::esft::cuda::launch_typed<ESFT_UNPAREN kernel>(ESFT_UNPAREN kernel, #kernel, cluster, context, grid, block, shared, __VA_ARGS__)

}  // namespace esft::cuda
