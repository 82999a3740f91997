#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../core/check.h"

namespace esft::cpu {

namespace {

size_t up_to(size_t multiple, size_t bytes) { return (bytes + multiple - 1) / multiple * multiple; }

// From here on anonymous pages: zero-filled, and of 2 MB where the kernel grants them.
constexpr size_t kMapThreshold = size_t(1) << 20;
constexpr size_t kPage = 4096, kAlignment = 64, kScratchStep = size_t(1) << 16;

}  // namespace

void* allocate(size_t bytes) {
  if (bytes == 0) bytes = kAlignment;
  if (bytes >= kMapThreshold) {
    const size_t rounded = up_to(kPage, bytes);
    void* p = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
    madvise(p, rounded, MADV_HUGEPAGE);
#endif
    return p;
  }
  const size_t rounded = up_to(kAlignment, bytes);
  void* p = aligned_alloc(kAlignment, rounded);
  if (p) memset(p, 0, rounded);
  return p;
}

void release(void* p, size_t bytes) {
  if (!p) return;
  if (bytes >= kMapThreshold)
    munmap(p, up_to(kPage, bytes));
  else
    free(p);
}

void* Scratch::get(size_t bytes) {
  if (bytes <= bytes_) return data_;
  release(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
  const size_t rounded = up_to(kScratchStep, bytes);
  data_ = allocate(rounded);
  if (!data_) fail_status(ESFT_NO_MEMORY, "scratch", "bytes", format("cannot allocate %zu bytes of scratch memory", rounded));
  bytes_ = rounded;
  return data_;
}

}  // namespace esft::cpu
