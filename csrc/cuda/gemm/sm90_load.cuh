// The loading warpgroup: fills the ring of stages. A stage holds A (two slabs) and B (kTileN / 64 slabs) as 128-byte swizzled slabs of
// 64 contraction elements (K-major: rows are rows of the operand; MN-major: rows are contraction indices).
//
// The copy engine gives weights and whole row ranges; gathered rows come with cp.async, 16 bytes per instruction, eight neighbouring
// lanes reading 128 contiguous bytes. A `full` barrier expects one arrival with the byte count and, when rows are copied, one from each
// of the 128 threads.
#pragma once
#include "sm90_tile.cuh"

namespace esft::cuda::sm90 {

template <int kStages>
struct PipelineState {
  uint64_t *full, *empty;
  int stage = 0, phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
  __device__ __forceinline__ int before() const { return stage == 0 ? kStages - 1 : stage - 1; }
  __device__ __forceinline__ void skip(int steps) {
    stage += steps;
    phase ^= stage / kStages & 1;
    stage %= kStages;
  }
};

// Which row of the matrix row r of the operand is; -1 when the index is wrong (check_index reported it).
__device__ __forceinline__ int source_row(const Rows& m, int64_t r) {
  const int row = m.index ? m.index[r] : int(r);
  return row >= 0 && row < m.limit ? row : -1;
}

// 128 rows x 64 columns from column k0, K-major. `rows`: rows thread / 8 + 16 i of the tile, -1 = zeros.
__device__ __forceinline__ void copy_k_major(const Rows& m, unsigned char* slab, const int (&rows)[8], int k0, int columns) {
  const int thread = threadIdx.x % 128, chunk = thread % 8, column = k0 + chunk * 8;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int row = thread / 8 + 16 * i;
    const bool valid = rows[i] >= 0 && column < columns;
    ptx::cp_async_16(slab + row * 128 + ((chunk ^ (row & 7)) * 16), valid ? m.data + rows[i] * m.ld + column : m.data, valid);
  }
}

// Which rows of the matrix the next 64 contraction rows are, -1 = zeros: lane l knows rows l and 32 + l. Asked for before the wait for a
// stage, so that the latency of the index hides behind it.
struct NextRows {
  int low, high;
  __device__ __forceinline__ void find(const Rows& m, int64_t begin, int first, int count) {
    const int row = first + threadIdx.x % 32;
    low = row < count ? source_row(m, begin + row) : -1;
    high = row + 32 < count ? source_row(m, begin + row + 32) : -1;
  }
};

// 64 contraction rows x 64·kSlabs columns from column c0, MN-major: slab j holds columns c0 + 64 j … Columns past `columns` are zeros.
template <int kSlabs>
__device__ __forceinline__ void copy_mn_major(const Rows& m, unsigned char* slabs, const NextRows& rows, int c0, int columns) {
  constexpr int kChunks = 8 * kSlabs, kRowsAtOnce = 128 / kChunks;
  const int thread = threadIdx.x % 128, chunk = thread % kChunks, column = c0 + chunk * 8;
  unsigned char* slab = slabs + chunk / 8 * kSlabBytes;
#pragma unroll 4
  for (int i = 0; i < 64 / kRowsAtOnce; i++) {
    const int row = thread / kChunks + kRowsAtOnce * i;  // the same half of the 64 in the whole warp
    const int source = __shfl_sync(0xffffffffu, i < 32 / kRowsAtOnce ? rows.low : rows.high, row % 32);
    const bool valid = source >= 0 && column < columns;
    ptx::cp_async_16(slab + row * 128 + ((chunk % 8 ^ (row & 7)) * 16), valid ? m.data + source * m.ld + column : m.data, valid);
  }
}

// The gradient that a tile will be added to, on its way to L2 while the tile is multiplied: read at its end, it would cost as long as a
// dozen steps. A thread has a row of the tile.
template <int kTileN>
__device__ __forceinline__ void prefetch_gradient(const Params& p, const Tile& tile) {
  const int item = tile.group * p.segments + tile.segment, row = tile.m0 + threadIdx.x % 128;
  if (!p.dw || row >= p.segment_rows) return;
  const float* from = static_cast<const float*>(p.dw[item]) + row * p.dw_ld[item] + tile.n0;
  for (int column = 0; column < min_of(kTileN, p.columns - tile.n0); column += 32) ptx::prefetch_l2(from + column);
}

