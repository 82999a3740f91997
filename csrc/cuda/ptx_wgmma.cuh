// wgmma wrappers: one warpgroup (128 threads) multiplies a 64 x 16 tile of A with a 16 x N tile of B. Included by ptx.cuh.
//
// wgmma<N, kTransA, kTransB>(acc, a, b, add): acc[64,N] (+)= A·B, operands in shared memory behind 64-bit descriptors
// (smem_desc). Trans = 0: the operand's contraction dimension is contiguous (K-major); 1: the other one is (MN-major).
// wgmma_rs<N, kTransB>: A from registers, in the fragment layout of mma m16n8k16 (warp w of the group holds rows 16w..16w+15).
// Fragment: thread t holds acc[i] = row 16·(t/32) + (t%32)/4 + 8·((i>>1)&1), column 8·(i>>2) + 2·(t%4) + (i&1).
// Order: wgmma_fence, products, wgmma_commit, wgmma_wait<pending groups>; acc and the fragments of A are not written in between, and
// pass through warpgroup_fence_operand before the fence and after the wait, so that the compiler moves no access across: what computes them
// (cvt, fma) is not volatile and knows of neither. scripts/sass.ts looks at the machine code.
#pragma once

namespace esft::cuda::ptx {

// Descriptor of a 128-byte swizzled tile that starts at p. K-major: rows of 64 elements, stride_bytes from one group of eight rows to
// the next (1024 when rows are consecutive), leading_bytes unused. MN-major: rows are the contraction index; stride_bytes
// from eight of them to the next eight (1024), leading_bytes from 64 columns to the next 64.
__device__ __forceinline__ uint64_t smem_desc(const void* p, uint32_t leading_bytes, uint32_t stride_bytes) {
  return uint64_t((smem_addr(p) & 0x3ffff) >> 4) | uint64_t(leading_bytes >> 4) << 16 | uint64_t(stride_bytes >> 4) << 32 |
         uint64_t(1) << 62;
}
// The same descriptor `bytes` further on (a multiple of 16).
__device__ __forceinline__ uint64_t desc_advance(uint64_t desc, uint32_t bytes) { return desc + (bytes >> 4); }
// Bytes from one step of 16 along the contraction to the next: within a row of the tile (K-major), or 16 rows of 128 bytes (MN-major).
template <int kTrans>
constexpr uint32_t kAdvance = kTrans ? 2048 : 32;

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
template <int kCount>
__device__ __forceinline__ void warpgroup_fence_operand(float (&acc)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i++) asm volatile("" : "+f"(acc[i])::"memory");
}
// The same of A's fragments in registers, one of four words per 16 columns.
template <int kCount>
__device__ __forceinline__ void warpgroup_fence_operand(uint32_t (&a)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) asm volatile("" : "+r"(a[i][j])::"memory");
}

template <int N>
struct Wgmma;

// Operand lists. "%10,%11,…,%19" for the tens digit 1, nothing for 0; accumulator registers eight by eight.
// clang-format off
#define ESFT_TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9"
#define ESFT_LIST_30 ESFT_TEN() "," ESFT_TEN(1) "," ESFT_TEN(2)
#define ESFT_LIST_60 ESFT_LIST_30 "," ESFT_TEN(3) "," ESFT_TEN(4) "," ESFT_TEN(5)
#define ESFT_LIST_90 ESFT_LIST_60 "," ESFT_TEN(6) "," ESFT_TEN(7) "," ESFT_TEN(8)
#define ESFT_LIST_32 ESFT_LIST_30 ",%30,%31"
#define ESFT_LIST_48 ESFT_LIST_30 "," ESFT_TEN(3) ",%40,%41,%42,%43,%44,%45,%46,%47"
#define ESFT_LIST_64 ESFT_LIST_60 ",%60,%61,%62,%63"
#define ESFT_LIST_96 ESFT_LIST_90 ",%90,%91,%92,%93,%94,%95"
#define ESFT_LIST_128 ESFT_LIST_90 "," ESFT_TEN(9) "," ESFT_TEN(10) "," ESFT_TEN(11) ",%120,%121,%122,%123,%124,%125,%126,%127"
#define ESFT_REGS_8(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define ESFT_REGS_16(i) ESFT_REGS_8(i), ESFT_REGS_8(i + 8)
#define ESFT_REGS_32(i) ESFT_REGS_16(i), ESFT_REGS_16(i + 16)
#define ESFT_REGS_48(i) ESFT_REGS_32(i), ESFT_REGS_16(i + 32)
#define ESFT_REGS_64(i) ESFT_REGS_32(i), ESFT_REGS_32(i + 32)
#define ESFT_REGS_96(i) ESFT_REGS_64(i), ESFT_REGS_32(i + 64)
#define ESFT_REGS_128(i) ESFT_REGS_64(i), ESFT_REGS_64(i + 64)

// The products of N columns with R = N / 2 registers of sums; o0…o6: numbers of the operands after them, R and on.
#define ESFT_WGMMA(N, R, o0, o1, o2, o3, o4, o5, o6)                                                                          \
  template <>                                                                                                                 \
  struct Wgmma<N> {                                                                                                           \
    template <int kTransA, int kTransB>                                                                                       \
    static __device__ __forceinline__ void ss(float (&d)[R], uint64_t a, uint64_t b, int add) {                               \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #o2 ", 0;\n"                                                          \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" ESFT_LIST_##R "}, %" #o0 ", %" #o1            \
                   ", p, 1, 1, %" #o3 ", %" #o4 ";\n}\n"                                                                      \
                   : ESFT_REGS_##R(0)                                                                                         \
                   : "l"(a), "l"(b), "r"(add), "n"(kTransA), "n"(kTransB));                                                   \
    }                                                                                                                         \
    template <int kTransB>                                                                                                    \
    static __device__ __forceinline__ void rs(float (&d)[R], const uint32_t (&a)[4], uint64_t b, int add) {                   \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #o5 ", 0;\n"                                                          \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" ESFT_LIST_##R "}, {%" #o0 ",%" #o1 ",%" #o2   \
                   ",%" #o3 "}, %" #o4 ", p, 1, 1, %" #o6 ";\n}\n"                                                            \
                   : ESFT_REGS_##R(0)                                                                                         \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(kTransB));                             \
    }                                                                                                                         \
  };
ESFT_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
ESFT_WGMMA(96, 48, 48, 49, 50, 51, 52, 53, 54)
ESFT_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
ESFT_WGMMA(192, 96, 96, 97, 98, 99, 100, 101, 102)
ESFT_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134)
// clang-format on

template <int N, int kTransA, int kTransB>
__device__ __forceinline__ void wgmma(float (&acc)[N / 2], uint64_t a, uint64_t b, bool add) {
  Wgmma<N>::template ss<kTransA, kTransB>(acc, a, b, add);
}
template <int N, int kTransB>
__device__ __forceinline__ void wgmma_rs(float (&acc)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
  Wgmma<N>::template rs<kTransB>(acc, a, b, add);
}

}  // namespace esft::cuda::ptx
