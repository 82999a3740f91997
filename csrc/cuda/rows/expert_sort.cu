// expert_sort: a stable counting sort over fixed chunks of slots. Launch 1 counts each chunk's experts into a table; launch 2
// gives every chunk the place of its first row of each expert (each block adds up the table's columns itself, so that no block
// waits for another) and scatters. Inside a block each warp owns a stretch of slots: it counts them, a prefix over the warps
// turns the counts into next rows, and the second walk hands rows out, a warp step of 32 slots ranked by ballots over the bits of
// the ids. One chunk (N <= 4096): launch 2 alone. Only integers are added atomically, so the result never depends on the order.
// Up to 65536 slots launch 1 is left out: every block counts the other chunks itself, which costs a few microseconds of ballots and
// saves a launch, whatever the routing; routing, sorting and counting are then three launches.
// 20 bytes per slot; bound by two launches and the latency of the table (chunks · E · 4 bytes from L2, at most 128 chunks).
// Where the counts of a block's warps exceed shared memory (E above some thousands), tables in global memory: three plain passes.
// An id that does not exist is recorded and counted as expert 0, so that the outputs stay what they are for: a permutation.
#include "../host/launch.h"
#include "../reduce.cuh"
#include "index_check.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int64_t kAlone = 65536, kAloneExperts = 512;  // one launch up to here
constexpr int64_t kOneChunk = 4096, kSmallestChunk = 1024, kMostChunks = 128;
constexpr int64_t kPlainChunks = 64;  // of the plain passes: a warp each

struct SortParams {
  const int32_t* ids;
  const float* weights;
  int32_t* offsets;
  int32_t* tokens;
  int32_t* pos;
  float* gate;
  int32_t* table;  // [chunks, E]: counts; in the plain passes then next rows; nullptr: blocks count for themselves
  int64_t ids_ld, weights_ld, pos_ld;
  IndexCheck check;
  uint32_t N, K, E, bits;  // bits: of the largest id
  uint32_t chunk, chunks;  // slots per chunk, a multiple of kThreads
};

// The id of slot i, 0 if there is none such. The whole warp calls it with consecutive slots.
__device__ __forceinline__ uint32_t id_of_slot(const SortParams& p, uint32_t i, bool active) {
  uint32_t id = 0;
  if (active) {
    const uint32_t t = p.ids_ld == p.K ? 0 : i / p.K;
    id = uint32_t(p.ids[t * p.ids_ld + (i - t * p.K)]);
  }
  const unsigned bad = __ballot_sync(kFullWarp, id >= p.E);
  if (bad == 0) return id;
  if (int(threadIdx.x % 32) == __ffs(int(bad)) - 1) p.check.ok(i, int32_t(id));
  return id < p.E ? id : 0;
}

// The active lanes with the same id.
__device__ __forceinline__ unsigned peers_of(const SortParams& p, uint32_t id, bool active) {
  unsigned peers = __ballot_sync(kFullWarp, active);
  for (uint32_t b = 0; b < p.bits; b++) {
    const unsigned ones = __ballot_sync(kFullWarp, id >> b & 1);
    peers &= id >> b & 1 ? ones : ~ones;
  }
  return peers;
}

// One warp walks slots begin..end-1 in order; next[id] grows by its slots. kPlace: it held the next row of each expert, and the
// slots are written there.
template <bool kPlace>
__device__ __forceinline__ void walk(const SortParams& p, uint32_t begin, uint32_t end, int32_t* next) {
  const unsigned lane = threadIdx.x % 32;
  for (uint32_t first = begin; first < end; first += 32) {
    const uint32_t i = first + lane;
    const bool active = i < end;
    const uint32_t id = id_of_slot(p, i, active);
    const unsigned peers = peers_of(p, id, active), before = peers & ((1u << lane) - 1);
    const int32_t row = active ? next[id] + __popc(before) : 0;
    __syncwarp();
    if (active && before == 0) next[id] = row + __popc(peers);
    __syncwarp();
    if (!kPlace || !active) continue;
    const uint32_t t = i / p.K, k = i - t * p.K;
    p.pos[t * p.pos_ld + k] = row;
    p.tokens[row] = int32_t(t);
    if (p.gate) p.gate[row] = p.weights[t * p.weights_ld + k];
  }
}

