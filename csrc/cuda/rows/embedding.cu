// embedding and its backward.
// embedding is a copy of whole rows: bound by reading T rows of the table and writing y.
//
// embedding_backward adds in order of t without atomics: tokens are sorted by id (stable radix sort, 4 bits per pass, by one
// block: T is thousands, and the op only runs where the table is trained), then a warp per distinct id and tile of columns reads
// that row of dtable once, adds its tokens' rows in order and writes it once. Bound by reading dy, and by the sort's latency:
// about T/1024 dependent steps per pass.
#include "../host/launch.h"
#include "index_check.cuh"
#include "rows.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kUnroll = 2;

struct EmbeddingParams {
  const int32_t* ids;
  const void* table;
  void* y;
  int64_t table_ld, y_ld, cols, per_row, groups;
  float scale;
  IndexCheck check;
};

// W: elements of the table, T: of y.
template <class W, class T, int kVec>
__global__ void __launch_bounds__(kThreads) embedding_kernel(const EarlyStart early, EmbeddingParams p) {
  early.wait();
  const int64_t first = int64_t(blockIdx.x) * (kThreads * kUnroll) + threadIdx.x;
  Elements<W, kVec> e[kUnroll];
  Place at[kUnroll];
  bool valid[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    const int64_t g = first + u * kThreads;
    valid[u] = g < p.groups;
    if (!valid[u]) continue;
    at[u] = place_of(g, p.per_row, kVec);
    const int32_t id = p.ids[at[u].row];
    valid[u] = p.check.ok(at[u].row, id);
    if (valid[u]) e[u] = load_elements<kVec>(static_cast<const W*>(p.table) + id * p.table_ld + at[u].col);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; u++) {
    if (!valid[u]) continue;
    float f[kVec];
    to_floats(e[u], f);
#pragma unroll
    for (int j = 0; j < kVec; j++) f[j] *= p.scale;
    store_elements(static_cast<T*>(p.y) + at[u].row * p.y_ld + at[u].col, from_floats<T>(f));
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------------

constexpr int kSortThreads = 1024, kDigits = 16;

struct Token {
  int32_t id, t;  // id = V: not to be used
};

struct SortParams {
  const int32_t* ids;  // first pass
  const Token* from;   // later passes
  Token* to;
  int64_t count;
  int32_t shift;
  IndexCheck check;
};

// One stable pass over 4 bits: thread i owns the i-th run of tokens.
__global__ void __launch_bounds__(kSortThreads) sort_tokens_kernel(const EarlyStart early, SortParams p) {
  early.wait();
  ESFT_SHARED(smem);
  int32_t* counts = reinterpret_cast<int32_t*>(smem);  // [digits][threads], then the tokens before them
  int32_t* warps = counts + kDigits * kSortThreads;    // [32]
  const int64_t run = ceil_div(p.count, kSortThreads), begin = min_of(p.count, threadIdx.x * run),
                end = min_of(p.count, begin + run);
  auto token = [&](int64_t i) {
    if (!p.ids) return p.from[i];
    const int32_t id = p.ids[i];
    return Token{p.check.ok(i, id) ? id : int32_t(p.check.limit), int32_t(i)};
  };
  for (int d = 0; d < kDigits; d++) counts[d * kSortThreads + threadIdx.x] = 0;
  for (int64_t i = begin; i < end; i++) counts[(token(i).id >> p.shift & (kDigits - 1)) * kSortThreads + threadIdx.x]++;
  __syncthreads();
  // Exclusive sums over [digits][threads]: thread i sums kDigits neighbours, then warps and threads are scanned.
  int32_t* mine = counts + threadIdx.x * kDigits;
  int32_t sum = 0;
  for (int d = 0; d < kDigits; d++) sum += mine[d];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t before = sum;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const int32_t left = __shfl_up_sync(0xffffffffu, before, step);
    if (lane >= step) before += left;
  }
  if (lane == 31) warps[warp] = before;
  __syncthreads();
  before -= sum;
  for (int w = 0; w < warp; w++) before += warps[w];
  for (int d = 0; d < kDigits; d++) {
    const int32_t n = mine[d];
    mine[d] = before;
    before += n;
  }
  __syncthreads();
  for (int64_t i = begin; i < end; i++) {
    const Token k = token(i);
    p.to[counts[(k.id >> p.shift & (kDigits - 1)) * kSortThreads + threadIdx.x]++] = k;
  }
}

struct AddTokensParams {
  const Token* sorted;
  const void* dy;
  float* dtable;
  int64_t count, vocabulary, cols, dy_ld, dtable_ld;
  float scale;
};

// A warp per sorted token and tile of columns; it works where its token is the first of an id.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads) add_tokens_kernel(const EarlyStart early, AddTokensParams p) {
  early.wait();
  const int64_t first = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (first >= p.count) return;
  const int32_t id = p.sorted[first].id;
  if (id >= p.vocabulary || (first > 0 && p.sorted[first - 1].id == id)) return;
  const int64_t c = (int64_t(blockIdx.y) * 32 + threadIdx.x % 32) * kVec;
  if (c >= p.cols) return;
  float* out = p.dtable + id * p.dtable_ld + c;
  float sum[kVec], f[kVec];
  to_floats(load_elements<kVec>(out), sum);
#pragma unroll 4
  for (int64_t i = first; i < p.count; i++) {
    const Token k = p.sorted[i];
    if (k.id != id) break;
    to_floats(load_elements<kVec>(static_cast<const T*>(p.dy) + k.t * p.dy_ld + c), f);
#pragma unroll
    for (int j = 0; j < kVec; j++) sum[j] += p.scale * f[j];
  }
  store_elements(out, from_floats<float>(sum));
}

}  // namespace

