// What becomes of a finished tile: the epilogues of the multiplying warpgroups.
//
// Accumulator fragment (ptx_wgmma.cuh): thread t of a warpgroup holds, for column block j of 8, columns 8j + 2(t%4) + {0,1} of rows
// 16·warp + lane/4 (acc[4j], acc[4j+1]) and 8 rows further down (acc[4j+2], acc[4j+3]). bf16 results pass through shared memory, each
// warp its own 16 rows, from where the copy engine takes whole slabs while the warps go on; f32 results go straight out, four lanes filling
// a 32-byte sector.
#pragma once
#include "../activation.cuh"
#include "../reduce.cuh"
#include "sm90_tile.cuh"

namespace esft::cuda::sm90 {

struct Lane {
  int row;  // of acc[4j], acc[4j+1] within the warpgroup's 64 rows; the others 8 further
  int column;  // within a block of 8
  int lane, warp;
  __device__ __forceinline__ Lane() {
    lane = threadIdx.x % 32;
    warp = threadIdx.x % 128 / 32;
    row = 16 * warp + lane / 4;
    column = lane % 4 * 2;
  }
};

// bf16 results leave by slabs of 16 rows x 64 columns, a warp's own, two in turn: 128-byte swizzle, as the copy engine wants them.
constexpr int kWarpSlab = 16 * 128, kWarpStaging = 2 * kWarpSlab;
__device__ __forceinline__ unsigned char* in_slab(unsigned char* slab, int row, int chunk) {
  return slab + row * 128 + ((chunk ^ row) & 7) * 16;
}

// Slab `i` of a tile, once the copy engine has read what was there: two slabs ago, each of which ends with a commit, or, when it is the
// first, for the tile before, whose slabs may have been odd in number.
__device__ __forceinline__ unsigned char* free_slab(const Lane& l, unsigned char* staging, int i, bool first) {
  if (l.lane == 0) {
    if (first)
      ptx::bulk_wait_read<0>();
    else
      ptx::bulk_wait_read<1>();
  }
  __syncwarp();
  return staging + l.warp * kWarpStaging + (i & 1) * kWarpSlab;
}

// A warp's slab to `out` from (row0, column0) on, of which rows < `rows` and columns < `columns` exist: whole ones by the copy engine,
// which goes on alone; at the end of a group or of the columns row by row.
__device__ __forceinline__ void send_slab(const Lane& l, unsigned char* slab, const Out& out, const CUtensorMap* map, int64_t row0,
                                          int rows, int64_t column0, int columns) {
  if (out.tma && rows >= 16 * l.warp + 16 && columns >= 64) {
    ptx::fence_proxy_async();
    __syncwarp();
    if (l.lane == 0) ptx::tma_store_2d(map, slab, int(column0), int(row0) + 16 * l.warp);
  } else {
    const int whole = out.vectors ? columns / 8 : 0, chunk = l.lane % 8;  // `whole` chunks go as 16 bytes
    const int first = 16 * l.warp;
    const auto place = [&](int row) { return static_cast<bf16*>(out.data) + (row0 + first + row) * out.ld + column0 + chunk * 8; };
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = 4 * i + l.lane / 8;
      const Vec16 v = load16(in_slab(slab, row, chunk));
      if (first + row < rows && chunk < whole) store16(place(row), v);
    }
    if (whole < min_of(8, int(ceil_div(columns, 8)))) {
#pragma unroll 1
      for (int row = l.lane / 8; first + row < rows && row < 16 && chunk >= whole; row += 4)
#pragma unroll 1
        for (int c = 0; c < 8 && chunk * 8 + c < columns; c++)
          place(row)[c] = reinterpret_cast<const bf16*>(in_slab(slab, row, chunk))[c];
    }
  }
  if (l.lane == 0) ptx::bulk_commit();
}

// Eight column blocks of fragments into a slab: pair(j, down) is the packed pair of block j, `down`: of the rows 8 further.
template <class Pair>
__device__ __forceinline__ void fill_slab(const Lane& l, unsigned char* slab, const Pair& pair) {
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const uint32_t r[4] = {pair(j, 0), pair(j, 1), pair(j + 1, 0), pair(j + 1, 1)};
    ptx::stmatrix_x4(in_slab(slab, l.lane % 16, j + l.lane / 16), r);
  }
}

