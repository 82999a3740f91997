// The supervised rows of linear_cross_entropy: found, counted and listed on the device; zeros where the others would be written.
// Limit: bytes, the labels read twice and the unsupervised rows of dx written; below a percent of the op.
#include "supervised_rows.cuh"

#include "../host/launch.h"
#include "../reduce.cuh"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kScanThreads = 1024;

__device__ __forceinline__ bool supervised(int32_t label, int64_t vocabulary) { return label >= 0 && label < vocabulary; }

struct CompactParams {
  const int32_t* labels;
  int64_t tokens, vocabulary, capacity, chunks;
  int32_t* rows;  // [T] token of the i-th supervised row
  int32_t* offsets;  // [chunks][2]: {0, rows of the chunk}
  int32_t* count;
};

// One block: supervised rows in their order.
__global__ void __launch_bounds__(kScanThreads) compact(const EarlyStart early, const CompactParams p) {
  early.wait();
  ESFT_SHARED(smem);
  int32_t* of_warp = reinterpret_cast<int32_t*>(smem);  // [32]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t before = 0;
  for (int64_t base = 0; base < p.tokens; base += kScanThreads) {
    const int64_t t = base + threadIdx.x;
    const bool mine = t < p.tokens && supervised(p.labels[t], p.vocabulary);
    const unsigned vote = __ballot_sync(kFullWarp, mine);
    if (lane == 0) of_warp[warp] = __popc(vote);
    __syncthreads();
    int64_t at = before;
    int all = 0;
    for (int w = 0; w < kScanThreads / 32; w++) {
      if (w < warp) at += of_warp[w];
      all += of_warp[w];
    }
    if (mine) p.rows[at + __popc(vote & ((1u << lane) - 1))] = int32_t(t);
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) *p.count = int32_t(before);
  for (int64_t i = threadIdx.x; i < p.chunks; i += kScanThreads) {
    p.offsets[2 * i] = 0;
    p.offsets[2 * i + 1] = int32_t(max_of<int64_t>(0, min_of(p.capacity, before - i * p.capacity)));
  }
}

struct ClearParams {
  const int32_t* labels;
  int64_t tokens, vocabulary, features, dx_ld;
  bf16* dx;  // or nullptr
  float* row_loss;  // or nullptr
};

// A warp per row: zeros where nothing is supervised.
template <int kVec>
__global__ void __launch_bounds__(kThreads) clear_unsupervised(const EarlyStart early, const ClearParams p) {
  early.wait();
  const int lane = threadIdx.x % 32;
  for (int64_t t = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; t < p.tokens;
       t += int64_t(gridDim.x) * (kThreads / 32)) {
    if (supervised(p.labels[t], p.vocabulary)) continue;
    if (p.row_loss && lane == 0) p.row_loss[t] = 0.f;
    for (int64_t d = lane * kVec; p.dx && d < p.features; d += 32 * kVec)
      store_elements(p.dx + t * p.dx_ld + d, zero_elements<bf16, kVec>());
  }
}

}  // namespace

SupervisedRows list_supervised(const int32_t* labels, int64_t tokens, int64_t vocabulary, int64_t capacity, Context& c) {
  const int64_t chunks = ceil_div(tokens, capacity);
  int32_t* const rows = c.scratch_of<int32_t>(tokens);
  int32_t* const offsets = c.scratch_of<int32_t>(2 * chunks);
  int32_t* const count = c.scratch_of<int32_t>(1);
  ESFT_LAUNCH((compact), c, dim3(1), kScanThreads, kScanThreads / 32 * sizeof(int32_t),
              CompactParams{labels, tokens, vocabulary, capacity, chunks, rows, offsets, count});
  return {rows, offsets, count};
}

void clear_unsupervised_rows(const int32_t* labels, int64_t vocabulary, const esft_tensor& dx, float* row_loss, int64_t tokens,
                             Context& c) {
  const bool want_dx = present(dx);
  if (!row_loss && !want_dx) return;
  const int64_t features = want_dx ? cols(dx) : 0;
  const ClearParams clear{labels, tokens, vocabulary, features, dx.ld, want_dx ? data<bf16>(dx) : nullptr, row_loss};
  const dim3 grid(unsigned(min_of<int64_t>(ceil_div(tokens, kThreads / 32), c.sms * 8)));
  if (want_dx && features % 8 == 0 && rows_aligned16(dx))
    ESFT_LAUNCH((clear_unsupervised<8>), c, grid, kThreads, 0, clear);
  else
    ESFT_LAUNCH((clear_unsupervised<1>), c, grid, kThreads, 0, clear);
}

}  // namespace esft::cuda
