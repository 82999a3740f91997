// The loading warpgroup: fills the ring of stages. A stage holds A (two slabs) and B (kTileN / 64 slabs) as 128-byte swizzled slabs of
// 64 contraction elements (K-major: rows are rows of the operand; MN-major: rows are contraction indices).
//
// The copy engine gives weights and whole row ranges; gathered rows come with cp.async, 16 bytes per instruction, eight neighbouring
// lanes reading 128 contiguous bytes. A `full` barrier expects one arrival with the byte count and, when rows are copied, one from each
// of the 128 threads.
#pragma once
#include "sm90_instance.cuh"

namespace esft::cuda::sm90 {

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
__device__ __forceinline__ void prefetch_gradient(const Arguments<Role::kTn, Epilogue::kWeightGradient>& p, const Tile& tile) {
  const int item = tile.group * p.parts + tile.part, row = tile.m0 + threadIdx.x % 128;
  if (!p.dw || !p.out.accumulate || row >= p.part_rows) return;
  const float* from = static_cast<const float*>(p.dw[item]) + row * p.dw_ld[item] + tile.n0;
  constexpr int kTileN = Shape<Role::kTn, Epilogue::kWeightGradient>::kTileN;
  for (int column = 0; column < min_of(kTileN, p.columns - tile.n0); column += 32) ptx::prefetch_l2(from + column);
}

// A box of a stack of weights: for this CTA, or, when `shared`, for both CTAs of the cluster.
template <int kCluster>
__device__ __forceinline__ void load_weights(void* dst, const CUtensorMap* map, uint64_t* full, int x, int y, int z, bool shared) {
  if (kCluster > 1 && shared)
    ptx::tma_load_3d_multicast(dst, map, full, x, y, z, uint16_t((1 << kCluster) - 1));
  else
    ptx::tma_load_3d(dst, map, full, x, y, z);
}

// A column that no A has: the copy engine reads zeros.
constexpr int kNowhere = 1 << 30;

// The weights of a tile in one segment of the contraction: where their boxes begin.
struct WeightBoxes {
  const CUtensorMap *first, *second;  // the second half of an nt tile may lie in another part (up beside gate)
  int first_row, second_row, first_shift, second_shift, expert;
  // Shared between the CTAs of a cluster: the first half is rank 0's to load, the second rank 1's.
  bool shared, first_half, second_half;
};

// Works out the CTA's tiles. Where one thread loads, another does nothing else; true: this is the one.
template <class K>
__device__ __forceinline__ bool plan_all(const typename K::Args& p, Shared<K>& s) {
  if constexpr (!K::kCopies) {
    if (threadIdx.x != 32) return false;
    for (int turn = 0; turn < s.turns; turn++) s.tiles.put(turn, K::tile(p, s.table, turn, s.rank));
    return true;
  }
  return false;
}
// Where all threads copy rows, one of them does it, a tile ahead, before it begins with tile `turn`: its warp falls behind by some hundred
// cycles, with three stages in front of it.
template <class K>
__device__ __forceinline__ void plan_next(const typename K::Args& p, Shared<K>& s, int turn) {
  if constexpr (K::kCopies) {
    if (threadIdx.x != 32) return;
#pragma unroll 1
    for (int next = turn > 0 ? turn + 1 : 0; next <= turn + 1 && next < s.turns; next++)
      s.tiles.put(next, K::tile(p, s.table, next, s.rank));
  }
}

template <Role kRole>
struct Producer;

// nt and nn: rows of A, whole or gathered, against the weights of their expert. The rings of the segments follow one another.
struct WeightProducer {
  template <class K>
  static __device__ __forceinline__ void run(const typename K::Args& p, const Maps& maps, Shared<K> s) {
    using S = typename K::S;
    constexpr bool kGathers = K::kLoadA == Load::kRows;
    const bool leader = threadIdx.x == 0;
    if (plan_all<K>(p, s) || (!kGathers && !leader)) return;
    const CUtensorMap* acquired = nullptr;
    for (int turn = 0; turn < s.turns; turn++) {
      plan_next<K>(p, s, turn);
      const Tile& tile = s.tiles.take(turn);
      const int first_row = int(tile.begin);
      int rows[8];
      if (kGathers) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const int row = threadIdx.x / 8 + 16 * i;
          rows[i] = row < tile.rows ? source_row(p.a, first_row + row) : -1;
        }
      }
      int left = tile.steps, step = first_step(p, tile);  // step: of its segment
      // The tile of h comes once the ring is full.
      int until_h = K::kEpilogue == Epilogue::kSwigluBackward ? min_of(left, S::kStages) : 0;
#pragma unroll 1
      for (int i = 0; left > 0; i++, step = 0) {
        const Segment& segment = p.contraction.segments[i];
        const int end = min_of(step + left, int(ceil_div(segment.length, kTileK)));
        const bool copies = kGathers && segment.a < 0;
        int expert = tile.expert, column = segment.column;
        if (p.contraction.terms_of && i >= p.contraction.first_term) {
          expert = p.contraction.terms_of[tile.expert];
          if (expert < 0) expert = 0, column = kNowhere;
        }
        const WeightBoxes boxes = Producer<K::kRole>::template boxes<K>(p, maps, segment, tile, expert, s.rank);
        if (leader && segment.table && acquired != boxes.first) {
          ptx::tma_acquire_map(boxes.first);
          if (boxes.second != boxes.first) ptx::tma_acquire_map(boxes.second);
          acquired = boxes.first;
        }
        left -= end - step;
#pragma unroll 1
        for (; step < end; step++) {
          unsigned char* stage_a = s.smem + s.state.stage * S::kStage;
          uint64_t* full = s.state.full + s.state.stage;
          const int k0 = step * kTileK;
          ptx::mbar_wait(s.state.empty + s.state.stage, s.state.phase ^ 1, {p.op, kBarrierEmpty});
          if (leader) {
            ptx::mbar_arrive_expect_tx(full, copies ? S::kStageB : S::kStage);
            Producer<K::kRole>::template load_b<K>(boxes, stage_a + S::kStageA, full, tile.n0, k0, segment.row);
            if (!copies) ptx::tma_load_2d(stage_a, maps.a + segment.a, full, column + k0, first_row);
          }
          if (copies) copy_k_major(p.a, stage_a, rows, segment.column + k0, segment.column + segment.length);
          if (kGathers) ptx::cp_async_mbar_arrive(full);
          s.state.advance();
          if constexpr (K::kEpilogue == Epilogue::kSwigluBackward) {
            if (leader && --until_h == 0) load_h<K>(p, maps, s, tile, turn);
          }
        }
      }
      if (kGathers) s.tiles.give(turn);
    }
    if (kGathers) {  // no thread ends with copies in flight
      ptx::cp_async_commit();
      ptx::cp_async_wait<0>();
    }
  }

  // Waiting for the place of a tile of h, which the tile before may still use, must not keep the products of this tile from starting.
  template <class K>
  static __device__ __forceinline__ void load_h(const typename K::Args& p, const Maps& maps, const Shared<K>& s, const Tile& tile,
                                                int turn) {
    using S = typename K::S;
    const int half = turn & 1;
    ptx::mbar_wait(s.h_empty + half, (turn >> 1 & 1) ^ 1, {p.op, kBarrierHEmpty});
    unsigned char* h = s.smem + S::kStages * S::kStage + half * S::kTileOfH;
    ptx::mbar_arrive_expect_tx(s.h_full + half, S::kTileOfH);
#pragma unroll
    for (int j = 0; j < 4; j++)
      ptx::tma_load_2d(h + j * 2 * kSlabBytes, &maps.h, s.h_full + half, (j < 2 ? 0 : p.columns) + tile.n0 + 64 * (j & 1),
                       int(tile.begin));
  }

  template <class K>
  static __device__ __forceinline__ WeightBoxes boxes_of(const Maps& maps, const Segment& segment, const Tile& tile, int expert,
                                                         int part, int rank) {
    WeightBoxes b;
    b.first = b.second = segment.table ? segment.table + int64_t(expert) * segment.per_expert + part : maps.b + segment.b + part;
    b.first_row = b.second_row = b.first_shift = b.second_shift = 0;
    b.expert = segment.table ? 0 : expert;
    b.shared = K::kCluster > 1 && tile.shared_b;
    b.first_half = !b.shared || rank == 0;
    b.second_half = !b.shared || rank == 1;
    return b;
  }
};

