// Host memory of the CPU devices: what tensors lie in, and the scratch of kernels.
#pragma once
#include <stddef.h>

namespace esft::cpu {

// Zero-filled, 64-byte aligned, never null for 0 bytes; null when there is no memory. Released with the same size.
void* allocate(size_t bytes);
void release(void* p, size_t bytes);

// One block that grows to the largest request and is reused.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { free(); }
  void* get(size_t bytes);  // contents undefined; throws Error. What is behind `bytes` may not be touched: AddressSanitizer looks.

 private:
  void free();
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace esft::cpu
