// What a library of kernels must agree on with the addon: the layout of the Backend table (ESFT_ABI, changed by hand) and all ops with
// their argument lists, of which a number is made here. Two builds with the same kAbi call each other's ops alike.
#pragma once
#include "op_list.h"

namespace esft {

#define ESFT_FIELD_TEXT(kind, name) #kind " " #name ","
#define ESFT_OP_TEXT(name) #name "(" ESFT_ARGS_##name(ESFT_FIELD_TEXT) ")"

// FNV-1a.
constexpr uint32_t fingerprint(const char* text) {
  uint32_t hash = 2166136261u;
  for (; *text; text++) hash = (hash ^ uint8_t(*text)) * 16777619u;
  return hash;
}

// The table's number in the low byte, the fingerprint of the ops above it.
constexpr int32_t kAbi = int32_t(fingerprint(ESFT_OPS(ESFT_OP_TEXT)) << 8 | ESFT_ABI);

#undef ESFT_OP_TEXT
#undef ESFT_FIELD_TEXT

}  // namespace esft
