// Argument checks of topk_route and route_backward (contract: topk_route.h).
#include "arg_checks.h"

namespace esft {

namespace {

void check_mixer(const char* op, const esft_tensor& ids) {
  if (cols(ids) > 32) fail(op, "ids", "[T, K] with K <= 32 under score 3", describe(ids));
}
void check_expert_scale(const char* op, const esft_tensor& scale, int64_t E) {
  if (!present(scale)) return;
  expect_float_weight(op, "expert_scale", scale);
  expect_vector(op, "expert_scale", scale, E);
}

}  // namespace

void check_topk_route(const esft_topk_route_args& a) {
  ESFT_BEGIN_CHECK(topk_route)
  expect_range(kOp, "score", a.score, 0, 3);
  expect_not_negative(kOp, "jitter", a.jitter);
  expect_flag(kOp, "group_score", a.group_score);
  expect_flag(kOp, "drop", a.drop);
  expect_flag(kOp, "renormalize", a.renormalize);
  expect_not_negative(kOp, "norm_eps", a.norm_eps);
  expect_finite(kOp, "scale", a.scale);
  expect_f32(kOp, "logits", a.logits, -1, -1);
  const int64_t T = rows(a.logits), E = cols(a.logits);
  expect_range(kOp, "logits", E, 1, 65536);
  if (present(a.bias)) expect_f32_vector(kOp, "bias", a.bias, E);
  expect_dtype(kOp, "ids", a.ids, ESFT_I32);
  expect_matrix(kOp, "ids", a.ids, T, -1);
  const int64_t K = cols(a.ids);
  expect_range(kOp, "ids", K, 1, E);
  expect_f32(kOp, "weights", a.weights, T, K);
  if (present(a.probs)) expect_f32(kOp, "probs", a.probs, T, E);
  expect_range(kOp, "n_group", a.n_group, 1, E);
  if (E % a.n_group) fail(kOp, "n_group", format("a divisor of %lld experts", (long long)E), std::to_string(a.n_group));
  expect_range(kOp, "topk_group", a.topk_group, 1, a.n_group);
  if (a.n_group > 1) {
    const int64_t size = E / a.n_group;
    if (a.group_score == 1 && size < 2)
      fail(kOp, "n_group", "groups of at least 2 experts for group_score 1", std::to_string(a.n_group));
    if (K > a.topk_group * size)
      fail(kOp, "ids", format("[T, K] with K <= %lld, the experts of topk_group groups", (long long)(a.topk_group * size)),
           describe(a.ids));
  }
  if (a.score == 3) {
    check_mixer(kOp, a.ids);
    expect_absent(kOp, "bias", a.bias, "under score 3");
    expect_range(kOp, "n_group", a.n_group, 1, 1);
  }
  check_expert_scale(kOp, a.expert_scale, E);
  for (const Named& in : {Named{"logits", a.logits}, Named{"bias", a.bias}, Named{"expert_scale", a.expert_scale}}) {
    expect_apart(kOp, {"ids", a.ids}, {in});
    expect_apart(kOp, {"weights", a.weights}, {in});
    expect_apart(kOp, {"probs", a.probs}, {in});
  }
  expect_apart(kOp, {"ids", a.ids}, {{"weights", a.weights}, {"probs", a.probs}});
  expect_apart(kOp, {"weights", a.weights}, {{"probs", a.probs}});
}

void check_route_backward(const esft_route_backward_args& a) {
  ESFT_BEGIN_CHECK(route_backward)
  expect_range(kOp, "score", a.score, 0, 3);
  expect_flag(kOp, "accumulate", a.accumulate);
  expect_flag(kOp, "renormalize", a.renormalize);
  expect_not_negative(kOp, "norm_eps", a.norm_eps);
  expect_not_negative(kOp, "jitter", a.jitter);
  expect_finite(kOp, "scale", a.scale);
  expect_f32(kOp, "dlogits", a.dlogits, -1, -1);
  const int64_t T = rows(a.dlogits), E = cols(a.dlogits);
  expect_range(kOp, "dlogits", E, 1, 65536);
  expect_dtype(kOp, "ids", a.ids, ESFT_I32);
  expect_matrix(kOp, "ids", a.ids, T, -1);
  const int64_t K = cols(a.ids);
  expect_range(kOp, "ids", K, 1, E);
  expect_f32(kOp, "weights", a.weights, T, K);
  expect_flag(kOp, "dense", a.dense);
  if (a.dense) {
    expect_range(kOp, "score", a.score, 0, 2);
    expect_absent(kOp, "pos", a.pos, "with dense = 1");
    expect_f32(kOp, "dweights", a.dweights, T, E);
  } else if (present(a.pos)) {
    expect_dtype(kOp, "pos", a.pos, ESFT_I32);
    expect_matrix(kOp, "pos", a.pos, T, K);
    expect_f32_vector(kOp, "dweights", a.dweights, T * K);
  } else {
    expect_f32(kOp, "dweights", a.dweights, T, K);
  }
  if (a.score == 3) check_mixer(kOp, a.ids);
  if (a.score == 2) expect_absent(kOp, "expert_scale", a.expert_scale, "under score 2");
  check_expert_scale(kOp, a.expert_scale, E);
  if (!present(a.expert_scale)) expect_absent(kOp, "dexpert_scale", a.dexpert_scale, "where there is no expert_scale");
  if (present(a.dexpert_scale)) expect_f32_vector(kOp, "dexpert_scale", a.dexpert_scale, E);
  if (a.score != 2 || a.dense) expect_present(kOp, "probs", a.probs);
  if (present(a.probs)) expect_f32(kOp, "probs", a.probs, T, E);
  for (const Named& in : {Named{"dweights", a.dweights}, Named{"pos", a.pos}, Named{"probs", a.probs}, Named{"ids", a.ids},
                          Named{"weights", a.weights}, Named{"expert_scale", a.expert_scale}}) {
    expect_apart(kOp, {"dlogits", a.dlogits}, {in});
    expect_apart(kOp, {"dexpert_scale", a.dexpert_scale}, {in});
  }
  expect_apart(kOp, {"dlogits", a.dlogits}, {{"dexpert_scale", a.dexpert_scale}});
}

}  // namespace esft
