#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/check.h"

namespace esft {

std::shared_ptr<Device> Device::open(const esft_backend* backend, int index, int threads) {
  char err[1024] = "";
  std::shared_ptr<Device> d(new Device());
  d->backend_ = backend;
  int status = backend->open(index, threads, &d->handle_, err, sizeof err);
  if (status != ESFT_OK) throw Error(esft_status(status), "open", "device", err);
  status = backend->info(d->handle_, &d->info_, err, sizeof err);
  if (status != ESFT_OK) throw Error(esft_status(status), "info", "device", err);
  d->thread_ = std::thread([p = d.get()] { p->thread_main(); });
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
  if (job.done) job.done({ESFT_DEVICE_FAULT, "", "the device was disposed"});
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
        Failure disposed{ESFT_DEVICE_FAULT, "", "the device was disposed before this finished"};
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

Buffer::~Buffer() {
  if (!data) return;
  if (mapped)
    munmap(data, bytes);
  else if (device)
    device->backend()->free(device->handle(), data, bytes);
}

std::shared_ptr<Buffer> allocate_buffer(const std::shared_ptr<Device>& device, size_t bytes) {
  char err[512] = "";
  auto b = std::make_shared<Buffer>();
  int status = device->backend()->alloc(device->handle(), bytes, &b->data, err, sizeof err);
  if (status != ESFT_OK) throw Error(esft_status(status), "alloc", "bytes", err);
  b->device = device;
  b->bytes = bytes;
  return b;
}

std::shared_ptr<Buffer> map_file(const std::string& path) {
  auto io_error = [&](const char* what) {
    throw Error(ESFT_DEVICE_FAULT, "map", "path", std::string("cannot ") + what + " " + path + ": " + strerror(errno));
  };
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) io_error("open");
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    if (!S_ISREG(st.st_mode)) errno = EINVAL;
    close(fd);
    io_error("map (not a regular file)");
  }
  auto b = std::make_shared<Buffer>();
  b->bytes = size_t(st.st_size);
  b->read_only = true;
  b->mapped = true;
  if (b->bytes > 0) {
    void* p = mmap(nullptr, b->bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
      close(fd);
      io_error("map");
    }
    b->data = p;
  }
  close(fd);
  return b;
}

}  // namespace esft
