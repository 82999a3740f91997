// Backward attention on Hopper: what the kernels in one pass (attention_backward_one_sm90.cu) and in two (attention_backward_sm90.cu) share.
#pragma once
#include "../host/tensor_map.h"
#include "attention_backward.cuh"

namespace esft::cuda::attention {

constexpr int kRows = 128, kRowSlab = kRows * 128, kThreads = 384;
constexpr int kLoadRegisters = 24, kMultiplyRegisters = 240;
constexpr int kSharedLimit = 227 * 1024;

// Maps of q, dout, k, v, k_shared: boxes of 128 rows for the operands that stay, of a stage for those that stream.
struct Maps {
  CUtensorMap fixed[5], streamed[5];
  int k_offset, v_offset;
};
// False: some operand cannot have one.
inline bool encode_maps(Maps* m, const BackwardParams& p, const esft_attention_backward_args& a, int columns) {
  const esft_tensor operands[] = {a.q, a.dout, a.k, a.v, a.k_shared};
  m->k_offset = int(a.k_offset);
  m->v_offset = int(a.v_offset);
  for (int i = 0; i < (p.layout.shared ? 5 : 4); i++)
    if (!encode_tensor_map(&m->fixed[i], operands[i], kRows) || !encode_tensor_map(&m->streamed[i], operands[i], columns))
      return false;
  return true;
}

// The first of two arrays, or the second.
template <bool kFirst, class A, class B>
__device__ __forceinline__ auto& choose(A& a, B& b) {
  if constexpr (kFirst)
    return a;
  else
    return b;
}

struct Barriers {
  uint64_t* base;
  int stages;
  __device__ uint64_t* fixed() const { return base; }
  __device__ uint64_t* full(int stage) const { return base + 1 + stage; }
  __device__ uint64_t* empty(int stage) const { return base + 1 + stages + stage; }
};

// Both operands of one side of one head, to tiles of kTileRows rows.
template <int DQ, int DV, bool kKeySide, int kTileRows>
__device__ __forceinline__ void load_side(const BackwardParams& p, const Maps& m, const CUtensorMap* maps, unsigned char* tile1,
                                          unsigned char* tile2, uint64_t* bar, int head, int row) {
  const Layout& l = p.layout;
#pragma unroll
  for (int s = 0; s < DQ / 64; s++) {
    const bool own = !kKeySide || s * 64 < l.k_dim;
    const int x = !kKeySide ? head * DQ + s * 64 : own ? m.k_offset + head * int(l.k_stride) + s * 64 : s * 64 - l.k_dim;
    ptx::tma_load_2d(tile1 + s * (kTileRows * 128), maps + (!kKeySide ? 0 : own ? 2 : 4), bar, x, row);
  }
#pragma unroll
  for (int s = 0; s < DV / 64; s++)
    ptx::tma_load_2d(tile2 + s * (kTileRows * 128), maps + (kKeySide ? 3 : 1), bar,
                     (kKeySide ? m.v_offset + head * int(l.v_stride) : head * DV) + s * 64, row);
}

// A warp: what the multiplying threads need of each of kColumns queries from column0 on: −lse2, −Δ, first; complete on the barrier.
template <int kColumns>
__device__ __forceinline__ void load_numbers(const BackwardParams& p, unsigned char* to, uint64_t* bar, int head, int column0) {
  constexpr int kPieces = kColumns / 4;  // of 16 bytes
  const int64_t at = int64_t(head) * p.padded + column0;
  for (int i = int(threadIdx.x) % 32; i < kPieces; i += 32) {
    ptx::cp_async_16(to + i * 16, p.minus_lse2 + at + 4 * i, true);
    ptx::cp_async_16(to + (kPieces + i) * 16, p.minus_delta + at + 4 * i, true);
    ptx::cp_async_16(to + (2 * kPieces + i) * 16, p.first + column0 + 4 * i, true);
  }
  ptx::cp_async_mbar_arrive(bar);
}

}  // namespace esft::cuda::attention
