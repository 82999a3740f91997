// The only place with PTX. Every wrapper exists twice with one meaning: inline PTX under nvcc, and a host implementation
// (emu/ptx_emu.h) when the same kernels are compiled for the emulator. Kernels see only these names and plain C++.
//
// Shared memory is one dynamic block per CTA (ESFT_SHARED); offsets below are from its 1024-byte aligned start.
// 128-byte swizzle: tiles are slabs of rows of 128 bytes (64 bf16); the 16-byte chunk c of row r lies at chunk c ^ (r & 7).
#pragma once
#include <cuda.h>  // CUtensorMap
#include <cuda_runtime.h>
#include <stdint.h>

#if defined(ESFT_EMU)
#include "ptx_emu.h"
#else

#if defined(ESFT_CUDA_DEBUG)
#include "bounded_wait.cuh"
#define ESFT_SHARED(name)                                  \
  extern __shared__ __align__(1024) unsigned char name[]; \
  ::esft::cuda::ptx::begin_shared(name)
#else
#define ESFT_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#endif

namespace esft::cuda::ptx {

__device__ __forceinline__ uint32_t smem_addr(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// Where a kernel waits: what the debug build says of a wait without end. It costs nothing otherwise.
struct WaitSite {
  int32_t op = -1, barrier = 0;  // esft_op, WaitBarrier (fault.h)
};

// ---- mbarrier -----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void mbar_init(uint64_t* bar, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_addr(bar)), "r"(count) : "memory");
}
// After mbar_init, before any other thread or the copy engine uses the barriers; a CTA barrier must follow.
__device__ __forceinline__ void fence_mbar_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void mbar_arrive(uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_addr(bar)) : "memory");
}
__device__ __forceinline__ void mbar_arrive_expect_tx(uint64_t* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_addr(bar)), "r"(bytes) : "memory");
}
// Returns once the phase with this parity has completed.
#if defined(ESFT_CUDA_DEBUG)
__device__ __forceinline__ void mbar_wait(uint64_t* bar, uint32_t parity, WaitSite site = {}) {
  bounded_mbar_wait(smem_addr(bar), parity, site.op, site.barrier);
}
#else
__device__ __forceinline__ void mbar_wait(uint64_t* bar, uint32_t parity, WaitSite = {}) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(smem_addr(bar)),
      "r"(parity)
      : "memory");
}
#endif

// ---- programmatic dependent launch (host/early_start.cuh) ----------------------------------------------------------------------

// Waits until the kernels before this one in the stream have ended and all that they wrote can be seen.
__device__ __forceinline__ void dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Once each CTA of this kernel is past here, or has ended, the next kernel may begin.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- copy engine (TMA) --------------------------------------------------------------------------------------------------

__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// Once per thread and map that lies in global memory, before its first use: the map was written by the host.
__device__ __forceinline__ void tma_acquire_map(const CUtensorMap* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");
}
// Box at column x, row y of the map; out-of-bounds elements become zero; its bytes count on the barrier.
__device__ __forceinline__ void tma_load_2d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                   smem_addr(dst)),
               "l"(map), "r"(smem_addr(bar)), "r"(x), "r"(y)
               : "memory");
}
// The same into the CTAs of the cluster whose bits are set in `ctas`, at the same place and counted on the barrier at the same place
// in each of them.
__device__ __forceinline__ void tma_load_2d_multicast(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y,
                                                      uint16_t ctas) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], "
      "[%2], %5;" ::"r"(smem_addr(dst)),
      "l"(map), "r"(smem_addr(bar)), "r"(x), "r"(y), "h"(ctas)
      : "memory");
}
// Box at column x, row y of matrix z of a stack (encode_stack_map), for this CTA or for several.
__device__ __forceinline__ void tma_load_3d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
          smem_addr(dst)),
      "l"(map), "r"(smem_addr(bar)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ __forceinline__ void tma_load_3d_multicast(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y,
                                                      int32_t z, uint16_t ctas) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4, "
      "%5}], "
      "[%2], %6;" ::"r"(smem_addr(dst)),
      "l"(map), "r"(smem_addr(bar)), "r"(x), "r"(y), "r"(z), "h"(ctas)
      : "memory");
}
// Generic-proxy writes of this thread to shared memory, made visible to wgmma and the copy engine.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- cp.async -----------------------------------------------------------------------------------------------------------

