// What happens to the 64 sums of a thread when a tile's product is done. Fragment: thread t of warp w holds rows
// 32·(w/2) + 16·i + 8·(q/2) + lane/4 and columns 64·(w%2) + 8·j + 2·(lane%4) + q%2 of sums[i][j][q].
#pragma once
#include "../activation.cuh"
#include "linear_cross_entropy.cuh"
#include "mma_schedule.cuh"
#include "mma_tile.cuh"

namespace esft::cuda {

__device__ __forceinline__ int fragment_row(int i, int half) {
  return threadIdx.x / 64 * 32 + i * 16 + half * 8 + threadIdx.x % 32 / 4;
}
__device__ __forceinline__ int fragment_column(int j) { return threadIdx.x / 32 % 2 * 64 + j * 8 + threadIdx.x % 4 * 2; }

// Two neighbours v[0], v[1] of a row, of which `count` exist.
__device__ __forceinline__ void put_pair(bf16* to, int count, bool pairs, float v0, float v1) {
  if (count <= 0) return;
  const uint32_t packed = ptx::pack_bf16x2(v0, v1);
  if (pairs && count > 1) {
    *reinterpret_cast<uint32_t*>(to) = packed;
    return;
  }
  to[0].bits = uint16_t(packed);
  if (count > 1) to[1].bits = uint16_t(packed >> 16);
}
__device__ __forceinline__ void get_pair(const bf16* from, int count, bool pairs, float (&v)[2]) {
  v[0] = v[1] = 0.f;
  if (count <= 0) return;
  if (pairs && count > 1) {
    const uint32_t packed = *reinterpret_cast<const uint32_t*>(from);
    v[0] = lo_float(packed), v[1] = hi_float(packed);
    return;
  }
  v[0] = to_float(from[0]);
  if (count > 1) v[1] = to_float(from[1]);
}

struct alignas(8) Pair {
  float v[2];
};

__device__ __forceinline__ void finish_pair(const Output& o, void* data, int64_t at, int count, float v0, float v1) {
  if (count <= 0) return;
  if (o.is_bf16) {
    bf16* to = static_cast<bf16*>(data) + at;
    if (o.accumulate) {
      float old[2];
      get_pair(to, count, o.pairs, old);
      v0 += old[0], v1 += old[1];
    }
    put_pair(to, count, o.pairs, v0, v1);
    return;
  }
  float* to = static_cast<float*>(data) + at;
  if (o.pairs && count > 1) {
    Pair out = {{v0, v1}};
    if (o.accumulate) {
      const Pair old = *reinterpret_cast<const Pair*>(to);
      out = {{old.v[0] + v0, old.v[1] + v1}};
    }
    *reinterpret_cast<Pair*>(to) = out;
    return;
  }
  to[0] = o.accumulate ? to[0] + v0 : v0;
  if (count > 1) to[1] = o.accumulate ? to[1] + v1 : v1;
}

// v, rounded as C is, += the residual at (row, column) and beside it, where there is one.
__device__ __forceinline__ void add_residual(const Output& o, int64_t row, int64_t column, int count, float& v0, float& v1) {
  if (!o.residual || count <= 0) return;
  const int64_t at = row * o.residual_ld + column;
  float old[2] = {};
  if (o.is_bf16) {
    const uint32_t rounded = ptx::pack_bf16x2(v0, v1);
    v0 = lo_float(rounded), v1 = hi_float(rounded);
    get_pair(static_cast<const bf16*>(o.residual) + at, count, o.pairs, old);
  } else {
    const float* from = static_cast<const float*>(o.residual) + at;
    old[0] = from[0];
    if (count > 1) old[1] = from[1];
  }
  v0 += old[0], v1 += old[1];
}

__device__ __forceinline__ float bias_at(const Bias& bias, int64_t i) {
  return bias.is_bf16 ? to_float(static_cast<const bf16*>(bias.data)[i]) : static_cast<const float*>(bias.data)[i];
}

// C: rows from row0, `height` of them; columns from column0, `width`, whose bias starts at bias0.
template <MmaMode kMode>
__device__ __forceinline__ void epilogue_store(const MmaParams& p, const MmaSums& sums, void* data, int64_t ld, int64_t row0,
                                               int64_t height, int64_t column0, int64_t width, const Bias& bias = {},
                                               int64_t bias0 = 0) {
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = fragment_row(i, half);
      if (row >= height) continue;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const int column = fragment_column(j), count = int(min_of<int64_t>(2, width - column));
        float v0 = sums[i][j][2 * half], v1 = sums[i][j][2 * half + 1];
        if (kMode != kTn) v0 *= p.factor, v1 *= p.factor;
        if (kMode == kTn) v0 += 0.f, v1 += 0.f;  // as if added to zeros: no -0
        if (kMode == kNt && bias.data) {
          if (count > 0) v0 += bias_at(bias, bias0 + column);
          if (count > 1) v1 += bias_at(bias, bias0 + column + 1);
        }
        if (kMode == kNt) add_residual(p.out, row0 + row, column0 + column, count, v0, v1);
        finish_pair(p.out, data, (row0 + row) * ld + column0 + column, count, v0, v1);
      }
    }
}

