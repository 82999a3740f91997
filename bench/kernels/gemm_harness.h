// What the programs of this folder share: tensors over plain memory, a context over the thread pool, and the kernels of
// every instruction set by name.
#pragma once
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "../../csrc/core/check.h"
#include "../../csrc/core/thread_pool.h"
#include "../../csrc/cpu/context.h"
#include "../../csrc/cpu/device/backend.h"
#include "../../csrc/cpu/device/isa.h"
#include "../../csrc/ops/op_list.h"

namespace harness {

using esft::cpu::Kernels;

// Of this machine, best first.
inline std::vector<const Kernels*> instruction_sets() {
  const char* names[8];
  const int count = esft::available_isas(names, 8);
  std::vector<const Kernels*> all;
  for (int i = 0; i < count; i++) all.push_back(&esft::cpu::choose_kernels(names[i]));
  return all;
}

struct PoolContext final : esft::cpu::Context {
  esft::ThreadPool pool;
  struct Memory {
    void* p = nullptr;
    size_t n = 0;
    ~Memory() { free(p); }
    void* get(size_t bytes) {
      if (bytes > n) {
        free(p);
        n = (bytes + (size_t(2) << 20) - 1) & ~((size_t(2) << 20) - 1);
        p = aligned_alloc(size_t(2) << 20, n);
        memset(p, 0, n);
      }
      return p;
    }
  };
  std::vector<std::unique_ptr<Memory>> worker;
  Memory shared;
  explicit PoolContext(int threads) : pool(threads) {
    for (int i = 0; i < threads; i++) worker.push_back(std::make_unique<Memory>());
  }
  int threads() const override { return pool.threads(); }
  void parallel_for(int64_t n, esft::cpu::TaskFn fn, void* data) override { pool.parallel_for(n, fn, data); }
  void* worker_scratch(int w, size_t bytes) override { return worker[w]->get(bytes); }
  void* shared_scratch(size_t bytes) override { return shared.get(bytes); }
};

inline esft_tensor absent() {
  esft_tensor t = {};
  t.rank = -1;
  return t;
}
inline esft_tensor matrix(void* p, int dtype, int64_t r, int64_t c, int64_t ld = -1) {
  esft_tensor t = {};
  t.data = p;
  t.dtype = dtype;
  t.rank = 2;
  t.shape[0] = r;
  t.shape[1] = c;
  t.ld = ld < 0 ? c : ld;
  return t;
}
inline esft_tensor vector_of(void* p, int dtype, int64_t n) {
  esft_tensor t = {};
  t.data = p;
  t.dtype = dtype;
  t.rank = 1;
  t.shape[0] = n;
  t.ld = n;
  return t;
}

struct Random {
  uint64_t s = 88172645463325252ull;
  uint64_t bits() {
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return s;
  }
  float uniform() { return float(int64_t(bits() >> 40)) / float(1 << 23) - 1.0f; }
  int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
};

inline uint16_t to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

}  // namespace harness
