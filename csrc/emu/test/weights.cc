// Weights that are no plain numbers: no binding makes them yet, so that what refuses them is asked here.
#include "../../ops/checks.h"
#include "harness.h"

namespace esft::emu::test {

namespace {

esft_tensor matrix(std::vector<float>& memory, int64_t rows, int64_t columns) {
  memory.assign(size_t(rows * columns), 0.f);
  return {memory.data(), ESFT_F32, 2, {rows, columns, 0, 0}, columns};
}

esft_tensor none() {
  esft_tensor t{};
  t.rank = -1;
  return t;
}

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.status == ESFT_UNSUPPORTED ? error.message : "another status: " + error.message;
  }
  return "";
}

}  // namespace

void test_weights() {
  std::vector<float> memory[3];
  esft_gemm_args a{};
  a.a = matrix(memory[0], 4, 8);
  a.b.tensor = matrix(memory[1], 6, 8);
  a.b.scaling.scales = a.bias = a.residual = none();
  a.c = matrix(memory[2], 4, 6);
  check(refusal([&] { check_gemm(a); }).empty(), "a plain weight is served");
  a.b.scaling.scheme = ESFT_MXFP4;
  const char* const decode = "; products take plain f32 and bf16 weights: decode it first";
  check(refusal([&] { check_gemm(a); }) == std::string("gemm: b is stored as mxfp4") + decode, "another is refused by its name");
  a.b.scaling.scheme = 9;
  check(refusal([&] { check_gemm(a); }) == std::string("gemm: b is stored as scheme 9") + decode, "or by its number");

  int32_t ends[3] = {0, 1, 4};
  const esft_tensor items[2] = {a.b.tensor, a.b.tensor};
  esft_scaling scalings[2] = {};
  scalings[0].scales = scalings[1].scales = none();
  esft_grouped_gemm_nt_args g{};
  g.x = a.a;
  g.y = a.c;
  g.rows = g.residual = g.h = g.u = none();
  g.factor = 1;
  g.offsets = {ends, ESFT_I32, 1, {3, 0, 0, 0}, 3};
  g.w = {items, 2, nullptr};
  g.segments = 1;
  check(refusal([&] { check_grouped_gemm_nt(g); }).empty(), "a list of plain weights is served");
  g.w.scalings = scalings;
  check(refusal([&] { check_grouped_gemm_nt(g); }).empty(), "and one that says so of each");
  scalings[1].scheme = ESFT_FP8_BLOCKS;
  check(refusal([&] { check_grouped_gemm_nt(g); }) == std::string("grouped_gemm_nt: w[1] is stored as fp8 in blocks") + decode,
        "one of them that is not plain is refused");
}

}  // namespace esft::emu::test
