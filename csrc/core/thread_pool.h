// A pool that parks: workers spin for a few microseconds after a job, then sleep on a condition variable.
// parallel_for hands out indices from one counter, in ascending order; the caller works as worker 0.
// Which worker runs an index is not deterministic, so tasks must write disjoint memory and keep no state per worker
// beyond scratch. An exception in a task stops the hand-out and is rethrown to the caller.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace esft {

class ThreadPool {
 public:
  typedef void (*TaskFn)(void* data, int64_t index, int worker);
  explicit ThreadPool(int threads);  // throws std::system_error when the system grants no more threads
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  int threads() const { return threads_; }
  void parallel_for(int64_t n, TaskFn fn, void* data);

 private:
  void worker_main(int worker);
  void stop();
  void work(int worker);
  int threads_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
  int64_t n_ = 0;
  TaskFn fn_ = nullptr;
  void* data_ = nullptr;
  std::exception_ptr error_;
};

int default_threads();  // processors this process may run on (affinity mask)

}  // namespace esft
