// One opened CUDA device: streams, memory, scratch, cached device copies of host tables. Host code.
//
// There is one stream until another is used. Ops go to the stream in use and have its scratch; what lies between streams is ordered by
// order() alone. Whatever the device does for all of them (taking memory, uploading a table, launching a graph, a read by the host) is a
// meeting: each stream is past all that any had before it. Meetings are not for steps, which do none of these.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "allocator.h"
#include "context.h"

namespace esft::cuda {

class CudaDevice final : public Context {
 public:
  explicit CudaDevice(int index);  // throws Error
  ~CudaDevice();

  void use() const;  // makes this the calling thread's device
  void raise_hang();  // throws what a kernel of the debug build recorded before its trap, after which every call fails
  void info(esft_device_info* out) const;

  void* allocate(size_t bytes);  // zero-filled in stream order; throws Error
  void free(void* p) { allocator_->free(p); }
  void upload(void* dst, const void* src, size_t bytes);  // returns when src may change; does not wait for the device
  void download(void* dst, const void* src, size_t bytes);  // waits
  void synchronize();  // waits; throws what a kernel recorded

  // Ops and copies go to stream `index` from now on, which is made when it has the next number. Throws Error.
  void use_stream(int index);
  // What goes to stream `after` from now on waits for what went to `before` until now.
  void order(int before, int after);

  void begin_op() { lane_->scratch_used = 0; }
  void* scratch(size_t bytes) override;
  const void* constant(const void* host, size_t bytes) override;
  const CUtensorMap* tensor_maps(const esft_tensor* items, int64_t count, int box_rows) override;

  void capture_begin();
  cudaGraphExec_t capture_end();
  void launch(cudaGraphExec_t graph);

 private:
  void refuse_while_recording(const char* what) const;
  void raise_fault();
  void* take(size_t bytes, const char* what);

  // Pinned memory through which uploads go, used round robin; `busy` completes when the device has read the chunk.
  struct Staging {
    char* data = nullptr;
    cudaEvent_t busy = nullptr;
  };
  static constexpr size_t kStagingBytes = size_t(8) << 20;
  static constexpr int kMaxStreams = 8;

  int major_ = 0, minor_ = 0;
  std::string name_;
  size_t total_bytes_ = 0;
  std::unique_ptr<CachingAllocator> allocator_;

  struct Block {
    char* data;
    size_t bytes;
  };
  // A stream and what belongs to it.
  struct Lane {
    cudaStream_t stream = nullptr;
    cudaEvent_t mark = nullptr;  // recorded and waited for at once, by order()
    Staging staging[2];
    int staging_at = 0;
    size_t staging_used = 0;
    std::vector<Block> scratch_blocks;  // of doubling sizes, kept: a graph may hold their addresses
    size_t scratch_used = 0;  // by the current op, over all blocks
    ~Lane();
  };
  void add_lane();
  void order_locked(const Lane& before, const Lane& after);
  void meet();
  std::mutex lanes_mutex_;  // memory is taken on other threads than the one that submits
  std::vector<std::unique_ptr<Lane>> lanes_;
  Lane* lane_ = nullptr;  // the one in use; `stream` is its

  std::unordered_map<std::string, void*> constants_;
  Block constant_block_{};  // the newest of those that small constants are cut from
  size_t constant_used_ = 0;
  std::vector<void*> constant_blocks_;
  std::unordered_map<std::string, const CUtensorMap*> maps_;
  FaultRecord* fault_host_ = nullptr;  // pinned; `faults` is its device address
  std::atomic<bool> recording_{false};
};

}  // namespace esft::cuda
