// A device: one Backend, one native thread, one ordered queue. Knows nothing of N-API.
//
// Jobs run in the order of submission. A job that fails poisons the queue: everything already submitted after it is skipped,
// and every wait in that stretch reports the same failure. The JavaScript side calls `acknowledge` when it has seen the
// failure; what is submitted from then on runs again.
//
// What is cheap here is what every op pays on JavaScript's thread: one short lock, no allocation once calls come back, and no
// wake-up while the device thread is awake. That thread takes all that is queued at once, and looks a moment longer for more
// before it sleeps.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../core/backend.h"
#include "../core/thread_pool.h"

namespace esft {

struct Failure {
  int status = 0;
  std::string op, message;
};

class Call;
struct Graph;

class Device : public std::enable_shared_from_this<Device> {
 public:
  // Throws Error.
  static std::shared_ptr<Device> open(const esft_backend* backend, int index, int threads);
  ~Device();

  const esft_backend* backend() const { return backend_; }
  esft_device* handle() const { return handle_; }
  const esft_device_info& info() const { return info_; }  // as it was when the device was opened
  int64_t memory_free() const;                            // now; 0 = not known

  // A call to fill, for submit; from the thread that submits.
  std::shared_ptr<Call> new_call();
  void submit(std::shared_ptr<Call> call);  // throws Error after close()
  // `run` executes on the device thread; it fills Failure when it fails. Throws Error after close().
  void submit(std::function<void(Failure&)> run);
  // `done` executes on the device thread after all earlier jobs; it receives the failure that poisoned the queue, or status 0.
  // After close() it is called at once, with a failure.
  void submit_wait(std::function<void(Failure&)> run, std::function<void(const Failure&)> done);
  void acknowledge();
  void close();  // finishes the running job, fails the rest, stops the thread; never called on the device thread

  // Recording of a graph, from the thread that submits. From begin_recording to end_recording ops are recorded, everything else
  // is refused (require_not_recording). A backend without graphs has its calls kept, to be run one after another by a launch. With
  // graphs of its own: until the device thread is past the end, taking memory waits and giving it back is put off.
  std::shared_ptr<Graph> begin_recording();
  void end_recording(std::function<void(const Failure&)> done);
  const std::shared_ptr<Graph>& recording() const { return recording_; }
  void launch(std::shared_ptr<Graph> graph);  // throws Error after close()
  void require_not_recording(const char* op) const;  // throws Error
  void* allocate(size_t bytes);  // throws Error
  void release(void* data, size_t bytes);

  // Threads of the host for what no op does (decoding files); made when they are first asked for. On the device thread. Throws
  // std::system_error.
  ThreadPool& pool();

 private:
  struct Work {
    std::function<void(Failure&)> run;
    std::function<void(const Failure&)> done;  // or none
  };
  // An op, or something rarer.
  struct Job {
    std::shared_ptr<Call> call;
    std::unique_ptr<Work> work;
    uint64_t generation = 0;
  };
  Device() = default;
  void thread_main();
  // Waits for jobs, and hands back the calls that are done; false after close(), with what will not be run.
  bool take(std::vector<Job>& jobs, std::vector<std::shared_ptr<Call>>& done);
  void execute(Job& job);
  void push(Job job);
  void capture_ended();

  const esft_backend* backend_ = nullptr;
  esft_device* handle_ = nullptr;
  esft_device_info info_{};
  int threads_ = 0;  // asked for; 0 = as many as there are processors
  std::unique_ptr<ThreadPool> pool_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable wake_, captured_;
  std::vector<Job> queue_;
  std::vector<std::shared_ptr<Call>> free_calls_;  // to be used again
  std::shared_ptr<Call> spare_call_;  // of the submitting thread
  std::atomic<bool> queued_{false};  // queue_ holds something; for a look without the lock
  std::atomic<bool> stop_{false};
  bool asleep_ = false;  // the device thread waits for wake_
  uint64_t generation_ = 0;  // of jobs submitted now
  uint64_t failed_generation_ = 0;
  Failure failure_;  // status 0: healthy
  std::shared_ptr<Graph> recording_;  // of the submitting thread
  bool capturing_ = false;  // from begin_recording until the device thread is past its end
  std::vector<std::pair<void*, size_t>> released_;  // meanwhile
};

// A recorded sequence of ops, with everything their memory belongs to.
struct Graph {
  std::shared_ptr<Device> device;
  std::vector<std::shared_ptr<Call>> calls;
  bool on_device = false;  // the backend records it; else `calls` is all there is
  bool recorded = false;  // without errors; set on the device thread where the backend records
  esft_graph* handle = nullptr;  // set on the device thread
  bool begun = false;  // the device thread is between begin and end
  ~Graph();
};

// Held by JavaScript objects only, so that the device thread is always joined from outside: queued jobs hold Buffers, which
// hold the Device but not its owner.
struct DeviceOwner {
  std::shared_ptr<Device> device;
  explicit DeviceOwner(std::shared_ptr<Device> d) : device(std::move(d)) {}
  ~DeviceOwner() { device->close(); }
};

}  // namespace esft
