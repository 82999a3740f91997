#include "device.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "../../core/check.h"
#include "../fault.h"
#include "tensor_map.h"

namespace esft::cuda {

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  if (status == cudaErrorMemoryAllocation)
    fail_status(ESFT_NO_MEMORY, what, "memory", format("%s: the GPU has no memory left", what));
  // What a stream that is being captured refuses: the recording ends, the device goes on.
  if (status >= cudaErrorStreamCaptureUnsupported && status <= cudaErrorStreamCaptureWrongThread)
    fail_status(
        ESFT_UNSUPPORTED, what, "recording",
        format("capture: %s: CUDA error %d (%s): %s", what, int(status), cudaGetErrorName(status), cudaGetErrorString(status)));
  fail_status(ESFT_DEVICE_FAULT, what, "device",
              format("%s: CUDA error %d (%s): %s; CUDA does not recover from this: start the process again", what, int(status),
                     cudaGetErrorName(status), cudaGetErrorString(status)));
}

namespace {

// Error 35 means "no driver" and "old driver" alike; only the driver library itself can tell.
std::string no_driver_reason() {
#if !defined(ESFT_EMU)
  if (void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {
    int version = 0, runtime = 0;
    auto get = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
    cudaRuntimeGetVersion(&runtime);
    if (get && get(&version) == 0 && version > 0)
      return format("the NVIDIA driver supports CUDA %d.%d, this library needs CUDA %d.%d: update the driver", version / 1000,
                    version % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }
#endif
  return "no NVIDIA driver on this machine (libcuda.so.1 not found)";
}

void require_devices(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  const auto refuse = [](const std::string& reason) { fail_status(ESFT_DEVICE_FAULT, "open", "driver", "CUDA: " + reason); };
  if (status == cudaErrorInsufficientDriver) refuse(no_driver_reason());
  if (status == cudaErrorStubLibrary) refuse("libcuda.so.1 is a stub library, not a driver; remove it from the library path");
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) refuse("a driver, but no GPU is visible");
  if (status != cudaSuccess) refuse(format("the driver answers %s (%s)", cudaGetErrorName(status), cudaGetErrorString(status)));
  if (index < 0 || index >= count)
    fail_status(ESFT_BAD_ARGUMENT, "open", "index", format("CUDA: device %d does not exist; there are %d", index, count));
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, index), "open");
  return value;
}

}  // namespace

CudaDevice::CudaDevice(int index) {
  require_devices(index);
  ordinal = index;
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, index), "open");
  name_ = properties.name;
  total_bytes_ = properties.totalGlobalMem;
  major_ = attribute(cudaDevAttrComputeCapabilityMajor, index);
  minor_ = attribute(cudaDevAttrComputeCapabilityMinor, index);
  if (major_ < 8)
    fail_status(
        ESFT_UNSUPPORTED, "open", "device",
        format("CUDA: %s has compute capability %d.%d; there are kernels for 8.0 and newer", name_.c_str(), major_, minor_));
  sms = attribute(cudaDevAttrMultiProcessorCount, index);
  shared_limit = size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  const char* path = getenv("ESFT_CUDA_PATH");
  if (path && *path && strcmp(path, "portable") != 0 && strcmp(path, "sm90") != 0)
    fail("open", "ESFT_CUDA_PATH", "\"portable\" or \"sm90\"", path);
  // A newer GPU has no wgmma: it takes the portable kernels, which its driver compiles from PTX.
  hopper = major_ == 9 && minor_ == 0 && !(path && strcmp(path, "portable") == 0);
  hopper_only = path && strcmp(path, "sm90") == 0;
  // Only the code of sm_90a has the waits: other GPUs run that of sm_80.
  const char* early = getenv("ESFT_CUDA_PDL");
  if (early && *early && strcmp(early, "0") != 0 && strcmp(early, "1") != 0) fail("open", "ESFT_CUDA_PDL", "0 or 1", early);
  early_start = major_ == 9 && minor_ == 0 && !(early && *early == '0');
  const char* clusters = getenv("ESFT_CUDA_CLUSTER");
  if (clusters && *clusters && strcmp(clusters, "1") != 0 && strcmp(clusters, "2") != 0)
    fail("open", "ESFT_CUDA_CLUSTER", "1 or 2", clusters);
  cluster = clusters && *clusters == '1' ? 1 : 2;
  const char* forward = getenv("ESFT_CUDA_ATTENTION_FORWARD");
  if (forward && *forward && strcmp(forward, "persistent") != 0 && strcmp(forward, "tiles") != 0)
    fail("open", "ESFT_CUDA_ATTENTION_FORWARD", "\"persistent\" or \"tiles\"", forward);
  attention_persistent = !(forward && *forward == 't');
  const char* backward = getenv("ESFT_CUDA_ATTENTION_BACKWARD");
  if (backward && *backward && strcmp(backward, "one") != 0 && strcmp(backward, "two") != 0)
    fail("open", "ESFT_CUDA_ATTENTION_BACKWARD", "\"one\" or \"two\"", backward);
  attention_one_pass = !(backward && *backward == 't');
  const char* tiles = getenv("ESFT_CUDA_TILES");
  if (tiles && *tiles && strcmp(tiles, "auto") != 0 && strcmp(tiles, "wide") != 0)
    fail("open", "ESFT_CUDA_TILES", "auto or wide", tiles);
  shaped_tiles = !(tiles && strcmp(tiles, "wide") == 0);
  const char* stores = getenv("ESFT_CUDA_STORE");
  if (stores && *stores && strcmp(stores, "tma") != 0 && strcmp(stores, "rows") != 0)
    fail("open", "ESFT_CUDA_STORE", "tma or rows", stores);
  tma_stores = !(stores && strcmp(stores, "rows") == 0);
  use();
  lanes_.reserve(kMaxStreams);  // its beginning stays where it is, for other threads
  add_lane();
  use_stream(0);
