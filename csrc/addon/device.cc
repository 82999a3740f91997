#include "device.h"

#include <system_error>

#include "../core/check.h"
#include "../core/relax.h"
#include "call.h"

namespace esft {

namespace {
// Holders are through in a fraction of a microsecond: sleeping and being woken takes longer.
std::unique_lock<std::mutex> briefly_spun(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::defer_lock);
  for (int i = 0; i < 100; i++) {
    if (lock.try_lock()) return lock;
    cpu_relax();
  }
  lock.lock();
  return lock;
}

// How often the device thread looks for another job before it sleeps, about 20 µs: the next op of a step is there sooner.
constexpr int kLooks = 2000;
// Calls kept for later; a step has some hundreds.
constexpr size_t kFreeCalls = 4096;
}  // namespace

std::shared_ptr<Device> Device::open(const esft_backend* backend, int index, int threads) {
  char err[1024] = "";
  std::shared_ptr<Device> d(new Device());
  d->backend_ = backend;
  d->threads_ = threads;
  int status = backend->open(index, threads, &d->handle_, err, sizeof err);
  // Which of the things that can be missing: no driver or device at all, a device that cannot be used, or a bad request.
  if (status != ESFT_OK) throw Error(esft_status(status), "open", status == ESFT_DEVICE_FAULT ? "driver" : "device", err);
  status = backend->info(d->handle_, &d->info_, err, sizeof err);
  if (status != ESFT_OK) throw Error(esft_status(status), "info", "device", err);
  try {
    d->thread_ = std::thread([p = d.get()] { p->thread_main(); });
  } catch (const std::system_error& e) {
    throw Error(ESFT_DEVICE_FAULT, "open", "device", std::string("open: cannot start the device's thread: ") + e.what());
  }
  return d;
}

Device::~Device() {
  close();
  if (handle_) backend_->close(handle_);
}

void Device::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  recording_.reset();
  capture_ended();  // of a recording without an end
}

int64_t Device::memory_free() const {
  char err[256] = "";
  esft_device_info now{};
  return backend_->info(handle_, &now, err, sizeof err) == ESFT_OK ? now.memory_free : 0;
}

std::shared_ptr<Call> Device::new_call() { return spare_call_ ? std::move(spare_call_) : std::make_shared<Call>(); }

void Device::push(Job job) {
  std::unique_lock<std::mutex> lock = briefly_spun(mutex_);
  if (stop_) {
    lock.unlock();
    if (!job.work || !job.work->done) throw Error(ESFT_DISPOSED, "submit", "device", "the device was disposed");
    job.work->done({ESFT_DISPOSED, "", "the device was disposed"});
    return;
  }
  job.generation = generation_;
  queue_.push_back(std::move(job));
  queued_.store(true, std::memory_order_relaxed);
  if (!spare_call_ && !free_calls_.empty()) {
    spare_call_ = std::move(free_calls_.back());
    free_calls_.pop_back();
  }
  const bool wake = asleep_;
  lock.unlock();
  if (wake) wake_.notify_one();
}

void Device::submit(std::shared_ptr<Call> call) { push({std::move(call), nullptr}); }

void Device::submit(std::function<void(Failure&)> run) { submit_wait(std::move(run), nullptr); }

void Device::submit_wait(std::function<void(Failure&)> run, std::function<void(const Failure&)> done) {
  push({nullptr, std::make_unique<Work>(Work{std::move(run), std::move(done)})});
}

void Device::acknowledge() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (failure_.status != ESFT_OK && generation_ == failed_generation_) generation_++;
}

bool Device::take(std::vector<Job>& jobs, std::vector<std::shared_ptr<Call>>& done) {
  for (int i = 0; i < kLooks && !queued_.load(std::memory_order_relaxed) && !stop_.load(std::memory_order_relaxed); i++)
    cpu_relax();
  jobs.clear();
  std::unique_lock<std::mutex> lock = briefly_spun(mutex_);
  if (free_calls_.empty()) free_calls_.swap(done);
  asleep_ = true;
  wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
  asleep_ = false;
  jobs.swap(queue_);
  queued_.store(false, std::memory_order_relaxed);
  return !stop_;
}

void Device::execute(Job& job) {
  if (stop_.load(std::memory_order_relaxed)) {
    if (job.work && job.work->done) job.work->done({ESFT_DISPOSED, "", "the device was disposed before this finished"});
    return;
  }
  // failure_ is written on this thread only; the lock is for acknowledge().
  if (failure_.status != ESFT_OK && job.generation > failed_generation_) {
    std::lock_guard<std::mutex> lock(mutex_);
    failure_ = Failure{};
  }
  if (failure_.status == ESFT_OK) {
    Failure f;
    if (job.call) job.call->run(*this, f);
    if (job.work) job.work->run(f);
    if (f.status != ESFT_OK) {
      std::lock_guard<std::mutex> lock(mutex_);
      failure_ = f;
      failed_generation_ = job.generation;
    }
  }
  if (job.work && job.work->done) job.work->done(failure_);
}

