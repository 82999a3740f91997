// What happens to a tile of sums on its way to memory (see gemm_block.h). Every element goes through the same vector
// arithmetic whether its vector is whole or partial.
#include "../activation.h"
#include "gemm_block.h"

namespace esft::cpu::ESFT_ISA {

namespace {

enum Put { PART, WHOLE, PAST_CACHES };

// How a column of vectors is written: whole vectors at an aligned pitch may bypass the caches.
Put how(const float* p, int64_t ld, int64_t n, bool past_caches) {
  if (n < W) return PART;
  return past_caches && ((reinterpret_cast<uintptr_t>(p) | uintptr_t(ld * 4)) & (W * 4 - 1)) == 0 ? PAST_CACHES : WHOLE;
}

template <Put kPut>
ESFT_INLINE void put(float* p, vf v, int64_t n) {
  if (kPut == PAST_CACHES)
    stream(p, v);
  else if (kPut == WHOLE)
    store(p, v);
  else
    store_part(p, v, n);
}

template <Put kPut>
ESFT_INLINE vf get(const float* p, int64_t n) {
  return kPut == PART ? load_part(p, n) : load(p);
}

// Calls f<how> with the three ways as constants.
#define ESFT_CHOOSE(how, f)              \
  switch (how) {                         \
    case PART: f(PART); break;           \
    case WHOLE: f(WHOLE); break;         \
    case PAST_CACHES: f(PAST_CACHES); break; \
  }

ESFT_INLINE vf load_bias(const Output& o, int64_t j, int64_t n) {
  if (o.bias_bf16) {
    const uint16_t* p = static_cast<const uint16_t*>(o.bias) + j;
    return n < W ? load_bf16_part(p, n) : load_bf16(p);
  }
  return load_n(static_cast<const float*>(o.bias) + j, n);
}

template <Put kPut>
void plain(const Output& o, const float* sums, int64_t i0, int64_t mr, int64_t j, int64_t n) {
  const vf bias = o.bias ? load_bias(o, j, n) : vf{}, factor = splat(o.factor);
  for (int64_t i = 0; i < mr; i++) {
    float* c = o.c + (i0 + i) * o.ldc + j;
    vf v = load(sums + i * NR) * factor;
    if (o.bias) v += bias;
    if (o.add) v += get<kPut>(c, n);
    if (o.residual) v += get<kPut>(o.residual + (i0 + i) * o.ldr + j, n);
    put<kPut>(c, v, n);
  }
}

void transposed(const Output& o, const float* sums, int64_t i0, int64_t mr, int64_t j, int64_t n) {
  for (int64_t q = 0; q < n; q++) {
    float* c = o.c + (j + q) * o.ldc + i0;
    for (int64_t i = 0; i < mr; i++) c[i] = sums[i * NR + q] * o.factor + (o.add ? c[i] : 0.0f);
  }
}

template <Put kPut, int32_t kAct>
void gated_tile(const Block& b, const float* sums, int64_t i0, int64_t mr, int64_t j, int64_t n) {
  const Output& o = b.out;
  const vf alpha = splat(o.act.alpha), limit = splat(o.act.limit);
  const vf gate_bias = o.bias ? load_bias(o, j, n) : vf{}, up_bias = o.bias ? load_bias(o, b.n + j, n) : vf{};
  for (int64_t i = 0; i < mr; i++) {
    vf gate = load(sums + i * NR), up = load(sums + i * NR + W);
    if (o.bias) gate += gate_bias, up += up_bias;
    if (o.h) {
      float* h = o.h + (i0 + i) * o.ldh + j;
      put<kPut>(h, gate, n);
      put<kPut>(h + b.n, up, n);
    }
    put<kPut == PART ? PART : WHOLE>(o.c + (i0 + i) * o.ldc + j, gated<kAct>(gate, up, alpha, limit), n);
  }
}

template <Put kPut, int32_t kAct>
void dgated_tile(const Block& b, const float* tile, int64_t i0, int64_t mr, int64_t j, int64_t n, float* sums) {
  const Output& o = b.out;
  const vf alpha = splat(o.act.alpha), limit = splat(o.act.limit);
  for (int64_t i = 0; i < mr; i++) {
    const float* h = o.h + (i0 + i) * o.ldh + j;
    const vf gate = get<kPut>(h, n), up = get<kPut>(h + b.n, n);
    const vf g = load(tile + i * NR);
    const GatedSlopes f = gated_slopes<kAct>(gate, up, alpha, limit);
    if (o.dgate) {  // lanes past n hold zeros: gate and up are read as 0 there
      float* sum = sums + (i0 + i) * W;
      store(sum, load(sum) + g * f.a);
    }
    const vf da = o.row_gate ? g * splat(o.row_gate[i0 + i]) : g;
    float* c = o.c + (i0 + i) * o.ldc + j;
    put<kPut>(c, da * f.by_gate, n);
    put<kPut>(c + b.n, da * f.by_up, n);
  }
}

template <Put kPut>
void gated_tile(const Block& b, const float* tile, int64_t i, int64_t mr, int64_t j, int64_t n) {
#define RUN(kAct) gated_tile<kPut, kAct>(b, tile, i, mr, j, n)
  ESFT_CHOOSE_ACTIVATION(b.out.act.kind, RUN)
#undef RUN
}

template <Put kPut>
void dgated_tile(const Block& b, const float* tile, int64_t i, int64_t mr, int64_t j, int64_t n, float* sums) {
#define RUN(kAct) dgated_tile<kPut, kAct>(b, tile, i, mr, j, n, sums)
  ESFT_CHOOSE_ACTIVATION(b.out.act.kind, RUN)
#undef RUN
}

}  // namespace

void finish_tile(const Block& b, const float* tile, int64_t i, int64_t mr, int64_t p, float* sums) {
  const Output& o = b.out;
  if (o.kind == OUT_GATED) {
    const int64_t j = p * W, n = min_of(W, b.n - j);
    const Put put = o.h && (b.n % W) == 0 ? how(o.h + j, o.ldh, n, o.past_caches) : n < W ? PART : WHOLE;
    switch (put) {
      case PART: return gated_tile<PART>(b, tile, i, mr, j, n);
      case WHOLE: return gated_tile<WHOLE>(b, tile, i, mr, j, n);
      case PAST_CACHES: return gated_tile<PAST_CACHES>(b, tile, i, mr, j, n);
    }
  }
  for (int half = 0; half < 2; half++) {
    const int64_t j = p * NR + half * W, n = min_of(W, b.n - j);
    if (n <= 0) return;
    if (o.transposed) {
      transposed(o, tile + half * W, i, mr, j, n);
    } else if (o.kind == OUT_DGATED) {
      n < W ? dgated_tile<PART>(b, tile + half * W, i, mr, j, n, sums) : dgated_tile<WHOLE>(b, tile + half * W, i, mr, j, n, sums);
    } else {
#define RUN(kPut) plain<kPut>(o, tile + half * W, i, mr, j, n)
      ESFT_CHOOSE(how(o.c + j, o.ldc, n, o.past_caches && !o.add), RUN)
#undef RUN
    }
  }
}

void add_residual(const Output& o, int64_t i0, int64_t mr, int64_t p) {
  for (int64_t i = i0; i < i0 + mr; i++) {
    float* c = o.c + i * o.ldc + p * NR;
    const float* r = o.residual + i * o.ldr + p * NR;
    store(c, load(c) + load(r));
    store(c + W, load(c + W) + load(r + W));
  }
}

}  // namespace esft::cpu::ESFT_ISA
