// The wrappers of cuda/ptx.cuh and cuda/ptx_wgmma.cuh for the emulation: same names, same signatures, what they mean in C++.
// Included by ptx.cuh, which has the contracts. The functions of namespace emu are in async.cc, barriers.cc, mma.cc, wgmma.cc.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#define ESFT_SHARED(name) unsigned char* const name = ::esft::emu::shared_block

namespace esft::emu {

uint32_t shared_offset(const void* p);

void mbar_init(uint64_t* bar, uint32_t count);
void mbar_arrive(uint64_t* bar, uint32_t expect_bytes);
// op, site: what a wait without end is reported with (emu.h).
void mbar_wait(uint64_t* bar, uint32_t parity, int op, int site);
void named_barrier(int id, int threads, bool wait, int op, int site);

void tma_load_2d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y);
void tma_load_2d_multicast(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, uint32_t ctas);
void tma_load_3d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, int32_t z);
void tma_load_3d_multicast(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, int32_t z, uint32_t ctas);
uint32_t cluster_rank();
void cluster_sync();
void mbar_arrive_cluster(uint64_t* bar, uint32_t rank);
void tma_check_map(const CUtensorMap* map);
void prefetch(const void* p);
void cp_async_16(void* dst, const void* src, bool valid);
void cp_async_commit();
void cp_async_wait(int pending);
void cp_async_mbar_arrive(uint64_t* bar);

void bulk_copy(void* dst, const void* src, uint32_t bytes, bool add);
void tma_store_2d(const CUtensorMap* map, const void* src, int32_t x, int32_t y);
void bulk_commit();
void bulk_wait(int pending, bool read);
void turn_wait(const uint32_t* turns, int turn, uint32_t value, int op, int site);
void turn_pass(uint32_t* turns, int turn);

void ldmatrix(uint32_t* r, const void* row, bool transposed);
void stmatrix(void* row, const uint32_t* r);
void mma_16816(float* d, const uint32_t* a, uint32_t b0, uint32_t b1);

// columns: N; a_registers: null when A is in shared memory behind descriptor a.
struct WgmmaArguments {
  float* acc;
  const uint32_t* a_registers;
  uint64_t a, b;
  int columns;
  bool trans_a, trans_b, add;
};
void wgmma(WgmmaArguments& arguments);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);

void set_max_registers(int count, bool increase);
void require_sm90(const char* what);

// Of a kernel that began before the ones before it have ended (scheduler.cc); for others nothing.
void dependency_wait();

}  // namespace esft::emu

namespace esft::cuda::ptx {

static inline uint32_t smem_addr(const void* p) { return emu::shared_offset(p); }

struct WaitSite {
  int32_t op = -1, barrier = 0;
};

static inline void mbar_init(uint64_t* bar, uint32_t count) { emu::mbar_init(bar, count); }
static inline void fence_mbar_init() {}
static inline void mbar_arrive(uint64_t* bar) { emu::mbar_arrive(bar, 0); }
static inline void mbar_arrive_expect_tx(uint64_t* bar, uint32_t bytes) { emu::mbar_arrive(bar, bytes); }
static inline void mbar_wait(uint64_t* bar, uint32_t parity, WaitSite site = {}) {
  emu::mbar_wait(bar, parity, site.op, site.barrier);
}

static inline void dependency_wait() { emu::dependency_wait(); }
static inline void launch_dependents() {}

static inline void tma_prefetch_map(const CUtensorMap* map) { emu::tma_check_map(map); }
static inline void tma_acquire_map(const CUtensorMap* map) { emu::tma_check_map(map); }
static inline void tma_load_2d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y) {
  emu::tma_load_2d(dst, map, bar, x, y);
}
static inline void tma_load_2d_multicast(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, uint16_t ctas) {
  emu::tma_load_2d_multicast(dst, map, bar, x, y, ctas);
}
static inline void tma_load_3d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, int32_t z) {
  emu::tma_load_3d(dst, map, bar, x, y, z);
}
static inline void tma_load_3d_multicast(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, int32_t z,
                                         uint16_t ctas) {
  emu::tma_load_3d_multicast(dst, map, bar, x, y, z, ctas);
}
static inline uint32_t cluster_rank() { return emu::cluster_rank(); }
static inline void cluster_sync() { emu::cluster_sync(); }
static inline void mbar_arrive_cluster(uint64_t* bar, uint32_t rank) { emu::mbar_arrive_cluster(bar, rank); }
static inline void fence_proxy_async() { emu::require_sm90("fence.proxy.async"); }

