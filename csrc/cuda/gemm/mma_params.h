// What the portable matrix kernels (mma_gemm.cuh) are told, and the host functions that fill it. Dense and grouped products of
// all three modes are one kernel: a dense product is one group without offsets, with its operands inline instead of in tables.
#pragma once
#include <stdint.h>

#include "../../ops/activation.h"
#include "../host/context.h"
#include "../types.cuh"
#include "split_count.cuh"

namespace esft::cuda {

// nt: C = A·Bᵀ, nn: C = A·B, tn: C = Aᵀ·B; the names of gemm's modes. The contraction is contiguous in A and B of nt and in A
// of nn; it counts rows in the other operands.
enum MmaMode { kNt, kNn, kTn };

enum MmaEpilogue {
  kStore,     // C, rounded, added to, biased or beside a residual as Output says
  kSwiglu,    // nt: h and f(h_gate, h_up), SwiGLU or its kin
  kDswiglu,   // nn: the gradient of h, and of the gate
  kCeLogits,  // nt: statistics of the softmax and shifted logits (linear_cross_entropy.cu)
};

// One matrix of a table: bf16 weights, or f32 weight gradients.
struct Matrix {
  const void* data;
  int64_t ld;
};

// A vector that is added to the columns of nt: `size` elements, f32 or bf16.
struct Bias {
  const void* data;  // nullptr: none
  int32_t is_bf16, size;
};

// Rows of an activation, gathered by `index` when there is one.
struct Rows {
  const bf16* data;
  int64_t ld, count;  // count: what index values must stay below
  const int32_t* index;
  FaultArgument argument;  // the index's name
};

// A tile of the dimension along which segments are stacked: rows row0 .. row0+count-1 of matrix `segment`, which are columns
// column0 .. of the activation beside it. For the contraction of nn: a whole segment.
struct ColumnTile {
  int32_t segment, row0, column0, count;
};

// A matrix of a low-rank term (ops/grouped_gemm.h).
struct TermItem {
  const void* data;
  int64_t ld;
  int32_t rows, cols;
};

// Low-rank terms beside a grouped product: a short stretch of its contraction, over the columns of u.
struct Terms {
  const bf16* u;
  int64_t ld;
  int32_t columns, parts, rank;  // of u; matrices per expert, and columns for each
  int32_t vectors;  // u and items can be read in 16-byte pieces
  const TermItem* items;
  const int32_t* first;  // of expert e: its first item, -1: it has no term; nullptr: nobody has
};

struct Output {
  void* data;
  int64_t ld;
  int32_t is_bf16, accumulate;
  int32_t pairs;  // two neighbouring elements may be stored at once, whatever the even column
  const void* residual;  // nt: added, of the same type; nullptr: none
  int64_t residual_ld;
};

struct MmaParams {
  Rows a;                                // nt, nn: A; tn: A, contracted over its rows
  Rows b;                                // tn: B
  const Matrix* w;                       // nt, nn: B of expert e and segment s at [e·segments + s]; nullptr: w_one
  Matrix w_one;
  const Matrix* out_items;               // tn: C of listed expert i and segment s at [i·segments + s]; nullptr: out
  Output out;
  float factor = 1.f;                    // kStore of nt and nn: of the product
  Terms terms;                           // nt and nn
  Bias bias;                             // kStore of nt
  const Bias* biases;  // nt: of expert e and segment s at [e·segments + s], in the place of bias; nullptr: none
  int32_t segments;
  const ColumnTile* stack;  // nt: tiles of C's columns; tn: of C's rows; nn: contraction; nullptr: one segment
  int32_t stack_count;  // number of those (also when stack is nullptr)
  int64_t m, n, k;  // m: rows of C of a dense product; n: columns (nt: stacked); k: contraction of one segment
  const int32_t* offsets;  // nullptr: dense
  const int32_t* groups;  // expert ids to compute; nullptr: all
  int32_t experts, group_count;
  int64_t routed;  // N, which offsets must not exceed; -1: offsets are the program's own
  // Split contraction (kStore to f32 partials, see split_count): partial s at out.data + s·split_stride elements.
  int32_t split_target;  // 0: none
  int64_t split_stride;  // 0: the row tiles there are, times 128, times out.ld (rows from offsets that only the device knows)
  int32_t stages;  // of shared memory, 2 or 3
  int32_t op;
  FaultRecord* faults;
};

struct SwigluOutput {
  bf16* h;  // nullptr: not kept
  int64_t h_ld;
  int64_t features;  // F
  Activation act;
  int32_t pairs;  // as Output's, of h and of its two halves
};

struct DswigluInput {
  const bf16* h;
  int64_t h_ld;
  const float* gate;  // [N], nullptr: 1
  float* dgate_partials;  // [N, column tiles], nullptr: no dgate
  int64_t features;
  Activation act;
  int32_t pairs;  // as Output's, of h and of dh
};

constexpr int kMmaTile = 128;  // rows and columns of C per CTA
constexpr int kMmaSwiglu = 64;  // columns of F per CTA: 64 of gate and 64 of up
constexpr int kMmaStep = 64;  // contraction per stage
constexpr int kMmaThreads = 256;

// ---- host ---------------------------------------------------------------------------------------------------------------

// A matrix may be read in 16-byte pieces: base and stride aligned, width a multiple of 8.
inline bool vector_rows(const void* data, int64_t ld, int64_t columns) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ld % 8 == 0 && columns % 8 == 0;
}
inline bool vector_rows(const esft_tensor& t) { return rows(t) == 0 || vector_rows(t.data, rows(t) > 1 ? t.ld : 0, cols(t)); }
inline Rows activation(const esft_tensor& t, const esft_tensor* index, FaultArgument argument) {
  return {data<bf16>(t), t.ld, rows(t), index && present(*index) ? data<int32_t>(*index) : nullptr, argument};
}
inline Activation activation_of(int64_t kind, double alpha, double limit) { return {int32_t(kind), float(alpha), float(limit)}; }
// Expert biases on the device, item by item; nullptr where there are none.
const Bias* bias_table(const esft_tensor_list& list, Context& c);
inline Bias bias_of(const esft_tensor& t) {
  if (!present(t)) return {};
  return {t.data, t.dtype == ESFT_BF16, int32_t(numel(t))};
}
inline bool paired(const esft_tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % (t.dtype == ESFT_BF16 ? 4 : 8) == 0 && t.ld % 2 == 0;
}
inline Output output(const esft_tensor& t, bool accumulate) {
  return {t.data, t.ld, t.dtype == ESFT_BF16, accumulate, paired(t), nullptr, 0};
}
inline Output output(const esft_tensor& t, bool accumulate, const esft_tensor& residual) {
  Output o = output(t, accumulate);
  if (present(residual)) o.pairs = o.pairs && paired(residual), o.residual = residual.data, o.residual_ld = residual.ld;
  return o;
}

// gemm_portable.cu: dense products of bf16 operands; `aligned`: both operands are vector_rows.
void mma_dense(MmaMode mode, const MmaParams& p, bool aligned, Context& c);

}  // namespace esft::cuda
