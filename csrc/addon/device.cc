#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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

Buffer::~Buffer() {
  if (file >= 0) ::close(file);
  if (!data) return;
  if (mapped)
    munmap(data, bytes);
  else if (device)
    device->release(data, bytes);
}

bool Buffer::still_whole(const char* op, Failure& f) const {
  struct stat st;
  if (file < 0 || fstat(file, &st) != 0 || size_t(st.st_size) >= bytes) return true;
  f = {ESFT_DEVICE_FAULT, op,
       format("%s: the file %s shrank from %zu to %lld bytes while it was in use; open the model again", op, path.c_str(), bytes,
              (long long)st.st_size)};
  return false;
}

std::shared_ptr<Buffer> allocate_buffer(const std::shared_ptr<Device>& device, size_t bytes) {
  auto b = std::make_shared<Buffer>();
  b->data = device->allocate(bytes);
  b->device = device;
  b->bytes = bytes;
  return b;
}

std::shared_ptr<Buffer> map_file(const std::string& path) {
  auto io_error = [&](const char* what) {
    throw Error(ESFT_DEVICE_FAULT, "map", "path", std::string("cannot ") + what + " " + path + ": " + strerror(errno));
  };
  if (path.find('\0') != std::string::npos) fail("map", "path", "a path", "one with a zero byte");
  auto b = std::make_shared<Buffer>();
  b->read_only = true;
  b->mapped = true;
  b->path = path;
  b->file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block
  if (b->file < 0) io_error("open");
  struct stat st;
  if (fstat(b->file, &st) != 0) io_error("map");
  if (!S_ISREG(st.st_mode)) fail("map", "path", "a regular file", "something else at " + path);
  if (st.st_size == 0) return b;
  void* p = mmap(nullptr, size_t(st.st_size), PROT_READ, MAP_SHARED, b->file, 0);
  if (p == MAP_FAILED) io_error("map");
  b->data = p;
  b->bytes = size_t(st.st_size);
  return b;
}

}  // namespace esft