// 16 bytes; valid = false writes zeros and reads nothing (src must still be a legal address).
__device__ __forceinline__ void cp_async_16(void* dst, const void* src, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_addr(dst)), "l"(src), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// One arrival on the barrier when all earlier cp.async of this thread have landed.
__device__ __forceinline__ void cp_async_mbar_arrive(uint64_t* bar) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_addr(bar)) : "memory");
}

// ---- copies to global memory, turns ------------------------------------------------------------------------------------------

// From shared to global memory by the copy engine, overwriting or adding f32: 16-byte aligned, a multiple of 16 bytes. The source was
// written before a fence_proxy_async. bulk_wait_read: all but the newest kPending groups of this thread have been read; bulk_wait: they
// have been written too, which is what others may be told (flash-attention#2244).
__device__ __forceinline__ void bulk_store(float* dst, const void* src, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(dst), "r"(smem_addr(src)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_reduce_add(float* dst, const void* src, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(dst), "r"(smem_addr(src)),
               "r"(bytes)
               : "memory");
}
// A box from shared to global memory by the copy engine, in the swizzle of its map; what lies outside the tensor is not written.
__device__ __forceinline__ void tma_store_2d(const CUtensorMap* map, const void* src, int32_t x, int32_t y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(smem_addr(src)),
               "r"(x), "r"(y)
               : "memory");
}
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
template <int kPending>
__device__ __forceinline__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}
// CTAs that take turns count in global memory how many of them had theirs. turn_wait: until turns[turn] == value; what those counted wrote
// by the copy engine comes before what this thread has it do. turn_pass: this thread's part, for which it waited, is done.
__device__ __forceinline__ void turn_wait(const uint32_t* turns, int turn, uint32_t value, [[maybe_unused]] WaitSite site = {}) {
#if defined(ESFT_CUDA_DEBUG)
  bounded_turn_wait(turns + turn, turn, value, site.op, site.barrier);
#else
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      ".reg .u32 now;\n"
      "again:\n"
      "ld.acquire.gpu.global.u32 now, [%0];\n"
      "setp.eq.u32 done, now, %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"l"(turns + turn),
      "r"(value)
      : "memory");
#endif
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
__device__ __forceinline__ void turn_pass(uint32_t* turns, int turn) {
  asm volatile("fence.proxy.async.global;\nred.release.gpu.global.add.u32 [%0], 1;" ::"l"(turns + turn) : "memory");
}

// Asks for the cache line of a global address, for a later access.
__device__ __forceinline__ void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// ---- mma.sync -----------------------------------------------------------------------------------------------------------

// d[16,8] += a[16,16] · b[16,8], bf16 operands, f32 sums. Lane l: d0,d1 = row l/4, columns 2(l%4)+{0,1}; d2,d3 = row l/4 + 8.
__device__ __forceinline__ void mma_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8×8 matrices of 16-bit elements; lane l gives the address of row l%8 of matrix l/8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_addr(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_addr(row))
               : "memory");
}

// The other way round: lane l's registers are row l/4, columns 2(l%4) and on, of each matrix.
__device__ __forceinline__ void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(smem_addr(row)), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}

// ---- clusters -----------------------------------------------------------------------------------------------------------

// Rank of this CTA in its cluster.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// All threads of all CTAs of the cluster; what was written to shared memory before is seen after.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// Arrives on the barrier at the same place in the CTA of that rank. It says that this CTA has read a stage with wgmma (complete after
// wgmma_wait), not that its writes can be seen: a release at cluster scope would wait for all of them, a thousand cycles every step.
__device__ __forceinline__ void mbar_arrive_cluster(uint64_t* bar, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(smem_addr(bar)),
      "r"(rank)
      : "memory");
}

// ---- warps and barriers -------------------------------------------------------------------------------------------------

template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_inc() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_dec() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
// Barrier `id` (1..15; 0 is __syncthreads) among `threads` threads, a multiple of 32.
__device__ __forceinline__ void named_barrier_sync(int id, int threads, [[maybe_unused]] WaitSite site = {}) {
#if defined(ESFT_CUDA_DEBUG)
  await_count(id, count_arrival(id, threads), site.op, site.barrier);
#endif
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
#if defined(ESFT_CUDA_DEBUG)
  count_arrival(id, threads);
#endif
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- numbers ------------------------------------------------------------------------------------------------------------

// Two f32 rounded to bf16 (nearest even): `lo` in the low half.
__device__ __forceinline__ uint32_t pack_bf16x2(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
__device__ __forceinline__ float exp2_approx(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

}  // namespace esft::cuda::ptx

#include "ptx_wgmma.cuh"
#endif
