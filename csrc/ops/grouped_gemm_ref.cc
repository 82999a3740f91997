// The three grouped products as plain loops over experts, rows and elements.
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;

namespace {

int64_t source(const esft_tensor& index, int64_t r) { return present(index) ? data<int32_t>(index)[r] : r; }

// Element m of expert e's stacked bias; 0 where there is none.
double bias_at(const esft_tensor_list& bias, int64_t segments, int64_t expert, int64_t m) {
  if (bias.count == 0) return 0;
  for (int64_t s = 0;; s++) {
    const esft_tensor& t = bias.items[expert * segments + s];
    if (m < numel(t)) return vat(t, m);
    m -= numel(t);
  }
}

// The low-rank term of one expert, if it has one.
struct Term {
  const esft_tensor* items;  // null: none
  int64_t parts, rank;  // rank: columns of u for each part
  Term(const esft_tensor& u, const esft_tensor_list& list, const esft_ints& groups, int64_t expert)
      : items(nullptr), parts(0), rank(0) {
    for (int64_t g = 0; g < groups.count; g++)
      if (groups.items[g] == expert) {
        parts = list.count / groups.count;
        rank = cols(u) / parts;
        items = list.items + g * parts;
      }
  }
  // nt: of output m, the part that it lies in against that part's columns of u.
  double output(const esft_tensor& u, int64_t r, int64_t m, int64_t precision) const {
    double sum = 0;
    for (int64_t p = 0; items && p < parts; m -= rows(items[p++]))
      for (int64_t j = 0; m >= 0 && m < rows(items[p]) && j < cols(items[p]); j++)
        sum += operand(at(u, r, p * rank + j), precision) * operand(at(items[p], m, j), precision);
    return sum;
  }
  // nn: of column k, all parts.
  double gradient(const esft_tensor& u, int64_t r, int64_t k, int64_t precision) const {
    double sum = 0;
    for (int64_t p = 0; items && p < parts; p++)
      for (int64_t j = 0; j < rows(items[p]); j++)
        sum += operand(at(u, r, p * rank + j), precision) * operand(at(items[p], j, k), precision);
    return sum;
  }
};

// Row m of expert e's stacked weight.
struct Stacked {
  esft_tensor_list w;
  int64_t segments, expert;
  int64_t size() const {
    int64_t m = 0;
    for (int64_t s = 0; s < segments; s++) m += rows(w.items[expert * segments + s]);
    return m;
  }
  float at(int64_t m, int64_t k) const {
    for (int64_t s = 0;; s++) {
      const esft_tensor& t = w.items[expert * segments + s];
      if (m < rows(t)) return ref::at(t, m, k);
      m -= rows(t);
    }
  }
};

}  // namespace

void ref_grouped_gemm_nt(const esft_grouped_gemm_nt_args& a) {
  const int64_t N = rows(a.y), E = numel(a.offsets) - 1, K = cols(a.x), F = cols(a.y);
  const int64_t routed = check_offsets("grouped_gemm_nt", a.offsets, N);
  if (present(a.rows)) check_first_indices("grouped_gemm_nt", "rows", a.rows, routed, rows(a.x));
  const int64_t groups = a.groups.count ? a.groups.count : E;
  for (int64_t g = 0; g < groups; g++) {
    const int64_t e = a.groups.count ? a.groups.items[g] : g;
    const Stacked w{tensors_of(a.w), a.segments, e};
    const Term term(a.u, a.terms, a.term_groups, e);
    const int64_t M = w.size();
    std::vector<float> z(M);
    for (int64_t r = data<int32_t>(a.offsets)[e]; r < data<int32_t>(a.offsets)[e + 1]; r++) {
      const int64_t from = source(a.rows, r);
      for (int64_t m = 0; m < M; m++) {
        double sum = 0;
        for (int64_t k = 0; k < K; k++) sum += operand(at(a.x, from, k), a.precision) * operand(w.at(m, k), a.precision);
        sum += term.output(a.u, r, m, a.precision);
        sum = a.factor * sum + bias_at(a.bias, a.segments, e, m);
        if (a.accumulate) sum += at(a.y, r, m);
        z[m] = float(sum);
        if (present(a.residual)) z[m] = float(held(a.y, sum) + at(a.residual, r, m));
      }
      if (present(a.h))
        for (int64_t m = 0; m < M; m++) put(a.h, r, m, z[m]);
      for (int64_t f = 0; f < F; f++) put(a.y, r, f, a.act ? gated(a.act, a.alpha, a.limit, z[f], z[F + f]).a : z[f]);
    }
  }
}

