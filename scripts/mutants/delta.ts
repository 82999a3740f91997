// Planted bugs in linear attention and what stands around it: borders of documents and chunks, triangles, decays, sums over heads.

import { of, ops } from "./mutant.ts";

export const delta = [
  ...of(
    "cpu/rows/causal_conv.cc",
    ops("causal_conv"),
    ["return «max_of(0, w - 1 - (t - doc_start[t]))»;", "max_of(0, w - 1 - t)"],
    ["vf sum = «load_n(bias + c, m)»;", "vf{}"],
    ["last = «min_of(T, end + w - 1)»;", "end"],
    ["t + reach + 1 < T && «v.doc_start[t + reach + 1] <= t») reach++;", "true"],
    ["«bias += dh;»", ""],
    ["float* mine = partial + «begin / kChunk» * (w + 1) * pitch;", "int64_t(0)"],
  ),
  ...of(
    "cpu/attention/delta_chunk.h",
    ops("delta_rule"),
    ["for (d1 = d0 + 1; d1 < T && «doc_start[d1] != d1»;) d1++;", "true"],
    ["(splat(hi[t]) - load(hi + s)) + «(splat(lo[t]) - load(lo + s))»", "vf{}"],
    ["minus_beta * «d» * load(keys.kk.row(t) + c)", "splat(1.0f)"],
    ["select(lanes_in(c, 0, «t + 1»), d * load(keys.qk", "t"],
    ["decayed = splat(u ? «gamma[t]» : 0.0f);", "1.0f"],
    ["const vf e = splat(«rest[t]»);", "1.0f"],
    ["const vf e = splat(«gamma[n - 1]»);", "1.0f"],
    ["«if (b > 0) multiply<kRows>(m, d, b, {nl.row(b), nl.ld}, x, {x.row(b), x.ld}, true);»", ""],
    ["for (int64_t i = «after - 2»; i >= b; i--) {", "after - 3"],
  ),
  ...of(
    "cpu/attention/delta_rule.cc",
    ops("delta_rule"),
    ["const bool first = !kept && «t0 == d.begin», last", "t0 == 0"],
    ["const int64_t head = «key_head * s.group + i»;", "key_head"],
    ["const vf e = splat(«w.decays.gamma[t]»);", "1.0f"],
  ),
  ...of(
    "cpu/attention/delta_rule_backward.cc",
    ops("delta_rule"),
    ["float sum = «dgamma_end»;", "0.0f"],
    ["multiply<kCols>(n, s.dk, n, w.gm, keys.k, w.dw, «true», kUpper);", "false"],
    ["dbeta_row[t] += «dot_rows(z, keys.k.row(t), s.dk)»;", "0.0f"],
    ["store(q + c, «i > 0 ? load(q + c) + load(x + c) : load(x + c)»);", "load(x + c)"],
    ["dot = splat(dot_rows(g, u, d) / «(scale * scale)»)", "1.0f"],
  ),
  ...of(
    "cpu/rows/delta_gates.cc",
    ops("delta_rule"),
    ["p = p * s2 + splat(«1.0f / 3»);", "0.0f"],
    ["return «-vexp(load_n(a_log + i, m))»;", "vexp(load_n(a_log + i, m))"],
    ["data<float>(y)[h] += partial[(2 * i + «which») * pitch + h];", "0"],
  ),
  ...of("cpu/rows/regroup.cc", ops("regroup"), ["by_group = «g * width + before»;", "g * width"]),
  ...of("cpu/rows/multiply.cc", ops("multiply"), ["d * xa * «(silu_of_b ? silu_slope(xb) : splat(1.0f))»", "splat(1.0f)"]),
];
