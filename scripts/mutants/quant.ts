// Planted bugs in what decodes weights that are quantised on disk: sizes of parts, order of codes, blocks, rounding.

import { of } from "./mutant.ts";

const golden = ["test/golden/quantised.test.ts"];
const refusals = ["test/addon/decode.test.ts"];

export const quant = [
  ...of(
    "quant/packed_check.cc",
    refusals,
    ["if («b.size != bytes || (bytes > 0 && !b.data)»)\n", "b.size < bytes"],
    ["|| «n > kMost») refuse", "false"],
    ["if («row_bytes < 0») refuse", "false"],
    ["if («matrices != 1 || transposed || zeros != kNoZeros || parts[kOrder].size»)\n", "false"],
    ["if («block_rows < 1 || block_cols < 1 || nested_block < 1») refuse", "false"],
  ),
  ...of(
    "quant/packed_weight.cc",
    refusals,
    ["if («order_[size_t(c)] < 0 || order_[size_t(c)] >= scale_cols_»)\n", "order_[size_t(c)] > scale_cols_"],
    ["case kE8m0: s = «scales[index] == 255 ? from_bits(kNan) : power_to_f32(scales[index])»; break;", "power_to_f32(scales[index])"],
    ["const int64_t end = std::min({w_.cols, begin + kTile, «begin + count - at»});", "begin + kTile"],
  ),
  ...of(
    "quant/packed_weight.cc",
    golden,
    ["const bool low = half == («w_.codes == kTable4»);", "w_.codes != kTable4"],
    ["if («first & 1 && n > 0») out[i++]", "false"],
    ["none = none || «order_[size_t(c)] == -1»;", "order_[size_t(c)] == -2"],
    ["if («w_.scale == kLdexp && w_.parts[kScales].data[index] == 255»)\n", "false"],
    ["return w_.parts[kGlobal].size ? «s / global_» : s;", "s * global_"],
    ["«s = s + w_.nested_offset;»", ""],
    ["load<uint32_t>(zeros + («row / per_word * scale_cols_ + group») * 4)", "row / per_word + group"],
    ["+ «row / w_.block_rows») * scale_cols_", "row"],
    ["const int64_t shift = «flat ? row * w_.cols : 0»;", "0"],
    ["if («w_.factor != 1»)\n", "false"],
  ),
  ...of(
    "quant/floats.h",
    golden,
    ["return uint16_t((b + «0x7fff + (b >> 16 & 1)») >> 16);", "0x8000"],
    ["return from_bits(x == 0 ? «0x00400000» : uint32_t(x) << 23);", "0"],
  ),
  ...of(
    "quant/gguf.cc",
    golden,
    ["out[16 + i] = 2 * kE2m1Values[«block[1 + i] >> 4»] * half;", "block[1 + i] & 15"],
    ["«(six[group + 4] & 15) | (six[group - 4] >> 6 << 4)»;", "six[group + 4] & 15"],
    ["(high[half * 32 + l] >> «(2 * quarter)» & 3) << 4;", "quarter"],
  ),
  ...of(
    "addon/tensor_decode.cc",
    refusals,
    ["if («buffer->read_only») fail", "false"],
    ["if («begin < 0 || end < begin || end > int64_t(m->buffer->bytes)»)\n", "false"],
    ["«rows > all - job->first_row»)\n", "false"],
  ),
];