// The tile's columns are, per half of 64, 32 of gate and the same 32 of up: both are in this thread.
__device__ __forceinline__ void epilogue_swiglu(const MmaParams& p, const SwigluOutput& o, const MmaSums& sums,
                                                const TilePlace& place, const ColumnTile& tile) {
  bf16* y = static_cast<bf16*>(p.out.data);
  const Bias none = {}, *bias = p.biases ? p.biases + int64_t(place.expert) * p.segments : nullptr;
  const Bias gate_bias = bias ? bias[0] : none, up_bias = !bias ? none : p.segments == 2 ? bias[1] : bias[0];
  const int64_t up0 = p.segments == 2 ? 0 : o.features;  // where the bias of up starts
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t row = place.begin + fragment_row(i, half);
      if (row >= place.end) continue;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int column = fragment_column(j) / 64 * 32 + fragment_column(j) % 64, count = min_of(2, tile.count - column);
        float gate[2] = {sums[i][j][2 * half], sums[i][j][2 * half + 1]};
        float up[2] = {sums[i][j + 4][2 * half], sums[i][j + 4][2 * half + 1]};
        const int64_t f = tile.column0 + column;
        if (bias) {
#pragma unroll
          for (int q = 0; q < 2; q++)
            if (q < count) gate[q] += bias_at(gate_bias, f + q), up[q] += bias_at(up_bias, up0 + f + q);
        }
        if (o.h) {
          bf16* h = o.h + row * o.h_ld + f;
          put_pair(h, count, o.pairs, gate[0], gate[1]);
          put_pair(h + o.features, count, o.pairs, up[0], up[1]);
        }
        put_pair(y + row * p.out.ld + f, count, p.out.pairs, gated_value<bf16>(o.act, gate[0], up[0]),
                 gated_value<bf16>(o.act, gate[1], up[1]));
      }
    }
}

// sums = g, the gradient of f(h_gate, h_up): dh and this tile's part of dgate. `memory`: shared, [128][2] f32.
__device__ __forceinline__ void finish_dswiglu(const MmaParams& p, const DswigluInput& in, const MmaSums& sums,
                                               const TilePlace& place, int64_t column0, int column_tiles, float* memory) {
  bf16* dh = static_cast<bf16*>(p.out.data);
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t row = place.begin + fragment_row(i, half);
      float dgate = 0.f;
      if (row < place.end) {
        const float scale = in.gate ? in.gate[row] : 1.f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const int64_t f = column0 + fragment_column(j);
          const int count = int(min_of<int64_t>(2, in.features - f));
          if (count <= 0) continue;
          float gate[2], up[2], dgate_pre[2], dup[2];
          get_pair(in.h + row * in.h_ld + f, count, in.pairs, gate);
          get_pair(in.h + row * in.h_ld + in.features + f, count, in.pairs, up);
#pragma unroll
          for (int q = 0; q < 2; q++) {
            const float g = sums[i][j][2 * half + q];
            const Gated f = gated<bf16>(in.act, gate[q], up[q]);
            if (q < count) dgate += g * f.a;
            dgate_pre[q] = scale * g * f.by_gate;
            dup[q] = scale * g * f.by_up;
          }
          put_pair(dh + row * p.out.ld + f, count, in.pairs, dgate_pre[0], dgate_pre[1]);
          put_pair(dh + row * p.out.ld + in.features + f, count, in.pairs, dup[0], dup[1]);
        }
      }
      if (!in.dgate_partials) continue;
      dgate += __shfl_xor_sync(kFullWarp, dgate, 1);
      dgate += __shfl_xor_sync(kFullWarp, dgate, 2);
      if (threadIdx.x % 4 == 0) memory[fragment_row(i, half) * 2 + threadIdx.x / 32 % 2] = dgate;
    }
  if (!in.dgate_partials) return;
  __syncthreads();
  const int64_t row = place.begin + threadIdx.x;
  if (threadIdx.x < kMmaTile && row < place.end)
    in.dgate_partials[row * column_tiles + place.column] = memory[threadIdx.x * 2] + memory[threadIdx.x * 2 + 1];
  __syncthreads();
}

