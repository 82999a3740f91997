// Operands of the Hopper kernels as maps of the copy engine and segments of a contraction (gemm_sm90.h).
#include "gemm_sm90.h"

namespace esft::cuda::sm90 {

namespace {

// Bytes from the weights of one expert to those of the next; 0 for one expert, -1 when they are no stack.
int64_t distance_of(const Operands::Weights& w, int64_t first) {
  const auto at = [&](int64_t e) -> const esft_tensor& { return w.items[e * w.per_expert + first]; };
  const auto address = [&](int64_t e) { return reinterpret_cast<intptr_t>(at(e).data); };
  const int64_t experts = w.count / w.per_expert;
  if (experts == 1) return 0;
  const int64_t distance = address(1) - address(0);
  for (int64_t e = 1; e < experts; e++)
    if (at(e).dtype != at(0).dtype || rows(at(e)) != rows(at(0)) || cols(at(e)) != cols(at(0)) || at(e).ld != at(0).ld ||
        address(e) - address(e - 1) != distance)
      return -1;
  return distance >= rows(at(0)) * at(0).ld * 2 ? distance : -1;
}

}  // namespace

bool Operands::add_a(const esft_tensor& t, int box_rows, int32_t* which) {
  if (of_a_ == kMapsOfA || !encode_tensor_map(&maps.a[of_a_], t, box_rows)) return false;
  *which = of_a_++;
  return true;
}

bool Operands::add_segment(Contraction* contraction, int32_t a, int64_t column, const Weights& w, int64_t length, int box_rows) {
  if (contraction->count == kMaxSegments) return false;
  Segment s{};
  s.a = a;
  s.column = int32_t(column);
  s.length = int32_t(length);
  s.per_expert = int32_t(w.per_expert);
  s.b = of_b_;
  s.parts = int32_t(w.parts);
  bool stack = of_b_ + w.parts <= kMapsOfB;
  for (int64_t i = 0; i < w.parts && stack; i++) {
    const int64_t distance = distance_of(w, w.first + i);
    stack = distance >= 0 && encode_stack_map(&maps.b[of_b_ + i], w.items[w.first + i], w.count / w.per_expert, distance, box_rows);
  }
  if (stack) {
    of_b_ += int(w.parts);
  } else {
    const CUtensorMap* table = context_.tensor_maps(w.items, w.count, box_rows);
    if (!table) return false;
    s.table = table + w.first;
  }
  contraction->segments[contraction->count++] = s;
  contraction->steps += int32_t(ceil_div(length, kTileK));
  return true;
}

// part: columns of a stretch that tiles begin with.
Out Operands::out_of(const esft_tensor& t, bool accumulate, int64_t part, CUtensorMap* map) const {
  const bool f32 = t.dtype == ESFT_F32;
  const bool vectors = !f32 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.ld % 8 == 0 && part % 8 == 0;
  return {t.data, t.ld, f32, accumulate, vectors, vectors && context_.tma_stores && encode_tensor_map(map, t, 16)};
}

}  // namespace esft::cuda::sm90