// A box of weights: for this CTA, or, when `shared`, for both CTAs of the cluster.
template <int kCluster>
__device__ __forceinline__ void load_weights(void* dst, const CUtensorMap* map, uint64_t* full, int x, int y, bool shared) {
  if (kCluster > 1 && shared)
    ptx::tma_load_2d_multicast(dst, map, full, x, y, uint16_t((1 << kCluster) - 1));
  else
    ptx::tma_load_2d(dst, map, full, x, y);
}

template <Role kRole, Epilogue kEpilogue, Load kLoadA, Load kLoadB, int kCluster>
__device__ __forceinline__ void producer(const Params& p, const CUtensorMap* map_a, const CUtensorMap* map_b,
                                         const CUtensorMap* map_h, unsigned char* smem, const int32_t* table, int rounds, int rank,
                                         PipelineState<Shape<kRole, kEpilogue>::kStages> state, uint64_t* h_full,
                                         uint64_t* h_empty) {
  using S = Shape<kRole, kEpilogue>;
  constexpr bool kCopies = kLoadA == Load::kRows || kLoadB == Load::kRows;
  const bool leader = threadIdx.x == 0;
  if (!kCopies && !leader) return;
  constexpr int kBytes = (kLoadA == Load::kTma ? S::kStageA : 0) + (kLoadB == Load::kTma ? S::kStageB : 0);
  const CUtensorMap* acquired = nullptr;
  int turn = 0;  // tiles of h so far
  for (int t = blockIdx.x / kCluster; t < rounds; t += gridDim.x / kCluster) {
    const Tile tile = tile_at<kRole, kEpilogue, kCluster>(p, table, t, rank);
    const int steps = steps_of<kRole>(p, tile), first = first_step<kRole>(p, tile);
    int rows[8];
    if (kRole != Role::kTn && kLoadA == Load::kRows) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int row = threadIdx.x / 8 + 16 * i;
        rows[i] = row < tile.rows ? source_row(p.a, tile.begin + row) : -1;
      }
    }
    if (kRole == Role::kTn && kCopies && steps > 0) prefetch_gradient<S::kTileN>(p, tile);
    for (int step = first; step < first + steps; step++) {
      unsigned char* stage_a = smem + state.stage * S::kStage;
      unsigned char* stage_b = stage_a + S::kStageA;
      uint64_t* full = state.full + state.stage;
      NextRows rows_a, rows_b;
      if (kRole == Role::kTn && kLoadA == Load::kRows) rows_a.find(p.a, tile.begin, step * kTileK, tile.rows);
      if (kRole == Role::kTn && kLoadB == Load::kRows) rows_b.find(p.b, tile.begin, step * kTileK, tile.rows);
      ptx::mbar_wait(state.empty + state.stage, state.phase ^ 1, {p.op, kBarrierEmpty});
      // nn: the contraction runs over the rows of one weight segment after the other.
      const int per_segment = kRole == Role::kNn ? int(ceil_div(p.segment_rows, kTileK)) : 1;
      const int segment = kRole == Role::kNn ? step / per_segment : tile.segment,
                k0 = (step - (kRole == Role::kNn ? segment * per_segment : 0)) * kTileK;
      const int column_a = kRole == Role::kNn ? segment * p.segment_rows + k0 : k0;
      // tn: the last box of dy would end in rows of the next expert, whose infinities times zeros of x are NaN. The copies stop before.
      const bool cut_a = kRole == Role::kTn && kLoadA == Load::kTma && kLoadB == Load::kRows && k0 + kTileK > tile.rows;
      if (leader && kBytes > 0) {
        if (cut_a)
          ptx::mbar_arrive(full);
        else
          ptx::mbar_arrive_expect_tx(full, kBytes);
        if (kLoadB == Load::kTma && kRole != Role::kTn) {
          const CUtensorMap* map = p.weights + int64_t(tile.expert) * p.segments + segment;
          const CUtensorMap* second = map;  // of the up projection
          int row = tile.n0, second_row = tile.n0 + 128;
          if (kEpilogue == Epilogue::kSwiglu) {
            second = p.segments == 2 ? map + 1 : map;
            second_row = p.segments == 2 ? tile.n0 : p.segment_rows / 2 + tile.n0;
          }
          if (acquired != map) {
            ptx::tma_acquire_map(map);
            if (second != map) ptx::tma_acquire_map(second);
            acquired = map;
          }
          // Shared between the CTAs of a cluster: the first half is rank 0's to load, the second rank 1's.
          const bool first_half = !tile.shared_b || rank == 0, second_half = !tile.shared_b || rank == 1;
          if (kRole == Role::kNt) {
            if (first_half) load_weights<kCluster>(stage_b, map, full, k0, row, tile.shared_b);
            if (second_half) load_weights<kCluster>(stage_b + S::kStageB / 2, second, full, k0, second_row, tile.shared_b);
          } else {
            constexpr int kSlabs = S::kTileN / 64;
#pragma unroll
            for (int j = 0; j < kSlabs; j++)
              if (j < kSlabs / 2 ? first_half : second_half)
                load_weights<kCluster>(stage_b + j * kSlabBytes, map, full, tile.n0 + 64 * j, k0, tile.shared_b);
          }
        }
        if (kLoadB == Load::kTma && kRole == Role::kTn) {
#pragma unroll
          for (int j = 0; j < S::kTileN / 64; j++)
            ptx::tma_load_2d(stage_b + j * kSlabBytes, map_b, full, tile.n0 + 64 * j, int(tile.begin) + k0);
        }
        if (kLoadA == Load::kTma && kRole != Role::kTn) ptx::tma_load_2d(stage_a, map_a, full, column_a, int(tile.begin));
        if (kLoadA == Load::kTma && kRole == Role::kTn && !cut_a) {
#pragma unroll
          for (int j = 0; j < 2; j++)
            ptx::tma_load_2d(stage_a + j * kSlabBytes, map_a, full, tile.segment * p.segment_rows + tile.m0 + 64 * j,
                             int(tile.begin) + k0);
        }
      }
      if (kLoadA == Load::kRows) {
        if (kRole != Role::kTn)
          copy_k_major(p.a, stage_a, rows, column_a, kRole == Role::kNn ? p.segments * p.segment_rows : p.columns);
        else
          copy_mn_major<2>(p.a, stage_a, rows_a, tile.segment * p.segment_rows + tile.m0, p.segments * p.segment_rows);
      }
      if (cut_a) {
        rows_a.find(p.a, tile.begin, k0, tile.rows);
        copy_mn_major<2>(p.a, stage_a, rows_a, tile.segment * p.segment_rows + tile.m0, p.segments * p.segment_rows);
      }
      if (kLoadB == Load::kRows) copy_mn_major<S::kTileN / 64>(p.b, stage_b, rows_b, tile.n0, p.columns);
      if (kCopies) ptx::cp_async_mbar_arrive(full);
      state.advance();
      // The tile of h comes once the ring is full: waiting for its place, which the previous tile's epilogue still uses, must not keep
      // the products of this tile from starting.
      if (kEpilogue == Epilogue::kSwigluBackward && leader && step == min_of(steps, S::kStages) - 1) {
        const int half = turn & 1;
        ptx::mbar_wait(h_empty + half, (turn >> 1 & 1) ^ 1, {p.op, kBarrierHEmpty});
        turn++;
        unsigned char* h = smem + S::kStages * S::kStage + half * S::kTileOfH;
        ptx::mbar_arrive_expect_tx(h_full + half, S::kTileOfH);
#pragma unroll
        for (int j = 0; j < 4; j++)
          ptx::tma_load_2d(h + j * 2 * kSlabBytes, map_h, h_full + half, (j < 2 ? 0 : p.columns) + tile.n0 + 64 * (j & 1),
                           int(tile.begin));
      }
    }
  }
  if (kCopies) {  // no thread ends with copies in flight
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
  }
}

}  // namespace esft::cuda::sm90
