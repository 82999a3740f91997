#include "device.h"

#include <system_error>

#include "../core/check.h"

namespace esft {

std::shared_ptr<Device> Device::open(const esft_backend* backend, int index, int threads) {
  char err[1024] = "";
  std::shared_ptr<Device> d(new Device());
  d->backend_ = backend;
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

void Device::push(Job job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!stop_) {
      job.generation = generation_;
      queue_.push_back(std::move(job));
      wake_.notify_one();
      return;
    }
  }
  if (!job.done) throw Error(ESFT_DISPOSED, "submit", "device", "the device was disposed");
  job.done({ESFT_DISPOSED, "", "the device was disposed"});
}

void Device::submit(std::function<void(Failure&)> run) { push({std::move(run), nullptr, 0}); }

void Device::submit_wait(std::function<void(Failure&)> run, std::function<void(const Failure&)> done) {
  push({std::move(run), std::move(done), 0});
}

void Device::acknowledge() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (failure_.status != ESFT_OK && generation_ == failed_generation_) generation_++;
}

void Device::thread_main() {
  for (;;) {
    Job job;
    bool skip;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) {
        std::deque<Job> dropped;
        dropped.swap(queue_);
        lock.unlock();
        Failure disposed{ESFT_DISPOSED, "", "the device was disposed before this finished"};
        for (Job& j : dropped)
          if (j.done) j.done(disposed);
        return;
      }
      job = std::move(queue_.front());
      queue_.pop_front();
      if (failure_.status != ESFT_OK && job.generation > failed_generation_) failure_ = Failure{};
      skip = failure_.status != ESFT_OK;
    }
    if (!skip && job.run) {
      Failure f;
      job.run(f);
      if (f.status != ESFT_OK) {
        std::lock_guard<std::mutex> lock(mutex_);
        failure_ = f;
        failed_generation_ = job.generation;
      }
    }
    if (job.done) job.done(failure_);
  }
}

// ---- graphs ---------------------------------------------------------------------------------------------------------

void Device::require_not_recording(const char* op) const {
  if (recording_)
    throw Error(ESFT_BAD_ARGUMENT, op, "device",
                std::string(op) + ": not possible while a graph is recorded; only ops are: do it before capture()");
}

std::shared_ptr<Graph> Device::begin_recording() {
  require_not_recording("capture");
  if (!backend_->capture_begin)
    throw Error(ESFT_UNSUPPORTED, "capture", "device", std::string("capture: the ") + backend_->name + " backend has no graphs");
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (stop_) throw Error(ESFT_DISPOSED, "capture", "device", "the device was disposed");
    captured_.wait(lock, [&] { return !capturing_; });
    capturing_ = true;
  }
  auto graph = std::make_shared<Graph>();
  graph->device = shared_from_this();
  recording_ = graph;
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
  submit_wait(
      [this, graph](Failure& f) {
        char err[512] = "";
        const int status = backend_->capture_end(handle_, &graph->handle, err, sizeof err);
        graph->begun = false;
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