// The other way round: what `from` holds there, added to the fragments acc[4j + 2·down + c]. What does not exist is left as it is.
__device__ __forceinline__ void add_rows(const Lane& l, unsigned char* slab, const Added& from, int64_t row0, int rows,
                                         int64_t column0, int columns, float* acc) {
  const int whole = from.vectors ? columns / 8 : 0, chunk = l.lane % 8, first = 16 * l.warp;
  const auto place = [&](int row) { return from.data + (row0 + first + row) * from.ld + column0 + chunk * 8; };
  Vec16 v[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = 4 * i + l.lane / 8;
    v[i] = Vec16{};
    if (first + row < rows && chunk < whole) v[i] = load16(place(row));
  }
#pragma unroll
  for (int i = 0; i < 4; i++) store16(in_slab(slab, 4 * i + l.lane / 8, chunk), v[i]);
  if (whole < min_of(8, int(ceil_div(columns, 8)))) {
#pragma unroll 1
    for (int row = l.lane / 8; first + row < rows && row < 16 && chunk >= whole; row += 4)
#pragma unroll 1
      for (int c = 0; c < 8 && chunk * 8 + c < columns; c++) reinterpret_cast<bf16*>(in_slab(slab, row, chunk))[c] = place(row)[c];
  }
  __syncwarp();
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    uint32_t old[4];
    ptx::ldmatrix_x4(old, in_slab(slab, l.lane % 16, j + l.lane / 16));
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float* sum = acc + 4 * (j + i / 2) + 2 * (i & 1);
      const uint32_t product = ptx::pack_bf16x2(sum[0], sum[1]);
      sum[0] = (from.rounded ? lo_float(product) : sum[0]) + lo_float(old[i]);
      sum[1] = (from.rounded ? hi_float(product) : sum[1]) + hi_float(old[i]);
    }
  }
  __syncwarp();
}

__device__ __forceinline__ float value_of(const void* data, int f32, int64_t i) {
  return f32 ? static_cast<const float*>(data)[i] : to_float(static_cast<const bf16*>(data)[i]);
}

// f32 results straight to memory: pairs where every pair lies on 8 bytes.
template <int kAcc>
__device__ __forceinline__ void store_f32(const Lane& l, const Out& out, int64_t row0, int rows, int64_t column0, int columns,
                                          const float (&acc)[kAcc]) {
  const bool pairs = ((out.ld | column0) & 1) == 0 && (reinterpret_cast<uintptr_t>(out.data) & 7) == 0;
#pragma unroll
  for (int down = 0; down < 2; down++) {
    if (l.row + 8 * down >= rows) continue;
    float* to = static_cast<float*>(out.data) + (row0 + l.row + 8 * down) * out.ld + column0 + l.column;
    const int left = columns - l.column;  // columns from this thread's first on
    if (pairs && !out.accumulate) {
#pragma unroll
      for (int j = 0; j < kAcc / 4; j++) {
        if (8 * j + 1 < left)
          *reinterpret_cast<float2*>(to + 8 * j) = make_float2(acc[4 * j + 2 * down], acc[4 * j + 2 * down + 1]);
        else if (8 * j < left)
          to[8 * j] = acc[4 * j + 2 * down];
      }
    } else {
#pragma unroll
      for (int j = 0; j < kAcc / 4; j++)
#pragma unroll
        for (int c = 0; c < 2; c++)
          if (8 * j + c < left) to[8 * j + c] = acc[4 * j + 2 * down + c] + (out.accumulate ? to[8 * j + c] : 0.f);
    }
  }
}

