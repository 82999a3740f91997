// The two big products of linear_cross_entropy as functions with a small interface, so that each device has its own main loop.
// Both work on a chunk: up to `capacity` supervised rows of which offsets[1] exist (offsets = {0, n}, device memory).
#pragma once
#include "logit_finish.cuh"
#include "mma_params.h"

namespace esft::cuda {

// Logits z = cap(scale · (x·Wᵀ + u·Bᵀ + bias)) of the chunk and, per row and tile of 128 columns, what the softmax needs. For every
// row r < n and every tile t of columns 128·t ..:
//   tile_max[r, t] = max z,  tile_sum[r, t] = Σ exp(z - tile_max) in f32,  shifted[r, v] = bf16(z - tile_max[r, t])
// Of the row's label: label_z[r] = its z, f32, not rounded;  label_first[r] = 1 where it is the lowest id of its tile that has tile_max.
struct CeLogits {
  Rows x;                   // [T, D]; row r of the chunk is x.data + x.index[r]·ld (indices of the program's own)
  Matrix w;                 // [V, D] bf16
  const int32_t* offsets;   // {0, n}
  int64_t capacity, vocabulary, features;
  const int32_t* labels;    // [T]
  LogitFinish finish;
  int32_t tiles;            // ceil(V / 128)
  bf16* gathered;           // [capacity, D] for the rows of x; nullptr where no kernel wants them
  Rows u;                   // [T, R] and
  Matrix b;                 // [V, R] of a low-rank term, u indexed as x is; R = 0: none
  int64_t rank;             // where Hopper's kernels are to serve, b's rows begin on 16 bytes
  bool vectors;             // rows of u and b are 16-byte pieces; the portable kernel sets it
  bf16* shifted;            // [capacity, shifted_ld], shifted_ld = V rounded up to 8
  int64_t shifted_ld;
  float *tile_max, *tile_sum;  // [capacity, tiles]
  float* label_z;        // [capacity]
  int32_t* label_first;  // [capacity]
};

// dX = dZ·W of the chunk in f32, the contraction over V in as many parts as fill the device: part s of row r at
// partials + (s · padded + r) · D, padded = n rounded up to the tile's rows. The number of parts is
// split_count(target, tiles(n), steps), known to the device only: CeSplits says how to compute it again.
struct CeGradient {
  Rows dz;                 // [capacity, V rounded up to 8], zeros in the padding; no index
  Matrix w;                // [V, D] bf16
  const int32_t* offsets;  // {0, n}
  int64_t capacity, vocabulary, features;
  float* partials;         // ce_partials_size elements
};
struct CeSplits {
  int32_t target, tile_rows, tile_columns;
  int32_t steps;  // of the contraction
};
__host__ __device__ __forceinline__ int ce_parts(const CeSplits& s, int64_t n, int64_t features) {
  return split_count(s.target, ceil_div(n, s.tile_rows) * ceil_div(features, s.tile_columns), s.steps);
}
// Room for tiles of up to 128 x 256, target = the SMs.
inline int64_t ce_partials_size(int64_t capacity, int64_t features, int sms) {
  return max_of(ceil_div(capacity, 128) * 128 * features, int64_t(sms) * 128 * 256);
}

void portable_ce_logits(const CeLogits& ce, Context& c);
CeSplits portable_ce_gradient(const CeGradient& g, Context& c);
// dw [V, D] f32 (+)= dZᵀ·x.
void portable_ce_weight_gradient(const Rows& dz, const Rows& x, const int32_t* offsets, const esft_tensor& dw, bool accumulate,
                                 Context& c);

// to [n, padded] = the first `rank` columns of `rows` in the order of their index, where there is one, and zeros. offsets = {0, n};
// nullptr: all rows. For the copy engine, whose rows begin on 16 bytes.
void pad_rows(const Rows& rows, const int32_t* offsets, bf16* to, int64_t rank, int64_t padded, Context& c);

// linear_cross_entropy_sm90.cu; false: not served.
bool sm90_ce_logits(const CeLogits& ce, Context& c);
bool sm90_ce_gradient(const CeGradient& g, CeSplits* splits, Context& c);

}  // namespace esft::cuda
