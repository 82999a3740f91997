// What the attention kernels share: the arguments of one call as plain numbers, tiles in shared memory, mma fragments from them.
//
// A tile of R rows and D columns is ceil(D / 64) slabs of R rows of 128 bytes, swizzled (ptx.cuh): every ldmatrix and every
// 16-byte copy is free of bank conflicts, and the same tile serves as A, as B by rows of n, and as B by rows of k.
#pragma once
#include <cmath>

#include "../host/launch.h"
#include "../reduce.cuh"
#include "../rows/index_check.cuh"

namespace esft::cuda::attention {

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

constexpr int slabs(int columns) { return (columns + 63) / 64; }
constexpr int tile_bytes(int rows, int columns) { return slabs(columns) * rows * 128; }

// The rows of one head: columns [0, split) at `main`, [split, width) at `tail` (the shared keys).
struct HeadRows {
  const bf16* main;
  const bf16* tail;
  int64_t ld, tail_ld;
  int split, width;
};

// A score per head that every query sees beside its keys.
struct Sinks {
  const void* data;  // [heads] f32 or bf16; nullptr: none
  bool f32;
  // As an exponent of two.
  __device__ __forceinline__ float exponent(int h) const {
    return (f32 ? static_cast<const float*>(data)[h] : to_float(static_cast<const bf16*>(data)[h])) * kLog2e;
  }
};

// Operands and sizes of one call. k and v point at their first column; group = query heads per kv-head.
struct Layout {
  const bf16 *q, *k, *v, *shared;
  const int32_t* doc_start;
  int64_t q_ld, k_ld, v_ld, shared_ld, k_stride, v_stride;
  int T, heads, group, k_dim, qk_dim, v_dim, window;
  Sinks sinks;
  bool vector;  // q, k, v, k_shared (and dout) in whole, aligned 16-byte pieces

  __device__ HeadRows q_rows(int h) const { return {q + int64_t(h) * qk_dim, nullptr, q_ld, 0, qk_dim, qk_dim}; }
  __device__ HeadRows k_rows(int g) const { return {k + g * k_stride, shared, k_ld, shared_ld, k_dim, qk_dim}; }
  // From column v0 of the head on.
  __device__ HeadRows v_rows(int g, int v0 = 0) const { return {v + g * v_stride + v0, nullptr, v_ld, 0, v_dim - v0, v_dim - v0}; }
  // First key of query t, inside 0..t whatever doc_start holds; rows past the end answer like the last one.
  __device__ int first_key(int t) const {
    t = min_of(t, T - 1);
    const int start = min_of(max_of(__ldg(doc_start + t), 0), t);
    return window > 0 ? max_of(start, t - window + 1) : start;
  }
};

// ---- order --------------------------------------------------------------------------------------------------------------

// Which tile of which head a CTA takes: heads in chunks whose operands stay in L2 together; inside a chunk tile by tile over its heads.
struct TileOrder {
  int tiles, heads, chunk;
  __host__ __device__ unsigned blocks() const { return unsigned(tiles) * unsigned(heads); }
};
struct TileOfHead {
  int tile, head;
};
// descending: the last tiles, whose queries see the most keys, come first.
__device__ __forceinline__ TileOfHead tile_of_head(const TileOrder& o, unsigned block, bool descending) {
  const unsigned per_chunk = unsigned(o.tiles) * unsigned(o.chunk), chunk = block / per_chunk, i = block - chunk * per_chunk;
  const int begin = int(chunk) * o.chunk;
  const unsigned heads = unsigned(min_of(o.chunk, o.heads - begin));
  const int tile = int(i / heads);
  return {descending ? o.tiles - 1 - tile : tile, begin + int(i % heads)};
}

// The number of this thread's warpgroup, known to be the same for the whole warp: descriptors of its products are then computed once per
// warp, in the registers that HGMMA takes them from, and not per thread.
__device__ __forceinline__ int warpgroup_index() { return __shfl_sync(kFullWarp, int(threadIdx.x) / 128, 0); }

// ---- tiles --------------------------------------------------------------------------------------------------------------

// Byte offset of the 16-byte chunk c (columns 8c..8c+7) of row r in a tile of kRows rows.
template <int kRows>
__device__ __forceinline__ int chunk_offset(int r, int c) {
  return (c >> 3) * (kRows * 128) + r * 128 + (((c ^ r) & 7) << 4);
}

// Up to eight elements of a row from column `col`, zeros past the width: operands that are not in aligned 16-byte pieces.
__device__ __forceinline__ Vec16 gather_chunk(const HeadRows& src, int64_t row, int col) {
  Vec16 v;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    uint32_t pair = 0;
    for (int j = 0; j < 2; j++) {
      const int c = col + 2 * i + j;
      if (c >= src.width) continue;
      const bf16 x = c < src.split ? src.main[row * src.ld + c] : src.tail[row * src.tail_ld + (c - src.split)];
      pair |= uint32_t(x.bits) << (16 * j);
    }
    v.w[i] = pair;
  }
  return v;
}

