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

const char* const kArgumentNames[] = {
    "ids",   "rows", "offsets",      "dy_rows",     "x_rows", "pos",   "labels", "positions", "doc_start",          "logits",
    "bias",  "seen", "seen_offsets", "temperature", "u",      "top_k", "top_p",  "min_p",     "repetition_penalty", "k_cache",
    "states"};
static_assert(sizeof kArgumentNames / sizeof *kArgumentNames == kArgCount, "a name for every FaultArgument");

struct BarrierWords {
  const char *name, *waiting;
};
const BarrierWords kBarrierWords[] = {{"barrier", "a thread waits"},
                                      {"full", "a consumer waits for a stage to be loaded"},
                                      {"empty", "the producer waits for a stage to be read"},
                                      {"h_full", "a consumer waits for its tile of h"},
                                      {"h_empty", "the producer waits for the place of a tile of h"},
                                      {"rows_full", "a consumer waits for the rows of its CTA"},
                                      {"rows_empty", "the producer waits for the rows of the tile before to be read"},
                                      {"keys_full", "a consumer waits for a stage of keys"},
                                      {"keys_empty", "the producer waits for a stage of keys to be read"},
                                      {"values_full", "a consumer waits for a stage of values"},
                                      {"values_empty", "the producer waits for a stage of values to be read"},
                                      {"turn", "a consumer waits for its turn to issue products"},
                                      {"tile_full", "a consumer waits to be told its tile"},
                                      {"tile_empty", "the producer waits for a consumer to read its tile"},
                                      {"rows_read", "a consumer waits until nobody reads its rows any more"},
                                      {"ds_full", "a consumer waits for the dS of the other warpgroup"},
                                      {"ds_empty", "a consumer waits for the other warpgroup to read dS"},
                                      {"dq_full", "the adding thread waits for a slab of dQ"},
                                      {"dq_empty", "a consumer waits for a slab of dQ to be added"},
                                      {"dq_turn", "the adding thread waits for the key blocks before its own"}};
static_assert(sizeof kBarrierWords / sizeof *kBarrierWords == kWaitBarrierCount, "words for every WaitBarrier");

Error hang_error(const FaultRecord& r) {
  const char* op = r.op >= 0 && r.op < ESFT_OP_COUNT ? kOpNames[r.op] : "kernel";
  const char* const after = "a bug of the kernel; CUDA does not recover from this: start the process again";
  if (r.kind == kBadSharedBase)
    return Error(ESFT_DEVICE_FAULT, "device", "shared",
                 format("CTA %lld: shared memory begins at %lld, expected a multiple of %lld: %s", (long long)r.position,
                        (long long)r.value, (long long)r.limit, after));
  const BarrierWords& words = kBarrierWords[r.argument >= 0 && r.argument < kWaitBarrierCount ? r.argument : kBarrierOther];
  const bool named =
      r.argument == kBarrierTurn || r.argument == kBarrierRowsRead || r.argument == kBarrierDsFull || r.argument == kBarrierDsEmpty;
  const std::string where = r.argument == kBarrierDqTurn
                                ? format("turn %lld, of which %lld should be over", (long long)r.value, (long long)r.limit)
                            : named ? format("named barrier %lld", (long long)r.value)
                                    : format("shared offset %lld, phase of parity %lld", (long long)r.value, (long long)r.limit);
  return Error(ESFT_DEVICE_FAULT, op, words.name,
               format("%s: CTA %lld, thread %d (warpgroup %d) waited in vain at barrier %s (%s): %s; %s", op, (long long)r.position,
                      r.detail, r.detail / 128, words.name, where.c_str(), words.waiting, after));
}

// What a number in an argument must be.
const char* number_words(int32_t argument) {
  switch (FaultArgument(argument)) {
    case kArgTemperature: return "finite and >= 0";
    case kArgU: return "in [0, 1)";
    case kArgRepetitionPenalty: return "finite and > 0";
    default: return "in 0..1";
  }
}

std::string expectation(const FaultRecord& r) {
  const long long limit = r.limit;
  switch (FaultKind(r.kind)) {
    case kBadIndex: return format("in 0..%lld", limit - 1);
    case kBadLabel: return format("-100 or in 0..%lld", limit - 1);
    case kBadOffsets:
      if (r.detail) return format("at most %lld, the number of %s", limit, r.argument == kArgSeenOffsets ? "ids" : "rows");
      return r.position == 0 ? "0" : format("at least %lld, the offset before it", limit);
    case kBadDocStart: return format("in %lld..%lld (not before its predecessor, not after itself)", limit, (long long)r.position);
    case kNotPermutation: return "a row that no other slot has";
    case kNotFinite: return "finite";
    case kBadNumber: return number_words(r.argument);
    case kNoFault:
    case kHungWait:
    case kBadSharedBase:
    case kBadDocuments:
    case kBadPosition:
    case kNoRoom: break;
  }
  return format("something else (fault of kind %d)", r.kind);
}

// Faults of documents that go on, worded as a whole.
Error continued_error(const FaultRecord& r) {
  const char *op = kOpNames[r.op], *argument = kArgumentNames[r.argument];
  const long long position = r.position, value = r.value, limit = r.limit;
  const auto error = [&](const char* of, const std::string& text) {
    return Error(ESFT_BAD_ARGUMENT, op, of, format("%s: %s", op, text.c_str()));
  };
  if (r.kind == kNoRoom)
    return error(argument, format("%s[%lld] must have a row for each of the positions %lld..%d, received %lld rows", argument,
                                  position, value, r.detail, limit));
  if (r.kind == kBadPosition)
    return error(argument, r.detail ? format("%s[%lld] must be %lld, one after its predecessor, received %lld", argument, position,
                                             limit, value)
                                    : format("%s[%lld] must be at least 0, received %lld", argument, position, value));
  if (position >= 0)
    return error("doc_start",
                 format("doc_start[%lld] opens document %lld, %s has %lld matrices", position, value, argument, limit));
  if (r.detail) return error("doc_start", format("doc_start has %lld documents, %s %lld matrices", value, argument, limit));
  return error(argument, format("%s must have an item for each of the %lld documents, received %lld", argument, value, limit));
}

}  // namespace

Error fault_error(const FaultRecord& r) {
  if (ends_device(r)) return hang_error(r);
  if (r.op < 0 || r.op >= ESFT_OP_COUNT || r.argument < 0 || r.argument >= kArgCount)
    return Error(ESFT_DEVICE_FAULT, "device", "faults",
                 format("the device's fault record is damaged: op %d, argument %d", r.op, r.argument));
  if (r.kind == kBadDocuments || r.kind == kBadPosition || r.kind == kNoRoom) return continued_error(r);
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
  if (r.kind == kBadNumber) {
    double value;
    std::memcpy(&value, &r.value, sizeof value);
    received = format("%g", value);
  }
  return Error(ESFT_BAD_ARGUMENT, op, argument,
               format("%s: %s[%s] must be %s, received %s", op, argument, at.c_str(), expectation(r).c_str(), received.c_str()));
}

}  // namespace esft::cuda
