// Argument checks of load_balance (contract: load_balance.h).
#include "arg_checks.h"

namespace esft {

void check_load_balance(const esft_load_balance_args& a) {
  ESFT_BEGIN_CHECK(load_balance)
  expect_finite(kOp, "coefficient", a.coefficient);
  expect_f32(kOp, "dlogits", a.dlogits, -1, -1);
  const int64_t E = cols(a.dlogits);
  expect_range(kOp, "dlogits", E, 1, 65536);
  expect_f32(kOp, "probs", a.probs, rows(a.dlogits), E);
  expect_dtype(kOp, "offsets", a.offsets, ESFT_I32);
  expect_vector(kOp, "offsets", a.offsets, E + 1);
  if (present(a.loss)) {
    expect_dtype(kOp, "loss", a.loss, ESFT_F64);
    expect_vector(kOp, "loss", a.loss, 1);
  }
  if (present(a.scale)) expect_scalar(kOp, "scale", a.scale, ESFT_F64);
  expect_apart(kOp, {"dlogits", a.dlogits}, {{"probs", a.probs}, {"offsets", a.offsets}, {"loss", a.loss}, {"scale", a.scale}});
  expect_apart(kOp, {"loss", a.loss}, {{"probs", a.probs}, {"offsets", a.offsets}, {"scale", a.scale}});
}

}  // namespace esft
