// What the kernels of grouped products on Hopper are told: groups of rows, a contraction of segments, and what their epilogue wants.
// Arguments<role, epilogue> puts the parts together; Maps goes beside it, since the copy engine reads its maps where they lie.
#pragma once
#include "../fault.cuh"
#include "../types.cuh"
#include "logit_finish.cuh"
#include "mma_params.h"
#include "sm90_shape.cuh"

namespace esft::cuda::sm90 {

// A matrix that is read row by row.
struct Rows {
  const bf16* data;
  int64_t ld;
  const int32_t* index;  // row of logical row r; null: r itself
  int64_t limit;  // rows of the matrix
  int32_t argument;  // FaultArgument of index
};

struct Out {
  void* data;
  int64_t ld;
  int32_t f32;  // else bf16
  int32_t accumulate;  // add to what is there
  int32_t vectors;  // bf16 rows can be written in 16-byte pieces
  int32_t tma;  // and by the copy engine, through the map beside it in Maps
};

// bf16 rows that an epilogue adds, as wide as its output.
struct Added {
  const bf16* data;  // null: none
  int64_t ld;
  int32_t vectors;  // can be read in 16-byte pieces
  int32_t rounded;  // the product is rounded first: a residual
};

// The rows of each expert, one after the other.
struct Groups {
  const int32_t* offsets;  // [experts + 1]; null: one group of `n` rows
  const int32_t* groups;  // [group_count] expert ids; null: all
  int32_t experts, group_count;
  int64_t n;  // rows; -1: offsets and indices are the program's own and need no check
  FaultRecord* faults;
  int32_t op;
};

// Kernel parameters that the copy engine reads. Weights of nt and nn are stacks [expert, row, column] (encode_stack_map).
constexpr int kMapsOfA = 2, kMapsOfB = 4;
struct Maps {
  CUtensorMap a[kMapsOfA], b[kMapsOfB], h;
  CUtensorMap out, out_h;  // boxes of 64 columns x 16 rows
};

// A stretch of the contraction: columns `column` to `column + length - 1` of an A, times as many columns (nt) or rows (nn) of a B from
// `row` on. Past the length A and B read as zeros, or B alone does.
struct Segment {
  int32_t a;  // which of Maps::a; -1: the gathered rows
  int32_t column;
  int32_t b;  // which of Maps::b; nt: of its first part
  int32_t row;
  int32_t length;
  int32_t per_expert;  // items of `table` for each expert
  const CUtensorMap* table;  // stacks of one expert, where the weights are no stack: item expert · per_expert (+ part); else null
  int32_t parts;  // nt: matrices side by side in the output, or one for all parts
  int32_t shift;  // nt: columns of A that belong to the parts before, for each of them; B reads as zeros there
};

// The sum over its segments in order: low-rank terms, weights of several segments and numbers of several parts are all this.
constexpr int kMaxSegments = 4;
struct Contraction {
  Segment segments[kMaxSegments];
  int32_t count;
  int32_t steps;  // of 64, all segments together
  // Segments from here on are low-rank terms of the experts e with terms_of[e] >= 0, their item in B; nullptr: of all. The others go
  // through the steps with an A of zeros: all tiles of a product take as many.
  int32_t first_term;
  const int32_t* terms_of;
};

template <Role kRole>
struct Params;

template <>
struct Params<Role::kNt> : Groups {
  Contraction contraction;
  int32_t parts, part_rows;  // weights side by side in the output, rows of each
  Rows a;
  __device__ __forceinline__ int width() const { return part_rows; }  // of one part of the output
};

template <>
struct Params<Role::kNn> : Groups {
  Contraction contraction;
  int32_t columns;  // of the weights and of the output
  Rows a;
  __device__ __forceinline__ int width() const { return columns; }
};

template <>
struct Params<Role::kTn> : Groups {
  int32_t parts, part_rows;  // matrices of dW side by side in dy, rows of each
  int32_t columns;
  Rows a, b;
};

template <Epilogue kEpilogue>
struct EpilogueParams;

template <>
struct EpilogueParams<Epilogue::kStore> {
  Out out;  // nt: [n, parts · part_rows]; nn: [n, columns]
  Bias bias;  // nt of one part
  const Bias* biases;  // nt: of expert e and part i at [e · parts + i], in the place of bias; nullptr: none
  float factor;  // of the sums
  Added added;  // to bf16 results: what `out` holds, or, nt, a residual
  // nn of one segment: cuts the contraction of few tiles into pieces, f32 partial sums one after the other in `out`
  // (linear_cross_entropy.cuh).
  int32_t split_target;  // CTAs to fill; 0: no pieces
};

template <>
struct EpilogueParams<Epilogue::kSwiglu> {
  Out out;  // y [n, F]
  Out h;  // pre-activation [n, 2F] kept for backward (data null: not wanted)
  Activation act;
  const Bias* biases;  // as kStore's; nullptr: none
};

template <>
struct EpilogueParams<Epilogue::kSwigluBackward> {
  Out out;  // dh [n, 2F]
  const float* gate;  // [n] or null (1)
  float* dgate_parts;  // [n, column_tiles] or null
  int32_t column_tiles;  // row length of the per-tile results
  Activation act;
};

// Tiles of logits (linear_cross_entropy.cu): per row and 128 columns, [n, column_tiles].
template <>
struct EpilogueParams<Epilogue::kLogits> {
  Out out;
  float *tile_max, *tile_sum;
  int32_t column_tiles;
  float* label_logit;  // [n]
  int32_t* label_first;  // [n]
  const int32_t* labels;  // of token a.index[r]
  LogitFinish finish;
};

template <>
struct EpilogueParams<Epilogue::kWeightGradient> {
  void* const* dw;  // item g · parts + p, f32 [part_rows, columns], row stride dw_ld; null: `out`
  const int64_t* dw_ld;
  Out out;
};

template <Role kRole, Epilogue kEpilogue>
struct Arguments : Params<kRole>, EpilogueParams<kEpilogue> {};

}  // namespace esft::cuda::sm90
