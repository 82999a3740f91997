// The caching allocator of cuda/host/allocator.h, driven with counted memory: what is kept, what is handed out again, what is given back.
#include <cstdlib>

#include "../../cuda/host/allocator.h"
#include "harness.h"

namespace esft::emu::test {

namespace {

struct Memory {
  size_t left, taken = 0, given = 0;
  cuda::CachingAllocator allocator(bool caching) {
    return {[this](size_t bytes) -> void* {
              if (bytes > left) return nullptr;
              left -= bytes;
              taken++;
              auto* p = static_cast<size_t*>(malloc(sizeof(size_t)));
              *p = bytes;
              return p;
            },
            [this](void* p) {
              left += *static_cast<size_t*>(p);
              given++;
              free(p);
            },
            caching};
  }
};

constexpr size_t kMiB = size_t(1) << 20;

}  // namespace

void test_allocator() {
  {
    Memory memory{100 * kMiB};
    auto a = memory.allocator(true);
    void* p = a.allocate(1000);
    check(a.used() == 1024 && memory.taken == 1, "small blocks come in steps of 512 bytes");
    a.free(p);
    check(a.cached() == 1024 && a.used() == 0 && memory.given == 0, "a freed block is kept");
    check(a.allocate(900) == p && a.cached() == 0 && memory.taken == 1, "and handed out again for a request it fits");
    void* q = a.allocate(700);
    check(q != p && memory.taken == 2, "a block in use is not handed out");
    a.free(q);
    check(a.allocate(100) != q && memory.taken == 3, "a block much larger than the request stays for larger ones");
  }
  {
    Memory memory{100 * kMiB};
    auto a = memory.allocator(true);
    void* p = a.allocate(60 * kMiB);
    a.free(p);
    check(a.allocate(30 * kMiB) != nullptr && memory.left == 10 * kMiB, "the cache is not split");
    check(a.allocate(50 * kMiB) != nullptr && memory.given == 1,
          "when the device has no more, what is cached goes back and it is asked again");
    check(a.allocate(50 * kMiB) == nullptr, "no memory is an answer, not an error");
    a.free(nullptr);
  }
  {
    Memory memory{kMiB};
    {
      auto a = memory.allocator(true);
      a.free(a.allocate(4096));
      a.allocate(512);
      a.release();
      check(memory.given == 1 && a.cached() == 0, "release gives back what is cached, not what is used");
    }
    auto a = memory.allocator(false);
    check(a.round(1) == 16 && a.round(17) == 32, "without a cache blocks are exact");
    a.free(a.allocate(64));
    check(memory.given == 2 && a.cached() == 0, "and go straight back");
  }
}

}  // namespace esft::emu::test
