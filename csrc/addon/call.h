// One op on its way to the device: its argument struct, and what must stay alive until it has run, so that dispose() is safe while
// ops are pending. Knows nothing of N-API.
#pragma once
#include <memory>
#include <vector>

#include "buffer.h"
#include "op_table.h"

namespace esft {

// The tensors of a list, gathered once; shared with the calls that use it.
struct ListItems {
  std::vector<esft_tensor> tensors;
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<Buffer*> files;  // the mapped ones among them, once each
  bool any_read_only = false;
};

// Devices use their calls again: one has room for any op.
class Call {
 public:
  Call() {}  // not `= default`, which would have all of args_ zeroed

  int op = 0;
  void* args() { return args_; }  // as large as any argument struct; the binding fills every field
  void keep(const std::shared_ptr<Buffer>& buffer);
  void keep(const std::shared_ptr<ListItems>& list) { lists_[list_count_++] = list; }
  void keep(std::unique_ptr<int32_t[]> ints) { ints_[ints_count_++] = std::move(ints); }

  void run(Device& device, Failure& f);  // on the device thread
  void release();                        // what was kept

 private:
  // One entry per buffer: the tensors of a call are mostly views of the same few, and a count that two threads change is slow.
  std::shared_ptr<Buffer> buffers_[kMaxTensors];
  std::shared_ptr<ListItems> lists_[kMaxLists];
  std::unique_ptr<int32_t[]> ints_[kMaxInts];
  size_t buffer_count_ = 0, list_count_ = 0, ints_count_ = 0;
  alignas(std::max_align_t) unsigned char args_[kMaxArgsSize];
};

}  // namespace esft
