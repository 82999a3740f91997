// How an op states its arguments once.
//
// ops/<op>.h defines ESFT_ARGS_<op>(F) as a list of F(kind, name). From that list come the argument struct of the C ABI,
// the table from which the N-API binding fills it, and the checks that hold for every op (presence, read-only memory).
//
//   IN / IN_OPT        tensor read                     OUT / OUT_OPT      tensor overwritten completely
//   INOUT / INOUT_OPT  tensor read and written         AIN, AOUT, AINOUT (_OPT)  the same for activations
//   LIST_IN / LIST_INOUT (_OPT)  list of tensors       INTS  host integers (may be empty)       I64 / F64  scalar
//   WEIGHT / WEIGHTS   a tensor or list read, with how its numbers are stored (esft_scaling)
//
// Letters of shapes in the contracts: T tokens, D hidden size, F hidden size of an expert, E experts, K chosen per token, N = T·K
// routed rows, H heads, V vocabulary; M, N and K of gemm are those of every matrix library.
//
// An activation ("act" in the contracts) is f32 or bf16, all activations of one call alike. With bf16 every output element
// is computed as for f32, from the widened inputs and with f32 sums (f64 in the references), and rounded to nearest even
// once, when it is stored; an accumulating op widens the old value, adds and rounds the sum. `precision` says as ever how
// the operands of a product are rounded, those computed on load included.
//
// A parameter gradient is added to (accumulate = 1) or overwritten: then nothing of what was there is read, and the result is that of
// adding to zeros, save that a sum which underflows may be -0 (no op that reads gradients tells that from +0).
//
// Values in index tensors are checked when the op runs. Devices on host memory refuse them before anything is written; a
// device with its own memory never follows a wrong one and reports it at the next wait: what the call's outputs hold then
// is undefined, everything else is as it was.
#pragma once
#include "backend.h"

// What a kind says of its argument: X(kind, takes, written, optional, activation).
// clang-format off
#define ESFT_ARG_KINDS(X) \
  X(IN, tensor, 0, 0, 0)   X(IN_OPT, tensor, 0, 1, 0)   X(OUT, tensor, 1, 0, 0)    X(OUT_OPT, tensor, 1, 1, 0) \
  X(INOUT, tensor, 1, 0, 0)   X(INOUT_OPT, tensor, 1, 1, 0) \
  X(AIN, tensor, 0, 0, 1)  X(AIN_OPT, tensor, 0, 1, 1)  X(AOUT, tensor, 1, 0, 1)   X(AOUT_OPT, tensor, 1, 1, 1) \
  X(AINOUT, tensor, 1, 0, 1)  X(AINOUT_OPT, tensor, 1, 1, 1) \
  X(WEIGHT, weight, 0, 0, 0)  X(WEIGHTS, weights, 0, 0, 0) \
  X(LIST_IN, list, 0, 0, 0)  X(LIST_IN_OPT, list, 0, 1, 0)  X(LIST_INOUT, list, 1, 0, 0)  X(LIST_INOUT_OPT, list, 1, 1, 0) \
  X(INTS, ints, 0, 1, 0)  X(I64, i64, 0, 0, 0)  X(F64, f64, 0, 0, 0)
// clang-format on

#define ESFT_TYPE_IN esft_tensor
#define ESFT_TYPE_IN_OPT esft_tensor
#define ESFT_TYPE_OUT esft_tensor
#define ESFT_TYPE_OUT_OPT esft_tensor
#define ESFT_TYPE_INOUT esft_tensor
#define ESFT_TYPE_INOUT_OPT esft_tensor
#define ESFT_TYPE_AIN esft_tensor
#define ESFT_TYPE_AIN_OPT esft_tensor
#define ESFT_TYPE_AOUT esft_tensor
#define ESFT_TYPE_AOUT_OPT esft_tensor
#define ESFT_TYPE_AINOUT esft_tensor
#define ESFT_TYPE_AINOUT_OPT esft_tensor
#define ESFT_TYPE_WEIGHT esft_weight
#define ESFT_TYPE_WEIGHTS esft_weight_list
#define ESFT_TYPE_LIST_IN esft_tensor_list
#define ESFT_TYPE_LIST_IN_OPT esft_tensor_list
#define ESFT_TYPE_LIST_INOUT esft_tensor_list
#define ESFT_TYPE_LIST_INOUT_OPT esft_tensor_list
#define ESFT_TYPE_INTS esft_ints
#define ESFT_TYPE_I64 int64_t
#define ESFT_TYPE_F64 double

#define ESFT_STRUCT_FIELD(kind, name) ESFT_TYPE_##kind name;
#define ESFT_DEFINE_ARGS(op) typedef struct esft_##op##_args { ESFT_ARGS_##op(ESFT_STRUCT_FIELD) } esft_##op##_args;
