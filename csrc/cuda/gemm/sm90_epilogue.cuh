// What becomes of a finished tile: the epilogues of the multiplying warpgroups.
//
// Accumulator fragment (ptx_wgmma.cuh): thread t of a warpgroup holds, for column block j of 8, columns 8j + 2(t%4) + {0,1} of rows
// 16·warp + lane/4 (acc[4j], acc[4j+1]) and 8 rows further down (acc[4j+2], acc[4j+3]). bf16 results pass through shared memory, each
// warp its own 16 rows, so that they leave in whole 16-byte pieces; f32 results go straight out, four lanes filling a 32-byte sector.
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

// Where a pair of columns of a staged row lies: rows of 256 bytes, 16-byte chunks swizzled within their 128-byte half.
__device__ __forceinline__ unsigned char* staged(unsigned char* staging, int row, int chunk) {
  return staging + row * 256 + ((chunk & 8) | ((chunk ^ row) & 7)) * 16;
}

// A warp's 16 staged rows of 128 columns to `out` from (row, column) on; rows < `rows` and columns < `columns` exist.
__device__ __forceinline__ void write_staged(const Lane& l, unsigned char* staging, const Out& out, int64_t row0, int rows,
                                             int64_t column0, int columns) {
  const int whole = out.vectors ? columns / 8 : 0, chunk = l.lane % 16;  // `whole` chunks go as 16 bytes
  const auto place = [&](int row) { return static_cast<bf16*>(out.data) + (row0 + row) * out.ld + column0 + chunk * 8; };
  __syncwarp();
#pragma unroll 4  // more at once would not fit the registers beside the accumulator
  for (int i = 0; i < 8; i++) {
    const int row = 16 * l.warp + 2 * i + l.lane / 16;
    const Vec16 v = load16(staged(staging, row, chunk));
    if (row < rows && chunk < whole) store16(place(row), v);
  }
  if (whole < min_of(16, int(ceil_div(columns, 8)))) {
#pragma unroll 1
    for (int row = 16 * l.warp + l.lane / 16; row < min_of(rows, 16 * l.warp + 16) && chunk >= whole; row += 2)
#pragma unroll 1
      for (int c = 0; c < 8 && chunk * 8 + c < columns; c++)
        place(row)[c] = reinterpret_cast<const bf16*>(staged(staging, row, chunk))[c];
  }
  __syncwarp();
}

// The other way round: what `out` holds there now, as pairs the lanes can add to. What does not exist is left as it is.
__device__ __forceinline__ void read_staged(const Lane& l, unsigned char* staging, const Out& out, int64_t row0, int rows,
                                            int64_t column0, int columns) {
  const int whole = out.vectors ? columns / 8 : 0, chunk = l.lane % 16;
  const auto place = [&](int row) { return static_cast<const bf16*>(out.data) + (row0 + row) * out.ld + column0 + chunk * 8; };
#pragma unroll 1
  for (int first = 16 * l.warp + l.lane / 16, i = 0; i < 2; i++, first += 8) {
    Vec16 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      v[j] = Vec16{};
      if (first + 2 * j < rows && chunk < whole) v[j] = load16(place(first + 2 * j));
    }
#pragma unroll
    for (int j = 0; j < 4; j++) store16(staged(staging, first + 2 * j, chunk), v[j]);
  }
  if (whole < min_of(16, int(ceil_div(columns, 8)))) {
#pragma unroll 1
    for (int row = 16 * l.warp + l.lane / 16; row < min_of(rows, 16 * l.warp + 16) && chunk >= whole; row += 2)
#pragma unroll 1
      for (int c = 0; c < 8 && chunk * 8 + c < columns; c++)
        reinterpret_cast<bf16*>(staged(staging, row, chunk))[c] = place(row)[c];
  }
  __syncwarp();
}

__device__ __forceinline__ float value_of(const void* data, int f32, int64_t i) {
  return f32 ? static_cast<const float*>(data)[i] : to_float(static_cast<const bf16*>(data)[i]);
}

// f32 results straight to memory: pairs where every pair lies on 8 bytes.
__device__ __forceinline__ void store_f32(const Lane& l, const Out& out, int64_t row0, int rows, int64_t column0, int columns,
                                          const float (&acc)[128]) {
  const bool pairs = ((out.ld | column0) & 1) == 0 && (reinterpret_cast<uintptr_t>(out.data) & 7) == 0;
#pragma unroll
  for (int down = 0; down < 2; down++) {
    if (l.row + 8 * down >= rows) continue;
    float* to = static_cast<float*>(out.data) + (row0 + l.row + 8 * down) * out.ld + column0 + l.column;
    const int left = columns - l.column;  // columns from this thread's first on
    if (pairs && !out.accumulate) {
#pragma unroll
      for (int j = 0; j < 32; j++) {
        if (8 * j + 1 < left)
          *reinterpret_cast<float2*>(to + 8 * j) = make_float2(acc[4 * j + 2 * down], acc[4 * j + 2 * down + 1]);
        else if (8 * j < left)
          to[8 * j] = acc[4 * j + 2 * down];
      }
    } else {
#pragma unroll
      for (int j = 0; j < 32; j++)
#pragma unroll
        for (int c = 0; c < 2; c++)
          if (8 * j + c < left) to[8 * j + c] = acc[4 * j + 2 * down + c] + (out.accumulate ? to[8 * j + c] : 0.f);
    }
  }
}

