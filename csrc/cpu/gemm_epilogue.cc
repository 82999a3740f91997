// What happens to a tile of sums on its way to memory (see gemm_block.h). Every element goes through the same vector
// arithmetic whether its vector is whole or partial.
#include "gemm_activation.h"
#include "gemm_block.h"

namespace esft::cpu::ESFT_ISA {

namespace {

// Whole aligned vectors may bypass the caches.
ESFT_INLINE void put(float* p, vf v, int64_t n, bool past_caches) {
  if (n < W) return store_part(p, v, n);
  if (past_caches && (reinterpret_cast<uintptr_t>(p) & (W * 4 - 1)) == 0)
    stream(p, v);
  else
    store(p, v);
}

ESFT_INLINE vf load_bias(const Output& o, int64_t j, int64_t n) {
  if (o.bias_bf16) {
    const uint16_t* p = static_cast<const uint16_t*>(o.bias) + j;
    return n < W ? load_bf16_part(p, n) : load_bf16(p);
  }
  return load_n(static_cast<const float*>(o.bias) + j, n);
}

void plain(const Block& b, const float* tile, int64_t i0, int64_t mr, int64_t j0) {
  const Output& o = b.out;
  for (int half = 0; half < 2; half++) {
    const int64_t j = j0 + half * W, n = smaller(W, b.n - j);
    if (n <= 0) return;
    const vf bias = o.bias ? load_bias(o, j, n) : vf{};
    for (int64_t i = 0; i < mr; i++) {
      float* c = o.c + (i0 + i) * o.ldc + j;
      vf v = load(tile + i * NR + half * W);
      if (o.bias) v += bias;
      if (o.add) v += load_n(c, n);
      put(c, v, n, o.past_caches && !o.add);
    }
  }
}

void swiglu(const Block& b, const float* tile, int64_t i0, int64_t mr, int64_t j) {
  const Output& o = b.out;
  const int64_t n = smaller(W, b.n - j);
  for (int64_t i = 0; i < mr; i++) {
    const vf gate = load(tile + i * NR), up = load(tile + i * NR + W);
    if (o.h) {
      float* h = o.h + (i0 + i) * o.ldh + j;
      put(h, gate, n, o.past_caches);
      put(h + b.n, up, n, o.past_caches);
    }
    put(o.c + (i0 + i) * o.ldc + j, silu_times(gate, up), n, false);
  }
}

void dswiglu(const Block& b, const float* tile, int64_t i0, int64_t mr, int64_t j0, float* sums) {
  const Output& o = b.out;
  for (int half = 0; half < 2; half++) {
    const int64_t j = j0 + half * W, n = smaller(W, b.n - j);
    if (n <= 0) return;
    for (int64_t i = 0; i < mr; i++) {
      const float* h = o.h + (i0 + i) * o.ldh + j;
      const vf gate = load_n(h, n), up = load_n(h + b.n, n);
      const vf g = load(tile + i * NR + half * W);
      const vf s = sigmoid(gate);
      const vf silu = gate * s;
      if (o.dgate) {  // lanes past n hold zeros: gate and up are read as 0 there
        float* sum = sums + (i0 + i) * W;
        store(sum, load(sum) + g * (silu * up));
      }
      const vf da = o.row_gate ? g * splat(o.row_gate[i0 + i]) : g;
      float* c = o.c + (i0 + i) * o.ldc + j;
      put(c, da * up * (s + silu * (splat(1.0f) - s)), n, false);
      put(c + b.n, da * silu, n, false);
    }
  }
}

}  // namespace

void finish_tile(const Block& b, const float* tile, int64_t i, int64_t mr, int64_t p, float* sums) {
  switch (b.out.kind) {
    case OUT_PLAIN: return plain(b, tile, i, mr, p * NR);
    case OUT_SWIGLU: return swiglu(b, tile, i, mr, p * W);
    case OUT_DSWIGLU: return dswiglu(b, tile, i, mr, p * NR, sums);
  }
}

}  // namespace esft::cpu::ESFT_ISA