// y = acc (+ bias) (+ y or a residual), of 2 · kAcc columns; `columns` of them exist. The choices are made once per tile, not once per element: what is
// done here is time in which the tensor cores wait.
template <Role kRole, int kAcc>
__device__ __forceinline__ void epilogue_store(const Arguments<kRole, Epilogue::kStore>& p, const Maps& maps, const Tile& tile,
                                               int rows, int64_t row0, float (&acc)[kAcc], unsigned char* staging) {
  const Lane l;
  Out out = p.out;
  if (p.split_target) out.data = static_cast<float*>(out.data) + int64_t(tile.split) * tile.split_rows * out.ld;
  const int width = p.width();
  const int columns = min_of(2 * kAcc, width - tile.n0);
  const int64_t column0 = int64_t(tile.part) * width + tile.n0;
  if (p.factor != 1.f) {
#pragma unroll
    for (int i = 0; i < kAcc; i++) acc[i] *= p.factor;
  }
  if constexpr (kRole == Role::kNt) {
    const Bias bias = p.biases ? p.biases[int64_t(tile.expert) * p.parts + tile.part] : p.bias;
    if (bias.data) {
#pragma unroll
      for (int j = 0; j < kAcc / 4; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const int column = 8 * j + l.column + c;
          const float value = column < columns ? value_of(bias.data, !bias.is_bf16, tile.n0 + column) : 0.f;
          acc[4 * j + c] += value;
          acc[4 * j + 2 + c] += value;
        }
    }
  }
  if (out.f32) return store_f32(l, out, row0, rows, column0, columns, acc);
#pragma unroll
  for (int i = 0; i < kAcc / 32; i++) {
    if (columns <= 64 * i) break;
    unsigned char* slab = free_slab(l, staging, i, i == 0);
    if (p.added.data) add_rows(l, slab, p.added, row0, rows, column0 + 64 * i, columns - 64 * i, acc + 32 * i);
    fill_slab(l, slab, [&](int j, int down) {
      return ptx::pack_bf16x2(acc[32 * i + 4 * j + 2 * down], acc[32 * i + 4 * j + 2 * down + 1]);
    });
    send_slab(l, slab, out, &maps.out, row0, rows, column0 + 64 * i, columns - 64 * i);
  }
}

// The same of bf16 results without bias, that overwrite: what fits the registers beside the sums of a second half of the tile.
template <int kAcc>
__device__ __forceinline__ void epilogue_plain(const Arguments<Role::kNt, Epilogue::kStore>& p, const Maps& maps, const Tile& tile,
                                               int rows, int64_t row0, float (&acc)[kAcc], unsigned char* staging) {
  Lane l;
  const int columns = min_of(2 * kAcc, p.width() - tile.n0), column0 = tile.part * p.width() + tile.n0;
#pragma unroll
  for (int i = 0; i < kAcc / 32; i++) {
    if (columns <= 64 * i) break;
    asm volatile("" : "+r"(l.lane), "+r"(l.warp));  // addresses of every slab anew: kept, they would not fit the registers
    unsigned char* slab = free_slab(l, staging, i, i == 0);
    fill_slab(l, slab, [&](int j, int down) {
      return ptx::pack_bf16x2(acc[32 * i + 4 * j + 2 * down], acc[32 * i + 4 * j + 2 * down + 1]);
    });
    send_slab(l, slab, p.out, &maps.out, row0, rows, column0 + 64 * i, columns - 64 * i);
  }
}