// Exclusive prefix sums of x[0..n-1] in place, between barriers. scratch: [warps].
__device__ __forceinline__ void block_scan(int32_t* x, uint32_t n, int32_t* scratch) {
  const uint32_t each = (n + kThreads - 1) / kThreads, begin = min_of(threadIdx.x * each, n), end = min_of(begin + each, n);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t own = 0;
  for (uint32_t i = begin; i < end; i++) own += x[i];
  int32_t sum = own;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const int32_t left = __shfl_up_sync(kFullWarp, sum, step);
    if (lane >= step) sum += left;
  }
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  int32_t next = sum - own;
  for (int w = 0; w < warp; w++) next += scratch[w];
  for (uint32_t i = begin; i < end; i++) {
    const int32_t count = x[i];
    x[i] = next;
    next += count;
  }
  __syncthreads();
}

// ---- counts in shared memory --------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads) count_chunks(const EarlyStart early, const SortParams p) {
  early.wait();
  ESFT_SHARED(smem);
  int32_t* count = reinterpret_cast<int32_t*>(smem);  // [E]
  for (uint32_t e = threadIdx.x; e < p.E; e += kThreads) count[e] = 0;
  __syncthreads();
  const uint32_t begin = blockIdx.x * p.chunk, end = min_of(p.N, begin + p.chunk);
  for (uint32_t first = begin; first < end; first += kThreads) {
    const uint32_t i = first + threadIdx.x;
    const uint32_t id = id_of_slot(p, i, i < end);
    if (i < end) atomicAdd(&count[id], 1);
  }
  __syncthreads();
  for (uint32_t e = threadIdx.x; e < p.E; e += kThreads) p.table[blockIdx.x * p.E + e] = count[e];
}

__global__ void __launch_bounds__(kThreads) sort_chunks(const EarlyStart early, const SortParams p) {
  early.wait();
  ESFT_SHARED(smem);
  int32_t* next = reinterpret_cast<int32_t*>(smem);  // [warps, E]
  int32_t* start = next + kWarps * p.E;  // [E]: slots of e, then its first row
  int32_t* earlier = start + p.E;  // [E]: slots of e in earlier chunks
  int32_t* scratch = earlier + p.E;  // [warps]
  const uint32_t chunk_begin = blockIdx.x * p.chunk, share = p.chunk / kWarps;
  const uint32_t begin = min_of(p.N, chunk_begin + threadIdx.x / 32 * share), end = min_of(p.N, begin + share);
  int32_t* own = next + threadIdx.x / 32 * p.E;

  for (uint32_t i = threadIdx.x; i < (kWarps + 2) * p.E; i += kThreads) next[i] = 0;
  __syncthreads();
  if (p.chunks > 1 && p.table == nullptr) {
    // The other slots in warp steps of 32: those before this block's chunk, then those behind it; each warp counts apart.
#pragma unroll 1
    for (int later = 0; later < 2; later++) {
      const uint32_t from = later ? min_of(p.N, chunk_begin + p.chunk) : 0, to = later ? p.N : chunk_begin;
      const uint32_t each = (to - from + kWarps * 32 - 1) / (kWarps * 32) * 32, mine = min_of(to, from + threadIdx.x / 32 * each);
      walk<false>(p, mine, min_of(to, mine + each), own);
      __syncwarp();
      for (uint32_t e = threadIdx.x % 32; e < p.E; e += 32) {
        const int32_t count = own[e];
        if (count == 0) continue;
        atomicAdd(&start[e], count);
        if (later == 0) atomicAdd(&earlier[e], count);
        own[e] = 0;
      }
      __syncwarp();
    }
  }
  walk<false>(p, begin, end, own);
  if (p.chunks > 1 && p.table == nullptr) {
    for (uint32_t e = threadIdx.x % 32; e < p.E; e += 32) atomicAdd(&start[e], own[e]);
    __syncthreads();
  } else if (p.chunks > 1) {
    // Columns of the table: neighbouring threads take neighbouring experts, the groups of threads every n-th chunk.
    const uint32_t width = p.bits < 9 ? max_of(1u << p.bits, 32u) : kThreads, groups = kThreads / width;
    for (uint32_t e = threadIdx.x % width; e < p.E; e += width) {
      int32_t all = 0, left = 0;
#pragma unroll 8
      for (uint32_t c = threadIdx.x / width; c < p.chunks; c += groups) {
        const int32_t count = p.table[c * p.E + e];
        all += count;
        left += c < blockIdx.x ? count : 0;
      }
      atomicAdd(&start[e], all);
      atomicAdd(&earlier[e], left);
    }
    __syncthreads();
  } else {
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < p.E; e += kThreads)
      for (int w = 0; w < kWarps; w++) start[e] += next[w * p.E + e];
    __syncthreads();
  }
  block_scan(start, p.E, scratch);
  for (uint32_t e = threadIdx.x; e < p.E; e += kThreads) {
    int32_t row = start[e] + earlier[e], count[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; w++) count[w] = next[w * p.E + e];
#pragma unroll
    for (int w = 0; w < kWarps; w++) {
      next[w * p.E + e] = row;
      row += count[w];
    }
    if (blockIdx.x == 0) p.offsets[e] = start[e];
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) p.offsets[p.E] = int32_t(p.N);
  __syncthreads();
  walk<true>(p, begin, end, own);
}

