// y[c] (+)= Σ over rows in a fixed order without atomics, in two launches: fixed chunks of rows into partial[chunk, c], then the
// chunks in order. The order depends on the number of rows alone.
#pragma once
#include "../host/context.h"

namespace esft::cuda {

// Rows per chunk: chunks of at least `least` rows, at most 1024 chunks.
inline int64_t rows_per_chunk(int64_t rows, int64_t least) {
  const int64_t chunk = (rows + 1023) / 1024;
  return chunk < least ? least : chunk;
}

// y[c] = Σ_chunk partial[chunk, c], added to what is there when `accumulate`; partial f32 [chunks, cols] contiguous.
void add_partials(Context& context, const float* partial, int64_t chunks, int64_t cols, float* y, bool accumulate = true);

}  // namespace esft::cuda