#if defined(ESFT_EMU)
  const bool caching = getenv("ESFT_CUDA_CACHE") != nullptr;
#else
  const bool caching = true;
#endif
  allocator_ = std::make_unique<CachingAllocator>(
      [](size_t bytes) -> void* {
        void* p = nullptr;
        if (cudaMalloc(&p, bytes) == cudaSuccess) return p;
        cudaGetLastError();  // not sticky: the caller reports it
        return nullptr;
      },
      [](void* p) { cudaFree(p); }, caching);
  // Zero-copy memory: kernels write it only when something is wrong, and reading it after a wait costs no transfer.
  check_cuda(cudaMallocHost(reinterpret_cast<void**>(&fault_host_), sizeof(FaultRecord)), "open");
  memset(fault_host_, 0, sizeof *fault_host_);
  faults = fault_host_;  // unified addressing: the same address on the device
}

CudaDevice::~CudaDevice() {
  cudaSetDevice(ordinal);
  for (const auto& lane : lanes_) cudaStreamSynchronize(lane->stream);
  for (void* p : constant_blocks_) cudaFree(p);
  if (fault_host_) cudaFreeHost(fault_host_);
  allocator_.reset();
  lanes_.clear();
}

void CudaDevice::use() const { check_cuda(cudaSetDevice(ordinal), "device"); }

void CudaDevice::info(esft_device_info* out) const {
  memset(out, 0, sizeof *out);
  snprintf(out->name, sizeof out->name, "%s", name_.c_str());
  snprintf(out->instruction_set, sizeof out->instruction_set, "sm_%d%d%s", major_, minor_, hopper ? "a" : "");
  out->threads = sms;
  out->memory_bytes = int64_t(total_bytes_);
  size_t free_bytes = 0, total = 0;
  if (cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) out->memory_free = int64_t(free_bytes + allocator_->cached());
  out->supports_bf16_compute = 1;
  out->activation_dtype = ESFT_BF16;
#if defined(ESFT_EMU)
  out->emulated = 1;
#endif
}

void CudaDevice::refuse_while_recording(const char* what) const {
  if (recording_)
    fail_status(ESFT_UNSUPPORTED, "capture", what,
                format("capture: %s is not possible while a graph is recorded; run the same ops once before recording", what));
}

// ---- streams ------------------------------------------------------------------------------------------------------------

CudaDevice::Lane::~Lane() {
  for (Block& b : scratch_blocks) cudaFree(b.data);
  for (Staging& s : staging) {
    if (s.busy) cudaEventDestroy(s.busy);
    if (s.data) cudaFreeHost(s.data);
  }
  if (mark) cudaEventDestroy(mark);
  if (stream) cudaStreamDestroy(stream);
}

void CudaDevice::add_lane() {
  auto lane = std::make_unique<Lane>();
  check_cuda(cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking), "stream");
  check_cuda(cudaEventCreateWithFlags(&lane->mark, cudaEventDisableTiming), "stream");
  for (Staging& s : lane->staging) {
    check_cuda(cudaMallocHost(reinterpret_cast<void**>(&s.data), kStagingBytes), "stream");
    check_cuda(cudaEventCreateWithFlags(&s.busy, cudaEventDisableTiming), "stream");
  }
  std::lock_guard<std::mutex> lock(lanes_mutex_);
  for (const auto& other : lanes_) order_locked(*other, *lane);  // tables and memory that it may use are there already
  lanes_.push_back(std::move(lane));
}

