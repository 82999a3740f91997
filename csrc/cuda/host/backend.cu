// The Backend table of CUDA: the one symbol that libesft_cuda.so exports. No C++ exception crosses it.
#include "../../core/guarded.h"
#include "../../ops/checks.h"
#include "../../ops/fingerprint.h"
#include "device.h"

namespace esft::cuda {

namespace {

CudaDevice* cast(esft_device* d) { return reinterpret_cast<CudaDevice*>(d); }

// The call with this device as the thread's. Once a kernel has trapped, every call fails, and this error says why.
template <class F>
int on_device(esft_device* d, char* err, size_t n, F call) {
  return guarded(err, n, [&] {
    try {
      cast(d)->use();
      call();
    } catch (const Error& e) {
      if (e.status == ESFT_DEVICE_FAULT) cast(d)->raise_hang();
      throw;
    }
  });
}

// `threads` means nothing on a GPU.
int open_device(int32_t index, int32_t, esft_device** out, char* err, size_t n) {
  return guarded(err, n, [&] { *out = reinterpret_cast<esft_device*>(new CudaDevice(index)); });
}
void close_device(esft_device* d) { delete cast(d); }
int device_info(esft_device* d, esft_device_info* out, char* err, size_t n) {
  return on_device(d, err, n, [&] { cast(d)->info(out); });
}
int device_alloc(esft_device* d, size_t bytes, void** out, char* err, size_t n) {
  return on_device(d, err, n, [&] { *out = cast(d)->allocate(bytes); });
}
void device_free(esft_device* d, void* p, size_t) {
  char ignored[256];
  on_device(d, ignored, sizeof ignored, [&] { cast(d)->free(p); });
}
int device_upload(esft_device* d, void* dst, const void* src, size_t bytes, char* err, size_t n) {
  return on_device(d, err, n, [&] { cast(d)->upload(dst, src, bytes); });
}
int device_download(esft_device* d, void* dst, const void* src, size_t bytes, char* err, size_t n) {
  return on_device(d, err, n, [&] { cast(d)->download(dst, src, bytes); });
}
int device_synchronize(esft_device* d, char* err, size_t n) {
  return on_device(d, err, n, [&] { cast(d)->synchronize(); });
}
int capture_begin(esft_device* d, char* err, size_t n) {
  return on_device(d, err, n, [&] { cast(d)->capture_begin(); });
}
int capture_end(esft_device* d, esft_graph** out, char* err, size_t n) {
  return on_device(d, err, n, [&] { *out = reinterpret_cast<esft_graph*>(cast(d)->capture_end()); });
}
int graph_launch(esft_device* d, esft_graph* graph, char* err, size_t n) {
  return on_device(d, err, n, [&] { cast(d)->launch(reinterpret_cast<cudaGraphExec_t>(graph)); });
}
void graph_destroy(esft_device* d, esft_graph* graph) {
  char ignored[256];
  on_device(d, ignored, sizeof ignored, [] {});
  cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph));
}

int stream_use(esft_device* d, int32_t index, char* err, size_t n) {
  return on_device(d, err, n, [&] { cast(d)->use_stream(index); });
}
int stream_order(esft_device* d, int32_t before, int32_t after, char* err, size_t n) {
  return on_device(d, err, n, [&] { cast(d)->order(before, after); });
}

#define ESFT_RUN(op)                                                              \
  int cuda_run_##op(esft_device* d, const void* args, char* err, size_t n) {     \
    return on_device(d, err, n, [&] {                                             \
      const auto& a = *static_cast<const esft_##op##_args*>(args);               \
      check_##op(a);                                                              \
      cast(d)->begin_op();                                                        \
      run_##op(a, *cast(d));                                                      \
    });                                                                           \
  }
ESFT_OPS(ESFT_RUN)

const esft_run_fn kRun[ESFT_OP_COUNT] = {
#define ESFT_ENTRY(op) cuda_run_##op,
    ESFT_OPS(ESFT_ENTRY)
#undef ESFT_ENTRY
};

const esft_backend kCuda = {
    .abi = kAbi,
    .name = "cuda",
    .open = open_device,
    .close = close_device,
    .info = device_info,
    .alloc = device_alloc,
    .free = device_free,
    .upload = device_upload,
    .download = device_download,
    .synchronize = device_synchronize,
    .run = kRun,
    .capture_begin = capture_begin,
    .capture_end = capture_end,
    .graph_launch = graph_launch,
    .graph_destroy = graph_destroy,
    .stream_use = stream_use,
    .stream_order = stream_order,
};

}  // namespace

}  // namespace esft::cuda

extern "C" __attribute__((visibility("default"))) const esft_backend* esft_cuda_backend(void) { return &esft::cuda::kCuda; }
