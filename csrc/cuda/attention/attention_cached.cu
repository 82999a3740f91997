// attention_cached (contract: ops/attention_cached.h) with mma.sync, for every supported GPU. Bound by reading the caches.
//
// New rows are stored first. Then a CTA of four warps takes 16 rows (query heads of one kv-head, of several tokens where there are more
// tokens than documents) over one stretch of 512 positions, 64 or 32 keys at a time: each warp makes the scores of its share of the keys,
// all read them back through shared memory and keep the running maximum and sum of every row, each warp sums its quarter of the values'
// columns. So a key is read once from memory for all rows, and heads up to 512 wide fit the registers. Keys and values of the next step
// arrive meanwhile. Latent values are columns of the keys' tile. A last kernel joins the stretches of a row in ascending order.
//
// Only the device knows positions: the grid has as many stretches as the caches have room for, and CTAs without keys leave at once. A
// row's arithmetic is the same whichever rows and tokens stand beside it: hidden keys change no bit of its maximum, sums and values.
#include "attention_cached.cuh"

namespace esft::cuda {

namespace attention {

namespace {

constexpr int kThreads = 128, kStages = 2;
constexpr int kNowhere = INT32_MAX;

// ---- new rows -----------------------------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads) store_new_rows(const EarlyStart early, const CachedParams p) {
  early.wait();
  const int64_t t = blockIdx.x;
  const int32_t document = p.documents.of[t];
  if (!*p.documents.sound || document < 0) return;
  const CacheItem& cache = p.caches.at(document);
  const int64_t row = p.positions[t] % cache.rows;
  const auto part = [&](void* to, int64_t column, const bf16* from, int count) {
    T* const dst = static_cast<T*>(to) + column;
    for (int i = int(threadIdx.x) % 32; i < count; i += 32) dst[i] = from_float<T>(to_float(from[i]));
  };
  for (int g = int(threadIdx.x) / 32; g < p.kv_heads; g += kThreads / 32) {
    part(cache.k, row * p.k_width + int64_t(g) * p.k_dim, p.k + t * p.k_ld + g * p.k_stride, p.k_dim);
    if (!p.latent) part(cache.v, row * p.v_width + int64_t(g) * p.v_dim, p.v + t * p.v_ld + g * p.v_stride, p.v_dim);
  }
  if (threadIdx.x < 32 && p.dr) part(cache.k, row * p.k_width + int64_t(p.kv_heads) * p.k_dim, p.shared + t * p.shared_ld, p.dr);
}

// ---- stretches ----------------------------------------------------------------------------------------------------------

// Columns [0, split) of a row at `main`, [split, width) at `tail`.
template <class T>
struct Source {
  const T *main, *tail;
  int split, width;
};

// Eight columns from `col` on, rounded to bf16, zeros past the width.
template <class T>
__device__ __forceinline__ Vec16 gather_columns(const Source<T>& s, int64_t at, int col) {
  Vec16 v;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    uint32_t pair = 0;
    for (int j = 0; j < 2; j++) {
      const int c = col + 2 * i + j;
      if (c >= s.width) continue;
      const T x = c < s.split ? s.main[at + c] : s.tail[at + c - s.split];
      pair |= uint32_t(from_float<bf16>(to_float(x)).bits) << (16 * j);
    }
    v.w[i] = pair;
  }
  return v;
}

// Up to kRows rows into a tile of so many slabs, the row of tile row r beginning `at(r)` elements behind its source; −1: zeros.
template <int kRows, class T, class F>
__device__ __forceinline__ void load_rows(unsigned char* tile, const Source<T>& s, int slabs, bool vector, F at) {
  const int c = int(threadIdx.x) % 8;
#pragma unroll
  for (int r = int(threadIdx.x) / 8; r < kRows; r += kThreads / 8) {
    const int64_t offset = at(r);
    unsigned char* dst = tile + chunk_offset<kRows>(r, c);
    for (int col = c * 8; col < slabs * 64; col += 64, dst += kRows * 128) {
      const bool inside = offset >= 0 && col < s.width;
      if (sizeof(T) == 2 && vector) {
        const T* const from = !inside ? s.main : col < s.split ? s.main + offset + col : s.tail + offset + col - s.split;
        ptx::cp_async_16(dst, from, inside);
      } else {
        store16(dst, inside ? gather_columns(s, offset, col) : Vec16{});
      }
    }
  }
}

// The shape of a CTA's work: kKeys keys per step. Warps share the keys by sixteen, and where there are fewer the columns of their products.
template <int DV>
struct Step {
  static constexpr int kKeys = DV > 256 ? 32 : 64;
  static constexpr int kShares = kKeys / 16, kParts = 4 / kShares, kPitch = kKeys + 8;
  static constexpr int kScoreBytes = kParts * kCachedRows * kPitch * 4;
};
// Slabs of a tile of keys; latent values may be wider than them.
template <int DV>
__host__ __device__ inline int key_slabs(int dq, bool latent) {
  return latent ? max_of(slabs(dq), DV / 64) : slabs(dq);
}
template <int DV>
__host__ __device__ inline int stage_bytes(int dq, bool latent) {
  return (key_slabs<DV>(dq, latent) + (latent ? 0 : DV / 64)) * Step<DV>::kKeys * 128;
}
template <int DV>
size_t cached_bytes(int dq, bool latent) {
  return size_t(slabs(dq)) * kCachedRows * 128 + Step<DV>::kScoreBytes + size_t(kStages) * stage_bytes<DV>(dq, latent);
}

template <class T, int DV>
__global__ void __launch_bounds__(kThreads, DV > 256 ? 2 : 3) attend_cached(const EarlyStart early, const CachedParams p) {
  constexpr int kKeys = Step<DV>::kKeys, kShares = Step<DV>::kShares, kParts = Step<DV>::kParts, kPitch = Step<DV>::kPitch;
  constexpr int kColumns = DV / 32;  // of a warp's values, in eights
  early.wait();
  if (!*p.documents.sound) return;
  ESFT_SHARED(smem);
  const int dq = p.k_dim + p.dr, q_slabs = slabs(dq), k_slabs = key_slabs<DV>(dq, p.latent);
  unsigned char* const sq = smem;
  unsigned char* const stages = smem + q_slabs * kCachedRows * 128;
  float* const scores = reinterpret_cast<float*>(stages + kStages * stage_bytes<DV>(dq, p.latent));
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int g = int(blockIdx.x) / p.head_blocks, h0 = (int(blockIdx.x) % p.head_blocks) * kCachedRows;
  const int64_t t_block = p.t0 + int64_t(blockIdx.y) * p.per_block;
  const int n = int(min_of(int64_t(p.per_block), p.t0 + p.tokens - t_block));
  const LanePlace pa = place_a(), pb = place_b();

  // Row r: head h0 + r mod per_token of the block's token r / per_token.
  const auto head_of = [&](int r) { return h0 + r % p.per_token; };
  load_rows<kCachedRows>(sq, Source<bf16>{p.q, p.q, dq, dq}, q_slabs, p.q_vector, [&](int r) {
    const bool there = r / p.per_token < n && head_of(r) < p.group;
    return there ? (t_block + r / p.per_token) * p.q_ld + (int64_t(g) * p.group + head_of(r)) * dq : int64_t(-1);
  });
  ptx::cp_async_commit();

  // Tokens a .. b of one document at a time.
  for (int a = 0, b = 0; a < n; a = b) {
    const int32_t document = p.documents.of[t_block + a];
    for (b = a + 1; b < n && p.documents.of[t_block + b] == document;) b++;
    if (document < 0) continue;
    const int64_t seen = p.first(p.positions[t_block + a]), begin = (seen / kStretch + blockIdx.z) * kStretch;
    const int from = int(max_of(begin, seen)), to = int(min_of(begin + kStretch, int64_t(p.positions[t_block + b - 1]) + 1));
    if (from >= to) continue;
    const CacheItem& cache = p.caches.at(document);
    const Source<T> keys = {static_cast<const T*>(cache.k) + int64_t(g) * p.k_dim,
                            static_cast<const T*>(cache.k) + int64_t(p.kv_heads) * p.k_dim, p.k_dim, dq};
    const T* const v = static_cast<const T*>(cache.v) + int64_t(g) * p.v_dim;
    const Source<T> values = {v, v, p.v_dim, p.v_dim};
    const int room = cache.rows;

    // What the rows lane / 4 and lane / 4 + 8 see.
    int low[2], high[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int r = lane / 4 + 8 * half, i = r / p.per_token;
      const bool mine = i >= a && i < b && head_of(r) < p.group;
      high[half] = mine ? p.positions[t_block + i] : -1;
      low[half] = mine ? int(p.first(high[half])) : kNowhere;
    }

    const auto load = [&](int key0, int stage) {
      unsigned char* const to_keys = stages + stage * stage_bytes<DV>(dq, p.latent);
      const auto row_of = [&](int64_t width) {
        return [=](int r) {
          const int key = key0 + r;
          return key >= from && key < to ? int64_t(key % room) * width : int64_t(-1);
        };
      };
      load_rows<kKeys>(to_keys, keys, k_slabs, p.vector, row_of(p.k_width));
      if (!p.latent) load_rows<kKeys>(to_keys + k_slabs * kKeys * 128, values, DV / 64, p.vector, row_of(p.v_width));
      ptx::cp_async_commit();
    };

    float o[kColumns][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    __syncthreads();  // the stages are no longer read
    const int start = int(begin) + (from - int(begin)) / kKeys * kKeys;
    load(start, 0);
    for (int key0 = start, stage = 0; key0 < to; key0 += kKeys, stage ^= 1) {
      ptx::cp_async_wait<0>();
      __syncthreads();  // this stage is here; the other one and the scores are no longer read
      if (key0 + kKeys < to) load(key0 + kKeys, stage ^ 1);
      const unsigned char* const sk = stages + stage * stage_bytes<DV>(dq, p.latent);
      const unsigned char* const sv = p.latent ? sk : sk + k_slabs * kKeys * 128;

      {
        const int share = warp % kShares, part = warp / kShares;
        float s[1][2][4] = {};
#pragma unroll 1
        for (int slab = part; slab < q_slabs; slab += kParts)
#pragma unroll
          for (int k = 0; k < 4; k++)
            product_rows_16<kCachedRows, kKeys>(s, sq + slab * (kCachedRows * 128), 0, sk + slab * (kKeys * 128), 16 * share, k, pa,
                                                pb);
        float* const to_scores = scores + (part * kCachedRows + lane / 4) * kPitch + 16 * share + 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int j = 0; j < 4; j++) to_scores[(j / 2) * 8 * kPitch + 8 * i + j % 2] = s[0][i][j];
      }
      __syncthreads();

      float s[kKeys / 8][4];
#pragma unroll
      for (int i = 0; i < kKeys / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int column = 8 * i + 2 * (lane % 4) + j % 2, key = key0 + column;
          const float* const x = scores + (lane / 4 + 8 * (j / 2)) * kPitch + column;
          float score = x[0];
#pragma unroll
          for (int part = 1; part < kParts; part++) score += x[part * kCachedRows * kPitch];
          s[i][j] = key < low[j / 2] || key > high[j / 2] ? -INFINITY : p.negate ? -score : score;
        }
      const float decay[2] = {online_softmax<0>(s, top[0], sum[0], p.scale2), online_softmax<1>(s, top[1], sum[1], p.scale2)};
      uint32_t probs[kKeys / 16][4];
      pack_fragments(probs, s);
#pragma unroll
      for (int c = 0; c < kColumns; c++)
#pragma unroll
        for (int j = 0; j < 4; j++) o[c][j] *= decay[j / 2];
#pragma unroll
      for (int j = 0; j < kKeys / 16; j++)
#pragma unroll
        for (int c = 0; c < kColumns / 2; c++) {
          uint32_t fb[4];
          ptx::ldmatrix_x4_trans(fb, pa.at<kKeys>(sv, 16 * j, warp * kColumns + 2 * c));
          ptx::mma_16816(o[2 * c], probs[j], fb[0], fb[1]);
          ptx::mma_16816(o[2 * c + 1], probs[j], fb[2], fb[3]);
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = sum[half];
      total += __shfl_xor_sync(kFullWarp, total, 1);
      total += __shfl_xor_sync(kFullWarp, total, 2);
      const int r = lane / 4 + 8 * half;
      const int64_t t = t_block + r / p.per_token, h = int64_t(g) * p.group + head_of(r);
      if (low[half] > high[half]) continue;
      const int64_t count = p.stretches(high[half]), slot = begin / kStretch - low[half] / kStretch;
      if (slot < 0 || slot >= count) continue;
      const float exponent = top[half] * p.scale2, factor = count == 1 ? cached_factor(p, h, exponent, total) : 1.f;
      float* const left = count == 1 ? nullptr : p.partial_of(t, h, slot);
#pragma unroll
      for (int c = 0; c < kColumns; c++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const int column = (warp * kColumns + c) * 8 + 2 * (lane % 4) + j;
          if (column >= p.v_dim) continue;
          const float y = o[c][2 * half + j];
          if (left)
            left[column] = y;
          else
            p.out[t * p.out_ld + h * p.v_dim + column] = from_float<bf16>(y * factor);
        }
      if (left && warp == 0 && lane % 4 == 0) left[p.v_dim] = exponent, left[p.v_dim + 1] = total;
    }
  }
  ptx::cp_async_wait<0>();
}

// A warp per token and head that saw several stretches.
__global__ void __launch_bounds__(kThreads) join_stretches(const EarlyStart early, const CachedParams p) {
  early.wait();
  const int64_t i = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (!*p.documents.sound || i >= p.tokens * p.heads) return;
  const int64_t t = p.t0 + i / p.heads, h = i % p.heads;
  if (p.documents.of[t] < 0) return;
  const int64_t count = p.stretches(p.positions[t]);
  if (count == 1) return;
  const float* const from = p.partial_of(t, h, 0);
  const int64_t step = p.v_dim + 2;
  float top = -INFINITY, sum = 0.f;
  for (int64_t j = 0; j < count; j++) top = fmaxf(top, from[j * step + p.v_dim]);
  for (int64_t j = 0; j < count; j++) sum += from[j * step + p.v_dim + 1] * ptx::exp2_approx(from[j * step + p.v_dim] - top);
  const float factor = cached_factor(p, h, top, sum);
  for (int column = int(threadIdx.x) % 32; column < p.v_dim; column += 32) {
    float y = 0.f;
    for (int64_t j = 0; j < count; j++) y += from[j * step + column] * ptx::exp2_approx(from[j * step + p.v_dim] - top);
    p.out[t * p.out_ld + h * p.v_dim + column] = from_float<bf16>(y * factor);
  }
}

// ---- host ---------------------------------------------------------------------------------------------------------------

constexpr int64_t kScratchFloats = int64_t(16) << 20;  // of partial results: longer calls go in pieces

// The most stretches that tokens of one document, `tokens` at a time, see keys of.
int64_t most_stretches(const esft_attention_cached_args& a, int64_t tokens) {
  int64_t room = 0;
  for (int64_t i = 0; i < a.k_cache.count; i++) room = max_of(room, rows(a.k_cache.items[i]));
  if (a.window == 0 && a.chunk == 0) return ceil_div(room, kStretch);
  if (a.window > 0) room = min_of(room, a.window + tokens - 1);
  if (a.chunk > 0) room = min_of(room, a.chunk + tokens - 1);
  return (room + 2 * kStretch - 2) / kStretch;
}

bool cache_in_vectors(const esft_attention_cached_args& a, int64_t dr) {
  bool all = a.k_dim % 8 == 0 && dr % 8 == 0 && a.v_dim % 8 == 0;
  for (int64_t i = 0; i < a.k_cache.count; i++) all = all && reinterpret_cast<uintptr_t>(a.k_cache.items[i].data) % 16 == 0;
  for (int64_t i = 0; i < a.v_cache.count; i++) all = all && reinterpret_cast<uintptr_t>(a.v_cache.items[i].data) % 16 == 0;
  return all;
}

CachedParams params_of(const esft_attention_cached_args& a, Context& c) {
  CachedParams p{};
  const int64_t dr = present(a.k_shared) ? cols(a.k_shared) : 0;
  p.latent = !present(a.v);
  p.caches = items_of<CacheItem>(c, a.k_cache.count, [&](int64_t i) {
    const esft_tensor& k = a.k_cache.items[i];
    return CacheItem{k.data, p.latent ? k.data : a.v_cache.items[i].data, int32_t(rows(k))};
  });
  p.positions = data<int32_t>(a.positions);
  p.q = data<bf16>(a.q), p.q_ld = a.q.ld;
  p.k = data<bf16>(a.k) + a.k_offset, p.k_ld = a.k.ld, p.k_stride = a.kv_heads > 1 ? a.k_stride : 0;
  if (!p.latent) p.v = data<bf16>(a.v) + a.v_offset, p.v_ld = a.v.ld, p.v_stride = a.kv_heads > 1 ? a.v_stride : 0;
  if (dr) p.shared = data<bf16>(a.k_shared), p.shared_ld = a.k_shared.ld;
  p.k_width = a.kv_heads * a.k_dim + dr;
  p.v_width = p.latent ? p.k_width : a.kv_heads * a.v_dim;
  p.T = rows(a.q), p.window = a.window, p.chunk = a.chunk;
  p.heads = int(a.heads), p.kv_heads = int(a.kv_heads), p.group = int(a.heads / a.kv_heads);
  p.k_dim = int(a.k_dim), p.dr = int(dr), p.v_dim = int(a.v_dim);
  p.head_blocks = int(ceil_div(p.group, kCachedRows));
  p.per_token = min_of(p.group, kCachedRows);
  // With a document for each token there is nothing to share.
  p.per_block = p.T > a.k_cache.count ? kCachedRows / p.per_token : 1;
  p.negate = a.scale < 0;
  p.scale2 = max_of(float(std::fabs(a.scale) * double(kLog2e)), 1e-30f);  // as in attention.cu
  p.vector = cache_in_vectors(a, dr);
  p.q_vector = in_vectors(a.q, 0, p.k_dim + dr, a.heads, p.k_dim + dr);
  if (present(a.sinks)) p.sinks = {a.sinks.data, a.sinks.dtype == ESFT_F32};
  return p;
}

template <class T, int DV>
void attend(CachedParams p, Context& c) {
  const int dq = p.k_dim + p.dr;
  const size_t bytes = cached_bytes<DV>(dq, p.latent);
  expect_shared("attention_cached", bytes, c);
  const int64_t per_token = p.slots > 1 ? int64_t(p.heads) * p.slots * (p.v_dim + 2) : 0, block = p.per_block;
  const int64_t blocks =
      min_of(ceil_div(p.T, block), min_of(int64_t(65535), kScratchFloats / max_of(int64_t(1), per_token * block)));
  const int64_t piece = max_of(int64_t(1), blocks) * block;
  if (p.slots > 1) p.partial = c.scratch_of<float>(min_of(piece, p.T) * per_token);
  for (p.t0 = 0; p.t0 < p.T; p.t0 += piece) {
    p.tokens = min_of(piece, p.T - p.t0);
    const dim3 grid(unsigned(p.kv_heads * p.head_blocks), grid_of(p.tokens, block), unsigned(p.slots));
    ESFT_LAUNCH((attend_cached<T, DV>), c, grid, kThreads, bytes, p);
    if (p.slots > 1) ESFT_LAUNCH((join_stretches), c, dim3(grid_of(p.tokens * p.heads, kThreads / 32)), kThreads, 0, p);
  }
}

}  // namespace

}  // namespace attention