// ---- any number of experts: counts in global memory ---------------------------------------------------------------------

template <bool kPlace>
__global__ void __launch_bounds__(32) plain_walk(const EarlyStart early, const SortParams p) {
  early.wait();
  const uint32_t begin = blockIdx.x * p.chunk;
  walk<kPlace>(p, begin, min_of(p.N, begin + p.chunk), p.table + int64_t(blockIdx.x) * p.E);
}

__global__ void __launch_bounds__(kThreads) plain_scan(const EarlyStart early, const SortParams p) {
  early.wait();
  ESFT_SHARED(smem);
  for (uint32_t e = threadIdx.x; e < p.E; e += kThreads) {
    int32_t count = 0;
#pragma unroll 8
    for (uint32_t c = 0; c < p.chunks; c++) count += p.table[int64_t(c) * p.E + e];
    p.offsets[e] = count;
  }
  __syncthreads();
  block_scan(p.offsets, p.E, reinterpret_cast<int32_t*>(smem));
  for (uint32_t e = threadIdx.x; e < p.E; e += kThreads) {
    int32_t row = p.offsets[e];
    for (uint32_t c = 0; c < p.chunks; c++) {
      int32_t* place = p.table + int64_t(c) * p.E + e;
      const int32_t count = *place;
      *place = row;
      row += count;
    }
  }
  if (threadIdx.x == 0) p.offsets[p.E] = int32_t(p.N);
}

uint32_t bits_of(uint32_t largest) {
  uint32_t bits = 0;
  while (largest >> bits) bits++;
  return bits;
}

}  // namespace

void run_expert_sort(const esft_expert_sort_args& a, Context& c) {
  SortParams p{};
  p.ids = data<int32_t>(a.ids);
  p.weights = present(a.weights) ? data<float>(a.weights) : nullptr;
  p.offsets = data<int32_t>(a.offsets);
  p.tokens = data<int32_t>(a.tokens);
  p.pos = data<int32_t>(a.pos);
  p.gate = present(a.gate) ? data<float>(a.gate) : nullptr;
  p.ids_ld = a.ids.ld, p.weights_ld = a.weights.ld, p.pos_ld = a.pos.ld;
  const int64_t N = numel(a.ids), E = numel(a.offsets) - 1;
  p.N = uint32_t(N), p.K = uint32_t(cols(a.ids)), p.E = uint32_t(E), p.bits = bits_of(p.E - 1);
  p.check = index_check(c, ESFT_OP_expert_sort, kArgIds, a.ids, E);

  const size_t shared = (size_t(kWarps + 2) * size_t(E) + kWarps) * sizeof(int32_t);
  if (shared <= c.shared_limit) {
    const int64_t wanted = N <= kOneChunk ? N : max_of(kSmallestChunk, ceil_div(N, kMostChunks));
    p.chunk = uint32_t(max_of(ceil_div(wanted, kThreads), int64_t(1)) * kThreads);
    p.chunks = uint32_t(max_of(ceil_div(N, p.chunk), int64_t(1)));
    if (p.chunks > 1 && (N > kAlone || E > kAloneExperts)) {
      p.table = c.scratch_of<int32_t>(p.chunks * E);
      ESFT_LAUNCH((count_chunks), c, dim3(p.chunks), kThreads, size_t(E) * sizeof(int32_t), p);
    }
    ESFT_LAUNCH((sort_chunks), c, dim3(p.chunks), kThreads, shared, p);
    return;
  }
  p.chunk = uint32_t(max_of(ceil_div(ceil_div(N, kPlainChunks), 32), int64_t(1)) * 32);
  p.chunks = uint32_t(ceil_div(N, p.chunk));
  p.table = c.scratch_of<int32_t>(max_of(p.chunks, 1u) * E);
  check_cuda(cudaMemsetAsync(p.table, 0, size_t(p.chunks) * size_t(E) * sizeof(int32_t), c.stream), "expert_sort");
  ESFT_LAUNCH((plain_walk<false>), c, dim3(p.chunks), 32, 0, p);
  ESFT_LAUNCH((plain_scan), c, dim3(1), kThreads, kWarps * sizeof(int32_t), p);
  ESFT_LAUNCH((plain_walk<true>), c, dim3(p.chunks), 32, 0, p);
}

}  // namespace esft::cuda
