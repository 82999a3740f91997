// One 128 x 128 tile of a product on the tensor cores of any GPU from sm_80 on: cp.async into 128-byte swizzled shared memory,
// ldmatrix, mma.m16n8k16, f32 sums.
//
// A stage holds 128 x 64 of A (16 KB) and of B (16 KB). Where the contraction is contiguous ("K-major") that is one slab of 128
// rows of 64 elements; where it counts rows ("MN-major") two slabs of 64 rows of 64 elements, read with ldmatrix.trans. In both
// the 16-byte chunk c of row r lies at c ^ (r & 7), so stores and ldmatrix touch every bank once.
// Eight warps, 4 x 2: warp w owns rows 32·(w/2) and columns 64·(w%2) of the tile: 64 sums per thread.
#pragma once
#include "../reduce.cuh"
#include "mma_params.h"

namespace esft::cuda {

constexpr int kOperandBytes = kMmaTile * kMmaStep * 2;
constexpr int kStageBytes = 2 * kOperandBytes;

using MmaSums = float[2][8][4];

// Elements first .. limit-1 of a row, eight from `first` on: for matrices that are not aligned.
__device__ __forceinline__ Vec16 load_guarded(const bf16* row, int64_t first, int64_t limit, bool valid) {
  Vec16 v = {{0, 0, 0, 0}};
  if (valid) {
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (first + i < limit) v.w[i / 2] |= uint32_t(row[first + i].bits) << (i % 2 * 16);
  }
  return v;
}

template <bool kAligned>
__device__ __forceinline__ void load_chunk(unsigned char* dst, const bf16* row, int64_t first, int64_t limit, bool valid) {
  if (kAligned) {
    valid = valid && first < limit;
    ptx::cp_async_16(dst, row + (valid ? first : 0), valid);
  } else {
    store16(dst, load_guarded(row, first, limit, valid));
  }
}

// A K-major operand: thread t brings chunk t%8 of rows t/8 + 32·i, i = 0..3, in every stage.
struct KMajorRows {
  const bf16* row[4];
  uint32_t valid;  // bit i

  template <bool kAligned>
  __device__ __forceinline__ void load(unsigned char* slab, int64_t column, int64_t limit) const {
    const int r = threadIdx.x / 8, c = threadIdx.x % 8;
    unsigned char* dst = slab + r * 128 + ((c ^ (r & 7)) << 4);
#pragma unroll
    for (int i = 0; i < 4; i++) load_chunk<kAligned>(dst + i * 32 * 128, row[i], column + c * 8, limit, valid >> i & 1);
  }
};

// An MN-major operand: thread t brings the chunk of columns 8·(t%16) of rows t/16 + 16·i.
// row(i) gives the address of contraction row i of this stage, nullptr past the end.
template <bool kAligned, class Row>
__device__ __forceinline__ void load_mn_major(unsigned char* slabs, const bf16* somewhere, int64_t column, int64_t limit, Row row) {
  const int r = threadIdx.x / 16, c = threadIdx.x % 16;
  unsigned char* dst = slabs + c / 8 * (kOperandBytes / 2) + r * 128 + ((c % 8 ^ (r & 7)) << 4);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const bf16* p = row(r + 16 * i);
    load_chunk<kAligned>(dst + i * 16 * 128, p ? p : somewhere, column + c * 8, limit, p != nullptr);
  }
}

// sums += the product of one stage.
template <MmaMode kMode>
__device__ __forceinline__ void multiply_stage(MmaSums& sums, const unsigned char* stage) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row0 = warp / 2 * 32, column0 = warp % 2 * 64;
  const unsigned char* a = stage;
  const unsigned char* b = stage + kOperandBytes;
#pragma unroll
  for (int step = 0; step < kMmaStep / 16; step++) {
    uint32_t fa[2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (kMode == kTn) {
        const int k = step * 16 + (lane >> 4) * 8 + (lane & 7), m = row0 + i * 16 + (lane >> 3 & 1) * 8;
        ptx::ldmatrix_x4_trans(fa[i], a + m / 64 * (kOperandBytes / 2) + k * 128 + ((m % 64 / 8 ^ (k & 7)) << 4));
      } else {
        const int m = row0 + i * 16 + (lane & 15), c = step * 2 + (lane >> 4);
        ptx::ldmatrix_x4(fa[i], a + m * 128 + ((c ^ (m & 7)) << 4));
      }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t fb[4];
      if (kMode == kNt) {
        const int n = column0 + j * 16 + (lane >> 4) * 8 + (lane & 7), c = step * 2 + (lane >> 3 & 1);
        ptx::ldmatrix_x4(fb, b + n * 128 + ((c ^ (n & 7)) << 4));
      } else {
        const int k = step * 16 + (lane >> 3 & 1) * 8 + (lane & 7), n = column0 + j * 16 + (lane >> 4) * 8;
        ptx::ldmatrix_x4_trans(fb, b + n / 64 * (kOperandBytes / 2) + k * 128 + ((n % 64 / 8 ^ (k & 7)) << 4));
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        ptx::mma_16816(sums[i][2 * j], fa[i], fb[0], fb[1]);
        ptx::mma_16816(sums[i][2 * j + 1], fa[i], fb[2], fb[3]);
      }
    }
  }
}

// sums = the product over `steps` stages; load(stage memory, step) issues the copies of one, steps ascending. Ends with a
// barrier: the shared memory may be used for something else.
template <MmaMode kMode, class Load>
__device__ __forceinline__ void multiply_tile(MmaSums& sums, unsigned char* memory, int stages, int steps, Load load) {
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int q = 0; q < 4; q++) sums[i][j][q] = 0.f;
  for (int s = 0; s < stages - 1; s++) {
    if (s < steps) load(memory + s * kStageBytes, s);
    ptx::cp_async_commit();
  }
  int reading = 0, writing = stages - 1;
  for (int step = 0; step < steps; step++) {
    if (stages == 3)
      ptx::cp_async_wait<1>();
    else
      ptx::cp_async_wait<0>();
    __syncthreads();  // this stage has landed for everyone, and everyone is done with the one before it
    if (step + stages - 1 < steps) load(memory + writing * kStageBytes, step + stages - 1);
    ptx::cp_async_commit();
    multiply_stage<kMode>(sums, memory + reading * kStageBytes);
    reading = reading + 1 == stages ? 0 : reading + 1;
    writing = writing + 1 == stages ? 0 : writing + 1;
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
}

}  // namespace esft::cuda
