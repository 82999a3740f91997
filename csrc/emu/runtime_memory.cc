// The runtime API: memory (memory.cc) as the host asks for it.
#include "machine.h"

using namespace esft::emu;
using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  Lock lock(machine_mutex());
  *pointer = nullptr;
  if (any_capture()) return note(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  *pointer = take_device(bytes);
  return *pointer != nullptr ? cudaSuccess : note(cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  Lock lock(machine_mutex());
  run_all();
  return give_device(pointer) ? cudaSuccess : note(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Lock lock(machine_mutex());
  *total = device_bytes();
  *free = device_bytes() - device_bytes_in_use();
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  Lock lock(machine_mutex());
  *pointer = take_pinned(bytes);
  return *pointer != nullptr ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }
cudaError_t cudaFreeHost(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  Lock lock(machine_mutex());
  run_all();
  return give_pinned(pointer) ? cudaSuccess : note(cudaErrorInvalidValue);
}
