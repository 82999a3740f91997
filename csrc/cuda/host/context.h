// What an op gets besides its arguments: the stream in use, scratch memory, device copies of host tables, the fault record.
// Host code only.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "../../core/check.h"
#include "../../ops/op_list.h"
#include "../fault.cuh"

namespace esft::cuda {

class Context {
 public:
  cudaStream_t stream = nullptr;
  int ordinal = 0;             // of the device in this process
  int sms = 1;                 // multiprocessors: size of persistent grids
  bool hopper = false;         // wgmma and TMA kernels may run (sm_90a); otherwise the mma.sync kernels do
  bool hopper_only = false;    // tests: a call that would take another kernel is refused
  int cluster = 2;             // CTAs of a cluster of the wgmma products: 2 that share the loads of weights, or 1
  bool attention_persistent = true;  // Hopper's attention forward: a CTA per multiprocessor draws tiles, or one per tile
  bool attention_one_pass = true;  // Hopper's attention backward in one pass, or in two
  bool early_start = true;     // kernels that can begin before the one before them has ended do (early_start.cuh)
  bool shaped_tiles = true;    // of the wgmma products: narrow ones and tiles in turns where they are better by arithmetic
  bool tma_stores = true;      // of the wgmma products: whole tiles leave by the copy engine
  size_t shared_limit = 0;     // dynamic shared memory of one CTA, bytes (opt-in maximum)
  FaultRecord* faults = nullptr;  // page-locked host memory that kernels reach; the host looks after a wait

  // Device memory for the current op (valid for kernels it launches), of its stream; every call within one op gets other memory. 256-byte
  // aligned, contents undefined. Throws Error: no memory; or new memory wanted while a graph is being recorded.
  virtual void* scratch(size_t bytes) = 0;
  template <class T>
  T* scratch_of(int64_t count) {
    return static_cast<T*>(scratch(size_t(count) * sizeof(T)));
  }
  // A device copy of host bytes that lives as long as the device, found again by content.
  virtual const void* constant(const void* host, size_t bytes) = 0;
  template <class T>
  const T* constant_of(const T* host, int64_t count) {
    return static_cast<const T*>(constant(host, size_t(count) * sizeof(T)));
  }
  // Device array of tensor maps, one per item of `items` (all bf16 matrices [rows, cols], ld; each a stack of one): boxes of 64 columns
  // x box_rows rows, 128-byte swizzle, zero fill. Items with no elements get an unused map. nullptr when some item cannot have one (base not
  // 16-byte aligned, row stride not a multiple of 16 bytes): the caller takes another kernel.
  virtual const CUtensorMap* tensor_maps(const esft_tensor* items, int64_t count, int box_rows) = 0;

 protected:
  ~Context() = default;
};

// A call that the kernels of this GPU's generation do not serve goes to the portable ones, unless ESFT_CUDA_PATH=sm90 forbids it.
inline void expect_portable(const char* op, const Context& context) {
  if (context.hopper_only)
    fail_status(ESFT_UNSUPPORTED, op, "path",
                format("%s: not served by the kernels of sm_90a, and ESFT_CUDA_PATH=sm90 allows no others", op));
}

// The products take bf16 alone: activations, weights, and operands rounded so (precision 1).
inline void expect_bf16_activation(const char* op, const char* name, const esft_tensor& t) {
  if (t.dtype != ESFT_BF16)
    fail_status(ESFT_UNSUPPORTED, op, name, format("%s: %s is %s; CUDA takes bf16 activations", op, name, dtype_name(t.dtype)));
}
// w, or item i of the list w.
inline void expect_bf16_weight(const char* op, const esft_tensor& t, int64_t i = -1, const char* argument = "w") {
  if (t.dtype == ESFT_BF16) return;
  const std::string name = i < 0 ? argument : format("%s[%lld]", argument, (long long)i);
  fail_status(ESFT_UNSUPPORTED, op, argument,
              format("%s: %s is %s; CUDA takes bf16 weights, upload it as bf16", op, name.c_str(), dtype_name(t.dtype)));
}
inline void expect_bf16_precision(const char* op, int64_t precision) {
  if (precision != 1)
    fail_status(ESFT_UNSUPPORTED, op, "precision", format("%s: precision 0 (f32) is not there on CUDA, use 1 (bf16)", op));
}

// Throws Error(ESFT_DEVICE_FAULT) with the runtime's message.
void check_cuda(cudaError_t status, const char* what);

#define ESFT_CUDA_DECL(op) void run_##op(const esft_##op##_args& args, Context& context);
ESFT_OPS(ESFT_CUDA_DECL)
#undef ESFT_CUDA_DECL

}  // namespace esft::cuda