void CudaDevice::use_stream(int index) {
  const int count = int(lanes_.size());
  if (index < 0 || index > std::min(count, kMaxStreams - 1))
    fail("stream", "index",
         format("in 0..%d: there are %d streams, the next number makes one more, up to %d", std::min(count, kMaxStreams - 1), count,
                kMaxStreams),
         format("%d", index));
  if (index == count) {
    refuse_while_recording("a new stream");
    add_lane();
  }
  lane_ = lanes_[size_t(index)].get();
  stream = lane_->stream;
}

void CudaDevice::order(int before, int after) {
  const int count = int(lanes_.size());
  for (const int index : {before, after})
    if (index < 0 || index >= count)
      fail("stream", index == before ? "before" : "after", format("one of the %d streams that there are", count),
           format("%d", index));
  if (before == after) return;
  std::lock_guard<std::mutex> lock(lanes_mutex_);
  order_locked(*lanes_[size_t(before)], *lanes_[size_t(after)]);
}

void CudaDevice::order_locked(const Lane& before, const Lane& after) {
  check_cuda(cudaEventRecord(before.mark, before.stream), "stream");
  check_cuda(cudaStreamWaitEvent(after.stream, before.mark, 0), "stream");
}

void CudaDevice::meet() {
  std::lock_guard<std::mutex> lock(lanes_mutex_);
  for (size_t i = 1; i < lanes_.size(); i++) order_locked(*lanes_[i], *lanes_[0]);
  for (size_t i = 1; i < lanes_.size(); i++) order_locked(*lanes_[0], *lanes_[i]);
}

// ---- memory -------------------------------------------------------------------------------------------------------------

void* CudaDevice::allocate(size_t bytes) {
  refuse_while_recording("allocating memory");
  void* p = allocator_->allocate(bytes);
  if (!p) {
    size_t free_bytes = 0, total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    fail_status(ESFT_NO_MEMORY, "alloc", "bytes",
                format("cannot allocate %zu bytes on the GPU: %zu of %zu bytes are free", bytes, free_bytes, total));
  }
  // The block may be one that any stream was using when it was freed, and any may use it next.
  meet();
  check_cuda(cudaMemsetAsync(p, 0, bytes, lanes_[0]->stream), "alloc");
  meet();
  return p;
}

void CudaDevice::upload(void* dst, const void* src, size_t bytes) {
  refuse_while_recording("uploading");
  Lane& l = *lane_;
  for (size_t done = 0; done < bytes;) {
    if (l.staging_used == kStagingBytes) {
      check_cuda(cudaEventRecord(l.staging[l.staging_at].busy, l.stream), "upload");
      l.staging_at ^= 1;
      l.staging_used = 0;
      check_cuda(cudaEventSynchronize(l.staging[l.staging_at].busy), "upload");  // filled two chunks ago
    }
    const size_t n = std::min(bytes - done, kStagingBytes - l.staging_used);
    char* chunk = l.staging[l.staging_at].data + l.staging_used;
    memcpy(chunk, static_cast<const char*>(src) + done, n);
    check_cuda(cudaMemcpyAsync(static_cast<char*>(dst) + done, chunk, n, cudaMemcpyHostToDevice, l.stream), "upload");
    l.staging_used = std::min(kStagingBytes, (l.staging_used + n + 255) / 256 * 256);
    done += n;
  }
}

void CudaDevice::download(void* dst, const void* src, size_t bytes) {
  refuse_while_recording("reading a tensor");
  meet();
  check_cuda(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, stream), "download");
  synchronize();
}

void CudaDevice::synchronize() {
  refuse_while_recording("waiting");
  for (const auto& lane : lanes_) check_cuda(cudaStreamSynchronize(lane->stream), "synchronize");
  raise_fault();
}

void CudaDevice::raise_hang() {
  if (!fault_host_ || !ends_device(*fault_host_)) return;
  for (const auto& lane : lanes_) cudaStreamSynchronize(lane->stream);  // until the trap, so that the record is whole
  throw fault_error(*fault_host_);
}

void CudaDevice::raise_fault() {
  if (fault_host_->kind == kNoFault) return;
  const FaultRecord record = *fault_host_;
  memset(fault_host_, 0, sizeof *fault_host_);
  throw fault_error(record);
}