// Copies rows row0..row0+kRows-1 of a head to a tile: asynchronously where the operands are aligned, at once otherwise. Rows from T
// on and columns from the head's width on become zeros. kExact: width == kColumns and aligned.
template <int kRows, int kColumns, int kThreads, bool kExact>
__device__ __forceinline__ void load_tile(unsigned char* tile, const HeadRows& src, int row0, int T, bool vector) {
  constexpr int kStep = kThreads / 8;
  static_assert(kRows % kStep == 0 && kStep % 8 == 0, "whole passes, so that a thread keeps its swizzle");
  const int r0 = threadIdx.x / 8, c = threadIdx.x % 8;
  unsigned char* const dst = tile + chunk_offset<kRows>(r0, c);
#pragma unroll
  for (int slab = 0; slab < slabs(kColumns); slab++) {
    const int col = slab * 64 + c * 8;
    if (kColumns % 64 != 0 && col >= kColumns) continue;
    if (kExact || vector) {
      const bool in_main = col < src.split, inside = kExact || col < src.width;
      const bf16* const from = !inside ? src.main : in_main ? src.main + col : src.tail + (col - src.split);
      const int64_t ld = in_main || !inside ? src.ld : src.tail_ld;
#pragma unroll
      for (int i = 0; i < kRows / kStep; i++) {
        const int row = row0 + r0 + i * kStep;
        ptx::cp_async_16(dst + slab * (kRows * 128) + i * (kStep * 128), from + min_of(row, T - 1) * ld, inside && row < T);
      }
    } else {
      for (int i = 0; i < kRows / kStep; i++) {
        const int row = row0 + r0 + i * kStep;
        const Vec16 v = row < T ? gather_chunk(src, row, col) : Vec16{};
        store16(dst + slab * (kRows * 128) + i * (kStep * 128), v);
      }
    }
  }
}

// Writes columns [col0, col0 + kColumns) of `count` tile rows from r0 on, of which this warp wrote all, to rows out + i·ld, as far as
// they are below `width` and `limit` rows. `out`: column 0 of row r0.
template <int kRows, int kColumns>
__device__ __forceinline__ void store_rows(const unsigned char* tile, int r0, int count, int limit, int col0, bf16* out, int64_t ld,
                                           int width, bool vector) {
  constexpr int kChunks = kColumns / 8;
  const int lane = threadIdx.x % 32;
  __syncwarp();
  count = min_of(count, limit);
  for (int i = lane; i < count * kChunks; i += 32) {
    const int r = i / kChunks, c = col0 / 8 + i % kChunks;
    const Vec16 v = load16(tile + chunk_offset<kRows>(r0 + r, c));
    bf16* const to = out + r * ld + c * 8;
    if (vector) {
      if (c * 8 < width) store16(to, v);
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++)
        if (c * 8 + j < width) to[j] = bf16{uint16_t(v.w[j / 2] >> (16 * (j & 1)))};
    }
  }
}

// ---- fragments ----------------------------------------------------------------------------------------------------------