void run_attention_cached(const esft_attention_cached_args& a, Context& c) {
  using namespace attention;
  const char* const op = "attention_cached";
  expect_bf16_activation(op, "q", a.q);
  expect_bf16_precision(op, a.precision);
  if (a.v_dim > 512)
    fail_status(ESFT_UNSUPPORTED, op, "v_dim",
                format("values wider than 512 are not served on CUDA, received %lld", (long long)a.v_dim));
  if (rows(a.q) == 0) return;
  CachedParams p = params_of(a, c);
  const int64_t slots = most_stretches(a, p.per_block);
  if (slots > 65535)
    fail_status(ESFT_UNSUPPORTED, op, "k_cache",
                format("caches of more than %lld rows are not served on CUDA", (long long)65535 * kStretch));
  p.slots = int(slots);
  p.documents = documents_in_caches(c, ESFT_OP_attention_cached, a.doc_start, a.positions, a.k_cache, a.window, a.chunk);
  by_float_type(a.k_cache.items[0], [&](auto type) {
    using T = typename decltype(type)::type;
    ESFT_LAUNCH((store_new_rows<T>), c, dim3(unsigned(p.T)), kThreads, 0, p);
    if (!present(a.out)) return;
    p.out = data<bf16>(a.out), p.out_ld = a.out.ld;
    const int dq = p.k_dim + p.dr;
    if (dq > 256 || p.v_dim > 256) return attend<T, 512>(p, c);
    if (p.v_dim > 128) return attend<T, 256>(p, c);
    if (p.v_dim > 64) return attend<T, 128>(p, c);
    attend<T, 64>(p, c);
  });
}

}  // namespace esft::cuda
