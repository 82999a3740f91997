#include "call.h"

#include <cstring>

namespace esft {

void Call::keep(const std::shared_ptr<Buffer>& buffer) {
  for (size_t i = 0; i < buffer_count_; i++)
    if (buffers_[i] == buffer) return;
  buffers_[buffer_count_++] = buffer;
}

void Call::run(Device& device, Failure& f) {
  const char* name = kOps[op].name;
  for (size_t i = 0; i < buffer_count_; i++)
    if (buffers_[i]->mapped && !buffers_[i]->still_whole(name, f)) return;
  for (size_t i = 0; i < list_count_; i++)
    for (const Buffer* b : lists_[i]->files)
      if (!b->still_whole(name, f)) return;
  char err[2048];
  err[0] = 0;  // the rest as it is: this is on the way of every op
  const int status = device.backend()->run[op](device.handle(), args_, err, sizeof err);
  if (status != ESFT_OK) f = {status, op_in_message(err, name), err};  // an earlier op's fault may be noticed here
}

void Call::release() {
  for (size_t i = 0; i < buffer_count_; i++) buffers_[i].reset();
  for (size_t i = 0; i < list_count_; i++) lists_[i].reset();
  while (ints_count_) ints_[--ints_count_].reset();
  buffer_count_ = list_count_ = 0;
}

const char* op_in_message(const char* message, const char* otherwise) {
  for (const OpInfo& op : kOps) {
    const size_t n = strlen(op.name);
    if (strncmp(message, op.name, n) == 0 && message[n] == ':') return op.name;
  }
  return otherwise;
}

}  // namespace esft