// B: rows n0 … of a part, in two halves; with SwiGLU the rows of gate and those of up.
template <>
struct Producer<Role::kNt> : WeightProducer {
  template <class K>
  static __device__ __forceinline__ WeightBoxes boxes(const typename K::Args& p, const Maps& maps, const Segment& segment,
                                                      const Tile& tile, int expert, int rank) {
    const int part = segment.parts > 1 ? tile.part : 0;
    WeightBoxes b = boxes_of<K>(maps, segment, tile, expert, part, rank);
    b.first_row = tile.n0 + (tile.part - part) * p.part_rows;
    b.second_row = b.first_row + K::S::kBoxRows;
    b.first_shift = b.second_shift = part * segment.shift;
    if (K::kEpilogue == Epilogue::kSwiglu) {
      if (segment.parts == 2) b.second = b.first + 1, b.second_shift = segment.shift;
      b.second_row = tile.n0 + (segment.parts == 2 ? 0 : p.parts * p.part_rows / 2);
    }
    return b;
  }
  template <class K>
  static __device__ __forceinline__ void load_b(const WeightBoxes& b, unsigned char* stage_b, uint64_t* full, int, int k0,
                                                int row) {
    if (b.first_half) load_weights<K::kCluster>(stage_b, b.first, full, row + k0 - b.first_shift, b.first_row, b.expert, b.shared);
    if (b.second_half)
      load_weights<K::kCluster>(stage_b + K::S::kStageB / 2, b.second, full, row + k0 - b.second_shift, b.second_row, b.expert,
                                b.shared);
  }
};

