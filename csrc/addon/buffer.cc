#include "buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/check.h"

namespace esft {

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