// A lane's place in the four 8×8 matrices of an ldmatrix: its row and the swizzle term of its chunk.
struct LanePlace {
  int row, chunk_xor;
  // Chunk c, even and known at compile time, of rows from r0 (a multiple of 8) on.
  template <int kRows>
  __device__ __forceinline__ const unsigned char* at(const unsigned char* tile, int r0, int c) const {
    return tile + (c >> 3) * (kRows * 128) + (r0 + row) * 128 + (chunk_xor ^ ((c & 7) << 4));
  }
};
// Matrices (rows 0–7, 8–15) × (k 0–7, 8–15), rows first: the A fragment; with .trans the two B fragments of 16 rows of k × 16 n.
__device__ __forceinline__ LanePlace place_a() {
  const int lane = threadIdx.x % 32, row = lane & 15;
  return {row, (((lane >> 4) ^ row) & 7) << 4};
}
// k first: the two B fragments of 16 rows of n × 16 k.
__device__ __forceinline__ LanePlace place_b() {
  const int lane = threadIdx.x % 32, row = (lane & 7) + 8 * (lane >> 4);
  return {row, ((((lane >> 3) & 1) ^ row) & 7) << 4};
}

// s[16·kM, 8·kN] += rows of `a` (from r0) · rows of `b` (from n0)ᵀ over the columns 16·k.. of both.
template <int kRowsA, int kRowsB, int kM, int kN>
__device__ __forceinline__ void product_rows_16(float (&s)[kM][kN][4], const unsigned char* a, int r0, const unsigned char* b,
                                                int n0, int k, const LanePlace& pa, const LanePlace& pb) {
  uint32_t fa[kM][4];
#pragma unroll
  for (int m = 0; m < kM; m++) ptx::ldmatrix_x4(fa[m], pa.at<kRowsA>(a, r0 + 16 * m, 2 * k));
#pragma unroll
  for (int n = 0; n < kN / 2; n++) {
    uint32_t fb[4];
    ptx::ldmatrix_x4(fb, pb.at<kRowsB>(b, n0 + 16 * n, 2 * k));
#pragma unroll
    for (int m = 0; m < kM; m++) {
      ptx::mma_16816(s[m][2 * n], fa[m], fb[0], fb[1]);
      ptx::mma_16816(s[m][2 * n + 1], fa[m], fb[2], fb[3]);
    }
  }
}
// The same over kDepth columns. Deep products loop over slabs: unrolled they take more registers than there are.
template <int kDepth, int kRowsA, int kRowsB, int kM, int kN>
__device__ __forceinline__ void product_rows(float (&s)[kM][kN][4], const unsigned char* a, int r0, const unsigned char* b, int n0,
                                             const LanePlace& pa, const LanePlace& pb) {
  if constexpr (kDepth > 128) {
    static_assert(kDepth % 64 == 0);
#pragma unroll 1
    for (int slab = 0; slab < kDepth / 64; slab++)
#pragma unroll
      for (int k = 0; k < 4; k++)
        product_rows_16<kRowsA, kRowsB>(s, a + slab * (kRowsA * 128), r0, b + slab * (kRowsB * 128), n0, k, pa, pb);
  } else {
#pragma unroll
    for (int k = 0; k < kDepth / 16; k++) product_rows_16<kRowsA, kRowsB>(s, a, r0, b, n0, k, pa, pb);
  }
}

// An accumulator tile rounded to bf16 is the A operand of the next product: a[j] holds columns 16j..16j+15 of s.
template <int kN>
__device__ __forceinline__ void pack_fragments(uint32_t (&a)[kN / 2][4], const float (&s)[kN][4]) {
#pragma unroll
  for (int j = 0; j < kN / 2; j++) {
    a[j][0] = ptx::pack_bf16x2(s[2 * j][0], s[2 * j][1]);
    a[j][1] = ptx::pack_bf16x2(s[2 * j][2], s[2 * j][3]);
    a[j][2] = ptx::pack_bf16x2(s[2 * j + 1][0], s[2 * j + 1][1]);
    a[j][3] = ptx::pack_bf16x2(s[2 * j + 1][2], s[2 * j + 1][3]);
  }
}

