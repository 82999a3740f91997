// Block products, plain version (see gemm_engine.h).
#include "gemm_engine.h"

namespace esft::cpu::ESFT_ISA {

namespace {
inline float at(const Operand& o, int64_t i, int64_t j) {
  int64_t x = o.transposed ? j * o.ld + i : i * o.ld + j;
  return o.bf16 ? bf16_to_f32(static_cast<const uint16_t*>(o.data)[x]) : static_cast<const float*>(o.data)[x];
}
inline float rounded(float v, bool on) { return on ? bf16_to_f32(f32_to_bf16(v)) : v; }
}  // namespace

size_t panels_bytes(int64_t k, int64_t n) { return size_t((n + NR - 1) / NR) * size_t(k + 1) * NR * 4; }

Panels pack_panels(const Operand& b, int64_t k, int64_t n, int precision, void* memory) {
  Panels p = {memory, k, n, (k + 1) * NR * 4, PANEL_F32, precision != 0};
  for (int64_t j = 0; j < n; j++) {
    float* d = reinterpret_cast<float*>(static_cast<char*>(memory) + j / NR * p.panel_bytes) + j % NR;
    for (int64_t i = 0; i < k; i++) d[i * NR] = rounded(at(b, i, j), precision != 0);
  }
  return p;
}

Panels slice_panels(const Panels& b, int64_t k, int64_t n0, int64_t n1) {
  Panels p = b;
  p.data = static_cast<const char*>(b.data) + n0 / NR * b.panel_bytes;
  p.k = k;
  p.n = n1 - n0;
  return p;
}

size_t multiply_scratch(int64_t m, int64_t k) { return size_t(m) * size_t(k + 2) * 4 + 4096; }

void multiply(const Operand& a, int64_t m, const Panels& b, float* c, int64_t ldc, bool add, void*) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < b.n; j++) {
      const float* p = reinterpret_cast<const float*>(static_cast<const char*>(b.data) + j / NR * b.panel_bytes) + j % NR;
      float s = 0;
      for (int64_t l = 0; l < b.k; l++) s += rounded(at(a, i, l), b.round_a) * p[l * NR];
      c[i * ldc + j] = add ? c[i * ldc + j] + s : s;
    }
}

size_t product_scratch(int64_t m, int64_t k) { return multiply_scratch(m, k) + panels_bytes(k, NR); }

void product(const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc, bool add,
             int precision, void* scratch) {
  char* rest = static_cast<char*>(scratch) + panels_bytes(k, NR);
  for (int64_t n0 = 0; n0 < n; n0 += NR) {
    int64_t nb = n - n0 < NR ? n - n0 : NR, es = b.bf16 ? 2 : 4;
    Operand part = b;
    part.data = static_cast<const char*>(b.data) + n0 * es * (b.transposed ? b.ld : 1);
    multiply(a, m, pack_panels(part, k, nb, precision, scratch), c + n0, ldc, add, rest);
  }
}

}  // namespace esft::cpu::ESFT_ISA