// acc columns 0..127 are gate, 128..255 up, of the same 128 columns of F: everything a thread needs is its own.
__device__ __forceinline__ void epilogue_swiglu(const Arguments<Role::kNt, Epilogue::kSwiglu>& p, const Maps& maps,
                                                const Tile& tile, int rows, int64_t row0, float (&acc)[128],
                                                unsigned char* staging) {
  const Lane l;
  const int f = p.parts * p.part_rows / 2, columns = min_of(128, f - tile.n0);
  if (p.biases) {
    const Bias* bias = p.biases + int64_t(tile.expert) * p.parts;
    const Bias gates = bias[0], ups = bias[p.parts - 1];
    const int64_t up0 = tile.n0 + (p.parts == 1 ? f : 0);
#pragma unroll
    for (int j = 0; j < 16; j++)
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const int column = 8 * j + l.column + c;
        if (column >= columns) continue;
        const float gate = value_of(gates.data, !gates.is_bf16, tile.n0 + column),
                    up = value_of(ups.data, !ups.is_bf16, up0 + column);
        acc[4 * j + c] += gate, acc[4 * j + 2 + c] += gate;
        acc[64 + 4 * j + c] += up, acc[64 + 4 * j + 2 + c] += up;
      }
  }
  if (p.h.data) {
#pragma unroll
    for (int i = 0; i < 4; i++) {  // gate and up, two slabs each
      if (columns <= 64 * (i & 1)) {
        if (l.lane == 0) ptx::bulk_commit();
        continue;
      }
      unsigned char* slab = free_slab(l, staging, i, i == 0);
      fill_slab(l, slab, [&](int j, int down) {
        return ptx::pack_bf16x2(acc[32 * i + 4 * j + 2 * down], acc[32 * i + 4 * j + 2 * down + 1]);
      });
      send_slab(l, slab, p.h, &maps.out_h, row0, rows, int64_t(i / 2) * f + tile.n0 + 64 * (i & 1), columns - 64 * (i & 1));
    }
  }
  const auto finish = [&](const auto& activation) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (columns <= 64 * i) break;
      unsigned char* slab = free_slab(l, staging, i, i == 0 && !p.h.data);
      fill_slab(l, slab, [&](int j, int down) {
        float y[2];
#pragma unroll
        for (int c = 0; c < 2; c++) y[c] = activation(acc[32 * i + 4 * j + 2 * down + c], acc[64 + 32 * i + 4 * j + 2 * down + c]);
        return ptx::pack_bf16x2(y[0], y[1]);
      });
      send_slab(l, slab, p.out, &maps.out, row0, rows, tile.n0 + 64 * i, columns - 64 * i);
    }
  };
  // Chosen once per tile, not once per element.
  if (p.act.kind == ACT_SWIGLU)
    finish([](float gate, float up) { return gate * fast_sigmoid(gate) * up; });
  else
    finish([&](float gate, float up) { return gated_value<bf16>(p.act, gate, up); });
}

// acc = g, the gradient of the unscaled activation. `h`: the tile's gate (two slabs of 128 rows) and up (two more), in whose place
// dh is made. `row_in_tile`: first row of this warpgroup.
__device__ __forceinline__ void epilogue_swiglu_backward(const Arguments<Role::kNn, Epilogue::kSwigluBackward>& p, const Maps& maps,
                                                         const Tile& tile, int rows, int64_t row0, int row_in_tile,
                                                         float (&acc)[64], unsigned char* h) {
  const Lane l;
  const int columns = min_of(128, p.columns - tile.n0);
  float dot[2] = {0.f, 0.f};
  // dh of the tile, and this thread's part of ⟨g, a⟩. f(gate, up, g, da, dgate, dup): g · a, and dh from da.
  const auto differentiate = [&](const auto& f) {
#pragma unroll
    for (int down = 0; down < 2; down++) {
      const int row = l.row + 8 * down;
      const float scale = p.gate && row < rows ? p.gate[row0 + row] : 1.f;
#pragma unroll
      for (int j = 0; j < 16; j++) {
        const int tile_row = row_in_tile + row;
        unsigned char* at = h + j / 8 * 2 * kSlabBytes + tile_row * 128 + ((j % 8 ^ (tile_row & 7)) * 16) + l.column * 2;
        uint32_t* gate_at = reinterpret_cast<uint32_t*>(at);
        uint32_t* up_at = reinterpret_cast<uint32_t*>(at + 4 * kSlabBytes);
        const uint32_t gates = *gate_at, ups = *up_at;
        float dgate[2], dup[2];
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const float gate = c ? hi_float(gates) : lo_float(gates), up = c ? hi_float(ups) : lo_float(ups);
          const float g = acc[4 * j + 2 * down + c];
          dot[down] += f(gate, up, g, scale * g, dgate[c], dup[c]);  // g is zero past the last column, where W has none
        }
        *gate_at = ptx::pack_bf16x2(dgate[0], dgate[1]);
        *up_at = ptx::pack_bf16x2(dup[0], dup[1]);
      }
    }
  };
  if (p.act.kind == ACT_SWIGLU)
    differentiate([](float gate, float up, float g, float da, float& dgate, float& dup) {
      const float s = fast_sigmoid(gate), a = gate * s;
      dgate = da * up * (s * (1.f + gate * (1.f - s)));
      dup = da * a;
      return g * (a * up);
    });
  else
    differentiate([&](float gate, float up, float g, float da, float& dgate, float& dup) {
      const Gated slopes = gated<bf16>(p.act, gate, up);
      dgate = da * slopes.by_gate;
      dup = da * slopes.by_up;
      return g * slopes.a;
    });
