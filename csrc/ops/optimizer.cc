// Argument checks of grad_norm, saliency and adamw (contract: optimizer.h).
#include "arg_checks.h"

namespace esft {

static void expect_shape_of(const char* op, Argument name, const esft_tensor& t, const esft_tensor& parameter) {
  bool same = t.rank == parameter.rank;
  for (int d = 0; same && d < t.rank; d++) same = t.shape[d] == parameter.shape[d];
  if (!same) fail(op, name, "shaped like its parameter " + describe(parameter), describe(t));
}

void check_grad_norm(const esft_grad_norm_args& a) {
  ESFT_BEGIN_CHECK(grad_norm)
  expect_scalar(kOp, "norm", a.norm, ESFT_F64);
  for (int64_t i = 0; i < a.grads.count; i++) expect_dtype(kOp, {"grads", i}, a.grads.items[i], ESFT_F32);
  expect_apart_from_list(kOp, {"norm", a.norm}, "grads", a.grads);
}

void check_saliency(const esft_saliency_args& a) {
  ESFT_BEGIN_CHECK(saliency)
  if (a.grads.count != a.weights.count)
    fail(kOp, "grads", format("as long as weights (%lld)", (long long)a.weights.count), std::to_string(a.grads.count));
  expect_dtype(kOp, "squares", a.squares, ESFT_F64);
  expect_vector(kOp, "squares", a.squares, a.weights.count);
  for (int64_t i = 0; i < a.weights.count; i++) {
    expect_float_weight(kOp, {"weights", i}, a.weights.items[i]);
    expect_dtype(kOp, {"grads", i}, a.grads.items[i], ESFT_F32);
    expect_shape_of(kOp, {"grads", i}, a.grads.items[i], a.weights.items[i]);
  }
  expect_apart_from_list(kOp, {"squares", a.squares}, "weights", a.weights);
  expect_apart_from_list(kOp, {"squares", a.squares}, "grads", a.grads);
}

void check_adamw(const esft_adamw_args& a) {
  ESFT_BEGIN_CHECK(adamw)
  expect_finite(kOp, "max_norm", a.max_norm);
  expect_not_negative(kOp, "lr", a.lr);
  if (!(a.beta1 >= 0 && a.beta1 < 1)) fail(kOp, "beta1", "in [0, 1)", format("%g", a.beta1));
  if (!(a.beta2 >= 0 && a.beta2 < 1)) fail(kOp, "beta2", "in [0, 1)", format("%g", a.beta2));
  expect_not_negative(kOp, "eps", a.eps);
  expect_not_negative(kOp, "weight_decay", a.weight_decay);
  expect_range(kOp, "step", a.step, 1, kMaxI32);
  if (present(a.norm)) expect_scalar(kOp, "norm", a.norm, ESFT_F64);
  if (present(a.rates)) {
    expect_dtype(kOp, "rates", a.rates, ESFT_F64);
    expect_vector(kOp, "rates", a.rates, 2);
  }
  struct {
    const char* name;
    const esft_tensor_list& list;
    bool written;
  } lists[] = {{"params", a.params, true}, {"grads", a.grads, false}, {"m", a.m, true}, {"v", a.v, true}};
  for (auto& l : lists) {
    if (l.list.count != a.params.count)
      fail(kOp, l.name, format("as long as params (%lld)", (long long)a.params.count), std::to_string(l.list.count));
    for (int64_t i = 0; i < l.list.count; i++) {
      const Argument name(l.name, i);
      expect_dtype(kOp, name, l.list.items[i], ESFT_F32);
      expect_shape_of(kOp, name, l.list.items[i], a.params.items[i]);
    }
  }
  if (a.copies.count) {
    if (a.copies.count != a.params.count)
      fail(kOp, "copies", format("absent or as long as params (%lld)", (long long)a.params.count), std::to_string(a.copies.count));
    for (int64_t i = 0; i < a.copies.count; i++) {
      const Argument name("copies", i);
      const esft_tensor& t = a.copies.items[i];
      expect_dtype(kOp, name, t, ESFT_BF16);
      expect_shape_of(kOp, name, t, a.params.items[i]);
    }
  }
  Extents memory;
  for (auto& l : lists) memory.add(l.name, l.list, l.written);
  memory.add("copies", a.copies, true);
  memory.add("norm", a.norm, false);
  memory.add("rates", a.rates, false);
  memory.expect_apart(kOp);
}

}  // namespace esft
