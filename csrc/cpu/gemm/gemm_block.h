// One block of a product: some rows of A times some panels of B, with what happens to the result (see gemm_block.cc).
// A task of gemm or grouped_gemm is one block; blocks write disjoint outputs.
#pragma once
#include "../../ops/activation.h"
#include "gemm_pack.h"

namespace esft::cpu::ESFT_ISA {

enum OutputKind : int32_t {
  OUT_PLAIN = 0,    // c (+)= product (+ bias) (+ residual)
  OUT_GATED = 1,    // panels hold W gate | W up columns: h = product (+ bias) (optional), c = a = act(gate, up)
  OUT_DGATED = 2,   // the product is the gradient g of a: c = dh, dgate = ⟨g, a⟩ (+ ⟨A's row, bias⟩) (see ops/grouped_gemm.h)
};

// Row i of the block at c + i·ldc, h + i·ldh, row_gate[i], dgate[i].
struct Output {
  OutputKind kind;
  Activation act;  // OUT_GATED, OUT_DGATED
  float* c;
  int64_t ldc;
  float factor = 1;  // OUT_PLAIN: of the product
  bool add;          // OUT_PLAIN: c += instead of c =
  bool transposed;   // OUT_PLAIN, alone or with add: element (i, j) at c + j·ldc + i; for products of few rows
  bool past_caches;  // large outputs nobody reads soon: streaming stores (not with add)
  float* c_behind;     // few_rows, not transposed, optional: rows from `split` on lie there, at the pitch ld_behind
  int64_t ld_behind, split;
  const void* bias;  // optional; OUT_GATED: of gate, then of up; OUT_DGATED: f32 [k]
  bool bias_bf16;
  const float* residual;  // OUT_PLAIN, optional, not with add; row i at residual + i·ldr
  int64_t ldr;
  float* h;  // OUT_GATED: written when not null; OUT_DGATED: read. gate | up, n each
  int64_t ldh;
  const float* row_gate;  // OUT_DGATED, optional
  float* dgate;           // OUT_DGATED, optional; complete only when the block covers every panel
};

enum PanelSource : int32_t {
  FROM_WEIGHT_ROWS = 0,     // y = x·Wᵀ
  FROM_WEIGHT_COLUMNS = 1,  // dx = dy·W
  FROM_ROWS = 2,            // dW = dyᵀ·x
  FROM_PANELS = 3,          // packed beforehand
};

constexpr int64_t kFewRows = 32;

struct Block {
  PanelKind kind;
  int64_t m, n, k;        // n: columns of the product; OUT_GATED: features, i.e. half of them
  int64_t k0;             // FROM_WEIGHT_*: where the block's k starts in the weight
  Rows a;                 // m rows of k, or (a_columns) k rows of m
  bool a_columns;
  bool streams;           // streams_weights (gemm_stream.h) of the whole product
  const float* a_scale;   // a_columns: factor per row of memory, optional
  bool few_rows;          // FROM_ROWS, a_columns, m <= kFewRows: narrow_columns makes it (gemm_narrow.h)
  PanelSource source;
  Weights w;              // FROM_WEIGHT_*
  Term term;              // FROM_WEIGHT_*: added to the product
  Rows x;                 // FROM_ROWS: k rows
  Activation x_act;       // FROM_ROWS: rows are h = gate | up, and the activation is taken; kind 0: rows as they are
  int64_t x_features;     // FROM_ROWS with x_act: distance of up from gate
  const float* x_scale;   // few_rows: factor per row of x, optional
  const Panels* panels;   // FROM_PANELS
  Output out;
};

// The panel kind for a product whose weights are (not) all bf16, for blocks of about m rows.
PanelKind panel_kind(bool all_bf16, int64_t precision, int64_t m);

int64_t block_panels(const Block& b);
bool reads_a_in_place(const Block& b);                       // rows short enough, nothing to gather or round
Block block_part(const Block& b, int64_t m0, int64_t m1);    // rows m0 .. m1 of the block
// k of one pass: long plain products run in several, adding into c, so that panels stay in L2.
int64_t pass_k(int64_t k, OutputKind kind);
// k: of one pass; panel: it builds panels itself; term_k: columns of a term.
size_t block_scratch(int64_t m, int64_t k, PanelKind kind, bool panel, int64_t term_k = 0);
// Panels p0 .. p1 of the block.
void run_block(const Block& b, int64_t p0, int64_t p1, void* scratch);

// Epilogues (gemm_epilogue.cc): a tile of mr rows (NR apart) that starts at row i and panel p of the block.
// sums: one vector per block row for dgate.
void finish_tile(const Block& b, const float* tile, int64_t i, int64_t mr, int64_t p, float* sums);
// c += residual in such a tile, whose NR columns all exist and hold the product.
void add_residual(const Output& o, int64_t i, int64_t mr, int64_t p);

}  // namespace esft::cpu::ESFT_ISA
