// The loop nest of all products: prepare A once, then for each group of panels: build it in L2, run all row tiles over it.
//
// A is packed once per block (or read in place where its rows are short), a panel is built once per block, and while the
// tiles of one group run the memory of the next is fetched into L2. k is cut into chunks of KC only to bound the error of
// long sums (partial sums stay in the tile), and into passes of about 4 KC where a panel would outgrow L2.
#include "gemm_block.h"

#include "gemm_micro.h"
#include "gemm_narrow.h"
#include "gemm_vec.h"

namespace esft::cpu::ESFT_ISA {

namespace {

constexpr int64_t kAlign = 64;
ESFT_INLINE int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Rows up to this many bytes are read by the kernel as they lie; longer ones would fight for the same sets of L1.
constexpr int64_t kRowBytes = 2048;
constexpr int64_t kSpill = 64;  // packing writes one vector past its end

// k of the longest pass of a plain product.
constexpr int64_t kPassK = 4 * KC;
// Tiles before the end of a group at which fetching its successor starts.
constexpr int64_t kLate = 6;
// Panels are built in groups that stay in L2 together: a tile of A is read once per group, outputs are written in longer
// runs, and weight columns are gathered from memory whole lines at a time.
constexpr int64_t kGroupBytes = 384 << 10, kMaxGroup = 4;
int64_t panel_group(PanelKind kind, int64_t k) {
  const int64_t bytes = panel_bytes(kind, k), fit = kGroupBytes / (bytes > 0 ? bytes : 1);
  return fit < 1 ? 1 : min_of(fit, kMaxGroup);
}

int64_t a_row_bytes(PanelKind kind, int64_t k) { return a_elements(kind, k) * 4; }

// How this block reads A.
struct PreparedA {
  AccessA access;
  const char* data;  // first element
  int64_t ld;        // bytes between rows (A_ROWS)
};

// A block of one group of panels reads A once: its tiles are packed one by one, where they stay in the caches.
bool packs_by_tile(const Block& b, int64_t panels) {
  return !b.a_columns && a_row_bytes(b.kind, b.k) > kRowBytes && panels <= panel_group(b.kind, b.k);
}

// All tiles, one behind the other.
void pack_tiles(PanelKind kind, const Rows& a, int64_t m, int64_t tiles, int64_t k, void* out_) {
  char* out = static_cast<char*>(out_);
  for (int64_t t = 0, i = 0; t < tiles; t++) {
    const int64_t mr = tile_height(m, tiles, t);
    pack_rows(kind, rows_from(a, i), mr, k, out);
    out += a_row_bytes(kind, k) * mr;
    i += mr;
  }
}

PreparedA prepare_a(const Block& b, int64_t tiles, bool by_tile, void* scratch) {
  const int64_t row_bytes = a_row_bytes(b.kind, b.k);
  if (by_tile) return {A_PACKED, static_cast<const char*>(scratch), 0};
  if (!b.a_columns && row_bytes <= kRowBytes) {
    if (reads_a_in_place(b)) return {A_ROWS, reinterpret_cast<const char*>(b.a.data), b.a.ld * 4};
    copy_rows(b.kind, b.a, b.m, b.k, scratch, row_bytes / 4);
    return {A_ROWS, static_cast<const char*>(scratch), row_bytes};
  }
  if (b.a_columns) {
    pack_columns(b.kind, b.a, b.a_scale, b.m, tiles, b.k, scratch);
  } else {
    pack_tiles(b.kind, b.a, b.m, tiles, b.k, scratch);
  }
  return {A_PACKED, static_cast<const char*>(scratch), 0};
}

// Panels p .. p+count, one behind the other.
void build_panels(const Block& b, int64_t p, int64_t count, void* out) {
  if (b.k == 0) return;
  const int64_t columns = min_of(count * NR, b.n - p * NR);
  if (b.source == FROM_WEIGHT_COLUMNS) return panels_of_weight_columns(b.kind, b.w, p * NR, columns, b.k0, b.k, out);
  if (b.source == FROM_ROWS) return panels_of_rows(b.kind, b.x, b.x_act, b.x_features, p * NR, columns, b.k, out);
  char* to = static_cast<char*>(out);
  for (int64_t q = p; q < p + count; q++, to += panel_bytes(b.kind, b.k)) {
    if (b.out.kind == OUT_GATED)
      panel_of_weight_rows(b.kind, b.w, q * W, b.n + q * W, b.n, 2 * b.n, b.k0, b.k, to);
    else
      panel_of_weight_rows(b.kind, b.w, q * NR, q * NR + W, b.n, b.n, b.k0, b.k, to);
  }
}

// The same of the term.
void build_term_panels(const Block& b, PanelKind kind, int64_t p, int64_t count, void* out) {
  char* to = static_cast<char*>(out);
  for (int64_t q = p; q < p + count; q++, to += panel_bytes(kind, b.term.k)) {
    if (b.source == FROM_WEIGHT_COLUMNS)
      panel_of_term_columns(kind, b.term, q * NR, b.n, to);
    else if (b.out.kind == OUT_GATED)
      panel_of_term_rows(kind, b.term, q * W, b.n + q * W, b.n, 2 * b.n, to);
    else
      panel_of_term_rows(kind, b.term, q * NR, q * NR + W, b.n, b.n, to);
  }
}
// Terms are short: f32, unless the product rounds its operands, whatever its own panels hold.
PanelKind term_kind(const Block& b) { return b.kind == PANEL_DOT ? PANEL_DOT : PANEL_F32; }

struct Place {
  const Segment* s;
  int64_t row;
};
Place place_of(const Weights& w, int64_t row) {
  const Segment* s = w.segments;
  while (row >= s->rows) row -= s++->rows;
  return {s, row};
}
int64_t pitch_of(const Segment& s) { return s.ld * (s.bf16 ? 2 : 4); }

// Starts fetching the memory of panels p .. p+count, spread over `blocks` calls.
void fetch_panels(const Block& b, int64_t p, int64_t count, int64_t blocks, Prefetch* ahead) {
  ahead->per_block = 0;
  ahead->then = nullptr;
  ahead->then_rows = 0;
  if (blocks <= 0 || b.k == 0 || b.source == FROM_ROWS) return;
  const char *first, *second = nullptr;
  int64_t rows = 1, second_rows = 0, bytes, pitch;
  if (b.source == FROM_PANELS) {
    first = static_cast<const char*>(b.panels->data) + p * b.panels->panel_bytes;
    bytes = pitch = b.panels->panel_bytes * count;
  } else if (b.source == FROM_WEIGHT_ROWS) {
    const bool paired = b.out.kind == OUT_GATED;
    const int64_t columns = count * (paired ? W : NR);
    const Place at = place_of(b.w, p * (paired ? W : NR));
    pitch = pitch_of(*at.s);
    bytes = b.k * (at.s->bf16 ? 2 : 4);
    first = static_cast<const char*>(at.s->data) + at.row * pitch + b.k0 * (at.s->bf16 ? 2 : 4);
    rows = min_of(columns, at.s->rows - at.row);
    if (paired) {
      const Place up = place_of(b.w, b.n + p * W);
      second = static_cast<const char*>(up.s->data) + up.row * pitch_of(*up.s) + b.k0 * (up.s->bf16 ? 2 : 4);
      second_rows = min_of(columns, up.s->rows - up.row);
    }
  } else {
    const Place at = place_of(b.w, b.k0);
    const Segment* s = at.s;
    const int64_t size = s->bf16 ? 2 : 4;
    pitch = pitch_of(*s);
    bytes = min_of(count * NR, b.n - p * NR) * size;
    first = static_cast<const char*>(s->data) + at.row * pitch + p * NR * size;
    rows = min_of(b.k, s->rows - at.row);
    if (rows < b.k && s[1].bf16 == s->bf16) {
      second = static_cast<const char*>(s[1].data) + p * NR * size;
      second_rows = min_of(b.k - rows, s[1].rows);
    }
  }
  if (rows <= 0) return;
  const int64_t offset = reinterpret_cast<uintptr_t>(first) & 63;
  ahead->lines = ahead->left = int32_t((bytes + (pitch % 64 ? 63 : offset) + 63) / 64);
  ahead->jump = pitch - int64_t(ahead->lines) * 64;
  ahead->next = first - offset;
  ahead->rows = int32_t(rows);
  if (second && second_rows > 0) {
    ahead->then = second - (reinterpret_cast<uintptr_t>(second) & 63);
    ahead->then_rows = int32_t(second_rows);
  }
  ahead->per_block = int32_t((int64_t(ahead->lines) * (rows + second_rows) + blocks - 1) / blocks);
}

// Starts fetching what finishing a tile reads: h, c with add, or the residual. Done after two thirds of the kernel.
void fetch_tile(const Block& b, int64_t i, int64_t mr, int64_t p, int64_t blocks, Prefetch* ahead) {
  const Output& o = b.out;
  const bool h = o.kind == OUT_DGATED;
  const float* first = (h ? o.h + i * o.ldh : o.residual ? o.residual + i * o.ldr : o.c + i * o.ldc) + p * NR;
  const int64_t ld = (h ? o.ldh : o.residual ? o.ldr : o.ldc) * 4;
  ahead->per_block = 0;
  if (blocks <= 0) return;
  ahead->lines = ahead->left = NR * 4 / 64 + ((reinterpret_cast<uintptr_t>(first) | uintptr_t(ld)) % 64 != 0);
  ahead->jump = ld - int64_t(ahead->lines) * 64;
  ahead->next = reinterpret_cast<const char*>(first);
  ahead->rows = ahead->then_rows = int32_t(mr);
  ahead->then = h ? reinterpret_cast<const char*>(first + b.n) : nullptr;
  ahead->per_block = int32_t((ahead->lines * mr * (h ? 2 : 1) * 3 / 2 + blocks - 1) / blocks);
}

// Starts fetching the next tile's rows of an A that is read in place, over the kernels of this one.
void fetch_rows(const char* rows, int64_t pitch, int64_t count, int64_t bytes, int64_t blocks, Prefetch* ahead) {
  ahead->per_block = 0;
  ahead->then = nullptr;
  if (blocks <= 0 || count <= 0) return;
  const int64_t offset = reinterpret_cast<uintptr_t>(rows) & 63;
  ahead->lines = ahead->left = int32_t((bytes + (pitch % 64 ? 63 : offset) + 63) / 64);
  ahead->jump = pitch - int64_t(ahead->lines) * 64;
  ahead->next = rows - offset;
  ahead->rows = int32_t(count);
  ahead->per_block = int32_t((ahead->lines * count + blocks - 1) / blocks);
}

}  // namespace

PanelKind panel_kind(bool all_bf16, int64_t precision, int64_t m) {
  (void)m, (void)all_bf16, (void)precision;
#if defined(__AVX512BF16__)
  if (precision) return PANEL_DOT;
  if (all_bf16) return PANEL_PAIR;
#elif ESFT_REGISTERS == 32
  // Machines without bf16 instructions shift on a port the multiply-adds need: there expanding pays from 64 rows on.
  if (all_bf16 && m < 64) return PANEL_PAIR;
#endif
  return PANEL_F32;
}

bool reads_a_in_place(const Block& b) {
  // Rows a multiple of 4 KB apart (a head's slice of a wide matrix) would share one set of L1: those are copied as well.
  return !b.a_columns && !b.a.index && b.kind != PANEL_DOT && a_elements(b.kind, b.k) == b.k &&
         a_row_bytes(b.kind, b.k) <= kRowBytes && b.a.ld % 1024 != 0;
}

Block block_part(const Block& b, int64_t m0, int64_t m1) {
  Block p = b;
  p.m = m1 - m0;
  if (b.a_columns)
    p.a.data += m0;
  else
    p.a = rows_from(b.a, m0);
  if (p.term.k) p.term.u = rows_from(b.term.u, m0);
  if (p.out.c) p.out.c += m0 * (p.out.transposed ? 1 : p.out.ldc);
  p.out.split -= m0;
  if (p.out.residual) p.out.residual += m0 * p.out.ldr;
  if (p.out.h) p.out.h += m0 * p.out.ldh;
  if (p.out.row_gate) p.out.row_gate += m0;
  if (p.out.dgate) p.out.dgate += m0;
  return p;
}

int64_t block_panels(const Block& b) { return b.out.kind == OUT_GATED ? (b.n + W - 1) / W : (b.n + NR - 1) / NR; }

// Of a group of panels of k steps or fewer, as the last pass of a product has them: fewer steps may make larger groups.
static int64_t group_bytes(PanelKind kind, int64_t k) {
  const int64_t bytes = panel_bytes(kind, k);
  return min_of(kMaxGroup * bytes, max_of(kGroupBytes, bytes));
}

size_t block_scratch(int64_t m, int64_t k, PanelKind kind, bool panel, int64_t term_k) {
  const int64_t of_term = aligned(m * term_k * 4 + kSpill) + aligned(panel_bytes(PANEL_F32, term_k) * kMaxGroup);
  return size_t(aligned(m * a_row_bytes(kind, k) + kSpill) + (panel ? aligned(group_bytes(kind, k)) : 0) + aligned(m * W * 4) +
                kMaxTileRows * NR * 4 + of_term + (panel ? kNarrowRowBytes : 0));
}

int64_t pass_k(int64_t k, OutputKind kind) {
  if (kind != OUT_PLAIN || k <= kPassK) return k;
  const int64_t passes = (k + kPassK - 1) / kPassK;
  return ((k + passes - 1) / passes + 63) / 64 * 64;
}

static_assert(kPassK * NR * 4 <= kGroupBytes, "the scratch of a pass holds a panel of f32");

static void run_pass(const Block& b, int64_t p0, int64_t p1, void* scratch) {
  if (narrow_rows_pay(b)) {
    float* panel = static_cast<float*>(scratch);
    return narrow_rows(b, panel, panel + b.k * NR);
  }
  const int64_t per_tile = tile_rows(b.kind), tiles = (b.m + per_tile - 1) / per_tile;
  const int64_t row_bytes = a_row_bytes(b.kind, b.k), steps = panel_steps(b.kind, b.k);
  const int64_t chunk = b.kind == PANEL_PAIR ? KC / 2 : KC;
  const int64_t group = panel_group(b.kind, b.k);

  char* at = static_cast<char*>(scratch);
  char* a_scratch = at;
  at += aligned(b.m * row_bytes + kSpill);
  float* sums = reinterpret_cast<float*>(at);
  at += aligned(b.m * W * 4);
  float* tile = reinterpret_cast<float*>(at);
  at += kMaxTileRows * NR * 4;
  const PanelKind of_term = term_kind(b);
  const int64_t term_row_bytes = a_row_bytes(of_term, b.term.k), term_pitch = panel_bytes(of_term, b.term.k);
  char* term_rows = at;
  at += aligned(b.m * term_row_bytes + kSpill);
  char* term_panels = at;
  at += aligned(term_pitch * group);
  char* panel_scratch = at;
  if (b.term.k) pack_tiles(of_term, b.term.u, b.m, tiles, b.term.k, term_rows);

  const bool by_tile = packs_by_tile(b, p1 - p0);
  const PreparedA a = prepare_a(b, tiles, by_tile, a_scratch);
  const bool dgate = b.out.kind == OUT_DGATED && b.out.dgate;
  if (dgate) memset(sums, 0, size_t(b.m) * W * 4);
  int64_t fetches = 0;  // fetch opportunities per tile and panel
  for (int64_t s = 0; s < steps; s += chunk) fetches += min_of(chunk, steps - s) / kPrefetchSteps;
  const bool reads_outputs = (b.out.add && !b.out.transposed) || b.out.residual || b.out.kind == OUT_DGATED;

  const bool a_cold = reads_a_in_place(b) && !reads_outputs;
  Prefetch ahead = {}, tile_ahead = {};
  for (int64_t g0 = p0; g0 < p1; g0 += group) {
    const int64_t count = min_of(group, p1 - g0);
    const char* panels = panel_scratch;
    int64_t pitch = panel_bytes(b.kind, b.k);
    if (b.source == FROM_PANELS) {
      pitch = b.panels->panel_bytes;
      panels = static_cast<const char*>(b.panels->data) + g0 * pitch;
    } else {
      build_panels(b, g0, count, panel_scratch);
    }
    if (b.term.k) build_term_panels(b, of_term, g0, count, term_panels);
    ahead.per_block = 0;
    for (int64_t t = 0, i = 0; t < tiles; t++) {
      const int64_t mr = tile_height(b.m, tiles, t);
      const MicroKernel kernel = micro_kernel(b.kind, a.access, int(mr));
      const char* a_tile = a.access == A_ROWS ? a.data + i * a.ld : a.data + (by_tile ? 0 : i * row_bytes);
      if (by_tile) pack_rows(b.kind, rows_from(b.a, i), mr, b.k, a_scratch);
      const int64_t a_chunk = chunk * 4 * (b.kind == PANEL_PAIR ? 2 : 1) * (a.access == A_ROWS ? 1 : mr);
      if (a_cold && g0 == p0 && t + 1 < tiles)
        fetch_rows(a.data + (i + mr) * a.ld, a.ld, tile_height(b.m, tiles, t + 1), b.k * 4, fetches * count, &tile_ahead);
      // Late enough that the lines are still in L2 when the panels are built from them.
      if (t == (tiles > kLate ? tiles - kLate : 0) && g0 + count < p1)
        fetch_panels(b, g0 + count, min_of(group, p1 - g0 - count), fetches * (tiles - t) * count, &ahead);
      for (int64_t p = g0; p < g0 + count; p++) {
        const bool direct = b.out.kind == OUT_PLAIN && (p + 1) * NR <= b.n && !b.out.bias && !b.out.past_caches &&
                            b.out.factor == 1 && !b.out.transposed;
        MicroArgs g;
        g.a = a_tile;
        g.lda = a.ld;
        g.panel = panels + (p - g0) * pitch;
        g.c = direct ? b.out.c + i * b.out.ldc + p * NR : tile;
        g.ldc = direct ? b.out.ldc : NR;
        g.add = direct && b.out.add;
        g.panel_ahead = &ahead;
        g.tile_ahead = &tile_ahead;
        g.tail = {};
        if (reads_outputs) fetch_tile(b, i, mr, p, fetches, &tile_ahead);
        for (int64_t s = 0; s < steps || s == 0; s += chunk) {
          g.steps = min_of(chunk, steps - s);
          if (b.term.k && s + chunk >= steps)
            g.tail = {panel_steps(of_term, b.term.k), term_rows + i * term_row_bytes, term_panels + (p - g0) * term_pitch};
          kernel(g);
          g.add = true;
          g.a = static_cast<const char*>(g.a) + a_chunk;
          g.panel = static_cast<const char*>(g.panel) + chunk * NR * 4;
        }
        if (!direct)
          finish_tile(b, tile, i, mr, p, sums);
        else if (b.out.residual)
          add_residual(b.out, i, mr, p);
      }
      i += mr;
    }
  }
  if (dgate)
    for (int64_t i = 0; i < b.m; i++) {
      const float by_bias = b.out.bias ? dot(row_at(b.a, i), static_cast<const float*>(b.out.bias), b.k) : 0.0f;
      b.out.dgate[i] = hsum(load(sums + i * W)) + by_bias;
    }
  if (b.out.past_caches) stream_fence();
}

void run_block(const Block& b, int64_t p0, int64_t p1, void* scratch) {
  if (b.m <= 0 || p0 >= p1) return;
  if (b.few_rows) return narrow_columns(b, p0, p1, scratch);
  const int64_t step = pass_k(b.k, b.out.kind);
  if (step == b.k) return run_pass(b, p0, p1, scratch);
  for (int64_t k = 0; k < b.k; k += step) {
    Block pass = b;
    pass.k = min_of(step, b.k - k);
    pass.k0 = b.k0 + k;
    if (b.a_columns) {
      pass.a = rows_from(b.a, k);
      if (b.a_scale) pass.a_scale = b.a_scale + k;
    } else {
      pass.a.data = b.a.data + k;
    }
    Panels panels;
    if (b.source == FROM_ROWS) pass.x = rows_from(b.x, k);
    if (b.source == FROM_PANELS) {
      panels = *b.panels;
      panels.data = static_cast<const char*>(panels.data) + panel_bytes(b.kind, k);
      pass.panels = &panels;
    }
    pass.out.add = b.out.add || k > 0;
    pass.out.past_caches = false;
    if (k + step < b.k) pass.out.bias = nullptr, pass.out.residual = nullptr, pass.term.k = 0;
    run_pass(pass, p0, p1, scratch);
  }
}

}  // namespace esft::cpu::ESFT_ISA
