// The runtime API: memory, streams, events, graphs, tensor maps.
#include "harness.h"

namespace esft::emu::test {

static void add_one(int* x) { x[threadIdx.x] += 1; }

static void test_memory() {
  size_t before = 0, during = 0, total = 0;
  cudaMemGetInfo(&before, &total);
  void* p = nullptr;
  check(cudaMalloc(&p, 1000) == cudaSuccess && reinterpret_cast<uintptr_t>(p) % 16 == 0, "cudaMalloc: 16-byte aligned");
  cudaMemGetInfo(&during, &total);
  unsigned char bytes[1000];
  cudaMemcpy(bytes, p, 1000, cudaMemcpyDeviceToHost);
  check(before - during == 1000 && bytes[0] == 0xFF && bytes[999] == 0xFF, "fresh memory is counted and holds NaN");
  check(cudaMemcpy(p, bytes, 1001, cudaMemcpyHostToDevice) == cudaErrorInvalidValue &&
            cudaMemcpy(p, bytes, 10, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue &&
            cudaMemset(bytes, 0, 1) == cudaErrorInvalidValue,
        "copies outside an allocation or of the wrong kind are refused");
  check(cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess, "cudaGetLastError clears");
  check(cudaFree(p) == cudaSuccess && cudaFree(p) == cudaErrorInvalidValue, "a second cudaFree is refused");
  check(cudaMalloc(&p, size_t(1) << 50) == cudaErrorMemoryAllocation && p == nullptr, "out of memory");
  cudaGetLastError();
}

static void test_streams() {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  bool deferred = true, eager = true;
  for (const char* schedule : {"eager", "late"}) {
    set_schedule(schedule);
    Buffer<int> x(std::vector<int>(8, 5));
    int* pinned = nullptr;
    cudaMallocHost(&pinned, 32);
    memset(pinned, 0, 32);
    launch(stream, "add_one", dim3(1), dim3(8), 0, [p = x.device] { add_one(p); });
    cudaMemcpyAsync(pinned, x.device, 32, cudaMemcpyDeviceToHost, stream);
    (schedule[0] == 'l' ? deferred : eager) &= pinned[3] == (schedule[0] == 'l' ? 0 : 6);
    cudaStreamSynchronize(stream);
    deferred &= pinned[3] == 6;
    cudaFreeHost(pinned);
  }
  check(eager && deferred, "late: work of a stream happens when the host waits for it");

  cudaEvent_t start = nullptr, end = nullptr;
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  cudaEventRecord(start, stream);
  cudaEventRecord(end, stream);
  float ms = -1;
  check(cudaEventElapsedTime(&ms, start, end) == cudaErrorNotReady && cudaEventSynchronize(end) == cudaSuccess &&
            cudaEventElapsedTime(&ms, start, end) == cudaSuccess && ms >= 0,
        "events");
  cudaEventDestroy(start);
  cudaEventDestroy(end);

  Buffer<int> x(std::vector<int>(8, 0));
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  launch(stream, "add_one", dim3(1), dim3(8), 0, [p = x.device] { add_one(p); });
  void* p = nullptr;
  check(
      cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported && cudaMalloc(&p, 16) == cudaErrorStreamCaptureUnsupported,
      "no allocation, no waiting while a stream is captured");
  cudaGetLastError();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStreamEndCapture(stream, &graph);
  size_t nodes = 0;
  cudaGraphGetNodes(graph, nullptr, &nodes);
  cudaGraphInstantiate(&exec, graph);
  cudaGraphDestroy(graph);
  const bool idle = x.host()[7] == 0;
  for (int i = 0; i < 3; i++) cudaGraphLaunch(exec, stream);
  cudaStreamSynchronize(stream);
  check(idle && nodes == 1 && x.host()[7] == 3, "graphs: capture records, launches run");
  cudaGraphExecDestroy(exec);
  cudaStreamDestroy(stream);
  set_schedule("eager");
}

// Two streams, the second adding one to what the first one doubles ten times; and the same recorded.
static void test_interleaving() {
  cudaStream_t streams[2];
  cudaEvent_t event = nullptr;
  for (cudaStream_t& s : streams) cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  const auto submit = [&](int first, int* x, bool ordered) {
    for (int i = 0; i < 10; i++) launch(streams[first], "twice", dim3(1), dim3(8), 0, [x] { x[threadIdx.x] *= 2; });
    const auto order = [&](int before, int after) {
      cudaEventRecord(event, streams[before]);
      cudaStreamWaitEvent(streams[after], event);
    };
    if (ordered) order(first, 1 - first);
    launch(streams[1 - first], "add_one", dim3(1), dim3(8), 0, [x] { add_one(x); });
    if (ordered) order(1 - first, first);
  };
  bool right = true, recorded = true;
  int wrong[2] = {0, 0};
  for (const char* schedule : {"eager", "late", "random:1", "random:2", "random:3", "random:4"}) {
    set_schedule(schedule);
    for (int first = 0; first < 2; first++)
      for (bool ordered : {true, false}) {
        Buffer<int> x(std::vector<int>(8, 1));
        submit(first, x.device, ordered);
        for (cudaStream_t s : streams) cudaStreamSynchronize(s);
        if (ordered) right &= x.host()[5] == 1025;
        if (!ordered) wrong[first] += x.host()[5] != 1025;
      }
    Buffer<int> x(std::vector<int>(8, 1));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    cudaStreamBeginCapture(streams[0], cudaStreamCaptureModeRelaxed);
    submit(0, x.device, true);
    recorded &= cudaStreamEndCapture(streams[0], &graph) == cudaSuccess;
    cudaGraphInstantiate(&exec, graph);
    cudaGraphDestroy(graph);
    for (int i = 0; i < 2; i++) cudaGraphLaunch(exec, streams[1]);
    cudaStreamSynchronize(streams[1]);
    recorded &= x.host()[5] == 1025 * 1024 + 1;
    cudaGraphExecDestroy(exec);
  }
  check(right, "two streams ordered by events, under every schedule");
  check(wrong[0] > 0 && wrong[1] > 0, "without the event some schedule gives other values, whichever stream was to be first");
  check(recorded, "graphs of two streams keep their edges");
  set_schedule("eager");
  cudaGraph_t graph = nullptr;
  cudaStreamBeginCapture(streams[0], cudaStreamCaptureModeRelaxed);
  cudaEventRecord(event, streams[0]);
  cudaStreamWaitEvent(streams[1], event);
  Buffer<int> x(std::vector<int>(8, 1));
  launch(streams[1], "add_one", dim3(1), dim3(8), 0, [p = x.device] { add_one(p); });
  check(cudaStreamEndCapture(streams[0], &graph) == cudaErrorStreamCaptureUnjoined && graph == nullptr,
        "a recording whose streams do not meet again is refused");
  cudaGetLastError();
  cudaEventDestroy(event);
  for (cudaStream_t s : streams) cudaStreamDestroy(s);
}

static void test_maps() {
  Buffer<uint16_t> x(size_t(64 * 72));
  void* function = nullptr;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault);
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  const auto status = [&](int offset, uint64_t stride, uint32_t box_cols, uint32_t box_rows) {
    CUtensorMap map;
    const cuuint64_t dims[2] = {72, 64}, strides[1] = {stride};
    const cuuint32_t box[2] = {box_cols, box_rows}, steps[2] = {1, 1};
    return encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, x.device + offset, dims, strides, box, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  // The refusals' reasons go to stderr; they are wanted here.
  check(status(0, 144, 64, 64) == CUDA_SUCCESS, "a tensor map through the driver's entry point");
  check(status(1, 144, 64, 64) != CUDA_SUCCESS && status(0, 140, 64, 64) != CUDA_SUCCESS &&
            status(0, 144, 72, 64) != CUDA_SUCCESS && status(0, 144, 64, 257) != CUDA_SUCCESS,
        "tensor maps the driver refuses: base, stride, swizzled width, box");
}

void test_runtime() {
  set_schedule("eager");
  int count = 0;
  cudaDeviceProp properties;
  check(cudaGetDeviceCount(&count) == cudaSuccess && count == 1 && cudaGetDeviceProperties(&properties, 0) == cudaSuccess &&
            std::string(properties.name) == "emulated sm_90a" && cudaSetDevice(1) == cudaErrorInvalidDevice,
        "one device");
  cudaGetLastError();
  test_memory();
  test_streams();
  test_interleaving();
  test_maps();
}

}  // namespace esft::emu::test
