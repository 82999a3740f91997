// Memory that tensors lie in: of a device, or a mapped file.
#pragma once
#include <memory>
#include <string>

#include "device.h"

namespace esft {

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
std::shared_ptr<Buffer> map_file(const std::string& path);  // throws Error

}  // namespace esft
