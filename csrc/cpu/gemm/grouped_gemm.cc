// One product per expert (see ops/grouped_gemm.h). Each expert's product becomes one or a few tasks; tasks are claimed
// largest first, so a skewed routing keeps all threads busy as well.
#include "../../core/check.h"
#include "../../ops/checks.h"
#include "../kernels.h"
#include "gemm_tasks.h"
#include "gemm_vec.h"

namespace esft::cpu::ESFT_ISA {

namespace {

// What one call needs beside its arguments, in shared scratch.
struct Plan {
  Block* blocks;
  int64_t count;
  Segment* segments;
  float* biases;
  Task* tasks;
  TermPart* parts;
};

// items products of at most `rows` rows together, with `segments` weight segments, `biases` elements of biases and `parts` of terms.
Plan make_plan(Context& ctx, int64_t items, int64_t segments, int64_t rows, int64_t biases, int64_t parts = 0) {
  const int64_t bound = tasks_bound(items, rows, ctx.threads());
  const size_t blocks_bytes = size_t(items) * sizeof(Block), segments_bytes = size_t(segments) * sizeof(Segment);
  const size_t tasks_bytes = size_t(bound) * sizeof(Task), parts_bytes = size_t(parts) * sizeof(TermPart);
  char* p = static_cast<char*>(ctx.shared_scratch(blocks_bytes + segments_bytes + tasks_bytes + parts_bytes + size_t(biases) * 4));
  return {reinterpret_cast<Block*>(p),
          0,
          reinterpret_cast<Segment*>(p + blocks_bytes),
          reinterpret_cast<float*>(p + blocks_bytes + segments_bytes + tasks_bytes + parts_bytes),
          reinterpret_cast<Task*>(p + blocks_bytes + segments_bytes),
          reinterpret_cast<TermPart*>(p + blocks_bytes + segments_bytes + tasks_bytes)};
}

// The experts a call computes.
struct Experts {
  int64_t count;
  const int32_t* ids;  // null: all
  const int32_t* offsets;
  int64_t id(int64_t i) const { return ids ? ids[i] : i; }
  int64_t first_row(int64_t e) const { return offsets[e]; }
  int64_t rows(int64_t e) const { return offsets[e + 1] - offsets[e]; }
};

Experts experts_of(const esft_tensor& offsets, const esft_ints* groups) {
  const bool all = !groups || groups->count == 0;
  return {all ? numel(offsets) - 1 : groups->count, all ? nullptr : groups->items, data<const int32_t>(offsets)};
}

Rows rows_of(const esft_tensor& t, const esft_tensor& index, int64_t first) {
  return rows_from({data<const float>(t), t.ld, present(index) ? data<const int32_t>(index) : nullptr}, first);
}

// The stacked weight of expert e; all_bf16 tells whether every segment is.
Weights weights_of(const esft_tensor_list& w, int64_t e, int64_t S, Segment* out, bool* all_bf16) {
  *all_bf16 = true;
  for (int64_t s = 0; s < S; s++) {
    const esft_tensor& t = w.items[e * S + s];
    out[s] = {t.data, t.ld, rows(t), t.dtype == ESFT_BF16};
    *all_bf16 = *all_bf16 && out[s].bf16;
  }
  return {out, S};
}

// The stacked bias of expert e in f32, made at `out`; null where there is none.
const float* bias_of(const esft_tensor_list& bias, int64_t e, int64_t S, float* out) {
  if (bias.count == 0) return nullptr;
  float* to = out;
  for (int64_t s = 0; s < S; s++) {
    const esft_tensor& t = bias.items[e * S + s];
    const int64_t n = numel(t);
    if (t.dtype == ESFT_F32)
      memcpy(to, t.data, size_t(n) * 4);
    else
      for (int64_t i = 0; i < n; i += W)
        store_n(to + i, load_bf16_part(data<const uint16_t>(t) + i, min_of(W, n - i)), min_of(W, n - i));
    to += n;
  }
  return out;
}

// The low-rank terms of a call, taken up expert by expert in ascending order.
struct Terms {
  const esft_tensor& u;
  const esft_tensor_list& items;
  const esft_ints& groups;
  int64_t next;
  int64_t parts() const { return groups.count ? items.count / groups.count : 0; }
  // The term of expert e, whose rows begin with `first`; its parts are written to `out`. nt: ranks are columns of the items.
  Term of(int64_t e, int64_t first, bool nt, TermPart* out) {
    while (next < groups.count && groups.items[next] < e) next++;
    Term t = {};
    if (next == groups.count || groups.items[next] != e) return t;
    t.count = parts();
    t.rank = cols(u) / t.count;
    t.parts = out;
    t.u = rows_from({data<const float>(u), u.ld, nullptr}, first);
    for (int64_t p = 0; p < t.count; p++) {
      const esft_tensor& item = items.items[next * t.count + p];
      out[p] = {item.data, item.ld, rows(item), cols(item), item.dtype == ESFT_BF16};
      const int64_t own = nt ? cols(item) : rows(item);
      if (own) t.k = p * t.rank + own;
    }
    return t;
  }
};

Activation activation_of(int64_t kind, double alpha, double limit) { return {int32_t(kind), float(alpha), float(limit)}; }

// Outputs larger than the caches keep for their reader go past them.
constexpr int64_t kStreamBytes = int64_t(16) << 20;
bool streams(const esft_tensor& t) { return numel(t) * 4 >= kStreamBytes; }

float* row_or_null(const esft_tensor& t, int64_t row) { return present(t) ? data<float>(t) + row * t.ld : nullptr; }
float* item_or_null(const esft_tensor& t, int64_t i) { return present(t) ? data<float>(t) + i : nullptr; }

}  // namespace

void grouped_gemm_nt(const esft_grouped_gemm_nt_args& a, Context& ctx) {
  const int64_t N = rows(a.y), S = a.segments;
  const int64_t routed = check_offsets("grouped_gemm_nt", a.offsets, N);
  if (present(a.rows)) check_first_indices("grouped_gemm_nt", "rows", a.rows, routed, rows(a.x));
  const Experts experts = experts_of(a.offsets, &a.groups);
  const int64_t M = a.act ? 2 * cols(a.y) : cols(a.y);
  Terms terms = {a.u, a.terms, a.term_groups, 0};
  Plan plan =
      make_plan(ctx, experts.count, experts.count * S, N, a.bias.count ? experts.count * M : 0, experts.count * terms.parts());
  for (int64_t i = 0; i < experts.count; i++) {
    const int64_t e = experts.id(i), first = experts.first_row(e);
    if (experts.rows(e) == 0 || cols(a.y) == 0) continue;
    Block& b = plan.blocks[plan.count++];
    b = {};
    bool bf16;
    b.w = weights_of(tensors_of(a.w), e, S, plan.segments + i * S, &bf16);
    b.source = FROM_WEIGHT_ROWS;
    b.m = experts.rows(e);
    b.n = cols(a.y);
    b.k = cols(a.x);
    b.kind = panel_kind(bf16, a.precision, b.m);
    b.a = rows_of(a.x, a.rows, first);
    b.streams = streams_weights(b);
    b.term = terms.of(e, first, true, plan.parts + i * terms.parts());
    b.out.factor = float(a.factor);
    b.out.add = a.accumulate != 0;
    b.out.c = row_or_null(a.y, first);
    b.out.ldc = a.y.ld;
    b.out.kind = a.act ? OUT_GATED : OUT_PLAIN;
    b.out.act = activation_of(a.act, a.alpha, a.limit);
    b.out.bias = bias_of(a.bias, e, S, plan.biases + i * M);
    b.out.past_caches = !a.act && !a.accumulate && streams(a.y);
    b.out.residual = row_or_null(a.residual, first);
    b.out.ldr = a.residual.ld;
    if (a.act && present(a.h)) {
      b.out.h = row_or_null(a.h, first);
      b.out.ldh = a.h.ld;
      b.out.past_caches = streams(a.h);
    }
  }
  run_blocks(ctx, plan.blocks, plan.count, plan.tasks);
}

void grouped_gemm_nn(const esft_grouped_gemm_nn_args& a, Context& ctx) {
  const int64_t N = rows(a.dx), S = a.segments;
  const int64_t routed = check_offsets("grouped_gemm_nn", a.offsets, N);
  if (present(a.rows)) check_first_indices("grouped_gemm_nn", "rows", a.rows, routed, rows(a.dy));
  const Experts experts = experts_of(a.offsets, &a.groups);
  const int64_t M = cols(a.dy);
  Terms terms = {a.u, a.terms, a.term_groups, 0};
  Plan plan =
      make_plan(ctx, experts.count, experts.count * S, N, a.bias.count ? experts.count * M : 0, experts.count * terms.parts());
  for (int64_t i = 0; i < experts.count; i++) {
    const int64_t e = experts.id(i), first = experts.first_row(e);
    const int64_t n = a.act ? cols(a.dx) / 2 : cols(a.dx);
    if (experts.rows(e) == 0) continue;
    const float* bias = bias_of(a.bias, e, S, plan.biases + i * M);
    if (n == 0) {
      const Rows dy = rows_of(a.dy, a.rows, first);
      for (int64_t r = 0; present(a.dgate) && r < experts.rows(e); r++)
        *item_or_null(a.dgate, first + r) = bias ? dot(row_at(dy, r), bias, M) : 0.0f;
      continue;
    }
    Block& b = plan.blocks[plan.count++];
    b = {};
    bool bf16;
    b.w = weights_of(tensors_of(a.w), e, S, plan.segments + i * S, &bf16);
    b.source = FROM_WEIGHT_COLUMNS;
    b.m = experts.rows(e);
    b.n = n;
    b.k = cols(a.dy);
    b.kind = panel_kind(bf16, a.precision, b.m);
    b.a = rows_of(a.dy, a.rows, first);
    b.term = terms.of(e, first, false, plan.parts + i * terms.parts());
    b.out.factor = float(a.factor);
    b.out.add = a.accumulate != 0;
    b.out.c = row_or_null(a.dx, first);
    b.out.ldc = a.dx.ld;
    b.out.past_caches = !a.act && !a.accumulate && streams(a.dx);
    if (a.act) {
      b.out.kind = OUT_DGATED;
      b.out.act = activation_of(a.act, a.alpha, a.limit);
      b.out.bias = bias;
      b.out.h = row_or_null(a.h, first);
      b.out.ldh = a.h.ld;
      b.out.row_gate = item_or_null(a.gate, first);
      b.out.dgate = item_or_null(a.dgate, first);
    }
  }
  run_blocks(ctx, plan.blocks, plan.count, plan.tasks);
}

void grouped_gemm_tn(const esft_grouped_gemm_tn_args& a, Context& ctx) {
  const int64_t N = present(a.dy_rows) ? numel(a.dy_rows) : rows(a.dy), S = a.segments, K = cols(a.x) / (a.x_act ? 2 : 1);
  const int64_t routed = check_offsets("grouped_gemm_tn", a.offsets, N);
  if (present(a.dy_rows)) check_first_indices("grouped_gemm_tn", "dy_rows", a.dy_rows, routed, rows(a.dy));
  if (present(a.x_rows)) check_first_indices("grouped_gemm_tn", "x_rows", a.x_rows, routed, rows(a.x));
  if (a.groups.count == 0) return;  // nothing is trained here
  const Experts experts = experts_of(a.offsets, &a.groups);
  int64_t total_rows = 0;
  for (int64_t i = 0; i < a.dw.count; i++) total_rows += rows(a.dw.items[i]);
  Plan plan = make_plan(ctx, experts.count * S, 0, total_rows, 0);
  for (int64_t i = 0; i < experts.count; i++) {
    const int64_t e = experts.id(i), first = experts.first_row(e);
    int64_t column = 0;  // of dy, where the segment starts
    for (int64_t s = 0; s < S; s++) {
      const esft_tensor& dw = a.dw.items[i * S + s];
      const int64_t m = rows(dw);
      if ((experts.rows(e) > 0 || !a.accumulate) && m > 0 && K > 0) {  // a sum of no rows is zeros
        Block& b = plan.blocks[plan.count++];
        b = {};
        b.source = FROM_ROWS;
        b.m = m;
        b.n = K;
        b.k = experts.rows(e);
        b.kind = panel_kind(false, a.precision, m);
        b.a = rows_of(a.dy, a.dy_rows, first);
        b.a.data += column;
        b.a_columns = true;
        b.a_scale = item_or_null(a.dy_scale, first);
        b.x = rows_of(a.x, a.x_rows, first);
        b.x_act = activation_of(a.x_act, a.alpha, a.limit);
        b.x_features = K;
        b.out.kind = OUT_PLAIN;
        // Few columns (a low rank): as few rows of the transposed product. The scale goes with the narrow side, unless it changes
        // what is rounded.
        if (K <= kFewRows && m > K && !a.x_act) {
          const Rows dy = b.a;
          b.a = b.x;
          b.x = dy;
          b.m = K;
          b.n = m;
          b.kind = panel_kind(false, a.precision, K);
          b.out.transposed = true;
          if (a.precision) b.x_scale = b.a_scale, b.a_scale = nullptr;
        }
        b.few_rows = b.m <= kFewRows;
        // A second segment as narrow (up's beside gate's) reads the same x.
        const esft_tensor* up = s + 1 < S && b.few_rows && !b.out.transposed ? &a.dw.items[i * S + s + 1] : nullptr;
        if (up && rows(*up) > 0 && m + rows(*up) <= kFewRows) {
          b.out.c_behind = data<float>(*up);
          b.out.ld_behind = up->ld;
          b.out.split = m;
          b.m += rows(*up);
          column += rows(*up);
          s++;
        }
        b.out.c = data<float>(dw);
        b.out.ldc = dw.ld;
        b.out.add = a.accumulate != 0;
      }
      column += m;
    }
  }
  run_blocks(ctx, plan.blocks, plan.count, plan.tasks);
}

}  // namespace esft::cpu::ESFT_ISA