// acc[16·kM, 8·kN] += a[16·kM, 16·kK] · rows of `b` from k0 on, columns from 8·chunk0 (whole slabs) on.
template <int kRowsB, int kM, int kN, int kK>
__device__ __forceinline__ void product_columns(float (&acc)[kM][kN][4], const uint32_t (&a)[kM][kK][4], const unsigned char* b,
                                                int k0, int chunk0, const LanePlace& pa) {
#pragma unroll
  for (int j = 0; j < kK; j++)
#pragma unroll
    for (int n = 0; n < kN / 2; n++) {
      uint32_t fb[4];
      ptx::ldmatrix_x4_trans(fb, pa.at<kRowsB>(b + (chunk0 >> 3) * (kRowsB * 128), k0 + 16 * j, 2 * n));
#pragma unroll
      for (int m = 0; m < kM; m++) {
        ptx::mma_16816(acc[m][2 * n], a[m][j], fb[0], fb[1]);
        ptx::mma_16816(acc[m][2 * n + 1], a[m][j], fb[2], fb[3]);
      }
    }
}

// Rounds an accumulator tile into rows r0.. of a tile in shared memory, columns from 8·chunk0 on.
template <int kRows, int kN>
__device__ __forceinline__ void stage_rows(unsigned char* tile, int r0, int chunk0, const float (&acc)[kN][4], float scale_lo,
                                           float scale_hi) {
  const int lane = threadIdx.x % 32, r = r0 + lane / 4, within = (lane % 4) * 4;
#pragma unroll
  for (int n = 0; n < kN; n++) {
    *reinterpret_cast<uint32_t*>(tile + chunk_offset<kRows>(r, chunk0 + n) + within) =
        ptx::pack_bf16x2(acc[n][0] * scale_lo, acc[n][1] * scale_lo);
    *reinterpret_cast<uint32_t*>(tile + chunk_offset<kRows>(r + 8, chunk0 + n) + within) =
        ptx::pack_bf16x2(acc[n][2] * scale_hi, acc[n][3] * scale_hi);
  }
}

// Fragments (pack_fragments) of 16 rows into rows r0.. of a tile in shared memory, from its first column on.
template <int kRows, int kSteps>
__device__ __forceinline__ void store_fragments(unsigned char* tile, int r0, const uint32_t (&a)[kSteps][4]) {
  const int lane = threadIdx.x % 32, r = r0 + lane / 4, within = (lane % 4) * 4;
#pragma unroll
  for (int j = 0; j < kSteps; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      *reinterpret_cast<uint32_t*>(tile + chunk_offset<kRows>(r + 8 * (i & 1), 2 * j + i / 2) + within) = a[j][i];
}

// ---- host ---------------------------------------------------------------------------------------------------------------

// Heads `width` columns wide, `stride` apart from column `offset` on, in whole 16-byte pieces.
inline bool in_vectors(const esft_tensor& t, int64_t offset, int64_t stride, int64_t heads, int64_t width) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (rows(t) <= 1 || t.ld % 8 == 0) && offset % 8 == 0 &&
         (heads <= 1 || stride % 8 == 0) && width % 8 == 0;
}

// Refuses what no kernel serves and gathers the rest.
template <class Args>
Layout layout_of(const Args& a, const char* op) {
  expect_bf16_activation(op, "q", a.q);
  expect_bf16_precision(op, a.precision);
  const int64_t T = rows(a.q), dr = present(a.k_shared) ? cols(a.k_shared) : 0;
  if (a.k_dim + dr > 512 || a.v_dim > 512)
    fail_status(ESFT_UNSUPPORTED, op, a.v_dim > 512 ? "v_dim" : "k_dim",
                format("%s: heads wider than 512 are not served on CUDA (keys %lld, values %lld)", op, (long long)(a.k_dim + dr),
                       (long long)a.v_dim));
  if (T > (int64_t(1) << 30) || ceil_div(T, 64) * a.heads > INT32_MAX)
    fail_status(ESFT_UNSUPPORTED, op, "q",
                format("%s: %lld tokens of %lld heads are too many for one call", op, (long long)T, (long long)a.heads));
  Layout l{};
  l.q = data<bf16>(a.q);
  l.k = data<bf16>(a.k) + a.k_offset;
  l.v = data<bf16>(a.v) + a.v_offset;
  l.shared = dr ? data<bf16>(a.k_shared) : nullptr;
  l.doc_start = data<int32_t>(a.doc_start);
  l.q_ld = a.q.ld;
  l.k_ld = a.k.ld;
  l.v_ld = a.v.ld;
  l.shared_ld = dr ? a.k_shared.ld : 0;
  l.k_stride = a.kv_heads > 1 ? a.k_stride : 0;
  l.v_stride = a.kv_heads > 1 ? a.v_stride : 0;
  l.T = int(T);
  l.heads = int(a.heads);
  l.group = int(a.heads / a.kv_heads);
  l.k_dim = int(a.k_dim);
  l.qk_dim = int(a.k_dim + dr);
  l.v_dim = int(a.v_dim);
  l.window = int(a.window);
  if (present(a.sinks)) l.sinks = {a.sinks.data, a.sinks.dtype == ESFT_F32};
  l.vector = in_vectors(a.q, 0, l.qk_dim, a.heads, l.qk_dim) && in_vectors(a.k, a.k_offset, a.k_stride, a.kv_heads, a.k_dim) &&
             in_vectors(a.v, a.v_offset, a.v_stride, a.kv_heads, a.v_dim) && (!dr || in_vectors(a.k_shared, 0, 0, 1, dr));
  return l;
}