// B: rows k0 … of the segment's weights, in slabs of 64 columns.
template <>
struct Producer<Role::kNn> : WeightProducer {
  template <class K>
  static __device__ __forceinline__ WeightBoxes boxes(const typename K::Args&, const Maps& maps, const Segment& segment,
                                                      const Tile& tile, int expert, int rank) {
    return boxes_of<K>(maps, segment, tile, expert, 0, rank);
  }
  template <class K>
  static __device__ __forceinline__ void load_b(const WeightBoxes& b, unsigned char* stage_b, uint64_t* full, int n0, int k0,
                                                int row) {
    constexpr int kSlabs = K::S::kTileN / 64;
#pragma unroll
    for (int j = 0; j < kSlabs; j++)
      if (j < kSlabs / 2 ? b.first_half : b.second_half)
        load_weights<K::kCluster>(stage_b + j * kSlabBytes, b.first, full, n0 + 64 * j, row + k0, b.expert, b.shared);
  }
};

// dy against x over the rows of an expert.
template <>
struct Producer<Role::kTn> {
  template <class K>
  static __device__ __forceinline__ void run(const typename K::Args& p, const Maps& maps, Shared<K> s) {
    using S = typename K::S;
    constexpr bool kRowsA = K::kLoadA == Load::kRows, kRowsB = K::kLoadB == Load::kRows;
    const bool leader = threadIdx.x == 0;
    if (plan_all<K>(p, s) || (!K::kCopies && !leader)) return;
    constexpr int kBytes = (kRowsA ? 0 : S::kStageA) + (kRowsB ? 0 : S::kStageB);
    const int width = p.parts * p.part_rows;  // of dy
    for (int turn = 0; turn < s.turns; turn++) {
      plan_next<K>(p, s, turn);
      const Tile& tile = s.tiles.take(turn);
      const int steps = tile.steps, begin = int(tile.begin), rows = tile.rows, column_a = tile.part * p.part_rows + tile.m0,
                column_b = tile.n0;
      if (K::kCopies && steps > 0) prefetch_gradient(p, tile);
      if (K::kCopies) s.tiles.give(turn);
#pragma unroll 1
      for (int step = 0; step < steps; step++) {
        unsigned char* stage_a = s.smem + s.state.stage * S::kStage;
        unsigned char* stage_b = stage_a + S::kStageA;
        uint64_t* full = s.state.full + s.state.stage;
        const int k0 = step * kTileK;
        NextRows rows_a, rows_b;
        if (kRowsA) rows_a.find(p.a, begin, k0, rows);
        if (kRowsB) rows_b.find(p.b, begin, k0, rows);
        ptx::mbar_wait(s.state.empty + s.state.stage, s.state.phase ^ 1, {p.op, kBarrierEmpty});
        // The last box of dy would end in rows of the next expert, whose infinities times zeros of x are NaN. The copies stop before.
        const bool cut_a = !kRowsA && kRowsB && k0 + kTileK > rows;
        if (leader && kBytes > 0) {
          if (cut_a)
            ptx::mbar_arrive(full);
          else
            ptx::mbar_arrive_expect_tx(full, kBytes);
          if (!kRowsB) {
#pragma unroll
            for (int j = 0; j < S::kTileN / 64; j++)
              ptx::tma_load_2d(stage_b + j * kSlabBytes, &maps.b[0], full, column_b + 64 * j, begin + k0);
          }
          if (!kRowsA && !cut_a) {
#pragma unroll
            for (int j = 0; j < 2; j++) ptx::tma_load_2d(stage_a + j * kSlabBytes, &maps.a[0], full, column_a + 64 * j, begin + k0);
          }
        }
        if (kRowsA) copy_mn_major<2>(p.a, stage_a, rows_a, column_a, width);
        if (cut_a) {
          rows_a.find(p.a, begin, k0, rows);
          copy_mn_major<2>(p.a, stage_a, rows_a, column_a, width);
        }
        if (kRowsB) copy_mn_major<S::kTileN / 64>(p.b, stage_b, rows_b, column_b, p.columns);
        if (K::kCopies) ptx::cp_async_mbar_arrive(full);
        s.state.advance();
      }
    }
    if (K::kCopies) {  // no thread ends with copies in flight
      ptx::cp_async_commit();
      ptx::cp_async_wait<0>();
    }
  }
};

}  // namespace esft::cuda::sm90
