// What the forward and backward of attention share: the arguments as plain numbers, and which keys a query sees.
#pragma once
#include "../../core/op_args.h"
#include "../../ops/checks.h"
#include "../context.h"
#include "attention_pack.h"

namespace esft::cpu::ESFT_ISA::attn {

struct Matrix {
  float* data;
  int64_t ld;
  float* at(int64_t row, int64_t col) const { return data + row * ld + col; }
  // The rows from `row` on, as gather_rows reads them.
  auto rows(int64_t row, int64_t col) const {
    return [first = at(row, col), pitch = ld](int64_t r) { return first + r * pitch; };
  }
};
ESFT_INLINE Matrix matrix(const esft_tensor& t) {
  Matrix m = {t.rank >= 0 ? static_cast<float*>(t.data) : nullptr, t.ld};
  return m;
}

struct Shape {
  int64_t T, H, G, group;                          // tokens, query heads, kv-heads, query heads per kv-head
  int64_t k_dim, k_offset, k_stride, dr;           // dr = columns of k_shared
  int64_t dq, dv, v_offset, v_stride;
  int64_t dqp, dvp;                                // padded to whole panels
  int64_t window;
  // Rows of queries: the query heads of a kv-head side by side, token after token, so that neighbours see almost the same keys.
  int64_t token(int64_t row) const { return row / group; }
  // Row `row` and those behind it of x [T, H·d], counted from token t0, of kv-head kv.
  template <class M>
  auto query_rows(const M& x, int64_t d, int64_t t0, int64_t kv, int64_t row) const {
    return [first = x.at(t0, kv * group * d), pitch = x.ld, row, d, g = group](int64_t r) {
      return first + (row + r) / g * pitch + (row + r) % g * d;
    };
  }
  float scale2;                                    // scale · log2(e): probabilities are powers of two
  float scale;
};

// Sinks as exponents of two, as scores are once they are scaled.
struct Sinks {
  const void* data;  // nullptr: none
  bool bf16;
  float at(int64_t h) const {
    const float x = bf16 ? bf16_to_f32(static_cast<const uint16_t*>(data)[h]) : static_cast<const float*>(data)[h];
    return x < -1e30f ? -1e30f : x * 1.44269504f;  // finite, for exp2v
  }
};
ESFT_INLINE Sinks sinks_of(const esft_tensor& t) {
  Sinks s = {t.rank >= 0 ? t.data : nullptr, t.dtype == ESFT_BF16};
  return s;
}

// Works for both argument structs.
template <class Args>
static Shape shape_of(const Args& a) {
  Shape s;
  s.T = 1;
  for (int i = 0; i + 1 < a.q.rank; i++) s.T *= a.q.shape[i];
  s.H = a.heads;
  s.G = a.kv_heads;
  s.group = a.heads / a.kv_heads;
  s.k_dim = a.k_dim;
  s.k_offset = a.k_offset;
  s.k_stride = a.k_stride;
  s.dr = a.k_shared.rank >= 0 ? a.k_shared.shape[a.k_shared.rank - 1] : 0;
  s.dq = s.k_dim + s.dr;
  s.dv = a.v_dim;
  s.v_offset = a.v_offset;
  s.v_stride = a.v_stride;
  s.dqp = round_up(s.dq, NR);
  s.dvp = round_up(s.dv, NR);
  s.window = a.window;
  s.scale = (float)a.scale;
  s.scale2 = (float)(a.scale * 1.4426950408889634);
  return s;
}

// Hands out pieces of one block; with a null base it only measures.
struct Carve {
  char* base;
  size_t used;
  template <class T>
  T* take(int64_t n) {
    T* p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (n * sizeof(T) + 63) / 64 * 64;
    return p;
  }
};

// Query t sees keys first[t] .. t; first is non-decreasing. A document is a run of queries that see no key before it
// (a token with doc_start[t] == t opens one): no product ever crosses its borders.
ESFT_INLINE void first_keys(int32_t* first, const int32_t* doc_start, int64_t T, int64_t window) {
  for (int64_t t = 0; t < T; t++) first[t] = (int32_t)max_of(doc_start[t], window > 0 ? t - window + 1 : 0);
}

// A piece of work: tokens [t0, t1), the part'th part of the document that begins at `doc` and ends at `doc_end`. Short
// documents share a task: a task runs the pieces from task_begin[i] up to task_begin[i + 1].
struct Piece {
  int32_t doc, doc_end, t0, t1, part;
};
struct Plan {
  int64_t tasks;
  int32_t* task_begin;  // [tasks + 1]
  Piece* pieces;
};

// Cuts documents into pieces of at most `most` tokens; pieces that together have at most `share` tokens become one task.
// The arrays hold T pieces and T + 1 task borders. Returns the number of parts of the most divided document.
[[maybe_unused]] static int64_t make_plan(Plan& plan, const int32_t* doc_start, int64_t T, int64_t most, int64_t share,
                                          int64_t step = 2) {
  int64_t n = 0, tasks = 0, filled = 0, most_parts = 0;
  for (int64_t d0 = 0; d0 < T;) {
    int64_t d1 = d0 + 1;
    while (d1 < T && doc_start[d1] != d1) d1++;
    const int64_t parts = ceil_div(d1 - d0, most), size = round_up(ceil_div(d1 - d0, parts), step);
    int64_t part = 0;
    for (int64_t t = d0; t < d1; t += size, part++) {
      const int64_t len = min_of(size, d1 - t);
      if (n == 0 || filled + len > share) {
        plan.task_begin[tasks++] = (int32_t)n;
        filled = 0;
      }
      filled += len;
      plan.pieces[n++] = Piece{(int32_t)d0, (int32_t)d1, (int32_t)t, (int32_t)(t + len), (int32_t)part};
    }
    most_parts = max_of(most_parts, part);
    d0 = d1;
  }
  plan.task_begin[tasks] = (int32_t)n;
  plan.tasks = tasks;
  return most_parts;
}

// Size of near-equal parts of `n` rows of at most MR each, even (so that pairs of rows stay together).
ESFT_INLINE int64_t even_part(int64_t n) { return round_up(ceil_div(n, ceil_div(n, MR)), 2); }

}  // namespace esft::cpu::ESFT_ISA::attn
