// Checks of sample (contract: sample.h): of its arguments, and of the values in its vectors.
#include "arg_checks.h"

namespace esft {

void check_sample(const esft_sample_args& a) {
  ESFT_BEGIN_CHECK(sample)
  expect_f32(kOp, "logits", a.logits, -1, -1);
  const int64_t R = rows(a.logits), V = cols(a.logits);
  expect_range(kOp, "logits", V, 1, int64_t(1) << sampling::kMaxVocabularyBits);
  expect_range(kOp, "logits", R, 0, 65535);
  if (present(a.temperature)) expect_f32_vector(kOp, "temperature", a.temperature, R);
  if (present(a.temperature) != present(a.u)) fail(kOp, "u", "given exactly when temperature is", describe(a.u));
  if (present(a.u)) {
    expect_dtype(kOp, "u", a.u, ESFT_F64);
    expect_vector(kOp, "u", a.u, R);
  } else {
    expect_absent(kOp, "top_k", a.top_k, "without temperature");
    expect_absent(kOp, "top_p", a.top_p, "without temperature");
    expect_absent(kOp, "min_p", a.min_p, "without temperature");
  }
  if (present(a.top_k)) expect_i32(kOp, "top_k", a.top_k, R);
  if (present(a.top_p)) expect_f32_vector(kOp, "top_p", a.top_p, R);
  if (present(a.min_p)) expect_f32_vector(kOp, "min_p", a.min_p, R);
  const bool penalised = present(a.repetition_penalty);
  if (penalised) expect_f32_vector(kOp, "repetition_penalty", a.repetition_penalty, R);
  for (const Named& n : {Named{"seen", a.seen}, Named{"seen_offsets", a.seen_offsets}})
    if (present(n.t) != penalised) fail(kOp, n.name, "given exactly when repetition_penalty is", describe(n.t));
  if (penalised) {
    expect_i32(kOp, "seen", a.seen, -1);
    expect_range(kOp, "seen", numel(a.seen), 0, kMaxI32);
    expect_i32(kOp, "seen_offsets", a.seen_offsets, R + 1);
  }
  expect_i32(kOp, "ids", a.ids, R);
  expect_f32_vector(kOp, "logprob", a.logprob, R);
  if (present(a.top_ids) != present(a.top_logprobs))
    fail(kOp, "top_logprobs", "given exactly when top_ids is", describe(a.top_logprobs));
  if (present(a.top_ids)) {
    expect_dtype(kOp, "top_ids", a.top_ids, ESFT_I32);
    expect_matrix(kOp, "top_ids", a.top_ids, R, -1);
    expect_range(kOp, "top_ids", cols(a.top_ids), 1, V < sampling::kMaxTop ? V : sampling::kMaxTop);
    expect_f32(kOp, "top_logprobs", a.top_logprobs, R, cols(a.top_ids));
  }
  const Named outputs[] = {{"ids", a.ids}, {"logprob", a.logprob}, {"top_ids", a.top_ids}, {"top_logprobs", a.top_logprobs}};
  for (const Named& out : outputs) {
    expect_apart(kOp, out,
                 {{"logits", a.logits},
                  {"temperature", a.temperature},
                  {"u", a.u},
                  {"top_k", a.top_k},
                  {"top_p", a.top_p},
                  {"min_p", a.min_p},
                  {"repetition_penalty", a.repetition_penalty},
                  {"seen", a.seen},
                  {"seen_offsets", a.seen_offsets}});
    for (const Named& other : outputs)
      if (&other > &out) expect_apart(kOp, out, {other});
  }
}

namespace {

template <class T, class Good>
void check_numbers(const char* argument, const esft_tensor& t, const char* expected, Good good) {
  if (!present(t)) return;
  for (int64_t r = 0; r < numel(t); r++) {
    const double x = double(data<T>(t)[r]);
    if (!good(x))
      fail_status(ESFT_BAD_ARGUMENT, "sample", argument,
                  format("%s[%lld] must be %s, received %g", argument, (long long)r, expected, x));
  }
}

}  // namespace

void check_sample_values(const esft_sample_args& a) {
  const auto share = [](double x) { return x >= 0 && x <= 1; };
  check_numbers<float>("temperature", a.temperature, "finite and >= 0", [](double x) { return x >= 0 && std::isfinite(x); });
  check_numbers<double>("u", a.u, "in [0, 1)", [](double x) { return x >= 0 && x < 1; });
  if (present(a.top_k)) check_indices("sample", "top_k", a.top_k, kMaxI32 + 1);
  check_numbers<float>("top_p", a.top_p, "in 0..1", share);
  check_numbers<float>("min_p", a.min_p, "in 0..1", share);
  check_numbers<float>("repetition_penalty", a.repetition_penalty, "finite and > 0",
                       [](double x) { return x > 0 && std::isfinite(x); });
  if (!present(a.seen)) return;
  const int64_t n = check_offsets("sample", a.seen_offsets, numel(a.seen), "seen_offsets", "ids");
  check_first_indices("sample", "seen", a.seen, n, cols(a.logits));
}

}  // namespace esft
