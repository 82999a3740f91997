// Caching allocator of device memory. cudaMalloc and cudaFree wait for the whole device, so freed blocks are kept and handed out
// again. On one stream that is safe at once: whatever used a block before was enqueued before whatever uses it next. With several the
// device has all streams meet where it hands a block out (device.cu).
// Free of CUDA: the two functions that take and return memory are given, so tests drive it with plain ones.
#pragma once
#include <stddef.h>

#include <functional>
#include <map>
#include <mutex>
#include <unordered_map>

namespace esft::cuda {

class CachingAllocator {
 public:
  using Take = std::function<void*(size_t bytes)>;  // nullptr when there is no memory
  using Give = std::function<void(void*)>;

  // caching = false hands every block straight back (emulation: a use after free must fault).
  CachingAllocator(Take take, Give give, bool caching) : take_(std::move(take)), give_(std::move(give)), caching_(caching) {}
  ~CachingAllocator() { release(); }

  // nullptr when the device has no memory left, also after giving back everything that is cached.
  void* allocate(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    const size_t want = round(bytes);
    // Best fit, wasting at most an eighth: bigger blocks stay for bigger requests.
    auto fit = free_.lower_bound(want);
    if (fit != free_.end() && fit->first <= want + want / 8) {
      void* p = fit->second;
      sizes_[p] = fit->first;
      used_ += fit->first;
      cached_ -= fit->first;
      free_.erase(fit);
      return p;
    }
    void* p = take_(want);
    if (!p && cached_ > 0) {
      release_locked();
      p = take_(want);
    }
    if (!p) return nullptr;
    sizes_[p] = want;
    used_ += want;
    return p;
  }

  void free(void* p) {
    if (!p) return;
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = sizes_.find(p);
    if (found == sizes_.end()) return;
    const size_t bytes = found->second;
    sizes_.erase(found);
    used_ -= bytes;
    if (!caching_) return give_(p);
    free_.emplace(bytes, p);
    cached_ += bytes;
  }

  // Gives every cached block back to the device.
  void release() {
    std::lock_guard<std::mutex> lock(mutex_);
    release_locked();
  }

  size_t used() const { return used_; }
  size_t cached() const { return cached_; }

  // Small blocks in steps of 512 bytes, big ones of 2 MiB: few sizes, so that blocks fit again. Exact without a cache.
  size_t round(size_t bytes) const {
    if (bytes == 0) bytes = 1;
    const size_t step = !caching_ ? 16 : bytes < (size_t(1) << 20) ? 512 : size_t(2) << 20;
    return (bytes + step - 1) / step * step;
  }

 private:
  void release_locked() {
    for (auto& [bytes, p] : free_) give_(p);
    free_.clear();
    cached_ = 0;
  }

  Take take_;
  Give give_;
  bool caching_;
  std::mutex mutex_;
  std::multimap<size_t, void*> free_;
  std::unordered_map<void*, size_t> sizes_;
  size_t used_ = 0, cached_ = 0;
};

}  // namespace esft::cuda