#pragma unroll
  for (int down = 0; down < 2; down++) {
    const int row = l.row + 8 * down;
    if (p.dgate_parts) {
      dot[down] += __shfl_xor_sync(kFullWarp, dot[down], 1);
      dot[down] += __shfl_xor_sync(kFullWarp, dot[down], 2);
      if (l.lane % 4 == 0 && row < rows) p.dgate_parts[(row0 + row) * p.column_tiles + tile.n_tile] = dot[down];
    }
  }
  ptx::fence_proxy_async();  // the copy engine reads dh, and writes the next tile of h in its place
  __syncwarp();
#pragma unroll 1
  for (int slab = 0; slab < 4; slab++) {
    unsigned char* from = h + slab * 2 * kSlabBytes;
    const int first = 64 * (slab & 1), column0 = (slab < 2 ? 0 : p.columns) + tile.n0;
    if (p.out.tma && rows >= 16 * l.warp + 16 && columns >= first + 64) {
      if (l.lane == 0)
        ptx::tma_store_2d(&maps.out, from + (row_in_tile + 16 * l.warp) * 128, column0 + first, int(row0) + 16 * l.warp);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = 16 * l.warp + 4 * i + l.lane / 8, chunk = l.lane % 8, tile_row = row_in_tile + row;
      const Vec16 v = load16(from + tile_row * 128 + ((chunk ^ (tile_row & 7)) * 16));
      const int column = first + 8 * chunk;
      if (row >= rows || column >= columns) continue;
      bf16* to = static_cast<bf16*>(p.out.data) + (row0 + row) * p.out.ld + column0 + column;
      if (p.out.vectors && column + 8 <= columns) {
        store16(to, v);
      } else {
#pragma unroll
        for (int c = 0; c < 8; c++)
          if (column + c < columns) to[c] = bf16{uint16_t(v.w[c / 2] >> (16 * (c & 1)))};
      }
    }
  }
  if (l.lane == 0) ptx::bulk_commit();
}

// dW (+)= acc (f32), or a dense product's c: rows of its part from m0 on. Overwriting is adding to +0, so that the bits are those of adding
// to zeros.
__device__ __forceinline__ void epilogue_weight_gradient(const Arguments<Role::kTn, Epilogue::kWeightGradient>& p, const Tile& tile,
                                                         int first_row, float (&acc)[128]) {
  const Lane l;
  const int item = tile.group * p.parts + tile.part;
  const int64_t ld = p.dw ? p.dw_ld[item] : p.out.ld;
  void* data = p.dw ? p.dw[item] : p.out.data;
  const int f32 = p.dw ? 1 : p.out.f32, accumulate = p.out.accumulate;
  const int columns = min_of(256, p.columns - tile.n0) - l.column;  // from this thread's first on
  // Pairs of f32 in whole 32-byte sectors: the training path.
  const bool pairs = f32 && columns + l.column == 256 && (ld & 1) == 0 && (reinterpret_cast<uintptr_t>(data) & 7) == 0;
#pragma unroll
  for (int down = 0; down < 2; down++) {
    const int row = tile.m0 + first_row + l.row + 8 * down;
    if (row >= p.part_rows) continue;
    const int64_t base = int64_t(row) * ld + tile.n0 + l.column;
    if (pairs) {
      float2* to = in_global(reinterpret_cast<float2*>(static_cast<float*>(data) + base));
      float2 old[32] = {};
      if (accumulate) {  // all loads under way before the first store: a branch around each would keep them one by one
#pragma unroll
        for (int j = 0; j < 32; j++) old[j] = to[4 * j];
      }
#pragma unroll
      for (int j = 0; j < 32; j++) to[4 * j] = make_float2(old[j].x + acc[4 * j + 2 * down], old[j].y + acc[4 * j + 2 * down + 1]);
    } else {
#pragma unroll
      for (int j = 0; j < 32; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          if (8 * j + c >= columns) continue;
          const int64_t i = base + 8 * j + c;
          const float sum = (accumulate ? value_of(data, f32, i) : 0.f) + acc[4 * j + 2 * down + c];
          if (f32)
            static_cast<float*>(data)[i] = sum;
          else
            static_cast<bf16*>(data)[i] = from_float<bf16>(sum);
        }
    }
  }
}

