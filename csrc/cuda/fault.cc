// The words of a device fault: those of ops/checks.cc and of topk_route's check of its logits.
#include "fault.h"

#include <cstring>

#include "../ops/op_list.h"

namespace esft::cuda {

namespace {

const char* const kOpNames[] = {
#define ESFT_OP_NAME(name) #name,
    ESFT_OPS(ESFT_OP_NAME)
#undef ESFT_OP_NAME
};

const char* const kArgumentNames[] = {"ids",    "rows",      "offsets",   "dy_rows", "x_rows", "pos",
                                      "labels", "positions", "doc_start", "logits",  "bias"};
static_assert(sizeof kArgumentNames / sizeof *kArgumentNames == kArgCount, "a name for every FaultArgument");

std::string expectation(const FaultRecord& r) {
  const long long limit = r.limit;
  switch (FaultKind(r.kind)) {
    case kBadIndex: return format("in 0..%lld", limit - 1);
    case kBadLabel: return format("-100 or in 0..%lld", limit - 1);
    case kBadOffsets:
      if (r.detail) return format("%lld, the number of rows", limit);
      return r.position == 0 ? "0" : format("at least %lld, the offset before it", limit);
    case kBadDocStart: return format("in %lld..%lld (not before its predecessor, not after itself)", limit, (long long)r.position);
    case kNotPermutation: return "a row that no other slot has";
    case kNotFinite: return "finite";
    case kNoFault: break;
  }
  return format("something else (fault of kind %d)", r.kind);
}

}  // namespace

Error fault_error(const FaultRecord& r) {
  if (r.op < 0 || r.op >= ESFT_OP_COUNT || r.argument < 0 || r.argument >= kArgCount)
    return Error(ESFT_DEVICE_FAULT, "device", "faults",
                 format("the device's fault record is damaged: op %d, argument %d", r.op, r.argument));
  const char *op = kOpNames[r.op], *argument = kArgumentNames[r.argument];
  const long long columns = r.kind == kBadOffsets ? 0 : r.detail, row = columns > 0 ? r.position / columns : 0;
  const std::string at = columns > 0 ? format("%lld, %lld", row, (long long)r.position % columns) : std::to_string(r.position);
  std::string received = std::to_string(r.value);
  if (r.kind == kNotFinite) {
    const uint32_t bits = uint32_t(r.value);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    received = format("%g", double(value));
    if (columns > 0) received += format(" (token %lld)", row);
  }
  return Error(ESFT_BAD_ARGUMENT, op, argument,
               format("%s: %s[%s] must be %s, received %s", op, argument, at.c_str(), expectation(r).c_str(), received.c_str()));
}

}  // namespace esft::cuda
