// Products per attention head (see ops/heads_gemm.h): a block for each head, which tasks share. Of few rows y = x·Wᵀ streams its weights
// as every product does (gemm_stream.cc), and y = x·W here: a row of W is multiplied by one number of each row of x, whose sums stay
// in registers, in the order of the rows of W: the same bits whatever rows stand beside one.
#include "../../core/check.h"
#include "../kernels.h"
#include "gemm_tasks.h"
#include "gemm_vec.h"

namespace esft::cpu::ESFT_ISA {

namespace {

constexpr int kVectors = W >= 16 ? 4 : 2;  // of a row of W at a time: with 4 rows of x all sums are in registers
constexpr int64_t kTaskColumns = 8 * W;
constexpr int64_t kAhead = 8;  // rows of W that are requested in advance

ESFT_INLINE vf weights(const float* p, int64_t n) { return load_n(p, n); }
ESFT_INLINE vf weights(const uint16_t* p, int64_t n) { return n == W ? load_bf16(p) : load_bf16_part(p, n); }
ESFT_INLINE vf as_operand(const float*, vf v, bool round) { return round ? rounded_to_bf16(v) : v; }
ESFT_INLINE vf as_operand(const uint16_t*, vf v, bool) { return v; }

// n columns, at most kVectors·W, of M rows of y: k rows of W from `w` on, `pitch` between rows of x, which is rounded already.
template <class T, int M, bool kWhole>
void sums_of_columns(const T* w, int64_t ld, int64_t k, const float* x, int64_t pitch, float* y, int64_t ldy, int64_t n,
                     bool round) {
  vf sum[M][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < M; i++)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) sum[i][v] = vf{};
  for (int64_t r = 0; r < k; r++) {
    const T* row = w + r * ld;
    for (int64_t c = 0; c < n; c += 64 / int64_t(sizeof(T)))
      __builtin_prefetch(row + kAhead * ld + c);  // past the end it does no harm
    vf values[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      const int64_t left = n - v * W;
      values[v] = kWhole ? weights(row + v * W, W) : left > 0 ? weights(row + v * W, min_of(left, W)) : vf{};
      values[v] = as_operand(row, values[v], round);
    }
#pragma GCC unroll 4
    for (int i = 0; i < M; i++) {
      const vf factor = splat(x[i * pitch + r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) sum[i][v] = fused(sum[i][v], factor, values[v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < M; i++)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      const int64_t left = n - v * W;
      if (left > 0) store_n(y + i * ldy + v * W, sum[i][v], min_of(left, W));
    }
}

template <class T, bool kWhole>
void rows_of_columns(const T* w, int64_t ld, int64_t k, const float* x, int64_t pitch, int64_t m, float* y, int64_t ldy, int64_t n,
                     bool round) {
  int64_t i = 0;  // from the second time on W comes from L1
  for (; i + 4 <= m; i += 4) sums_of_columns<T, 4, kWhole>(w, ld, k, x + i * pitch, pitch, y + i * ldy, ldy, n, round);
  for (; i + 2 <= m; i += 2) sums_of_columns<T, 2, kWhole>(w, ld, k, x + i * pitch, pitch, y + i * ldy, ldy, n, round);
  for (; i < m; i++) sums_of_columns<T, 1, kWhole>(w, ld, k, x + i * pitch, pitch, y + i * ldy, ldy, n, round);
}

// Columns c0 .. c1 of a block of few rows. scratch: m·k floats where operands are rounded.
template <class T>
void stream_columns(const Block& b, int64_t c0, int64_t c1, bool round, float* scratch) {
  const float* x = b.a.data;
  int64_t pitch = b.a.ld;
  if (round) {
    for (int64_t i = 0; i < b.m; i++)
      for (int64_t c = 0; c < b.k; c += W) {
        const int64_t n = min_of(W, b.k - c);
        store_n(scratch + i * b.k + c, rounded_to_bf16(load_n(x + i * pitch + c, n)), n);
      }
    x = scratch;
    pitch = b.k;
  }
  const Segment& s = b.w.segments[0];
  for (int64_t c = c0; c < c1; c += kVectors * W) {
    const T* w = static_cast<const T*>(s.data) + c;
    const int64_t n = min_of(kVectors * W, c1 - c);
    if (n == kVectors * W)
      rows_of_columns<T, true>(w, s.ld, b.k, x, pitch, b.m, b.out.c + c, b.out.ldc, n, round);
    else
      rows_of_columns<T, false>(w, s.ld, b.k, x, pitch, b.m, b.out.c + c, b.out.ldc, n, round);
  }
}

void stream_heads(Context& ctx, const Block* blocks, int64_t heads, bool round) {
  const Block& any = blocks[0];
  const int64_t parts = (any.n + kTaskColumns - 1) / kTaskColumns;
  const size_t scratch = round ? size_t(any.m * any.k) * sizeof(float) : 0;
  const auto run = [&](int64_t i, int worker) {
    const Block& b = blocks[i / parts];
    const int64_t c0 = i % parts * kTaskColumns, c1 = min_of(c0 + kTaskColumns, b.n);
    float* const mine = static_cast<float*>(ctx.worker_scratch(worker, scratch));
    b.w.segments[0].bf16 ? stream_columns<uint16_t>(b, c0, c1, round, mine) : stream_columns<float>(b, c0, c1, round, mine);
  };
  if (heads * max_of(any.m, 8) * any.n * any.k < kSerialWork)
    for (int64_t i = 0; i < heads * parts; i++) run(i, 0);
  else
    parallel_for(ctx, heads * parts, run);
}

}  // namespace

void heads_gemm(const esft_heads_gemm_args& a, Context& ctx) {
  const esft_tensor& w = a.w.tensor;
  const bool nt = a.mode == 0, bf16 = w.dtype == ESFT_BF16;
  const int64_t T = rows(a.x), H = a.heads, n = nt ? a.head_rows : cols(w);
  if (T == 0 || n == 0) return;
  const size_t blocks_bytes = size_t(H) * sizeof(Block), segments_bytes = size_t(H) * sizeof(Segment);
  const size_t tasks_bytes = size_t(tasks_bound(H, H * T, ctx.threads())) * sizeof(Task);
  char* const p = static_cast<char*>(ctx.shared_scratch(blocks_bytes + segments_bytes + tasks_bytes));
  Block* const blocks = reinterpret_cast<Block*>(p);
  Segment* const segments = reinterpret_cast<Segment*>(p + blocks_bytes);
  const int64_t x_dim = cols(a.x) / H, y_dim = cols(a.y) / H, w_dim = rows(w) / H;
  for (int64_t h = 0; h < H; h++) {
    const int64_t first = (h * w_dim + a.first_row) * w.ld * (bf16 ? 2 : 4);
    segments[h] = {static_cast<const char*>(w.data) + first, w.ld, a.head_rows, bf16};
    Block& b = blocks[h];
    b = {};
    b.m = T;
    b.n = n;
    b.k = nt ? cols(w) : a.head_rows;
    b.kind = panel_kind(bf16, a.precision, T);
    b.a = {data<const float>(a.x) + h * x_dim, a.x.ld, nullptr};
    b.source = nt ? FROM_WEIGHT_ROWS : FROM_WEIGHT_COLUMNS;
    b.w = {segments + h, 1};
    b.streams = streams_weights(b);
    b.out.kind = OUT_PLAIN;
    b.out.c = data<float>(a.y) + h * y_dim;
    b.out.ldc = a.y.ld;
  }
  if (!nt && T <= kStreamedRows) return stream_heads(ctx, blocks, H, a.precision != 0);
  run_blocks(ctx, blocks, H, reinterpret_cast<Task*>(p + blocks_bytes + segments_bytes));
}

}  // namespace esft::cpu::ESFT_ISA
