// Rows as vectors: how memory-bound kernels read and write kVec elements at once, and how the host picks kVec.
#pragma once
#include "../host/context.h"
#include "../types.cuh"

namespace esft::cuda {

// Eight bytes at once: pointers must be 8-byte aligned.
struct alignas(8) Vec8 {
  uint32_t w[2];
};

// kVec consecutive elements as they lie in memory: 8 bytes, a multiple of 16 bytes, or one element.
template <class T, int kVec>
struct Elements {
  static constexpr int kWords = kVec * int(sizeof(T)) / 4;
  static_assert(kWords == 2 || kWords % 4 == 0);
  uint32_t w[kWords];
};
template <class T>
struct Elements<T, 1> {
  T x;
};

template <int kVec, class T>
__device__ __forceinline__ Elements<T, kVec> load_elements(const T* p) {
  Elements<T, kVec> e;
  if constexpr (kVec == 1) {
    e.x = *p;
  } else if constexpr (Elements<T, kVec>::kWords == 2) {
    const Vec8 v = *reinterpret_cast<const Vec8*>(p);
    e.w[0] = v.w[0], e.w[1] = v.w[1];
  } else {
#pragma unroll
    for (int i = 0; i < Elements<T, kVec>::kWords; i += 4) {
      const Vec16 v = load16(reinterpret_cast<const char*>(p) + 4 * i);
#pragma unroll
      for (int j = 0; j < 4; j++) e.w[i + j] = v.w[j];
    }
  }
  return e;
}
template <class T, int kVec>
__device__ __forceinline__ void store_elements(T* p, const Elements<T, kVec>& e) {
  if constexpr (kVec == 1) {
    *p = e.x;
  } else if constexpr (Elements<T, kVec>::kWords == 2) {
    *reinterpret_cast<uint64_t*>(p) = uint64_t(e.w[1]) << 32 | e.w[0];  // as two words it becomes two stores
  } else {
#pragma unroll
    for (int i = 0; i < Elements<T, kVec>::kWords; i += 4)
      store16(reinterpret_cast<char*>(p) + 4 * i, Vec16{{e.w[i], e.w[i + 1], e.w[i + 2], e.w[i + 3]}});
  }
}
template <class T, int kVec>
__device__ __forceinline__ Elements<T, kVec> zero_elements() {
  Elements<T, kVec> e;
  if constexpr (kVec == 1) {
    e.x = T{};
  } else {
#pragma unroll
    for (int i = 0; i < Elements<T, kVec>::kWords; i++) e.w[i] = 0;
  }
  return e;
}

template <class T, int kVec>
__device__ __forceinline__ void to_floats(const Elements<T, kVec>& e, float (&f)[kVec]) {
  if constexpr (kVec == 1) {
    f[0] = to_float(e.x);
  } else {
#pragma unroll
    for (int i = 0; i < Elements<T, kVec>::kWords; i++) {
      if constexpr (sizeof(T) == 2) {
        f[2 * i] = lo_float(e.w[i]);
        f[2 * i + 1] = hi_float(e.w[i]);
      } else {
        f[i] = bits_to_float(e.w[i]);
      }
    }
  }
}
template <class T, int kVec>
__device__ __forceinline__ Elements<T, kVec> from_floats(const float (&f)[kVec]) {
  Elements<T, kVec> e;
  if constexpr (kVec == 1) {
    e.x = from_float<T>(f[0]);
  } else {
#pragma unroll
    for (int i = 0; i < Elements<T, kVec>::kWords; i++) {
      if constexpr (sizeof(T) == 2)
        e.w[i] = ptx::pack_bf16x2(f[2 * i], f[2 * i + 1]);
      else
        e.w[i] = float_to_bits(f[i]);
    }
  }
  return e;
}

// Row and first column of vector `g` of a matrix with per_row vectors in each row: 32-bit division where it is enough.
struct Place {
  int64_t row, col;
};
__device__ __forceinline__ Place place_of(int64_t g, int64_t per_row, int vec) {
  if (g < per_row) return {0, g * vec};
  if (uint64_t(g) >> 32 == 0) {
    const uint32_t row = uint32_t(g) / uint32_t(per_row);
    return {int64_t(row), int64_t(uint32_t(g) - row * uint32_t(per_row)) * vec};
  }
  const int64_t row = g / per_row;
  return {row, (g - row * per_row) * vec};
}

// ---- host ---------------------------------------------------------------------------------------------------------------

// Every row of the view starts at a multiple of 16 bytes.
inline bool rows_aligned16(const void* data, int64_t rows, int64_t ld, int64_t size) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && (rows <= 1 || ld * size % 16 == 0);
}
inline bool rows_aligned16(const esft_tensor& t) { return rows_aligned16(t.data, rows(t), t.ld, dtype_size(t.dtype)); }

template <class T>
struct Type {
  using type = T;
};
// f(Type<float>) or f(Type<bf16>), by the dtype of an f32 or bf16 tensor.
template <class F>
void by_float_type(const esft_tensor& t, F f) {
  if (t.dtype == ESFT_BF16)
    f(Type<bf16>{});
  else
    f(Type<float>{});
}

// A number as a type, for launches picked inside generic lambdas.
template <auto kValue>
struct Constant {
  static constexpr auto value = kValue;
};

inline unsigned grid_of(int64_t items, int64_t per_block) { return unsigned(ceil_div(items, per_block)); }

}  // namespace esft::cuda