void ref_grouped_gemm_nn(const esft_grouped_gemm_nn_args& a) {
  const int64_t N = rows(a.dx), E = numel(a.offsets) - 1;
  const int64_t K = a.act ? cols(a.dx) / 2 : cols(a.dx);
  const int64_t routed = check_offsets("grouped_gemm_nn", a.offsets, N);
  if (present(a.rows)) check_first_indices("grouped_gemm_nn", "rows", a.rows, routed, rows(a.dy));
  const int64_t groups = a.groups.count ? a.groups.count : E;
  for (int64_t g = 0; g < groups; g++) {
    const int64_t e = a.groups.count ? a.groups.items[g] : g;
    const Stacked w{tensors_of(a.w), a.segments, e};
    const Term term(a.u, a.terms, a.term_groups, e);
    const int64_t M = w.size();
    for (int64_t r = data<int32_t>(a.offsets)[e]; r < data<int32_t>(a.offsets)[e + 1]; r++) {
      const int64_t from = source(a.rows, r);
      double dgate = 0;
      for (int64_t k = 0; k < K; k++) {
        double g_k = 0;
        for (int64_t m = 0; m < M; m++) g_k += operand(at(a.dy, from, m), a.precision) * operand(w.at(m, k), a.precision);
        g_k += term.gradient(a.u, r, k, a.precision);
        if (!a.act) {
          put(a.dx, r, k, a.factor * g_k + (a.accumulate ? at(a.dx, r, k) : 0.0f));
          continue;
        }
        const double gate_pre = at(a.h, r, k), up = at(a.h, r, K + k);  // before dx, which may be h
        const Gated f = gated(a.act, a.alpha, a.limit, gate_pre, up);
        dgate += g_k * f.a;
        const double da = (present(a.gate) ? data<float>(a.gate)[r] : 1.0) * g_k;
        put(a.dx, r, k, da * f.by_gate);
        put(a.dx, r, K + k, da * f.by_up);
      }
      for (int64_t m = 0; a.bias.count && m < M; m++) dgate += at(a.dy, from, m) * bias_at(a.bias, a.segments, e, m);
      if (present(a.dgate)) data<float>(a.dgate)[r] = float(dgate);
    }
  }
}

void ref_grouped_gemm_tn(const esft_grouped_gemm_tn_args& a) {
  const int64_t N = present(a.dy_rows) ? numel(a.dy_rows) : rows(a.dy), K = a.x_act ? cols(a.x) / 2 : cols(a.x);
  const int64_t routed = check_offsets("grouped_gemm_tn", a.offsets, N);
  if (present(a.dy_rows)) check_first_indices("grouped_gemm_tn", "dy_rows", a.dy_rows, routed, rows(a.dy));
  if (present(a.x_rows)) check_first_indices("grouped_gemm_tn", "x_rows", a.x_rows, routed, rows(a.x));
  for (int64_t g = 0; g < a.groups.count; g++) {
    const int64_t e = a.groups.items[g];
    int64_t column = 0;  // where segment s starts in dy
    for (int64_t s = 0; s < a.segments; s++) {
      const esft_tensor& dw = a.dw.items[g * a.segments + s];
      for (int64_t m = 0; m < rows(dw); m++)
        for (int64_t k = 0; k < K; k++) {
          double sum = 0;
          for (int64_t r = data<int32_t>(a.offsets)[e]; r < data<int32_t>(a.offsets)[e + 1]; r++) {
            const float dy = at(a.dy, source(a.dy_rows, r), column + m);
            const int64_t from = source(a.x_rows, r);
            const float scaled = present(a.dy_scale) ? data<float>(a.dy_scale)[r] * dy : dy;
            const double x_k =
                a.x_act ? gated(a.x_act, a.alpha, a.limit, at(a.x, from, k), at(a.x, from, K + k)).a : at(a.x, from, k);
            sum += operand(scaled, a.precision) * operand(x_k, a.precision);
          }
          f32_row(dw, m)[k] = float((a.accumulate ? f32_row(dw, m)[k] : 0.0) + sum);
        }
      column += rows(dw);
    }
  }
}

}  // namespace esft
