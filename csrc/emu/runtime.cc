// The runtime API: devices, copies, attributes of functions. Work runs in the order of its stream (streams.cc), at once or
// (schedule late, sometimes random) when the host waits for it.
#include <cstdlib>
#include <memory>

#include "machine.h"

namespace esft::emu {

static cudaError_t last_error = cudaSuccess;

int env_int(const char* name, int fallback) {
  const char* text = getenv(name);
  return text != nullptr && *text != 0 ? atoi(text) : fallback;
}
int device_arch() {
  static const int arch = [] {
    const int wanted = env_int("ESFT_EMU_ARCH", 90);
    if (wanted != 80 && wanted != 90 && wanted != 100) {
      fprintf(stderr, "esft emulation: ESFT_EMU_ARCH must be 80, 90 or 100, received %d\n", wanted);
      exit(2);
    }
    return wanted;
  }();
  return arch;
}

int active_clusters() { return env_int("ESFT_EMU_CLUSTERS", env_int("ESFT_EMU_SMS", 3) / 2); }

cudaError_t note(cudaError_t status) {
  if (status != cudaSuccess && status != cudaErrorNotReady) last_error = status;
  return status;
}

struct Copy2d {
  unsigned char* to;
  const unsigned char* from;
  size_t to_pitch, from_pitch, width, height;
  size_t to_bytes() const { return height == 0 || width == 0 ? 0 : (height - 1) * to_pitch + width; }
  size_t from_bytes() const { return height == 0 || width == 0 ? 0 : (height - 1) * from_pitch + width; }
  void run() const {
    DeviceMemoryOpen open;
    for (size_t r = 0; r < height; r++) memmove(to + r * to_pitch, from + r * from_pitch, width);
  }
};

static cudaError_t copy(Copy2d c, cudaMemcpyKind kind, cudaStream_t stream, bool async) {
  std::lock_guard<std::recursive_mutex> lock(machine_mutex());
  if (c.to_bytes() == 0) return cudaSuccess;
  const bool to_device = device_range(c.to, c.to_bytes()), from_device = device_range(c.from, c.from_bytes());
  const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (to_device != wants_to || from_device != wants_from)) return note(cudaErrorInvalidValue);
  if (!async) {
    if (const cudaError_t status = wait_for_all()) return status;
    c.run();
    return cudaSuccess;
  }
  const bool recorded = capturing(stream);
  // Pageable host memory is read before the call returns, and written before it returns.
  if (!recorded && !from_device && !pinned_range(c.from, c.from_bytes())) {
    auto kept = std::make_shared<std::vector<unsigned char>>(c.from, c.from + c.from_bytes());
    c.from = kept->data();
    enqueue(stream, [c, kept] { c.run(); });
  } else {
    enqueue(stream, [c] { c.run(); });
  }
  if (!recorded && !to_device && !pinned_range(c.to, c.to_bytes())) return wait_for(stream);
  return cudaSuccess;
}

}  // namespace esft::emu

using namespace esft::emu;
using Lock = std::lock_guard<std::recursive_mutex>;

// ---- errors, devices ------------------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define ESFT_EMU_NAME(name, value, text) \
  case name: return #name;
    ESFT_EMU_ERRORS(ESFT_EMU_NAME)
#undef ESFT_EMU_NAME
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define ESFT_EMU_TEXT(name, value, text) \
  case name: return text;
    ESFT_EMU_ERRORS(ESFT_EMU_TEXT)
#undef ESFT_EMU_TEXT
  }
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = env_int("ESFT_EMU_DEVICES", 1);
  return *count > 0 ? cudaSuccess : note(cudaErrorNoDevice);
}
static thread_local int current_device = 0;
static bool has_device(int device) { return device >= 0 && device < env_int("ESFT_EMU_DEVICES", 1); }
cudaError_t cudaSetDevice(int device) {
  if (!has_device(device)) return note(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!has_device(device)) return note(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMultiProcessorCount: *value = env_int("ESFT_EMU_SMS", 3); break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    case cudaDevAttrComputeCapabilityMajor: *value = device_arch() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = device_arch() % 10; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = device_arch() >= 90 ? 233472 : 167936; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device_arch() >= 90 ? 232448 : 166912; break;
    default: return note(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (!has_device(device)) return note(cudaErrorInvalidDevice);
  *p = cudaDeviceProp{};
  const auto attribute = [&](cudaDeviceAttr a) {
    int value = 0;
    cudaDeviceGetAttribute(&value, a, device);
    return value;
  };
  snprintf(p->name, sizeof p->name, "emulated sm_%d%s", device_arch(), device_arch() == 90 ? "a" : "");
  size_t free = 0;
  cudaMemGetInfo(&free, &p->totalGlobalMem);
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  p->sharedMemPerMultiprocessor = size_t(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
  p->major = attribute(cudaDevAttrComputeCapabilityMajor);
  p->minor = attribute(cudaDevAttrComputeCapabilityMinor);
  p->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
  p->memoryBusWidth = 5120;
  p->pciBusID = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Lock lock(machine_mutex());
  return wait_for_all();
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// ---- copies ---------------------------------------------------------------------------------------------------------------

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return copy({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes, bytes, bytes, 1}, kind, nullptr,
              false);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes, bytes, bytes, 1}, kind, stream,
              true);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  if (height > 1 && (to_pitch < width || from_pitch < width)) return note(cudaErrorInvalidValue);
  return copy({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), to_pitch, from_pitch, width, height}, kind,
              stream, true);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Lock lock(machine_mutex());
  if (bytes == 0) return cudaSuccess;
  if (!device_range(to, bytes)) return note(cudaErrorInvalidValue);
  enqueue(stream, [=] {
    DeviceMemoryOpen open;
    memset(to, value, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return cudaMemsetAsync(to, value, bytes, nullptr); }

// ---- functions ------------------------------------------------------------------------------------------------------------

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (function == nullptr || value < 0) return note(cudaErrorInvalidValue);
  int limit = 0;
  cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, current_device);
  return attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value <= limit ? cudaSuccess : note(cudaErrorInvalidValue);
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function, const cudaLaunchConfig_t* config) {
  if (function == nullptr || config == nullptr || config->numAttrs != 1) return note(cudaErrorInvalidValue);
  *clusters = active_clusters();
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool known = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  if (result != nullptr) *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
