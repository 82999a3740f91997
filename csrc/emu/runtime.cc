// The runtime API: devices, streams, events, copies, graphs. Streams of all kinds share one queue in the order of the calls, which
// is one of the orders CUDA allows. Work runs at once, or (schedule late, sometimes random) when the host waits for it.
#include <chrono>
#include <cstdlib>
#include <memory>

#include "machine.h"

using Work = std::function<void()>;

struct CUgraph_st {
  std::vector<Work> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<Work>> nodes;
};
struct CUstream_st {
  std::string schedule;  // of the environment when the stream was created
  bool capturing = false;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::vector<Work> captured;
};
struct CUevent_st {
  bool timed = true, recorded = false, done = true;
  std::chrono::steady_clock::time_point time;
};

namespace esft::emu {

static std::deque<Work> queue;
static cudaError_t last_error = cudaSuccess;
static int global_captures = 0;

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
bool any_capture() { return global_captures > 0; }

void run_all() {
  if (queue.empty()) return;
  DeviceMemoryOpen open;
  while (!queue.empty()) {
    Work work = std::move(queue.front());
    queue.pop_front();
    work();
  }
}

void enqueue(cudaStream_t stream, Work work) {
  std::lock_guard<std::recursive_mutex> lock(machine_mutex());
  if (stream != nullptr && stream->capturing) {
    stream->captured.push_back(std::move(work));
    return;
  }
  if (stream != nullptr) use_schedule(stream->schedule);
  queue.push_back(std::move(work));
  if (mode == Mode::kEager || (mode == Mode::kRandom && chance(50)) || queue.size() > 4096) run_all();
}

// A call that waits for the device: not while a stream is being captured.
static cudaError_t wait_for_all(cudaStream_t stream) {
  if (stream != nullptr && stream->capturing) return note(cudaErrorStreamCaptureUnsupported);
  if (any_capture()) return note(cudaErrorStreamCaptureUnsupported);
  run_all();
  return machine.trapped ? note(cudaErrorLaunchFailure) : cudaSuccess;
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
    if (const cudaError_t status = wait_for_all(stream)) return status;
    c.run();
    return cudaSuccess;
  }
  const bool capturing = stream != nullptr && stream->capturing;
  // Pageable host memory is read before the call returns, and written before it returns.
  if (!capturing && !from_device && !pinned_range(c.from, c.from_bytes())) {
    auto kept = std::make_shared<std::vector<unsigned char>>(c.from, c.from + c.from_bytes());
    c.from = kept->data();
    enqueue(stream, [c, kept] { c.run(); });
  } else {
    enqueue(stream, [c] { c.run(); });
  }
  if (!capturing && !to_device && !pinned_range(c.to, c.to_bytes())) run_all();
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
  return wait_for_all(nullptr);
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

// ---- streams, events ------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const char* const schedule = getenv("ESFT_EMU_SCHEDULE");
  *stream = new CUstream_st;
  (*stream)->schedule = schedule != nullptr && *schedule != 0 ? schedule : "eager";
  Lock lock(machine_mutex());
  use_schedule((*stream)->schedule);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(machine_mutex());
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  run_all();
  if (stream->capturing && stream->mode == cudaStreamCaptureModeGlobal) global_captures--;
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(machine_mutex());
  return wait_for_all(stream);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock(machine_mutex());
  if (stream != nullptr && stream->capturing) return note(cudaErrorStreamCaptureUnsupported);
  if (queue.empty()) return cudaSuccess;
  run_all();
  return cudaErrorNotReady;
}
// One queue in the order of calls: the stream is behind the event already.
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  return event != nullptr ? cudaSuccess : note(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  run_all();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  event->recorded = true;
  event->done = false;
  enqueue(stream, [event] {
    event->done = true;
    event->time = std::chrono::steady_clock::now();
  });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  return event->done ? cudaSuccess : wait_for_all(nullptr);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (event->done) return cudaSuccess;
  if (const cudaError_t status = wait_for_all(nullptr)) return status;
  return cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  Lock lock(machine_mutex());
  if (start == nullptr || end == nullptr || !start->timed || !end->timed || !start->recorded || !end->recorded) {
    return note(cudaErrorInvalidResourceHandle);
  }
  if (!start->done || !end->done) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

// ---- graphs ---------------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(machine_mutex());
  if (stream == nullptr) return note(cudaErrorStreamCaptureUnsupported);
  if (stream->capturing) return note(cudaErrorIllegalState);
  stream->capturing = true;
  stream->mode = mode;
  stream->captured.clear();
  if (mode != cudaStreamCaptureModeRelaxed) global_captures++;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(machine_mutex());
  *graph = nullptr;
  if (stream == nullptr || !stream->capturing) return note(cudaErrorIllegalState);
  stream->capturing = false;
  if (stream->mode != cudaStreamCaptureModeRelaxed) global_captures--;
  *graph = new CUgraph_st{std::move(stream->captured)};
  stream->captured.clear();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(machine_mutex());
  *status = stream != nullptr && stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (graph == nullptr) return note(cudaErrorInvalidValue);
  *exec = new CUgraphExec_st{std::make_shared<const std::vector<Work>>(graph->nodes)};
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t) {
  return exec != nullptr ? cudaSuccess : note(cudaErrorInvalidValue);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (exec == nullptr) return note(cudaErrorInvalidValue);
  enqueue(stream, [nodes = exec->nodes] {
    for (const Work& work : *nodes) work();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (graph == nullptr || nodes != nullptr) return note(cudaErrorInvalidValue);
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return graph != nullptr ? cudaSuccess : note(cudaErrorInvalidValue);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return exec != nullptr ? cudaSuccess : note(cudaErrorInvalidValue);
}

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
