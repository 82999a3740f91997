// Planted bugs in what decoding alone reaches: attention over caches, states that sequences carry, products that stream their weights or are of
// single heads.

import { of, ops } from "./mutant.ts";

export const decoding = [
  ...of(
    "cpu/attention/attention_cached.cc",
    ops("attention_cached"),
    ["const int64_t row = «positions[t] % room(t)»;", "positions[t]"],
    ["const int64_t row = «p % size», n = min_of", "int64_t(0)"],
    ["n = min_of(to - p, «size - row»);", "to - p"],
    ["from = «max_of(begin, first(t))»;", "begin"],
    ["to = min_of(begin + kStretch, «(int64_t)positions[t] + 1»);", "(int64_t)positions[t]"],
    ["if («g.dr») dot(key + tail", "false"],
    ["«add = true;»", ""],
    ["«sum.l[h] * x» + more.l[h] * y", "sum.l[h]"],
    ["sum = «sum * factor» + exp2v", "sum"],
    ["for (int64_t j = 1; j < «stretches(t)»; j++) join", "2"],
  ),
  ...of(
    "cpu/rows/causal_conv.cc",
    ops("causal_conv"),
    ["data<float>(a.states.items[«document[t]»])", "0"],
    ["+ «(t - v.doc_start[t])» * v.C : nullptr", "0"],
    ["state + «(fresh + r)» * v.C;", "r"],
  ),
  ...of(
    "cpu/attention/delta_rule.cc",
    ops("delta_rule"),
    ["last = «!kept && t0 + n == d.end»;", "t0 + n == d.end"],
    ["«if (kept) store_states(s, w, kept, key_head);»", ""],
  ),
  ...of(
    "cpu/gemm/gemm_stream.cc",
    ops("gemm", "grouped_gemm"),
    ["for (; m - i > 2; i += 4) dots<P, 4, R>(w, ld, «x + i», k", "x"],
    ["const int64_t whole = «k - k % P::kStep»;", "k / P::kStep * P::kStep - P::kStep"],
    ["const int64_t at = (from - first) * seg.ld + «b.k0»;", "b.k0 + 1"],
    ["float* y = out + «(from - n0)»;", "0"],
    ["«if (b.term.k) add_term(b, n0, n1, out);»", ""],
    ["const float* u = row_at(b.term.u, i) + «p * b.term.rank»;", "0"],
    ["columns(«b.n + j», b.n + j + n, tile + W);", "j"],
  ),
  ...of(
    "cpu/gemm/heads_gemm.cc",
    ops("heads_gemm"),
    ["const int64_t first = «(h * w_dim + a.first_row)» * w.ld", "h * w_dim"],
    ["b.a = {data<const float>(a.x) + «h * x_dim», a.x.ld", "h * b.k"],
    ["b.out.c = data<float>(a.y) + «h * y_dim»;", "h * n"],
    ["for (; i + 2 <= m; i += 2) sums_of_columns<T, 2, kWhole>(w, ld, k, «x + i * pitch»", "x"],
    ["«x = scratch;»", ""],
    ["c1 = «min_of(c0 + kTaskColumns, b.n)»;", "c0 + min_of(kTaskColumns, b.n - c0 - (c0 > 0))"],
  ),
];
