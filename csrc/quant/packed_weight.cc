// Packed weights as f32: codes, then scales, in pieces of a row; compiled without contraction, since FMA would change bits.
#include "packed_weight.h"

#include <algorithm>

#include "../core/check.h"
#include "floats.h"
#include "gguf.h"

namespace esft {

namespace {
constexpr int64_t kTaskValues = 1 << 15;  // of one task: long enough to be worth it, short enough for every thread to get some
constexpr int64_t kPiece = 1024;  // columns at a time: codes and values stay in the first cache; a multiple of any GGUF block
constexpr int64_t kTile = 64;  // of a transposed weight: rows and columns, whose rows lie kTileRow apart
constexpr int64_t kTileRow = kTile + 4;  // not in the same lines of the cache

struct E4m3Table {
  float values[256];
  E4m3Table() {
    for (int i = 0; i < 256; i++) values[i] = e4m3_to_f32(uint8_t(i));
  }
};
const E4m3Table kE4m3Table;

// Codes first .. first + n of bytes that hold two each; pairs has the values of every byte.
void nibbles(const uint8_t* bytes, int64_t first, int64_t n, const float (*pairs)[2], float* out) {
  int64_t i = 0;
  if (first & 1 && n > 0) out[i++] = pairs[bytes[first >> 1]][1];
  const uint8_t* at = bytes + ((first + i) >> 1);
  for (; i + 2 <= n; i += 2) memcpy(out + i, pairs[*at++], 2 * sizeof(float));
  if (i < n) out[i] = pairs[*at][0];
}

void store(const float* from, int64_t n, Rounding rounding, float* to) {
  switch (rounding) {
    case kToBf16:
      for (int64_t i = 0; i < n; i++) to[i] = bf16_to_f32(f32_to_bf16(from[i]));
      return;
    case kToF16:
      for (int64_t i = 0; i < n; i++) to[i] = round_f16(from[i]);
      return;
    case kToF16ToBf16:
      for (int64_t i = 0; i < n; i++) to[i] = bf16_to_f32(f32_to_bf16(round_f16(from[i])));
      return;
    case kExact:
    case kRoundingCount: std::copy_n(from, n, to);
  }
}
void store(const float* from, int64_t n, Rounding rounding, uint16_t* to) {
  if (rounding == kToF16 || rounding == kToF16ToBf16)
    for (int64_t i = 0; i < n; i++) to[i] = f32_to_bf16(round_f16(from[i]));
  else
    for (int64_t i = 0; i < n; i++) to[i] = f32_to_bf16(from[i]);
}
}  // namespace

PackedReader::PackedReader(const PackedWeight& weight) : w_(weight) {
  w_.check();
  scale_rows_ = ceil_div(w_.rows, w_.block_rows);
  scale_cols_ = ceil_div(w_.cols, w_.block_cols);
  row_bytes_ = code_row_bytes(w_.codes, w_.cols);
  for (int byte = 0; byte < 256; byte++)
    for (int half = 0; half < 2; half++) {
      const bool low = half == (w_.codes == kTable4);  // of bitsandbytes the high nibble is the first
      const int code = low ? byte & 15 : byte >> 4;
      pairs_[byte][half] = w_.codes == kTable4 ? load<float>(w_.parts[kTable].data + 4 * code)
                           : w_.codes == kInt4 ? float(code - 8)
                                               : kE2m1Values[code];
    }
  if (w_.parts[kGlobal].size) global_ = load<float>(w_.parts[kGlobal].data);
  if (!w_.parts[kOrder].size) return;
  order_.resize(size_t(w_.cols));
  bool none = false;
  for (int64_t c = 0; c < w_.cols; c++) {
    order_[size_t(c)] = load<int32_t>(w_.parts[kOrder].data + 4 * c);
    none = none || order_[size_t(c)] == -1;
  }
  if (none) {
    order_.clear();
    return;
  }
  for (int64_t c = 0; c < w_.cols; c++)
    if (order_[size_t(c)] < 0 || order_[size_t(c)] >= scale_cols_)
      throw Error(ESFT_BAD_ARGUMENT, "decode", "order",
                  w_.label + format(": expected groups below %lld in its order of columns, found %d for column %lld",
                                    (long long)scale_cols_, order_[size_t(c)], (long long)c));
}

void PackedReader::code_values(int64_t matrix, int64_t row, int64_t begin, int64_t end, float* out) const {
  const uint8_t* codes = w_.parts[kCodes].data;
  if (w_.codes == kTable4) return nibbles(codes, row * w_.cols + begin, end - begin, pairs_, out);
  codes += (matrix * w_.rows + row) * row_bytes_;
  auto each = [&](auto value) {
    for (int64_t c = begin; c < end; c++) out[c - begin] = value(c);
  };
  auto blocks = [&](int64_t values, int64_t bytes, void (*decode)(const uint8_t*, float*)) {
    float block[256];
    for (int64_t b = begin / values; b * values < end; b++) {
      decode(codes + b * bytes, block);
      const int64_t from = std::max(begin, b * values), to = std::min(end, (b + 1) * values);
      std::copy_n(block + (from - b * values), to - from, out + (from - begin));
    }
  };
  switch (w_.codes) {
    case kE2m1:
    case kInt4: return nibbles(codes, begin, end - begin, pairs_, out);
    case kInt8Words: return each([&](int64_t c) { return float(int(codes[c]) - 128); });
    case kInt8: return each([&](int64_t c) { return float(int8_t(codes[c])); });
    case kE4m3: return each([&](int64_t c) { return kE4m3Table.values[codes[c]]; });
    case kHalf: return each([&](int64_t c) { return f16_to_f32(load<uint16_t>(codes + 2 * c)); });
    case kQ8_0: return blocks(32, 34, q8_0_block);
    case kQ4K: return blocks(256, 144, q4_K_block);
    case kQ6K: return blocks(256, 210, q6_K_block);
    case kMxfp4Block: return blocks(32, 17, mxfp4_block);
    case kTable4:
    case kCodesCount: return;
  }
}

float PackedReader::scale_at(int64_t index) const {
  const uint8_t* scales = w_.parts[kScales].data;
  float s = 1;
  switch (w_.scale) {
    case kF32: s = load<float>(scales + 4 * index); break;
    case kBf16: s = bf16_to_f32(load<uint16_t>(scales + 2 * index)); break;
    case kF16: s = f16_to_f32(load<uint16_t>(scales + 2 * index)); break;
    case kE4m3Scale: s = kE4m3Table.values[scales[index]]; break;
    case kE8m0: s = scales[index] == 255 ? from_bits(kNan) : power_to_f32(scales[index]); break;
    case kPower: s = power_to_f32(scales[index]); break;
    case kLdexp: s = power_to_f32(std::min<uint8_t>(scales[index], 254)); break;  // scale_values doubles 255
    case kNested:
      s = load<float>(w_.parts[kNestedTable].data + 4 * scales[index]) *
          load<float>(w_.parts[kNestedScales].data + index / w_.nested_block * 4);
      s = s + w_.nested_offset;
      break;
    case kNone:
    case kScaleCount: break;
  }
  return w_.parts[kGlobal].size ? s / global_ : s;
}

float PackedReader::zero_at(int64_t row, int64_t group, int64_t scale_index) const {
  const uint8_t* zeros = w_.parts[kZeros].data;
  if (w_.zeros == kI8) return float(int8_t(zeros[scale_index]));
  if (w_.zeros != kWords) return 0;
  const int64_t bits = w_.codes == kInt4 ? 4 : 8, per_word = 32 / bits;
  const uint32_t word = load<uint32_t>(zeros + (row / per_word * scale_cols_ + group) * 4);
  return float(int(word >> (row % per_word * bits) & ((1u << bits) - 1)) - (1 << (bits - 1)));
}

void PackedReader::scale_values(int64_t matrix, int64_t row, int64_t begin, int64_t end, float* out) const {
  if (w_.scale == kNone) return;
  const bool flat = w_.codes == kTable4;
  const int64_t scale_row = flat ? 0 : (matrix * scale_rows_ + row / w_.block_rows) * scale_cols_;
  const int64_t shift = flat ? row * w_.cols : 0;  // of columns against blocks
  for (int64_t c = begin; c < end;) {
    const int64_t group = order_.empty() ? (shift + c) / w_.block_cols : order_[size_t(c)], index = scale_row + group;
    const int64_t stop = order_.empty() ? std::min(end, (group + 1) * w_.block_cols - shift) : c + 1;
    const float s = scale_at(index);
    float* at = out + (c - begin);
    const int64_t n = stop - c;
    if (w_.zeros != kNoZeros) {
      const float zero = zero_at(row, group, index);
      for (int64_t i = 0; i < n; i++) at[i] = at[i] - zero;
    }
    if (w_.scale == kLdexp && w_.parts[kScales].data[index] == 255)
      for (int64_t i = 0; i < n; i++) at[i] = 2 * at[i];
    for (int64_t i = 0; i < n; i++) at[i] = at[i] * s;
    if (w_.factor != 1)
      for (int64_t i = 0; i < n; i++) at[i] = at[i] * w_.factor;
    c = stop;
  }
}

void PackedReader::segment(int64_t matrix, int64_t row, int64_t begin, int64_t end, float* out) const {
  code_values(matrix, row, begin, end, out);
  scale_values(matrix, row, begin, end, out);
}

template <class T>
void PackedReader::read_block(int64_t first, int64_t count, T* out) const {
  if (!w_.transposed) {
    float values[kPiece];
    for (int64_t r = 0; r < count; r++)
      for (int64_t c = 0; c < w_.cols; c += kPiece) {
        const int64_t end = std::min(w_.cols, c + kPiece);
        segment((first + r) / w_.rows, (first + r) % w_.rows, c, end, values);
        store(values, end - c, w_.rounding, out + r * w_.cols + c);
      }
    return;
  }
  float values[kTile * kTileRow], column[kTile];
  for (int64_t at = 0; at < count;) {
    const int64_t matrix = (first + at) / w_.cols, begin = (first + at) % w_.cols;
    const int64_t end = std::min({w_.cols, begin + kTile, begin + count - at});
    for (int64_t row = 0; row < w_.rows; row += kTile) {
      const int64_t n = std::min(kTile, w_.rows - row);
      for (int64_t r = 0; r < n; r++) segment(matrix, row + r, begin, end, values + r * kTileRow);
      for (int64_t c = begin; c < end; c++) {
        for (int64_t r = 0; r < n; r++) column[r] = values[r * kTileRow + c - begin];
        store(column, n, w_.rounding, out + (at + c - begin) * w_.rows + row);
      }
    }
    at += end - begin;
  }
}

template <class T>
void PackedReader::read_rows(int64_t first, int64_t count, T* out, ThreadPool& pool) const {
  struct Tasks {
    const PackedReader* reader;
    int64_t first, count, step;
    T* out;
  };
  const int64_t width = w_.value_cols();
  int64_t step = std::max<int64_t>(1, kTaskValues / width);
  if (w_.transposed) step = ceil_div(step, kTile) * kTile;
  Tasks tasks{this, first, count, step, out};
  pool.parallel_for(
      ceil_div(count, step),
      [](void* data, int64_t i, int) {
        const Tasks& t = *static_cast<Tasks*>(data);
        const int64_t at = i * t.step;
        t.reader->read_block(t.first + at, std::min(t.step, t.count - at), t.out + at * t.reader->w_.value_cols());
      },
      &tasks);
}

void PackedReader::read(int64_t first, int64_t count, float* out, ThreadPool& pool) const { read_rows(first, count, out, pool); }
void PackedReader::read(int64_t first, int64_t count, uint16_t* out, ThreadPool& pool) const { read_rows(first, count, out, pool); }

}  // namespace esft
