// What a CPU kernel gets beside its arguments: the thread pool and scratch memory.
// Scratch belongs to the device, grows to the largest request and is reused: kernels allocate nothing themselves.
#pragma once
#include <cstddef>
#include <cstdint>

namespace esft::cpu {

typedef void (*TaskFn)(void* data, int64_t index, int worker);

class Context {
 public:
  virtual int threads() const = 0;
  virtual void parallel_for(int64_t n, TaskFn fn, void* data) = 0;
  // 64-byte aligned, contents undefined; one block per worker, valid until the op returns. A second request by the same
  // worker in one op must not be larger than the first (it returns the same block).
  virtual void* worker_scratch(int worker, size_t bytes) = 0;
  // One block per op call, for what workers share.
  virtual void* shared_scratch(size_t bytes) = 0;

 protected:
  ~Context() = default;
};

// parallel_for over a callable f(index, worker). The wrapper is instantiated on a local lambda type, so each instruction
// set's translation unit keeps its own copy (no shared inline code between instruction sets).
template <class F>
inline void parallel_for(Context& ctx, int64_t n, F f) {
  auto call = [](void* d, int64_t i, int w) { (*static_cast<F*>(d))(i, w); };
  ctx.parallel_for(n, call, static_cast<void*>(&f));
}

}  // namespace esft::cpu
