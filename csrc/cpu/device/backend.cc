// The Backend tables "cpu" and "ref": devices, the calls of the C ABI, and what the CPU's kernels refuse beyond the checks of ops.
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <system_error>
#include <vector>

#include "../../core/check.h"
#include "../../core/guarded.h"
#include "../../core/thread_pool.h"
#include "../../ops/checks.h"
#include "../../ops/fingerprint.h"
#include "../kernels.h"
#include "isa.h"
#include "memory.h"

namespace esft {

namespace {

struct CpuDevice final : cpu::Context {
  const cpu::Kernels* kernels;  // null for the reference device
  ThreadPool pool;
  std::vector<cpu::Scratch> per_worker;
  cpu::Scratch shared;
  CpuDevice(const cpu::Kernels* k, int threads) : kernels(k), pool(threads), per_worker(threads) {}
  int threads() const override { return pool.threads(); }
  void parallel_for(int64_t n, cpu::TaskFn fn, void* data) override { pool.parallel_for(n, fn, data); }
  void* worker_scratch(int worker, size_t bytes) override { return per_worker[worker].get(bytes); }
  void* shared_scratch(size_t bytes) override { return shared.get(bytes); }
};

CpuDevice* cast(esft_device* d) { return reinterpret_cast<CpuDevice*>(d); }

template <bool kReference>
int open_device(int32_t index, int32_t threads, esft_device** out, char* err, size_t n) {
  return guarded(err, n, [&] {
    if (index != 0) fail("open", "index", "0 (there is one CPU device)", std::to_string(index));
    if (threads < 0 || threads > 1024) fail("open", "threads", "in 1..1024, or 0 for one per processor", std::to_string(threads));
    int t = kReference ? 1 : threads > 0 ? threads : default_threads();
    try {
      *out = reinterpret_cast<esft_device*>(new CpuDevice(kReference ? nullptr : &cpu::choose_kernels(getenv("ESFT_ISA")), t));
    } catch (const std::system_error& e) {
      fail_status(ESFT_DEVICE_FAULT, "open", "threads", format("cannot start %d threads (%s); use fewer", t, e.what()));
    }
  });
}

void close_device(esft_device* d) { delete cast(d); }

int device_info(esft_device* d, esft_device_info* out, char* err, size_t n) {
  return guarded(err, n, [&] {
    memset(out, 0, sizeof *out);
    CpuDevice* device = cast(d);
    snprintf(out->instruction_set, sizeof out->instruction_set, "%s", device->kernels ? device->kernels->name : "reference");
    const std::string processor = cpu::processor_name();
    snprintf(out->name, sizeof out->name, "%s", !processor.empty() ? processor.c_str() : device->kernels ? "CPU" : "reference");
    out->threads = device->threads();
    out->host_memory = 1;
    out->memory_bytes = int64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    out->activation_dtype = ESFT_F32;
    out->supports_bf16_compute = device->kernels ? device->kernels->bf16_compute : 1;
  });
}

int device_alloc(esft_device*, size_t bytes, void** out, char* err, size_t n) {
  *out = cpu::allocate(bytes);
  if (*out) return ESFT_OK;
  snprintf(err, n, "cannot allocate %zu bytes of memory", bytes);
  return ESFT_NO_MEMORY;
}
void device_free(esft_device*, void* p, size_t bytes) { cpu::release(p, bytes); }
int copy_bytes(esft_device*, void* dst, const void* src, size_t bytes, char*, size_t) {
  memcpy(dst, src, bytes);
  return ESFT_OK;
}
int device_synchronize(esft_device*, char*, size_t) { return ESFT_OK; }

// precision 1 (operands rounded to bf16) needs bf16 dot products; emulating it would be slower than f32, silently.
template <class A>
auto precision_of(const A& a, int) -> decltype(a.precision) {
  return a.precision;
}
template <class A>
int64_t precision_of(const A&, long) {
  return 0;
}

// The kernels of this device compute on f32 activations.
void expect_f32_here(const char* op, const char* argument, const esft_tensor& t) {
  if (present(t) && t.dtype == ESFT_BF16)
    fail_status(
        ESFT_UNSUPPORTED, op, argument,
        format("%s must be f32 on the cpu device, received %s; bf16 activations run on CUDA", argument, describe(t).c_str()));
}
void expect_field_here(const char* op, const char* kind, const char* argument, const esft_tensor& t) {
  if (kind[0] == 'A') expect_f32_here(op, argument, t);
}
template <class T>
void expect_field_here(const char*, const char*, const char*, const T&) {}  // lists and scalars

#define ESFT_HERE_FIELD(kind, name) expect_field_here(op_name, #kind, #name, a.name);
#define ESFT_HERE(op) \
  void expect_here(const char* op_name, const esft_##op##_args& a) { ESFT_ARGS_##op(ESFT_HERE_FIELD) }
ESFT_OPS(ESFT_HERE)

// gemm's activations are of kind IN and INOUT, as their dtypes are free of each other.
template <class A>
void expect_products_here(const A&) {}
void expect_products_here(const esft_gemm_args& a) {
  expect_f32_here("gemm", "a", a.a);
  expect_f32_here("gemm", "c", a.c);
}

#define ESFT_RUN(op)                                                                                              \
  int cpu_run_##op(esft_device* d, const void* args, char* err, size_t n) {                                       \
    return guarded(err, n, [&] {                                                                                  \
      const auto& a = *static_cast<const esft_##op##_args*>(args);                                                \
      check_##op(a);                                                                                              \
      expect_here(#op, a);                                                                                        \
      expect_products_here(a);                                                                                    \
      if (precision_of(a, 0) == 1 && !cast(d)->kernels->bf16_compute)                                             \
        fail_status(ESFT_UNSUPPORTED, #op, "precision",                                                           \
                    std::string("bf16 compute needs AVX512-BF16; this device runs ") + cast(d)->kernels->name + \
                        ": use precision \"f32\"");                                                               \
      cast(d)->kernels->op(a, *cast(d));                                                                          \
    });                                                                                                           \
  }                                                                                                               \
  int ref_run_##op(esft_device*, const void* args, char* err, size_t n) {                                         \
    return guarded(err, n, [&] {                                                                                  \
      const auto& a = *static_cast<const esft_##op##_args*>(args);                                                \
      check_##op(a);                                                                                              \
      ref_##op(a);                                                                                                \
    });                                                                                                           \
  }
ESFT_OPS(ESFT_RUN)

const esft_run_fn kCpuRun[ESFT_OP_COUNT] = {
#define ESFT_ENTRY(op) cpu_run_##op,
    ESFT_OPS(ESFT_ENTRY)
#undef ESFT_ENTRY
};
const esft_run_fn kRefRun[ESFT_OP_COUNT] = {
#define ESFT_ENTRY(op) ref_run_##op,
    ESFT_OPS(ESFT_ENTRY)
#undef ESFT_ENTRY
};

using OpenFn = int (*)(int32_t index, int32_t threads, esft_device** out, char* err, size_t n);

// Two devices that differ in how they are opened and what they run. Recordings of theirs are lists of calls (addon/device.h).
constexpr esft_backend table(const char* name, OpenFn open, const esft_run_fn* run) {
  return {
      .abi = kAbi,
      .name = name,
      .open = open,
      .close = close_device,
      .info = device_info,
      .alloc = device_alloc,
      .free = device_free,
      .upload = copy_bytes,
      .download = copy_bytes,
      .synchronize = device_synchronize,
      .run = run,
      .capture_begin = nullptr,
      .capture_end = nullptr,
      .graph_launch = nullptr,
      .graph_destroy = nullptr,
      .stream_use = nullptr,
      .stream_order = nullptr,
  };
}
const esft_backend kCpu = table("cpu", open_device<false>, kCpuRun);
const esft_backend kRef = table("ref", open_device<true>, kRefRun);

}  // namespace

const esft_backend* cpu_backend() { return &kCpu; }
const esft_backend* ref_backend() { return &kRef; }

}  // namespace esft