// `heads` query heads, or kv-heads: a chunk is about 24 MB of what its heads read, whole groups of query heads.
inline TileOrder tile_order(const Layout& l, bool query_heads, int heads, int rows) {
  const int unit = query_heads ? l.group : 1;
  const int64_t bytes = int64_t(l.T) * (l.qk_dim + l.v_dim) * int64_t(sizeof(bf16)) * (query_heads ? 1 : l.group);
  const int64_t chunk = unit * max_of(int64_t(1), (int64_t(24) << 20) / bytes);
  return {int(ceil_div(l.T, rows)), heads, int(min_of(chunk, int64_t(heads)))};
}

// Devices of fewer than 163 KB per CTA run the narrower heads only.
inline void expect_shared(const char* op, size_t bytes, const Context& c) {
  if (bytes > c.shared_limit)
    fail_status(
        ESFT_UNSUPPORTED, op, "k_dim",
        format("%s: heads of this size need %zu bytes of shared memory per block, this GPU has %zu", op, bytes, c.shared_limit));
}

// Head sizes as constants; kExact: theirs and aligned operands.
template <int kQ, int kV, bool kExactSize>
struct Heads {
  static constexpr int DQ = kQ, DV = kV;
  static constexpr bool kExact = kExactSize;
};

// Calls f with the smallest instance that holds the head sizes; exact ones need aligned operands.
template <class F>
void for_head_sizes(int qk_dim, int v_dim, bool vector, F&& f) {
  if (vector && qk_dim == 64 && v_dim == 64) return f(Heads<64, 64, true>{});
  if (vector && qk_dim == 128 && v_dim == 128) return f(Heads<128, 128, true>{});
  if (vector && qk_dim == 192 && v_dim == 128) return f(Heads<192, 128, true>{});
  if (qk_dim <= 32 && v_dim <= 32) return f(Heads<32, 32, false>{});
  if (qk_dim <= 64 && v_dim <= 64) return f(Heads<64, 64, false>{});
  if (qk_dim <= 96 && v_dim <= 64) return f(Heads<96, 64, false>{});
  if (qk_dim <= 128 && v_dim <= 128) return f(Heads<128, 128, false>{});
  if (qk_dim <= 192 && v_dim <= 128) return f(Heads<192, 128, false>{});
  if (qk_dim <= 256 && v_dim <= 256) return f(Heads<256, 256, false>{});
  f(Heads<512, 512, false>{});
}

// The same for the kernels of wgmma, where f may still refuse; false: they do not serve these heads or this device. Slabs of 64 columns
// come from the keys or from the shared keys, not from both.
template <class F>
bool for_hopper_heads(const Layout& l, const Context& c, F&& f) {
  if (!c.hopper || l.k_dim % 64 != 0) return false;
  if (l.qk_dim == 64 && l.v_dim == 64) return f(Heads<64, 64, true>{});
  if (l.qk_dim == 128 && l.v_dim == 128) return f(Heads<128, 128, true>{});
  if (l.qk_dim == 192 && l.v_dim == 128) return f(Heads<192, 128, true>{});
  return false;
}

}  // namespace esft::cuda::attention