void run_embedding(const esft_embedding_args& a, Context& context) {
  const int64_t T = numel(a.ids), D = cols(a.y);
  if (T == 0) return;
  if (D == 0) return check_indices_on_device(context, ESFT_OP_embedding, kArgIds, a.ids, rows(a.table));
  EmbeddingParams p{data<int32_t>(a.ids),
                    a.table.data,
                    a.y.data,
                    a.table.ld,
                    a.y.ld,
                    D,
                    0,
                    0,
                    float(a.scale),
                    index_check(context, ESFT_OP_embedding, kArgIds, a.ids, rows(a.table))};
  by_float_type(a.table, [&](auto table) {
    using W = typename decltype(table)::type;
    by_float_type(a.y, [&](auto type) {
      using E = typename decltype(type)::type;
      constexpr int kVec = 16 / int(sizeof(W) < sizeof(E) ? sizeof(W) : sizeof(E));
      const bool vectors = D % kVec == 0 && rows_aligned16(a.table) && rows_aligned16(a.y);
      p.per_row = vectors ? D / kVec : D;
      p.groups = T * p.per_row;
      const unsigned grid = grid_of(p.groups, kThreads * kUnroll);
      if (vectors)
        ESFT_LAUNCH((embedding_kernel<W, E, kVec>), context, grid, kThreads, 0, p);
      else
        ESFT_LAUNCH((embedding_kernel<W, E, 1>), context, grid, kThreads, 0, p);
    });
  });
}

void run_embedding_backward(const esft_embedding_backward_args& a, Context& context) {
  const int64_t T = numel(a.ids), V = rows(a.dtable), D = cols(a.dtable);
  if (T == 0) return;
  if (T > INT32_MAX || V >= INT32_MAX)
    fail_status(ESFT_UNSUPPORTED, "embedding_backward", "ids", "embedding_backward: fewer than 2^31 tokens and rows on CUDA");
  Token* buffers[2] = {context.scratch_of<Token>(T), context.scratch_of<Token>(T)};
  SortParams sort{
      data<int32_t>(a.ids), nullptr, buffers[0], T, 0, index_check(context, ESFT_OP_embedding_backward, kArgIds, a.ids, V)};
  int turn = 0;
  for (; sort.shift == 0 || V >> sort.shift != 0; sort.shift += 4, turn ^= 1) {
    sort.to = buffers[turn];
    ESFT_LAUNCH((sort_tokens_kernel), context, 1, kSortThreads, (kDigits * kSortThreads + 32) * sizeof(int32_t), sort);
    sort.ids = nullptr;
    sort.from = sort.to;
  }
  if (D == 0) return;
  const AddTokensParams p{sort.from, a.dy.data, data<float>(a.dtable), T, V, D, a.dy.ld, a.dtable.ld, float(a.scale)};
  by_float_type(a.dy, [&](auto type) {
    using E = typename decltype(type)::type;
    constexpr int kVec = 16 / int(sizeof(E));
    if (D % kVec == 0 && rows_aligned16(a.dy) && rows_aligned16(a.dtable))
      ESFT_LAUNCH((add_tokens_kernel<E, kVec>), context, dim3(grid_of(T, kThreads / 32), grid_of(D, 32 * kVec)), kThreads, 0, p);
    else
      ESFT_LAUNCH((add_tokens_kernel<E, 1>), context, dim3(grid_of(T, kThreads / 32), grid_of(D, 32)), kThreads, 0, p);
  });
}

}  // namespace esft::cuda
