// expert_sort: counting sort in two passes over fixed chunks of tokens. Chunk c starts expert e where chunks 0..c-1 of e
// end, so chunks scatter independently and the order is that of one sequential pass.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {

// Assignments per chunk: at least 8192, and at most 256 chunks however long the batch.
ESFT_INLINE int64_t tokens_per_chunk(int64_t T, int64_t K) { return max_of(max_of(1, 8192 / max_of(K, 1)), ceil_div(T, 256)); }

}  // namespace

void expert_sort(const esft_expert_sort_args& a, Context& ctx) {
  const int64_t T = rows(a.ids), K = cols(a.ids), E = numel(a.offsets) - 1;
  check_indices("expert_sort", "ids", a.ids, E);
  const int64_t chunk = tokens_per_chunk(T, K), chunks = ceil_div(T, chunk);
  int32_t* next = static_cast<int32_t*>(ctx.shared_scratch((chunks + 1) * E * 4));  // [chunks, E]: counts, then next rows
  int32_t* offsets = data<int32_t>(a.offsets);
  int32_t* tokens = data<int32_t>(a.tokens);
  float* gate = present(a.gate) ? data<float>(a.gate) : nullptr;

  for_chunks(ctx, T, chunk, K, [&](int64_t begin, int64_t end, int) {
    int32_t* count = next + begin / chunk * E;
    memset(count, 0, E * 4);
    for (int64_t t = begin; t < end; t++) {
      const int32_t* ids = row_of<int32_t>(a.ids, t);
      for (int64_t k = 0; k < K; k++) count[ids[k]]++;
    }
  });

  int32_t row = 0;
  for (int64_t e = 0; e < E; e++) {
    offsets[e] = row;
    for (int64_t c = 0; c < chunks; c++) {
      const int32_t count = next[c * E + e];
      next[c * E + e] = row;
      row += count;
    }
  }
  offsets[E] = row;

  for_chunks(ctx, T, chunk, K, [&](int64_t begin, int64_t end, int) {
    int32_t* place = next + begin / chunk * E;
    for (int64_t t = begin; t < end; t++) {
      const int32_t* ids = row_of<int32_t>(a.ids, t);
      int32_t* pos = row_of<int32_t>(a.pos, t);
      const float* weights = gate ? row_of<float>(a.weights, t) : nullptr;
      for (int64_t k = 0; k < K; k++) {
        const int32_t r = place[ids[k]]++;
        pos[k] = r;
        tokens[r] = int32_t(t);
        if (gate) gate[r] = weights[k];
      }
    }
  });
}

void count_experts(const esft_count_experts_args& a, Context& ctx) {
  const int64_t T = rows(a.ids), K = cols(a.ids), E = numel(a.counts);
  check_indices("count_experts", "ids", a.ids, E);
  const int64_t chunk = tokens_per_chunk(T, K), chunks = ceil_div(T, chunk);
  double* sums = static_cast<double*>(ctx.shared_scratch((chunks + 1) * E * 16));  // [chunks, E] sums, then [chunks, E] counts
  int64_t* counts = reinterpret_cast<int64_t*>(sums + chunks * E);
  const int32_t* mask = present(a.mask) ? data<int32_t>(a.mask) : nullptr;

  for_chunks(ctx, T, chunk, 2 * K, [&](int64_t begin, int64_t end, int) {
    double* sum = sums + begin / chunk * E;
    int64_t* count = counts + begin / chunk * E;
    memset(sum, 0, E * 8);
    memset(count, 0, E * 8);
    for (int64_t t = begin; t < end; t++) {
      if (mask && mask[t] == 0) continue;
      const int32_t* ids = row_of<int32_t>(a.ids, t);
      const float* weights = row_of<float>(a.weights, t);
      for (int64_t k = 0; k < K; k++) {
        sum[ids[k]] += double(weights[k]);
        count[ids[k]]++;
      }
    }
  });

  for (int64_t c = 0; c < chunks; c++)
    for (int64_t e = 0; e < E; e++) {
      data<int64_t>(a.counts)[e] += counts[c * E + e];
      data<double>(a.gate_sums)[e] += sums[c * E + e];
    }
}

}  // namespace esft::cpu::ESFT_ISA
