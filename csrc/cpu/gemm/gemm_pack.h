// From matrices in memory to what the micro kernels read: packed rows of A, panels of B. Defined in gemm_pack.cc.
#pragma once
#include "../../ops/activation.h"
#include "gemm_panel.h"

namespace esft::cpu::ESFT_ISA {

// Rows of tile t when m rows are dealt evenly to tiles.
ESFT_INLINE int64_t tile_height(int64_t m, int64_t tiles, int64_t t) { return m / tiles + (t < m % tiles); }

// f32 rows, straight or through an index: row i at data + (index ? index[i] : i)·ld.
struct Rows {
  const float* data;
  int64_t ld;
  const int32_t* index;
};
ESFT_INLINE const float* row_at(const Rows& r, int64_t i) { return r.data + (r.index ? r.index[i] : i) * r.ld; }
ESFT_INLINE Rows rows_from(const Rows& r, int64_t i) {
  return r.index ? Rows{r.data, r.ld, r.index + i} : Rows{r.data + i * r.ld, r.ld, nullptr};
}

// A weight matrix given as segments stacked along its rows; each segment has a dtype of its own.
struct Segment {
  const void* data;
  int64_t ld;
  int64_t rows;
  bool bf16;
};
struct Weights {
  const Segment* segments;
  int64_t count;
};

// A low-rank term beside a product (ops/grouped_gemm.h): k columns of u, `rank` for each part; k = 0: none. For FROM_WEIGHT_ROWS the
// rows of a part are outputs and its columns the contraction, for FROM_WEIGHT_COLUMNS the other way round.
struct TermPart {
  const void* data;
  int64_t ld, rows, cols;
  bool bf16;
};
struct Term {
  int64_t k, rank;
  Rows u;
  const TermPart* parts;
  int64_t count;
};

// A by rows (its k runs along memory): rows [0, mr) as [k][mr], or as rows `ld` elements apart.
void pack_rows(PanelKind kind, const Rows& a, int64_t mr, int64_t k, void* out);
void copy_rows(PanelKind kind, const Rows& a, int64_t m, int64_t k, void* out, int64_t ld);
// A by columns (row l of memory holds a[:, l]): m columns of k rows as consecutive tiles, each row times scale[l] where given.
void pack_columns(PanelKind kind, const Rows& a, const float* scale, int64_t m, int64_t tiles, int64_t k, void* out);
// pack_rows and pack_columns write up to W floats past their end.

// Panel from weight rows = columns of B (y = x·Wᵀ): two halves of W rows each, from n0 and n1 on; columns of a half past its
// limit repeat the last one. k0: first k of the weight.
void panel_of_weight_rows(PanelKind kind, const Weights& w, int64_t n0, int64_t n1, int64_t limit0, int64_t limit1, int64_t k0,
                          int64_t k, void* out);
// Consecutive panels from columns n0 .. n0+count of the weight (dx = dy·W): k runs over the stacked rows.
void panels_of_weight_columns(PanelKind kind, const Weights& w, int64_t n0, int64_t count, int64_t k0, int64_t k, void* out);
// Panels of a term like those two: PANEL_F32 or PANEL_DOT, zeros where no part meets.
void panel_of_term_rows(PanelKind kind, const Term& t, int64_t n0, int64_t n1, int64_t limit0, int64_t limit1, void* out);
void panel_of_term_columns(PanelKind kind, const Term& t, int64_t n0, int64_t n, void* out);
// Consecutive panels from columns of gathered f32 rows (dW = dyᵀ·x); with an activation the rows are h = gate | up, K each, and it is
// taken of them.
void panels_of_rows(PanelKind kind, const Rows& x, const Activation& act, int64_t K, int64_t n0, int64_t count, int64_t k,
                    void* out);

}  // namespace esft::cpu::ESFT_ISA