static inline void prefetch_l2(const void* p) { emu::prefetch(p); }
static inline void cp_async_16(void* dst, const void* src, bool valid) { emu::cp_async_16(dst, src, valid); }
static inline void cp_async_commit() { emu::cp_async_commit(); }
template <int kPending>
inline void cp_async_wait() {
  emu::cp_async_wait(kPending);
}
static inline void cp_async_mbar_arrive(uint64_t* bar) { emu::cp_async_mbar_arrive(bar); }

static inline void bulk_store(float* dst, const void* src, uint32_t bytes) { emu::bulk_copy(dst, src, bytes, false); }
static inline void bulk_reduce_add(float* dst, const void* src, uint32_t bytes) { emu::bulk_copy(dst, src, bytes, true); }
static inline void tma_store_2d(const CUtensorMap* map, const void* src, int32_t x, int32_t y) {
  emu::tma_store_2d(map, src, x, y);
}
static inline void bulk_commit() { emu::bulk_commit(); }
template <int kPending>
inline void bulk_wait_read() {
  emu::bulk_wait(kPending, true);
}
template <int kPending>
inline void bulk_wait() {
  emu::bulk_wait(kPending, false);
}
static inline void turn_wait(const uint32_t* turns, int turn, uint32_t value, WaitSite site = {}) {
  emu::turn_wait(turns, turn, value, site.op, site.barrier);
}
static inline void turn_pass(uint32_t* turns, int turn) { emu::turn_pass(turns, turn); }

static inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emu::mma_16816(d, a, b0, b1); }
static inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emu::ldmatrix(r, row, false); }
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { emu::ldmatrix(r, row, true); }

static inline void stmatrix_x4(void* row, const uint32_t (&r)[4]) { emu::stmatrix(row, r); }

template <int kRegisters>
inline void setmaxnreg_inc() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emu::set_max_registers(kRegisters, true);
}
template <int kRegisters>
inline void setmaxnreg_dec() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emu::set_max_registers(kRegisters, false);
}
static inline void named_barrier_sync(int id, int threads, WaitSite site = {}) {
  emu::named_barrier(id, threads, true, site.op, site.barrier);
}
static inline void named_barrier_arrive(int id, int threads) { emu::named_barrier(id, threads, false, -1, 0); }

static inline uint32_t bf16_bits(float x) {
  const uint32_t u = esft_emu_bits<uint32_t>(x);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
static inline uint32_t pack_bf16x2(float lo, float hi) { return bf16_bits(lo) | bf16_bits(hi) << 16; }
static inline float exp2_approx(float x) {
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.f : y;  // ftz
}

static inline uint64_t smem_desc(const void* p, uint32_t leading_bytes, uint32_t stride_bytes) {
  return uint64_t((smem_addr(p) & 0x3ffff) >> 4) | uint64_t(leading_bytes >> 4) << 16 | uint64_t(stride_bytes >> 4) << 32 |
         uint64_t(1) << 62;
}
static inline uint64_t desc_advance(uint64_t desc, uint32_t bytes) { return desc + (bytes >> 4); }
// Bytes from one step of 16 along the contraction to the next: within a row of the tile (K-major), or 16 rows of 128 bytes (MN-major).
template <int kTrans>
constexpr uint32_t kAdvance = kTrans ? 2048 : 32;
static inline void wgmma_fence() { emu::wgmma_fence(); }
static inline void wgmma_commit() { emu::wgmma_commit(); }
template <int kPending>
inline void wgmma_wait() {
  emu::wgmma_wait(kPending);
}
template <int kCount>
inline void warpgroup_fence_operand(float (&acc)[kCount]) {
  asm volatile("" : : "r"(&acc[0]) : "memory");
}
template <int kCount>
inline void warpgroup_fence_operand(uint32_t (&a)[kCount][4]) {
  asm volatile("" : : "r"(&a[0][0]) : "memory");
}
template <int N, int kTransA, int kTransB>
inline void wgmma(float (&acc)[N / 2], uint64_t a, uint64_t b, bool add) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  emu::WgmmaArguments arguments{acc, nullptr, a, b, N, kTransA != 0, kTransB != 0, add};
  emu::wgmma(arguments);
}
template <int N, int kTransB>
inline void wgmma_rs(float (&acc)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  emu::WgmmaArguments arguments{acc, a, 0, b, N, false, kTransB != 0, add};
  emu::wgmma(arguments);
}

}  // namespace esft::cuda::ptx
