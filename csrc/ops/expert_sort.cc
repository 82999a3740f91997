// Argument checks of expert_sort and count_experts (contract: expert_sort.h).
#include "arg_checks.h"

namespace esft {

void check_expert_sort(const esft_expert_sort_args& a) {
  ESFT_BEGIN_CHECK(expert_sort)
  expect_dtype(kOp, "ids", a.ids, ESFT_I32);
  const int64_t T = rows(a.ids), K = cols(a.ids), N = T * K;
  expect_range(kOp, "ids", N, 0, kMaxI32);
  expect_i32(kOp, "offsets", a.offsets, -1);
  if (numel(a.offsets) < 2) fail(kOp, "offsets", "E + 1 offsets of E >= 1 experts", describe(a.offsets));
  expect_i32(kOp, "tokens", a.tokens, N);
  expect_dtype(kOp, "pos", a.pos, ESFT_I32);
  expect_matrix(kOp, "pos", a.pos, T, K);
  if (present(a.weights) != present(a.gate)) fail(kOp, "gate", "given exactly when weights is", describe(a.gate));
  if (present(a.weights)) {
    expect_f32(kOp, "weights", a.weights, T, K);
    expect_f32_vector(kOp, "gate", a.gate, N);
  }
  expect_apart(kOp, {"offsets", a.offsets},
               {{"ids", a.ids}, {"weights", a.weights}, {"tokens", a.tokens}, {"pos", a.pos}, {"gate", a.gate}});
  expect_apart(kOp, {"tokens", a.tokens}, {{"ids", a.ids}, {"weights", a.weights}, {"pos", a.pos}, {"gate", a.gate}});
  expect_apart(kOp, {"pos", a.pos}, {{"ids", a.ids}, {"weights", a.weights}, {"gate", a.gate}});
  expect_apart(kOp, {"gate", a.gate}, {{"ids", a.ids}, {"weights", a.weights}});
}

void check_count_experts(const esft_count_experts_args& a) {
  ESFT_BEGIN_CHECK(count_experts)
  expect_dtype(kOp, "ids", a.ids, ESFT_I32);
  expect_f32(kOp, "weights", a.weights, rows(a.ids), cols(a.ids));
  if (present(a.mask)) expect_i32(kOp, "mask", a.mask, rows(a.ids));
  expect_dtype(kOp, "counts", a.counts, ESFT_I64);
  expect_vector(kOp, "counts", a.counts, -1);
  expect_dtype(kOp, "gate_sums", a.gate_sums, ESFT_F64);
  expect_vector(kOp, "gate_sums", a.gate_sums, numel(a.counts));
  expect_apart(kOp, {"counts", a.counts}, {{"ids", a.ids}, {"weights", a.weights}, {"mask", a.mask}, {"gate_sums", a.gate_sums}});
  expect_apart(kOp, {"gate_sums", a.gate_sums}, {{"ids", a.ids}, {"weights", a.weights}, {"mask", a.mask}});
}

}  // namespace esft
