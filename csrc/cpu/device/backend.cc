#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "../../core/check.h"
#include "../../core/guarded.h"
#include "../../core/thread_pool.h"
#include "../../ops/checks.h"
#include "../kernels.h"

namespace esft {
namespace cpu {
namespace avx512bf16 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace baseline {
extern const Kernels kernels;
}
}  // namespace cpu

namespace {

struct Isa {
  const cpu::Kernels* kernels;
  bool (*supported)();
};

#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
[[maybe_unused]] bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif
bool always() { return true; }

const Isa kIsas[] = {
// Best first; CMake says which ones are built.
#if defined(ESFT_HAVE_avx512bf16)
    {&cpu::avx512bf16::kernels, has_avx512bf16},
#endif
#if defined(ESFT_HAVE_avx512)
    {&cpu::avx512::kernels, has_avx512},
#endif
#if defined(ESFT_HAVE_avx2)
    {&cpu::avx2::kernels, has_avx2},
#endif
    {&cpu::baseline::kernels, always},
};

const cpu::Kernels* choose_isa() {
  const char* want = getenv("ESFT_ISA");
  std::string names;
  for (const Isa& isa : kIsas) {
    if (!isa.supported()) continue;
    if (!want || !*want || strcmp(want, isa.kernels->name) == 0) return isa.kernels;
    names += (names.empty() ? "" : ", ") + std::string(isa.kernels->name);
  }
  fail("open", "ESFT_ISA", "one of the instruction sets of this machine: " + names, want);
}

// Anonymous pages are zero-filled and come on 2 MB pages where the kernel grants them.
constexpr size_t kMapThreshold = size_t(1) << 20;

void* allocate(size_t bytes) {
  if (bytes == 0) bytes = 64;
  if (bytes >= kMapThreshold) {
    size_t rounded = (bytes + 4095) & ~size_t(4095);
    void* p = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
    madvise(p, rounded, MADV_HUGEPAGE);
#endif
    return p;
  }
  size_t rounded = (bytes + 63) & ~size_t(63);
  void* p = aligned_alloc(64, rounded);
  if (p) memset(p, 0, rounded);
  return p;
}

void release(void* p, size_t bytes) {
  if (!p) return;
  if (bytes == 0) bytes = 64;
  if (bytes >= kMapThreshold)
    munmap(p, (bytes + 4095) & ~size_t(4095));
  else
    free(p);
}

struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;
  ~Scratch() { release(data, bytes); }
  void* get(size_t want) {
    if (want > bytes) {
      release(data, bytes);
      data = nullptr;
      bytes = 0;
      size_t rounded = (want + (size_t(1) << 16) - 1) & ~((size_t(1) << 16) - 1);
      data = allocate(rounded);
      if (!data) fail_status(ESFT_NO_MEMORY, "scratch", "bytes", format("cannot allocate %zu bytes of scratch memory", rounded));
      bytes = rounded;
    }
    return data;
  }
};

struct CpuDevice final : cpu::Context {
  const cpu::Kernels* kernels;  // null for the reference device
  ThreadPool pool;
  std::vector<Scratch> per_worker;
  Scratch shared;
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
      *out = reinterpret_cast<esft_device*>(new CpuDevice(kReference ? nullptr : choose_isa(), t));
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
    snprintf(out->name, sizeof out->name, "%s", device->kernels ? "CPU" : "reference");
    if (FILE* f = fopen("/proc/cpuinfo", "r")) {
      char line[256];
      while (fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0) {
          if (char* colon = strchr(line, ':')) {
            colon[strcspn(colon, "\n")] = 0;
            snprintf(out->name, sizeof out->name, "%s", colon + 2);
          }
          break;
        }
      fclose(f);
    }
    out->threads = device->threads();
    out->host_memory = 1;
    out->memory_bytes = int64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    out->activation_dtype = ESFT_F32;
    out->supports_bf16_compute = device->kernels ? device->kernels->bf16_compute : 1;
  });
}

int device_alloc(esft_device*, size_t bytes, void** out, char* err, size_t n) {
  *out = allocate(bytes);
  if (*out) return ESFT_OK;
  snprintf(err, n, "cannot allocate %zu bytes of memory", bytes);
  return ESFT_NO_MEMORY;
}
void device_free(esft_device*, void* p, size_t bytes) { release(p, bytes); }
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

const esft_backend kCpu = {ESFT_ABI,   "cpu",      open_device<false>, close_device, device_info, device_alloc, device_free,
                           copy_bytes, copy_bytes, device_synchronize, kCpuRun,      nullptr,     nullptr,      nullptr,
                           nullptr};
const esft_backend kRef = {ESFT_ABI,     "ref",       open_device<true>, close_device, device_info,
                           device_alloc, device_free, copy_bytes,        copy_bytes,   device_synchronize,
                           kRefRun,      nullptr,     nullptr,           nullptr,      nullptr};

}  // namespace

const esft_backend* cpu_backend() { return &kCpu; }
const esft_backend* ref_backend() { return &kRef; }

int available_isas(const char** names, int capacity) {
  int n = 0;
  for (const Isa& isa : kIsas)
    if (isa.supported() && n < capacity) names[n++] = isa.kernels->name;
  return n;
}

}  // namespace esft
