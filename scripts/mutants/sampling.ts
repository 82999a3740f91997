// Planted bugs in sampling: order and ties, bounds of what is kept, sums, the penalty.

import { of, ops } from "./mutant.ts";

export const sampling = [
  ...of(
    "cpu/rows/sample_select.h",
    ops("sample"),
    ["const vi i = as_i(«x + vf{}»);", "x"],
    ["if (n >= W) return load(x);\n  vf v = «splat(-kInf)»;", "vf{}"],
    ["(lanes_from(i) <= «int32_t(row.last)»)", "int32_t(row.V)"],
    ["if (row.z[i] == value && «--nth == 0») return i;", "true"],
    ["const uint32_t key = uint32_t(«bin») << kShift[0],", "bin + 1"],
    ["below += («even == 0 ? w.even : vq{}»)", "vq{}"],
    ["row.bins[i] += «row.bins[part * (kBins + 1) + i]»;", "0"],
    ["uint64_t sum = «row.bins[kBins]»;", "0"],
    ["uint64_t(share >> 64) + «(uint64_t(share) != 0)»;", "1"],
    ["take = each ? «(wanted + each - 1) / each» : 1;", "wanted / each"],
    ["«row.target = uint64_t(row.top_k);»", "row.target = uint64_t(row.top_k) + 1;"],
    ["begin_pass(row, «row.pass == kCount && row.top_p < 1» ?", "false"],
    ["    «row.last = find_equal(row, value, take);»", "row.last = row.V - 1;"],
    ["else if («!(value == row.cut)»)", "true"],
  ),
  ...of(
    "cpu/rows/sample.cc",
    ops("sample"),
    ["bad |= «~(v < splat(kInf))»;", "vi{}"],
    ["if (n == N && !(«x > values[N - 1]»)) return;", "x >= values[N - 1]"],
    ["x > 0 ? x / penalty : «x * penalty»;", "x / penalty"],
    ["«row.maxima[seen[i] / kBlock] = kNaN;»", ""],
    ["w.odd = «w.odd >= least ? w.odd : vq{}»;", "w.odd"],
    ["if («before <= target») continue;", "before < target"],
    ["while («before + row.chunks[c].weight <= target») before", "before + row.chunks[c].weight < target"],
  ),
  ...of(
    "ops/sample.cc",
    ops("sample"),
    ["return x >= 0 && «x < 1»; });", "x <= 1"],
    ['check_first_indices("sample", "seen", a.seen, «n», cols', "numel(a.seen)"],
    ['«if (present(a.top_k)) check_indices("sample", "top_k", a.top_k, kMaxI32 + 1);»', ""],
  ),
];