// y = acc (+ bias) (+ y), 256 columns; `columns` of them exist. The choices are made once per tile, not once per element: what is
// done here is time in which the tensor cores wait.
template <Role kRole>
__device__ __forceinline__ void epilogue_store(const Arguments<kRole, Epilogue::kStore>& p, const Tile& tile, int rows,
                                               int64_t row0, float (&acc)[128], unsigned char* staging) {
  const Lane l;
  Out out = p.out;
  if (p.split_target) out.data = static_cast<float*>(out.data) + int64_t(tile.split) * tile.split_rows * out.ld;
  const int width = p.width();
  const int columns = min_of(256, width - tile.n0);
  const int64_t column0 = int64_t(tile.part) * width + tile.n0;
  if (p.bias) {
#pragma unroll
    for (int j = 0; j < 32; j++)
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const int column = 8 * j + l.column + c;
        const float bias = column < columns ? value_of(p.bias, p.bias_f32, column0 + column) : 0.f;
        acc[4 * j + c] += bias;
        acc[4 * j + 2 + c] += bias;
      }
  }
  if (out.f32) return store_f32(l, out, row0, rows, column0, columns, acc);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (columns <= 128 * half) break;
    if (out.accumulate) {
      read_staged(l, staging, out, row0, rows, column0 + 128 * half, columns - 128 * half);
#pragma unroll
      for (int j = 0; j < 16; j++)
#pragma unroll
        for (int down = 0; down < 2; down++) {
          const uint32_t old = *reinterpret_cast<const uint32_t*>(staged(staging, l.row + 8 * down, j) + l.column * 2);
          acc[(16 * half + j) * 4 + 2 * down] += lo_float(old);
          acc[(16 * half + j) * 4 + 2 * down + 1] += hi_float(old);
        }
    }
#pragma unroll
    for (int j = 0; j < 16; j++)
#pragma unroll
      for (int down = 0; down < 2; down++)
        *reinterpret_cast<uint32_t*>(staged(staging, l.row + 8 * down, j) + l.column * 2) =
            ptx::pack_bf16x2(acc[(16 * half + j) * 4 + 2 * down], acc[(16 * half + j) * 4 + 2 * down + 1]);
    write_staged(l, staging, out, row0, rows, column0 + 128 * half, columns - 128 * half);
  }
}

// acc columns 0..127 are gate, 128..255 up, of the same 128 columns of F: everything a thread needs is its own.
__device__ __forceinline__ void epilogue_swiglu(const Arguments<Role::kNt, Epilogue::kSwiglu>& p, const Tile& tile, int rows,
                                                int64_t row0, float (&acc)[128], unsigned char* staging) {
  const Lane l;
  const int f = p.parts * p.part_rows / 2, columns = min_of(128, f - tile.n0);
  if (p.h.data) {
#pragma unroll
    for (int part = 0; part < 2; part++) {
#pragma unroll
      for (int j = 0; j < 16; j++)
#pragma unroll
        for (int down = 0; down < 2; down++)
          *reinterpret_cast<uint32_t*>(staged(staging, l.row + 8 * down, j) + l.column * 2) =
              ptx::pack_bf16x2(acc[64 * part + 4 * j + 2 * down], acc[64 * part + 4 * j + 2 * down + 1]);
      write_staged(l, staging, p.h, row0, rows, int64_t(part) * f + tile.n0, columns);
    }
  }
#pragma unroll
  for (int j = 0; j < 16; j++)
#pragma unroll
    for (int down = 0; down < 2; down++) {
      float y[2];
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const float gate = acc[4 * j + 2 * down + c], up = acc[64 + 4 * j + 2 * down + c];
        y[c] = gate * fast_sigmoid(gate) * up;
      }
      *reinterpret_cast<uint32_t*>(staged(staging, l.row + 8 * down, j) + l.column * 2) = ptx::pack_bf16x2(y[0], y[1]);
    }
  write_staged(l, staging, p.out, row0, rows, tile.n0, columns);
}