void Device::thread_main() {
  std::vector<Job> jobs;
  std::vector<std::shared_ptr<Call>> done;
  for (bool more = true; more;) {
    more = take(jobs, done);
    for (Job& job : jobs) {
      execute(job);
      // What it kept goes now; a recorded call stays as it is, for its graph.
      if (job.call && job.call.use_count() == 1 && done.size() < kFreeCalls) {
        job.call->release();
        done.push_back(std::move(job.call));
      }
      job = Job{};
    }
  }
}

ThreadPool& Device::pool() {
  if (!pool_) pool_ = std::make_unique<ThreadPool>(info_.host_memory ? info_.threads : threads_ > 0 ? threads_ : default_threads());
  return *pool_;
}

// ---- graphs ---------------------------------------------------------------------------------------------------------

void Device::require_not_recording(const char* op) const {
  if (recording_)
    throw Error(ESFT_BAD_ARGUMENT, op, "device",
                std::string(op) + ": not possible while a graph is recorded; only ops are: do it before capture()");
}

std::shared_ptr<Graph> Device::begin_recording() {
  require_not_recording("capture");
  auto graph = std::make_shared<Graph>();
  graph->device = shared_from_this();
  graph->on_device = backend_->capture_begin != nullptr;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (stop_) throw Error(ESFT_DISPOSED, "capture", "device", "the device was disposed");
    captured_.wait(lock, [&] { return !capturing_; });
    capturing_ = graph->on_device;
  }
  recording_ = graph;
  if (!graph->on_device) return graph;
  submit([this, g = graph.get()](Failure& f) {
    char err[512] = "";
    const int status = backend_->capture_begin(handle_, err, sizeof err);
    if (status != ESFT_OK)
      f = {status, "capture", err};
    else
      g->begun = true;
  });
  return graph;
}

void Device::end_recording(std::function<void(const Failure&)> done) {
  std::shared_ptr<Graph> graph = std::move(recording_);
  recording_.reset();
  if (!graph->on_device) {
    graph->recorded = true;
    return done({});
  }
  submit_wait(
      [this, graph](Failure& f) {
        char err[512] = "";
        const int status = backend_->capture_end(handle_, &graph->handle, err, sizeof err);
        graph->begun = false;
        graph->recorded = status == ESFT_OK;
        if (status != ESFT_OK) f = {status, "capture", err};
      },
      [this, graph, done = std::move(done)](const Failure& failure) {
        // Reached after a failed op too, when the job above was skipped: the device must not stay in capture.
        if (graph->begun) {
          char err[512] = "";
          backend_->capture_end(handle_, &graph->handle, err, sizeof err);
          graph->begun = false;
        }
        capture_ended();
        done(failure);
      });
}

void Device::capture_ended() {
  std::vector<std::pair<void*, size_t>> released;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    capturing_ = false;
    released.swap(released_);
  }
  captured_.notify_all();
  for (const auto& [data, bytes] : released) backend_->free(handle_, data, bytes);
}

void Device::launch(std::shared_ptr<Graph> graph) {
  submit([this, graph = std::move(graph)](Failure& f) {
    char err[512] = "";
    if (!graph->recorded) {
      f = {ESFT_BAD_ARGUMENT, "launch", "launch: the graph was not recorded"};
    } else if (graph->on_device) {
      const int status = backend_->graph_launch(handle_, graph->handle, err, sizeof err);
      if (status != ESFT_OK) f = {status, "launch", err};
    } else {
      for (const std::shared_ptr<Call>& call : graph->calls) {
        call->run(*this, f);
        if (f.status != ESFT_OK) return;
      }
    }
  });
}

Graph::~Graph() {
  if (handle) device->backend()->graph_destroy(device->handle(), handle);
}

// ---- memory ---------------------------------------------------------------------------------------------------------

void* Device::allocate(size_t bytes) {
  require_not_recording("alloc");
  {
    std::unique_lock<std::mutex> lock(mutex_);
    captured_.wait(lock, [&] { return !capturing_; });  // the ops of a recording may still be on their way to the device
  }
  char err[512] = "";
  void* data = nullptr;
  const int status = backend_->alloc(handle_, bytes, &data, err, sizeof err);
  if (status != ESFT_OK) throw Error(esft_status(status), "alloc", "bytes", err);
  return data;
}

void Device::release(void* data, size_t bytes) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (capturing_) {
      released_.emplace_back(data, bytes);
      return;
    }
  }
  backend_->free(handle_, data, bytes);
}

}  // namespace esft
