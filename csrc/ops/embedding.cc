// Argument checks of embedding and its backward (contract: embedding.h).
#include "arg_checks.h"

namespace esft {

void check_embedding(const esft_embedding_args& a) {
  ESFT_BEGIN_CHECK(embedding)
  expect_finite(kOp, "scale", a.scale);
  expect_i32(kOp, "ids", a.ids, -1);
  expect_float_weight(kOp, "table", a.table);
  expect_matrix(kOp, "table", a.table, -1, -1);
  expect_matrix(kOp, "y", a.y, numel(a.ids), cols(a.table));
  expect_apart(kOp, {"y", a.y}, {{"ids", a.ids}, {"table", a.table}});
}

void check_embedding_backward(const esft_embedding_backward_args& a) {
  ESFT_BEGIN_CHECK(embedding_backward)
  expect_finite(kOp, "scale", a.scale);
  expect_i32(kOp, "ids", a.ids, -1);
  expect_f32(kOp, "dtable", a.dtable, -1, -1);
  expect_matrix(kOp, "dy", a.dy, numel(a.ids), cols(a.dtable));
  expect_apart(kOp, {"dtable", a.dtable}, {{"ids", a.ids}, {"dy", a.dy}});
}

}  // namespace esft
