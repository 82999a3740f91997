// What device code may use besides plain C++ and the PTX wrappers: indices, warp and block collectives, atomics, math.
// Included by cuda_runtime.h.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>

#define ESFT_EMU_HIDDEN __attribute__((visibility("hidden")))

namespace esft::emu {

struct ThreadIndex {
  uint3 index;
};
// One CTA runs at a time and one of its threads at a time.
ESFT_EMU_HIDDEN extern ThreadIndex* running;
ESFT_EMU_HIDDEN extern uint3 block_index;
ESFT_EMU_HIDDEN extern dim3 block_size, grid_size;
ESFT_EMU_HIDDEN extern unsigned char* shared_block;

// An operation of a whole warp or warpgroup: every thread arrives with a pointer to its arguments, the last one runs the
// operation for all. Threads that arrive at different operations are an error.
struct Collective {
  const char* name;
  void (*run)(void* const* arguments, unsigned present);  // by lane; present: lanes that exist (warps only)
};
void warp_collective(const Collective& operation, void* arguments, unsigned mask);
void block_barrier();

enum class Shuffle { kIndex, kXor, kUp, kDown };
template <class T>
struct ShuffleArguments {
  T value, result;
  int parameter, width;
};
template <class T, Shuffle kKind>
void run_shuffle(void* const* arguments, unsigned present) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(present >> lane & 1)) continue;
    auto& own = *static_cast<ShuffleArguments<T>*>(arguments[lane]);
    const int first = lane & ~(own.width - 1), last = first + own.width - 1;
    int from = lane;
    if (kKind == Shuffle::kIndex) from = first + (own.parameter & (own.width - 1));
    if (kKind == Shuffle::kXor) from = lane ^ own.parameter;
    if (kKind == Shuffle::kUp) from = lane - own.parameter < first ? lane : lane - own.parameter;
    if (kKind == Shuffle::kDown) from = lane + own.parameter;
    if (from > last || from < 0 || !(present >> from & 1)) from = lane;
    own.result = static_cast<ShuffleArguments<T>*>(arguments[from])->value;
  }
}
template <class T, Shuffle kKind>
inline constexpr Collective kShuffle{kKind == Shuffle::kIndex ? "__shfl_sync"
                                     : kKind == Shuffle::kXor ? "__shfl_xor_sync"
                                     : kKind == Shuffle::kUp  ? "__shfl_up_sync"
                                                              : "__shfl_down_sync",
                                     run_shuffle<T, kKind>};
template <class T, Shuffle kKind>
inline T shuffle(unsigned mask, T value, int parameter, int width) {
  ShuffleArguments<T> arguments{value, value, parameter, width};
  warp_collective(kShuffle<T, kKind>, &arguments, mask);
  return arguments.result;
}

unsigned ballot(unsigned mask, bool predicate);
void sync_warp(unsigned mask);

}  // namespace esft::emu

#define threadIdx (::esft::emu::running->index)
#define blockIdx (::esft::emu::block_index)
#define blockDim (::esft::emu::block_size)
#define gridDim (::esft::emu::grid_size)
static constexpr int warpSize = 32;

static inline void __syncthreads() { ::esft::emu::block_barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { ::esft::emu::sync_warp(mask); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return ::esft::emu::shuffle<T, ::esft::emu::Shuffle::kIndex>(mask, value, lane, width);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return ::esft::emu::shuffle<T, ::esft::emu::Shuffle::kXor>(mask, value, lanes, width);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return ::esft::emu::shuffle<T, ::esft::emu::Shuffle::kUp>(mask, value, int(delta), width);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return ::esft::emu::shuffle<T, ::esft::emu::Shuffle::kDown>(mask, value, int(delta), width);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) { return ::esft::emu::ballot(mask, predicate != 0); }
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
static inline unsigned __reduce_max_sync(unsigned mask, unsigned x) {
  for (int step = 16; step > 0; step >>= 1) x = std::max(x, __shfl_xor_sync(mask, x, step));
  return x;
}
static inline unsigned __reduce_min_sync(unsigned mask, unsigned x) {
  for (int step = 16; step > 0; step >>= 1) x = std::min(x, __shfl_xor_sync(mask, x, step));
  return x;
}

// No two threads run at the same time: read, then write.
#define ESFT_EMU_ATOMICS(T)                                                                                     \
  static inline T atomicAdd(T* p, T x) { return std::exchange(*p, T(*p + x)); }                                 \
  static inline T atomicExch(T* p, T x) { return std::exchange(*p, x); }                                        \
  static inline T atomicMax(T* p, T x) { return std::exchange(*p, std::max(*p, x)); }                           \
  static inline T atomicMin(T* p, T x) { return std::exchange(*p, std::min(*p, x)); }                           \
  static inline T atomicOr(T* p, T x) { return std::exchange(*p, T(*p | x)); }                                  \
  static inline T atomicAnd(T* p, T x) { return std::exchange(*p, T(*p & x)); }                                 \
  static inline T atomicXor(T* p, T x) { return std::exchange(*p, T(*p ^ x)); }                                 \
  static inline T atomicCAS(T* p, T expected, T x) { return std::exchange(*p, *p == expected ? x : *p); }
ESFT_EMU_ATOMICS(int)
ESFT_EMU_ATOMICS(unsigned)
using esft_emu_u64 = unsigned long long;
ESFT_EMU_ATOMICS(esft_emu_u64)
#undef ESFT_EMU_ATOMICS
static inline int atomicSub(int* p, int x) { return atomicAdd(p, -x); }
static inline unsigned atomicSub(unsigned* p, unsigned x) { return atomicAdd(p, 0u - x); }

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline T __ldcg(const T* p) {
  return *p;
}
template <class T>
inline void __stcs(T* p, T x) {
  *p = x;
}
template <class T>
inline void __stcg(T* p, T x) {
  *p = x;
}

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
static inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)(x)); }
static inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
  return r;
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }

template <class To, class From>
inline To esft_emu_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To r;
  memcpy(&r, &x, sizeof r);
  return r;
}
static inline int __float_as_int(float x) { return esft_emu_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return esft_emu_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return esft_emu_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return esft_emu_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return esft_emu_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return esft_emu_bits<double>(x); }

// The approximate functions of the GPU as the exact ones: results differ in the last bits from the hardware's.
// (Macros: the C library declares functions of these names.)
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.f / x; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// Never contracted with a neighbour into a fused multiply-add.
static inline float __fadd_rn(float a, float b) {
  float r = a + b;
  asm("" : "+m"(r));
  return r;
}
static inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
static inline float __fmul_rn(float a, float b) {
  float r = a * b;
  asm("" : "+m"(r));
  return r;
}
static inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
static inline double rsqrt(double x) { return 1. / sqrt(x); }
static inline int __float2int_rn(float x) { return int(lrintf(x)); }
static inline int __float2int_rd(float x) { return int(floorf(x)); }
static inline float __int2float_rn(int x) { return float(x); }

#define ESFT_EMU_MIN_MAX(T)                                   \
  static inline T min(T a, T b) { return b < a ? b : a; }     \
  static inline T max(T a, T b) { return a < b ? b : a; }
ESFT_EMU_MIN_MAX(int)
ESFT_EMU_MIN_MAX(unsigned)
ESFT_EMU_MIN_MAX(long)
ESFT_EMU_MIN_MAX(unsigned long)
ESFT_EMU_MIN_MAX(long long)
ESFT_EMU_MIN_MAX(unsigned long long)
#undef ESFT_EMU_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