// acc = g, the gradient of the unscaled activation. `h`: the tile's gate (two slabs of 128 rows) and up (two more), in whose place
// dh is made. `row_in_tile`: first row of this warpgroup.
__device__ __forceinline__ void epilogue_swiglu_backward(const Arguments<Role::kNn, Epilogue::kSwigluBackward>& p, const Tile& tile,
                                                         int rows, int64_t row0, int row_in_tile, float (&acc)[64],
                                                         unsigned char* h) {
  const Lane l;
  const int columns = min_of(128, p.columns - tile.n0);
  float dot[2] = {0.f, 0.f};
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
        const float g = acc[4 * j + 2 * down + c], s = fast_sigmoid(gate), a = gate * s;
        dot[down] += g * (a * up);  // g is zero past the last column, where W has none
        const float da = scale * g;
        dgate[c] = da * up * (s * (1.f + gate * (1.f - s)));
        dup[c] = da * a;
      }
      *gate_at = ptx::pack_bf16x2(dgate[0], dgate[1]);
      *up_at = ptx::pack_bf16x2(dup[0], dup[1]);
    }
    if (p.dgate_parts) {
      dot[down] += __shfl_xor_sync(kFullWarp, dot[down], 1);
      dot[down] += __shfl_xor_sync(kFullWarp, dot[down], 2);
      if (l.lane % 4 == 0 && row < rows) p.dgate_parts[(row0 + row) * p.column_tiles + tile.n_tile] = dot[down];
    }
  }
  __syncwarp();
#pragma unroll 1
  for (int slab = 0; slab < 4; slab++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = 16 * l.warp + 4 * i + l.lane / 8, chunk = l.lane % 8, tile_row = row_in_tile + row;
      const Vec16 v = load16(h + slab * 2 * kSlabBytes + tile_row * 128 + ((chunk ^ (tile_row & 7)) * 16));
      const int column = 64 * (slab & 1) + 8 * chunk;
      if (row >= rows || column >= columns) continue;
      bf16* to = static_cast<bf16*>(p.out.data) + (row0 + row) * p.out.ld + (slab < 2 ? 0 : p.columns) + tile.n0 + column;
      if (p.out.vectors && column + 8 <= columns) {
        store16(to, v);
      } else {
#pragma unroll
        for (int c = 0; c < 8; c++)
          if (column + c < columns) to[c] = bf16{uint16_t(v.w[c / 2] >> (16 * (c & 1)))};
      }
    }
  }
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

// A tile of logits (linear_cross_entropy.cuh): per row and 128 columns the maximum, its lowest column, Σ exp(z − maximum), and
// z − maximum in bf16: what is large in the softmax keeps the most bits. The label's own logit is kept as it is.
__device__ __forceinline__ void epilogue_logits(const Arguments<Role::kNt, Epilogue::kLogits>& p, const Tile& tile, int rows,
                                                int64_t row0, float (&acc)[128], unsigned char* staging) {
  const Lane l;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int first = tile.n0 + 128 * half, columns = min_of(128, p.part_rows - first);
    if (columns <= 0) break;
#pragma unroll
    for (int i = 0; i < 64; i++) acc[64 * half + i] *= p.logit_scale;
    if (columns < 128) {  // the last tile: what lies past the vocabulary has no share
#pragma unroll
      for (int i = 0; i < 64; i++)
        if (8 * (i / 4) + l.column + i % 2 >= columns) acc[64 * half + i] = -INFINITY;
    }
#pragma unroll
    for (int down = 0; down < 2; down++) {
      const int row = l.row + 8 * down;
      const bool exists = row < rows;
      float most = -INFINITY;
      int arg = 0;
#pragma unroll
      for (int j = 0; j < 16; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const float z = acc[(16 * half + j) * 4 + 2 * down + c];
          if (z > most) {
            most = z;
            arg = 8 * j + c;
          }
        }
      arg += l.column;
      const int label = exists ? p.labels[p.a.index[row0 + row]] - first - l.column : -1;
      const bool mine = label >= 0 && label < 128 && label % 8 < 2;  // this lane holds the label's column
      if (__any_sync(kFullWarp, mine)) {
        float z = 0.f;
#pragma unroll
        for (int i = 0; i < 32; i++)
          if (label == 8 * (i / 2) + i % 2) z = acc[64 * half + i / 2 * 4 + 2 * down + i % 2];
        if (mine) p.label_logit[row0 + row] = z;
      }
#pragma unroll
      for (int step = 1; step <= 2; step <<= 1) {
        const float other = __shfl_xor_sync(kFullWarp, most, step);
        const int other_arg = __shfl_xor_sync(kFullWarp, arg, step);
        if (other > most || (other == most && other_arg < arg)) {
          most = other;
          arg = other_arg;
        }
      }
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < 16; j++) {
        const float z0 = acc[(16 * half + j) * 4 + 2 * down] - most, z1 = acc[(16 * half + j) * 4 + 2 * down + 1] - most;
        sum += __expf(z0) + __expf(z1);
        *reinterpret_cast<uint32_t*>(staged(staging, row, j) + l.column * 2) = ptx::pack_bf16x2(z0, z1);
      }
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      if (exists && l.lane % 4 == 0) {
        const int64_t i = (row0 + row) * p.column_tiles + first / 128;
        p.tile_max[i] = most;
        p.tile_sum[i] = sum;
        p.tile_arg[i] = first + arg;
      }
    }
    write_staged(l, staging, p.out, row0, rows, first, columns);
  }
}

}  // namespace esft::cuda::sm90
