// Has every part of a packed weight exactly the bytes that its layout needs?
#include "../core/check.h"
#include "packed_weight.h"

namespace esft {

namespace {
constexpr int64_t kMost = int64_t(1) << 46;  // elements: their bytes, and sums of a few, stay far below 2^63

[[noreturn]] void refuse(const PackedWeight& w, const std::string& fault) {
  throw Error(ESFT_BAD_ARGUMENT, "decode", "weight", w.label + ": " + fault);
}

int64_t product(const PackedWeight& w, int64_t a, int64_t b) {
  int64_t n;
  if (__builtin_mul_overflow(a, b, &n) || n > kMost) refuse(w, "expected at most 2^46 elements, found more");
  return n;
}

const char* kPartNames[] = {
#define ESFT_NAME(e, name) name,
    ESFT_PARTS(ESFT_NAME)};

void expect(const PackedWeight& w, Part part, int64_t bytes) {
  const Bytes& b = w.parts[part];
  if (b.size != bytes || (bytes > 0 && !b.data))
    refuse(w, format("expected %lld bytes of %s, found %lld", (long long)bytes, kPartNames[part], (long long)b.size));
}

int64_t scale_bytes(ScaleKind kind) {
  switch (kind) {
    case kNone:
    case kScaleCount: return 0;
    case kF32: return 4;
    case kBf16:
    case kF16: return 2;
    case kE4m3Scale:
    case kE8m0:
    case kPower:
    case kLdexp:
    case kNested: return 1;
  }
  return 0;
}
}  // namespace

int64_t code_row_bytes(Codes codes, int64_t cols) {
  auto blocks = [cols](int64_t values, int64_t bytes) { return cols % values ? -1 : cols / values * bytes; };
  switch (codes) {
    case kTable4:
    case kCodesCount: return -1;
    case kE2m1: return blocks(2, 1);
    case kInt4: return ceil_div(cols, 8) * 4;
    case kInt8Words: return ceil_div(cols, 4) * 4;
    case kInt8:
    case kE4m3: return cols;
    case kHalf: return 2 * cols;
    case kQ8_0: return blocks(32, 34);
    case kQ4K: return blocks(256, 144);
    case kQ6K: return blocks(256, 210);
    case kMxfp4Block: return blocks(32, 17);
  }
  return -1;
}

void PackedWeight::check() const {
  if (matrices < 1 || rows < 1 || cols < 1) refuse(*this, "expected sizes of at least 1");
  if (block_rows < 1 || block_cols < 1 || nested_block < 1) refuse(*this, "expected blocks of at least 1");
  if (codes >= kQ8_0 && scale != kNone) refuse(*this, "expected no scales beside blocks that hold them");
  const int64_t all_rows = product(*this, matrices, rows), size = product(*this, all_rows, cols);
  int64_t scales, scale_cols = 0;
  if (codes == kTable4) {
    if (matrices != 1 || transposed || zeros != kNoZeros || parts[kOrder].size)
      refuse(*this, "expected one matrix without zero points and order");
    expect(*this, kCodes, ceil_div(size, 2));
    expect(*this, kTable, 16 * 4);
    scales = ceil_div(size, block_cols);
  } else {
    const int64_t row_bytes = code_row_bytes(codes, cols);
    if (row_bytes < 0) refuse(*this, "expected columns that fill whole bytes and blocks");
    product(*this, all_rows, row_bytes);
    expect(*this, kCodes, all_rows * row_bytes);
    expect(*this, kTable, 0);
    scale_cols = ceil_div(cols, block_cols);
    scales = product(*this, product(*this, matrices, ceil_div(rows, block_rows)), scale_cols);
  }
  expect(*this, kScales, scales * scale_bytes(scale));
  const bool nested = scale == kNested;
  expect(*this, kNestedScales, nested ? ceil_div(scales, nested_block) * 4 : 0);
  expect(*this, kNestedTable, nested ? 256 * 4 : 0);
  if (zeros == kWords) {
    if (matrices != 1 || block_rows != 1 || (codes != kInt4 && codes != kInt8Words))
      refuse(*this, "expected packed zero points beside packed rows only");
    expect(*this, kZeros, ceil_div(rows, codes == kInt4 ? 8 : 4) * 4 * scale_cols);
  } else {
    expect(*this, kZeros, zeros == kI8 ? scales : 0);
  }
  if (parts[kOrder].size) expect(*this, kOrder, cols * 4);
  if (parts[kGlobal].size) expect(*this, kGlobal, 4);
  if (scale == kNone && (zeros != kNoZeros || parts[kOrder].size || parts[kGlobal].size)) refuse(*this, "expected scales");
}

}  // namespace esft
