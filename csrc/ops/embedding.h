// embedding — y[t] = scale · table[ids[t]].   ids_T i32, table_VD f32|bf16, y_TD act. id outside [0, V): KernelError.
// embedding_backward — dtable[ids[t]] += scale · dy[t], t ascending (deterministic). dy_TD act, dtable_VD f32.
// Reference: embedding_ref.cc. Tests: test/ops/embedding.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_embedding(F) F(IN, ids) F(IN, table) F(AOUT, y) F(F64, scale)
ESFT_DEFINE_ARGS(embedding)

#define ESFT_ARGS_embedding_backward(F) F(IN, ids) F(AIN, dy) F(INOUT, dtable) F(F64, scale)
ESFT_DEFINE_ARGS(embedding_backward)
