// Rows of a tile of queries: which token and head each belongs to.
#pragma once
#include "attention_shape.h"

namespace esft::cpu::ESFT_ISA::attn {

// Rows are the query heads of a kv-head side by side, token after token. Divides once, not by row.
template <int N>
struct Rows {
  int64_t n;
  int32_t token[N], head[N];  // from the token where rows are counted from, from the first head of the group
  Rows(const Shape& g, int64_t row, int64_t rows) : n(rows) {
    int32_t t = (int32_t)(row / g.group), h = (int32_t)(row % g.group);
    for (int64_t r = 0; r < n; r++) {
      token[r] = t;
      head[r] = h;
      if (++h == g.group) h = 0, t++;
    }
  }
  int64_t tokens() const { return token[n - 1] - token[0] + 1; }
};
typedef Rows<MR> TileRows;

}  // namespace esft::cpu::ESFT_ISA::attn