// A tile of logits (linear_cross_entropy.cuh): per row and 128 columns the maximum, Σ exp(z − maximum), and z − maximum in bf16: what is
// large in the softmax keeps the most bits. Of the label its own logit, and whether it is the first of its columns to have their maximum.
// Six instructions an element: the maximum alone is one where an argmax would be three, and the exponential is a product and an ex2 that
// flushes what no sum notices, where __expf is five.
__device__ __forceinline__ void epilogue_logits(const Arguments<Role::kNt, Epilogue::kLogits>& p, const Maps& maps,
                                                const Tile& tile, int rows, int64_t row0, float (&acc)[128],
                                                unsigned char* staging) {
  const Lane l;
  int labels[2];  // asked for before anything else: two loads, one after the other
#pragma unroll
  for (int down = 0; down < 2; down++)
    labels[down] = l.row + 8 * down < rows ? p.labels[p.a.index[row0 + l.row + 8 * down]] - tile.n0 : -1;
  if (p.finish.bias) {
#pragma unroll
    for (int i = 0; i < 128; i++) {
      const int column = tile.n0 + 8 * (i / 4) + l.column + i % 2;
      if (column < p.part_rows) acc[i] += bias_at(p.finish, column);
    }
  }
  if (p.finish.scale != 1.f) {
#pragma unroll
    for (int i = 0; i < 128; i++) acc[i] *= p.finish.scale;
  }
  if (p.finish.cap > 0.f) {
    const float inverse = 1.f / p.finish.cap;
#pragma unroll
    for (int i = 0; i < 128; i++) acc[i] = capped(acc[i], p.finish.cap, inverse);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int first = tile.n0 + 128 * half, columns = min_of(128, p.part_rows - first);
    if (columns <= 0) break;
    if (columns < 128) {  // the last tile: what lies past the vocabulary has no share
#pragma unroll
      for (int i = 0; i < 64; i++)
        if (8 * (i / 4) + l.column + i % 2 >= columns) acc[64 * half + i] = -INFINITY;
    }
#pragma unroll
    for (int down = 0; down < 2; down++) {
      const int row = l.row + 8 * down;
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < 32; j++) most = fmaxf(most, acc[64 * half + j / 2 * 4 + 2 * down + j % 2]);
      most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 2));
      const int label = labels[down] - 128 * half;  // among these columns
      const bool here = label >= 0 && label < 128;
      if (__any_sync(kFullWarp, here)) {
        float z = -INFINITY;
        bool beaten = false;  // by a column of this lane that comes first
#pragma unroll
        for (int j = 0; j < 32; j++) {
          const int column = 8 * (j / 2) + j % 2 + l.column;
          const float value = acc[64 * half + j / 2 * 4 + 2 * down + j % 2];
          if (column == label) z = value;
          beaten = beaten || (column < label && value == most);
        }
        const unsigned others = __ballot_sync(kFullWarp, beaten) >> (l.lane & ~3) & 15u;
        if (here && label % 8 / 2 * 2 == l.column) {  // this lane holds the label's column
          p.label_logit[row0 + row] = z;
          p.label_first[row0 + row] = z == most && others == 0;
        }
      }
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < 16; j++) {
        float &z0 = acc[(16 * half + j) * 4 + 2 * down], &z1 = acc[(16 * half + j) * 4 + 2 * down + 1];
        z0 -= most;
        z1 -= most;
        sum += ptx::exp2_approx(z0 * 1.4426950408889634f) + ptx::exp2_approx(z1 * 1.4426950408889634f);
      }
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      if (row < rows && l.lane % 4 == 0) {
        const int64_t i = (row0 + row) * p.column_tiles + first / 128;
        p.tile_max[i] = most;
        p.tile_sum[i] = sum;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (columns <= 64 * i) break;
      unsigned char* slab = free_slab(l, staging, i, half == 0 && i == 0);
      fill_slab(l, slab, [&](int j, int down) {
        return ptx::pack_bf16x2(acc[64 * half + 32 * i + 4 * j + 2 * down], acc[64 * half + 32 * i + 4 * j + 2 * down + 1]);
      });
      send_slab(l, slab, p.out, &maps.out, row0, rows, first + 64 * i, columns - 64 * i);
    }
  }
}

}  // namespace esft::cuda::sm90
