#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../core/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace esft::cpu {

namespace {

size_t up_to(size_t multiple, size_t bytes) { return (bytes + multiple - 1) / multiple * multiple; }

// From here on anonymous pages: zero-filled, and of 2 MB where the kernel grants them.
constexpr size_t kMapThreshold = size_t(1) << 20;
constexpr size_t kPage = 4096, kAlignment = 64, kScratchStep = size_t(1) << 16;

// Under AddressSanitizer a kernel may touch what it asked for alone: blocks are larger, and mapped ones have no red zone of their own.
#if defined(__SANITIZE_ADDRESS__)
void allow(void* p, size_t bytes) {
  if (p) __asan_unpoison_memory_region(p, bytes);
}
void* only(void* p, size_t bytes, size_t of) {
  allow(p, of);
  if (p) __asan_poison_memory_region(static_cast<char*>(p) + bytes, of - bytes);
  return p;
}
#else
void allow(void*, size_t) {}
void* only(void* p, size_t, size_t) { return p; }
#endif

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

void Scratch::free() {
  allow(data_, bytes_);
  release(data_, bytes_);
}

void* Scratch::get(size_t bytes) {
  if (bytes <= bytes_) return only(data_, bytes, bytes_);
  free();
  data_ = nullptr;
  bytes_ = 0;
  const size_t rounded = up_to(kScratchStep, bytes);
  data_ = allocate(rounded);
  if (!data_) fail_status(ESFT_NO_MEMORY, "scratch", "bytes", format("cannot allocate %zu bytes of scratch memory", rounded));
  bytes_ = rounded;
  return only(data_, bytes, bytes_);
}

}  // namespace esft::cpu
