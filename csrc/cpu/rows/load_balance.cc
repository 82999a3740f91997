// load_balance: one pass over the rows; the loss is summed over fixed chunks in order.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

void load_balance(const esft_load_balance_args& a, Context& ctx) {
  const int64_t T = rows(a.probs), E = cols(a.probs);
  const int32_t* offsets = data<int32_t>(a.offsets);
  check_offsets("load_balance", a.offsets, offsets[E]);
  if (offsets[E] == 0 || T == 0) return;
  constexpr int64_t kRows = 256;
  const int64_t chunks = ceil_div(T, kRows);
  double* partial = static_cast<double*>(ctx.shared_scratch(chunks * 8 + E * 4));
  float* pull = reinterpret_cast<float*>(partial + chunks);
  for (int64_t e = 0; e < E; e++) pull[e] = float(double(E) * (offsets[e + 1] - offsets[e]) / offsets[E]);
  const float coefficient = float(present(a.scale) ? *data<double>(a.scale) : a.coefficient);
  for_chunks(ctx, T, kRows, 2 * E, [&](int64_t begin, int64_t end, int) {
    double sum = 0;
    for (int64_t t = begin; t < end; t++) {
      const float* p = row_of<const float>(a.probs, t);
      float* d = row_of<float>(a.dlogits, t);
      vf acc = {};
      int64_t e = 0;
      for (; e + W <= E; e += W) acc += load(p + e) * load(pull + e);
      if (e < E) acc += load_part(p + e, E - e) * load_part(pull + e, E - e);
      const float dot = hsum(acc);
      for (e = 0; e + W <= E; e += W) store(d + e, load(d + e) + splat(coefficient) * load(p + e) * (load(pull + e) - splat(dot)));
      for (; e < E; e++) d[e] += coefficient * p[e] * (pull[e] - dot);
      sum += double(dot);
    }
    partial[begin / kRows] = sum;
  });
  if (!present(a.loss)) return;
  double loss = 0;
  for (int64_t c = 0; c < chunks; c++) loss += partial[c];
  data<double>(a.loss)[0] += loss / double(T);
}

}  // namespace esft::cpu::ESFT_ISA
