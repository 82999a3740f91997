// Block products on operands in memory, over the loop nest of gemm_block.cc.
#include "gemm_engine.h"

#include "gemm_block.h"

namespace esft::cpu::ESFT_ISA {

namespace {

constexpr int64_t kManyRows = 1 << 20;  // packed panels are meant for many rows

Segment segment_of(const Operand& b, int64_t k, int64_t n) { return {b.data, b.ld, b.transposed ? n : k, b.bf16}; }

// c (+)= a · (B still to be set)
Block block_of(const Operand& a, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc, bool add) {
  Block b = {};
  b.m = m;
  b.n = n;
  b.k = k;
  b.a = {static_cast<const float*>(a.data), a.ld, nullptr};
  b.a_columns = a.transposed;
  b.out.kind = OUT_PLAIN;
  b.out.c = c;
  b.out.ldc = ldc;
  b.out.add = add;
  return b;
}

}  // namespace

size_t panels_bytes(int64_t k, int64_t n) { return size_t((n + NR - 1) / NR) * size_t(panel_bytes(PANEL_F32, k)); }

Panels pack_panels(const Operand& b, int64_t k, int64_t n, int precision, void* memory) {
  const PanelKind kind = panel_kind(b.bf16, precision, kManyRows);
  const Panels p = {memory, k, n, panel_bytes(kind, k), kind};
  const Segment s = segment_of(b, k, n);
  const Weights w = {&s, 1};
  if (k == 0) return p;
  if (!b.transposed) {
    panels_of_weight_columns(kind, w, 0, n, 0, k, memory);
    return p;
  }
  for (int64_t n0 = 0; n0 < n; n0 += NR)
    panel_of_weight_rows(kind, w, n0, n0 + W, n, n, 0, k, static_cast<char*>(memory) + n0 / NR * p.panel_bytes);
  return p;
}

Panels slice_panels(const Panels& b, int64_t k, int64_t n0, int64_t n1) {
  return {static_cast<const char*>(b.data) + n0 / NR * b.panel_bytes, k, n1 - n0, b.panel_bytes, b.kind};
}

size_t multiply_scratch(int64_t m, int64_t k) { return block_scratch(m, pass_k(k, OUT_PLAIN) + 1, PANEL_F32, false); }

void multiply(const Operand& a, int64_t m, const Panels& panels, float* c, int64_t ldc, bool add, void* scratch) {
  Block b = block_of(a, m, panels.n, panels.k, c, ldc, add);
  b.kind = panels.kind;
  b.source = FROM_PANELS;
  b.panels = &panels;
  run_block(b, 0, block_panels(b), scratch);
}

// Panels of f32 are the largest; those of pairs hold up to k + 1 elements.
size_t product_scratch(int64_t m, int64_t k) { return block_scratch(m, pass_k(k, OUT_PLAIN) + 1, PANEL_F32, true); }

void product(const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc, bool add, int precision,
             void* scratch) {
  Block block = block_of(a, m, n, k, c, ldc, add);
  block.kind = panel_kind(b.bf16, precision, m);
  block.source = b.transposed ? FROM_WEIGHT_ROWS : FROM_WEIGHT_COLUMNS;
  const Segment s = segment_of(b, k, n);
  block.w = {&s, 1};
  run_block(block, 0, block_panels(block), scratch);
}

}  // namespace esft::cpu::ESFT_ISA
