// A weight that several tensors of a file stand for, and its values as f32: what the library that wrote it makes of it, bit for bit.
//
//   value = round((code - zero) * (scale / global) * factor)
//
// Codes are stored as [matrices, rows, cols]; a scale serves block_rows x block_cols of them (table4: block_cols codes of the flattened
// matrix, across rows). Every operation is one of f32, in the order written, without FMA; what a format lacks is left out.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

#include "../core/thread_pool.h"

namespace esft {

struct Bytes {
  const uint8_t* data = nullptr;
  int64_t size = 0;
};

// How codes are stored. X(enumerator, name in lib/files/quantised/packed.ts)
//   table4   two codes a byte, high nibble first, flattened; the value is table[code]       (bitsandbytes nf4, fp4)
//   e2m1     two codes a byte, low nibble first, rows of whole bytes                        (nvfp4, MXFP4)
//   int4, int8words   little-endian 32-bit words along a row, offset by half of the range   (compressed-tensors pack-quantized)
//   int8, e4m3        a byte each        f16   two
//   q8_0 ... mxfp4_block   blocks of GGUF with their scales inside (gguf.h)
#define ESFT_CODES(X)                                                                                               \
  X(kTable4, "table4") X(kE2m1, "e2m1") X(kInt4, "int4") X(kInt8Words, "int8words") X(kInt8, "int8") X(kE4m3, "e4m3") \
  X(kHalf, "f16") \
  X(kQ8_0, "q8_0") X(kQ4K, "q4_K") X(kQ6K, "q6_K") X(kMxfp4Block, "mxfp4_block")
//   power    2^(x - 127) in f32: 255 is infinite, and 0 * inf NaN     e8m0   the same, 255 is NaN
//   ldexp    code * 2^(x - 127) as one operation: 255 is 2^128, so that 0.5 becomes 2^127
//   nested   nested_table[x] * nested_scale[block / nested_block] + nested_offset
#define ESFT_SCALES(X)                                                                                                       \
  X(kNone, "none") X(kF32, "f32") X(kBf16, "bf16") X(kF16, "f16") X(kE4m3Scale, "e4m3") X(kE8m0, "e8m0") X(kPower, "power") \
  X(kLdexp, "ldexp") X(kNested, "nested")
//   What values are rounded to, in this order; what comes out is f32 or bf16.
#define ESFT_ROUNDINGS(X) X(kExact, "f32") X(kToBf16, "bf16") X(kToF16, "f16") X(kToF16ToBf16, "f16,bf16")
//   words    like the codes, packed down the rows     bytes    an i8 per scale
#define ESFT_ZEROS(X) X(kNoZeros, "none") X(kWords, "words") X(kI8, "bytes")
//   order: i32 [cols], the group of each column; with a -1 in it there is none, as compressed-tensors has it
#define ESFT_PARTS(X)                                                                                                       \
  X(kCodes, "codes") X(kScales, "scales") X(kTable, "table") X(kNestedScales, "nestedScales") X(kNestedTable, "nestedTable") \
  X(kZeros, "zeros") X(kOrder, "order") X(kGlobal, "global")

#define ESFT_ENUMERATOR(e, name) e,
enum Codes { ESFT_CODES(ESFT_ENUMERATOR) kCodesCount };
enum ScaleKind { ESFT_SCALES(ESFT_ENUMERATOR) kScaleCount };
enum Rounding { ESFT_ROUNDINGS(ESFT_ENUMERATOR) kRoundingCount };
enum ZeroKind { ESFT_ZEROS(ESFT_ENUMERATOR) kZeroCount };
enum Part { ESFT_PARTS(ESFT_ENUMERATOR) kPartCount };
#undef ESFT_ENUMERATOR

struct PackedWeight {
  std::string label;  // file and tensor, for messages
  Codes codes = kE4m3;
  ScaleKind scale = kNone;
  Rounding rounding = kExact;
  ZeroKind zeros = kNoZeros;
  int64_t matrices = 1, rows = 0, cols = 0;
  bool transposed = false;  // values are [matrices, cols, rows]
  int64_t block_rows = 1, block_cols = 1, nested_block = 1;
  float nested_offset = 0, factor = 1;
  Bytes parts[kPartCount];

  // Of the values: rows of all matrices together, and how long they are.
  int64_t value_rows() const { return matrices * (transposed ? cols : rows); }
  int64_t value_cols() const { return transposed ? rows : cols; }

  // Every part has exactly the bytes that the layout needs, so that nothing outside them is read whatever they hold. Throws Error.
  void check() const;
};

// Reads values. Made from a checked weight; looks at the order of columns. Throws Error where that names a group that is not there.
class PackedReader {
 public:
  explicit PackedReader(const PackedWeight& weight);
  // Rows [first, first + count) of the values, as f32 or bf16 (rounded once more if that is less than the weight's rounding).
  void read(int64_t first, int64_t count, float* out, ThreadPool& pool) const;
  void read(int64_t first, int64_t count, uint16_t* out, ThreadPool& pool) const;

 private:
  template <class T>
  void read_rows(int64_t first, int64_t count, T* out, ThreadPool& pool) const;
  template <class T>
  void read_block(int64_t first, int64_t count, T* out) const;
  void segment(int64_t matrix, int64_t row, int64_t begin, int64_t end, float* out) const;
  void code_values(int64_t matrix, int64_t row, int64_t begin, int64_t end, float* out) const;
  void scale_values(int64_t matrix, int64_t row, int64_t begin, int64_t end, float* out) const;
  float scale_at(int64_t index) const;
  float zero_at(int64_t row, int64_t group, int64_t scale_index) const;

  PackedWeight w_;
  std::vector<int32_t> order_;  // empty: columns are in order
  int64_t scale_rows_, scale_cols_, row_bytes_;
  float pairs_[256][2];  // the two values of a byte of 4-bit codes
  float global_ = 1;
};

// Bytes of one row of codes; -1: the columns do not fill whole bytes or blocks.
int64_t code_row_bytes(Codes codes, int64_t cols);
inline int64_t ceil_div(int64_t n, int64_t d) { return n / d + (n % d != 0); }

}  // namespace esft