// sums = logits before scaling. `memory`: shared, 3 · [128][2] · 4 bytes.
__device__ __forceinline__ void finish_ce(const MmaParams& p, const CeLogits& ce, MmaSums& sums, const TilePlace& place,
                                          const ColumnTile& tile, unsigned char* memory) {
  float* row_max = reinterpret_cast<float*>(memory);
  int32_t* row_argmax = reinterpret_cast<int32_t*>(memory + kMmaTile * 8);
  float* row_sum = reinterpret_cast<float*>(memory + kMmaTile * 16);
  const int side = threadIdx.x / 32 % 2;
  const LogitFinish& finish = ce.finish;
  const float inverse_cap = finish.cap > 0.f ? 1.f / finish.cap : 0.f;
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float best = -INFINITY;
      int argmax = tile.column0;
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int q = 0; q < 2; q++) {
          const int column = fragment_column(j) + q;
          float& z = sums[i][j][2 * half + q];
          if (finish.bias && column < tile.count) z += bias_at(finish, tile.column0 + column);
          z *= finish.scale;
          if (finish.cap > 0.f) z = capped(z, finish.cap, inverse_cap);
          if (column < tile.count && (z > best)) best = z, argmax = tile.column0 + column;
        }
#pragma unroll
      for (int step = 1; step <= 2; step <<= 1) {
        const float other = __shfl_xor_sync(kFullWarp, best, step);
        const int id = __shfl_xor_sync(kFullWarp, argmax, step);
        if (other > best || (other == best && id < argmax)) best = other, argmax = id;
      }
      if (threadIdx.x % 4 == 0) {
        row_max[fragment_row(i, half) * 2 + side] = best;
        row_argmax[fragment_row(i, half) * 2 + side] = argmax;
      }
    }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int in_tile = fragment_row(i, half);
      const int64_t row = place.begin + in_tile;
      const bool valid = row < place.end;
      const float top = max_of(row_max[in_tile * 2], row_max[in_tile * 2 + 1]);
      const int label = valid ? ce.labels[p.a.index[row]] - tile.column0 : -1;
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const int column = fragment_column(j), count = min_of(2, tile.count - column);
        const float z0 = sums[i][j][2 * half], z1 = sums[i][j][2 * half + 1];
        if (count > 0) sum += __expf(z0 - top);
        if (count > 1) sum += __expf(z1 - top);
        if (!valid) continue;
        if (label == column && count > 0) ce.label_z[row] = z0;
        if (label == column + 1 && count > 1) ce.label_z[row] = z1;
        put_pair(ce.shifted + row * ce.shifted_ld + tile.column0 + column, count, true, z0 - top, z1 - top);
      }
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      if (threadIdx.x % 4 == 0) row_sum[in_tile * 2 + side] = sum;
    }
  __syncthreads();
  const int r = threadIdx.x;
  const int64_t row = place.begin + r;
  if (r < kMmaTile && row < place.end) {
    const int second = row_max[2 * r + 1] > row_max[2 * r];  // ties: the lower id
    const int64_t at = row * ce.tiles + place.column;
    ce.tile_max[at] = row_max[2 * r + second];
    const int32_t label = ce.labels[p.a.index[row]];
    if (label >= tile.column0 && label < tile.column0 + tile.count) ce.label_first[row] = label == row_argmax[2 * r + second];
    ce.tile_sum[at] = row_sum[2 * r] + row_sum[2 * r + 1];
  }
  __syncthreads();
}

}  // namespace esft::cuda