// Memory that lives as long as the device; what the allocator keeps for later goes first.
void* CudaDevice::take(size_t bytes, const char* what) {
  void* p = nullptr;
  cudaError_t status = cudaMalloc(&p, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    allocator_->release();
    status = cudaMalloc(&p, bytes);
  }
  check_cuda(status, what);
  return p;
}

// Blocks double in size, so an op of any size ends up in a few; a request never straddles two.
void* CudaDevice::scratch(size_t bytes) {
  Lane& l = *lane_;
  const size_t want = (std::max(bytes, size_t(1)) + 255) / 256 * 256;
  size_t start = 0;
  for (Block& b : l.scratch_blocks) {
    const size_t used = l.scratch_used > start ? std::min(l.scratch_used - start, b.bytes) : 0;
    if (b.bytes - used >= want) {
      l.scratch_used = start + used + want;
      return b.data + used;
    }
    start += b.bytes;
  }
  refuse_while_recording("taking new scratch memory");
  const size_t last = l.scratch_blocks.empty() ? 0 : l.scratch_blocks.back().bytes;
#if defined(ESFT_EMU)
  const size_t size = want;  // exact: an access past the end must fault
  (void)last;
#else
  const size_t size = std::max({want, 2 * last, size_t(16) << 20});
#endif
  void* p = take(size, "scratch");
  l.scratch_blocks.push_back({static_cast<char*>(p), size});
  l.scratch_used = start + want;
  return p;
}

const void* CudaDevice::constant(const void* host, size_t bytes) {
  std::string key(static_cast<const char*>(host), bytes);
  if (auto found = constants_.find(key); found != constants_.end()) return found->second;
  refuse_while_recording("uploading a table");
  // cudaMalloc takes longer than many kernels, so tables share blocks.
#if defined(ESFT_EMU)
  constexpr size_t kBlock = 16, kAlign = 16;  // apart: an access past the end must fault
#else
  constexpr size_t kBlock = size_t(1) << 20, kAlign = 256;
#endif
  const size_t want = (std::max(bytes, size_t(1)) + kAlign - 1) / kAlign * kAlign;
  if (constant_block_.bytes - constant_used_ < want || kBlock == 16) {
    const size_t size = std::max(want, kBlock);
    void* block = take(size, "constant");
    constant_blocks_.push_back(block);
    constant_block_ = {static_cast<char*>(block), size};
    constant_used_ = 0;
  }
  void* p = constant_block_.data + constant_used_;
  constant_used_ += want;
  upload(p, host, bytes);
  meet();
  constants_.emplace(std::move(key), p);
  return p;
}

const CUtensorMap* CudaDevice::tensor_maps(const esft_tensor* items, int64_t count, int box_rows) {
  std::string key(reinterpret_cast<const char*>(items), size_t(count) * sizeof(esft_tensor));
  key += std::to_string(box_rows);
  if (auto found = maps_.find(key); found != maps_.end()) return found->second;
  const size_t bytes = size_t(count) * sizeof(CUtensorMap);
  std::unique_ptr<CUtensorMap[]> maps(new CUtensorMap[size_t(count)]);
  memset(static_cast<void*>(maps.get()), 0, bytes);
  bool possible = true;
  for (int64_t i = 0; i < count && possible; i++)
    possible = numel(items[i]) == 0 || encode_stack_map(&maps[i], items[i], 1, 0, box_rows);
  const auto* device = possible ? static_cast<const CUtensorMap*>(constant(maps.get(), bytes)) : nullptr;
  maps_.emplace(std::move(key), device);
  return device;
}

// ---- graphs -------------------------------------------------------------------------------------------------------------

void CudaDevice::capture_begin() {
  refuse_while_recording("recording another graph");
  check_cuda(cudaStreamBeginCapture(lanes_[0]->stream, cudaStreamCaptureModeRelaxed), "capture");
  recording_ = true;
  for (size_t i = 1; i < lanes_.size(); i++) order(0, int(i));  // the others join the recording
}

cudaGraphExec_t CudaDevice::capture_end() {
  if (!recording_) fail_status(ESFT_BAD_ARGUMENT, "capture", "graph", "capture: no graph is being recorded");
  for (size_t i = 1; i < lanes_.size(); i++) order(int(i), 0);
  recording_ = false;
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(lanes_[0]->stream, &graph), "capture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "capture");
  return executable;
}

void CudaDevice::launch(cudaGraphExec_t graph) {
  refuse_while_recording("launching a graph");
  meet();  // it has the scratch of every stream
  check_cuda(cudaGraphLaunch(graph, lanes_[0]->stream), "graph");
  meet();
}

}  // namespace esft::cuda
