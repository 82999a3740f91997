// A device: one Backend, one native thread, one ordered queue. Knows nothing of N-API.
//
// Jobs run in the order of submission. A job that fails poisons the queue: everything already submitted after it is skipped,
// and every wait in that stretch reports the same failure. The JavaScript side calls `acknowledge` when it has seen the
// failure; what is submitted from then on runs again.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "../core/backend.h"

namespace esft {

struct Failure {
  int status = 0;
  std::string op, message;
};

class Device {
 public:
  // Throws Error.
  static std::shared_ptr<Device> open(const esft_backend* backend, int index, int threads);
  ~Device();

  const esft_backend* backend() const { return backend_; }
  esft_device* handle() const { return handle_; }
  const esft_device_info& info() const { return info_; }

  // `run` executes on the device thread; it fills Failure when it fails. Throws Error after close().
  void submit(std::function<void(Failure&)> run);
  // `done` executes on the device thread after all earlier jobs; it receives the failure that poisoned the queue, or status 0.
  // After close() it is called at once, with a failure.
  void submit_wait(std::function<void(Failure&)> run, std::function<void(const Failure&)> done);
  void acknowledge();
  void close();  // finishes the running job, fails the rest, stops the thread; never called on the device thread

 private:
  struct Job {
    std::function<void(Failure&)> run;
    std::function<void(const Failure&)> done;
    uint64_t generation;
  };
  Device() = default;
  void thread_main();
  void push(Job job);

  const esft_backend* backend_ = nullptr;
  esft_device* handle_ = nullptr;
  esft_device_info info_{};
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;
  bool stop_ = false;
  uint64_t generation_ = 0;       // of jobs submitted now
  uint64_t failed_generation_ = 0;
  Failure failure_;               // status 0: healthy
};

// Held by JavaScript objects only, so that the device thread is always joined from outside: queued jobs hold Buffers, which
// hold the Device but not its owner.
struct DeviceOwner {
  std::shared_ptr<Device> device;
  explicit DeviceOwner(std::shared_ptr<Device> d) : device(std::move(d)) {}
  ~DeviceOwner() { device->close(); }
};

// Device memory or a mapped file; freed when the last tensor and the last queued job that uses it are gone.
struct Buffer {
  std::shared_ptr<Device> device;  // null for a mapped file
  void* data = nullptr;
  size_t bytes = 0;
  bool read_only = false;
  bool mapped = false;
  int file = -1;  // of a mapped file, for still_whole
  std::string path;
  ~Buffer();

  // False, and f filled, when a mapped file was cut: touching the lost pages would end the process. Asked on the device thread
  // right before the bytes are used, which leaves a window of microseconds to whoever truncates files that are in use.
  bool still_whole(const char* op, Failure& f) const;
};

std::shared_ptr<Buffer> allocate_buffer(const std::shared_ptr<Device>& device, size_t bytes);  // throws Error
std::shared_ptr<Buffer> map_file(const std::string& path);                                     // throws Error

}  // namespace esft
