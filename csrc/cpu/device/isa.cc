#include "isa.h"

#include <stdio.h>
#include <string.h>
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "../../core/check.h"
#include "backend.h"

namespace esft {
namespace cpu {

// Every set's table lies in its own namespace (kernels.cc); CMake says which sets are built.
namespace avx512bf16 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace neon {
extern const Kernels kernels;
}
namespace baseline {
extern const Kernels kernels;
}

namespace {

struct Isa {
  const Kernels* kernels;
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
// Best first.
#if defined(ESFT_HAVE_avx512bf16)
    {&avx512bf16::kernels, has_avx512bf16},
#endif
#if defined(ESFT_HAVE_avx512)
    {&avx512::kernels, has_avx512},
#endif
#if defined(ESFT_HAVE_avx2)
    {&avx2::kernels, has_avx2},
#endif
#if defined(ESFT_HAVE_neon)
    {&neon::kernels, always},  // a part of every aarch64, on which it is the only one
#endif
#if defined(ESFT_HAVE_baseline)
    {&baseline::kernels, always},
#endif
};

}  // namespace

const Kernels& choose_kernels(const char* name) {
  std::string names;
  for (const Isa& isa : kIsas) {
    if (!isa.supported()) continue;
    if (!name || !*name || strcmp(name, isa.kernels->name) == 0) return *isa.kernels;
    names += (names.empty() ? "" : ", ") + std::string(isa.kernels->name);
  }
  fail("open", "ESFT_ISA", "one of the instruction sets of this machine: " + names, name);
}

std::string processor_name() {
  std::string name;
#if defined(__APPLE__)
  char brand[256] = "";
  size_t size = sizeof brand;
  if (sysctlbyname("machdep.cpu.brand_string", brand, &size, nullptr, 0) == 0) name = brand;
#else
  if (FILE* f = fopen("/proc/cpuinfo", "r")) {
    char line[256];
    while (fgets(line, sizeof line, f)) {
      if (strncmp(line, "model name", 10) != 0) continue;
      line[strcspn(line, "\n")] = 0;
      if (const char* found = strstr(line, ": ")) name = found + 2;
      break;
    }
    fclose(f);
  }
#endif
  return name;
}

}  // namespace cpu

int available_isas(const char** names, int capacity) {
  int n = 0;
  for (const cpu::Isa& isa : cpu::kIsas)
    if (isa.supported() && n < capacity) names[n++] = isa.kernels->name;
  return n;
}

}  // namespace esft
