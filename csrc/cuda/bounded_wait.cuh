// Waits with an end: what ptx.cuh does in the debug build (ESFT_CUDA_DEBUG), so that a kernel that would hang says where. A wait longer
// than the limit records CTA, thread, barrier and phase (fault.h) and traps; the host words the record. Included by ptx.cuh.
//
// Named barriers cannot be asked whether they are complete. Their arrivals are counted in shared memory too, behind what the kernel asked
// for (launch.h adds kDebugBytes): a thread waits for the count, with a bound, and then at the barrier itself, where everyone it
// waits for is about to arrive. Without a bound are __syncthreads and cluster_sync: no thread is there for long while another one
// of its CTA or cluster waits elsewhere, and that wait ends the kernel.
//
// Polling and reporting are one piece of PTX: written in C++, descriptors of products were no longer uniform to the compiler, and kernels
// ran out of registers for them.
#pragma once
#include <stddef.h>

#include "fault.h"

namespace esft::cuda {

// Behind the kernel's own shared memory, from a multiple of 8 on: arrivals at each named barrier, 64 bytes; the address of the fault record.
constexpr int kDebugBytes = 16 * 4 + 8;

namespace ptx {

namespace {
__device__ FaultRecord* wait_record;  // of this source file; launch.h sets it
}  // namespace

extern __shared__ __align__(1024) unsigned char dynamic_shared[];
__device__ __forceinline__ uint32_t dynamic_start() { return uint32_t(__cvta_generic_to_shared(dynamic_shared)); }

__device__ __forceinline__ uint32_t* named_arrivals() {
  uint32_t bytes;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
  return reinterpret_cast<uint32_t*>(dynamic_shared + bytes - kDebugBytes);
}

// At the start of a kernel, before its first barrier.
__device__ __forceinline__ void begin_shared(const unsigned char* base) {
  const uint32_t at = uint32_t(__cvta_generic_to_shared(base));
  if (at & 1023) {
    if (threadIdx.x == 0) {
      *wait_record = {kBadSharedBase, -1, 0, 0, int64_t(blockIdx.x), at, 1024};
      __threadfence_system();
      __trap();
    }
  } else if (threadIdx.x < 16) {
    named_arrivals()[threadIdx.x] = 0;
    if (threadIdx.x == 0) *reinterpret_cast<FaultRecord**>(named_arrivals() + 16) = wait_record;
  }
}

// Until `poll` sets the predicate done, for two seconds at most (of a clock of nanoseconds modulo 4.3 s). Then the first thread writes its
// record and traps; the others wait for that. %0: what is polled, %1: for which value, %2: dynamic_start, %3: op, %4: barrier; `value` puts
// what the record says of the barrier's place into the register value, `tail` being where kDebugBytes begin.
static_assert(offsetof(FaultRecord, detail) == 12 && offsetof(FaultRecord, position) == 16 && offsetof(FaultRecord, limit) == 32 &&
                  kHungWait == 7 && kDebugBytes == 72,
              "the numbers below");
#define ESFT_BOUNDED_WAIT(poll, value)            \
  "{\n"                                           \
  ".reg .pred done, late, other;\n"               \
  ".reg .u32 begin, now, tail, value, special;\n" \
  ".reg .u64 record, wide;\n"                     \
  "mov.u32 begin, %%globaltimer_lo;\n"            \
  "again:\n" poll                                 \
  "@done bra finished;\n"                         \
  "mov.u32 now, %%globaltimer_lo;\n"              \
  "sub.u32 now, now, begin;\n"                    \
  "setp.ge.u32 late, now, 2000000000;\n"          \
  "@!late bra again;\n"                           \
  "mov.u32 tail, %%dynamic_smem_size;\n"          \
  "add.u32 tail, tail, %2;\n"                     \
  "sub.u32 tail, tail, 72;\n"                     \
  "ld.shared.u64 record, [tail + 64];\n"          \
  "atom.exch.b32 now, [record], 7;\n"             \
  "setp.eq.u32 other, now, 7;\n"                  \
  "@other bra sleep;\n"                           \
  "st.u32 [record + 4], %3;\n"                    \
  "st.u32 [record + 8], %4;\n"                    \
  "mov.u32 special, %%tid.x;\n"                   \
  "st.u32 [record + 12], special;\n"              \
  "mov.u32 special, %%ctaid.x;\n"                 \
  "cvt.u64.u32 wide, special;\n"                  \
  "st.u64 [record + 16], wide;\n" value           \
  "cvt.u64.u32 wide, value;\n"                    \
  "st.u64 [record + 24], wide;\n"                 \
  "cvt.u64.u32 wide, %1;\n"                       \
  "st.u64 [record + 32], wide;\n"                 \
  "membar.sys;\n"                                 \
  "trap;\n"                                       \
  "sleep:\n"                                      \
  "nanosleep.u32 1000000;\n"                      \
  "bra sleep;\n"                                  \
  "finished:\n"                                   \
  "}\n"

__device__ __forceinline__ void bounded_mbar_wait(uint32_t bar, uint32_t parity, int op, int barrier) {
  asm volatile(ESFT_BOUNDED_WAIT("mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n", "sub.u32 value, %0, %2;\n")
               :
               : "r"(bar), "r"(parity), "r"(dynamic_start()), "r"(op), "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void bounded_turn_wait(const uint32_t* counter, int turn, uint32_t value, int op, int barrier) {
  asm volatile(ESFT_BOUNDED_WAIT("ld.acquire.gpu.global.u32 now, [%0];\nsetp.eq.u32 done, now, %1;\n", "mov.u32 value, %5;\n")
               :
               : "l"(counter), "r"(value), "r"(dynamic_start()), "r"(op), "r"(barrier), "r"(turn)
               : "memory");
}

// Counts this warp at a named barrier; returns the count at which its phase is complete.
__device__ __forceinline__ uint32_t count_arrival(int id, int threads) {
  __syncwarp();
  uint32_t before = 0;
  if (threadIdx.x % 32 == 0) before = atomicAdd(named_arrivals() + id, 32u);
  before = __shfl_sync(0xffffffffu, before, 0);
  return (before / uint32_t(threads) + 1) * uint32_t(threads);
}
__device__ __forceinline__ void await_count(int id, uint32_t count, int op, int barrier) {
  const uint32_t at = uint32_t(__cvta_generic_to_shared(named_arrivals() + id));
  asm volatile(ESFT_BOUNDED_WAIT("ld.volatile.shared.u32 now, [%0];\nsetp.ge.u32 done, now, %1;\n",
                                 "sub.u32 value, %0, tail;\nshr.u32 value, value, 2;\n")
               :
               : "r"(at), "r"(count), "r"(dynamic_start()), "r"(op), "r"(barrier)
               : "memory");
}

}  // namespace ptx

}  // namespace esft::cuda
