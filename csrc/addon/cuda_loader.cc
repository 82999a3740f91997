#include "cuda_loader.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <mutex>

#include "../core/check.h"
#include "../ops/fingerprint.h"

namespace esft {

namespace {

[[noreturn]] void unusable(const std::string& message) {
  throw Error(ESFT_UNSUPPORTED, "open", "library", "device \"cuda\": " + message);
}

std::string own_directory() {
  Dl_info own{};
  if (!dladdr(reinterpret_cast<const void*>(&own_directory), &own) || !own.dli_fname) return ".";
  const std::string path = own.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

const char* override_path() {
  const char* path = getenv("ESFT_CUDA_LIBRARY");
  return path && *path ? path : nullptr;
}

const esft_backend* load() {
  const std::string path = cuda_library_path();
  if (access(path.c_str(), R_OK) != 0) {
    if (override_path()) unusable("ESFT_CUDA_LIBRARY names " + path + ", which cannot be read");
    unusable("esft was built without CUDA (no " + path +
             "); build it where nvcc is found (npm run build:native in a clone, npx esft build in an installed package), or set "
             "ESFT_CUDA_LIBRARY to a libesft_cuda.so");
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    unusable("cannot load " + path + ": " + (why ? why : "unknown error"));
  }
  const auto entry = reinterpret_cast<esft_cuda_backend_fn>(dlsym(library, ESFT_CUDA_ENTRY));
  if (!entry) unusable(path + " is not esft's CUDA library (it has no " ESFT_CUDA_ENTRY ")");
  const esft_backend* backend = entry();
  if (!backend || backend->abi != kAbi)
    unusable(
        format("%s has ABI %08x, this addon needs %08x: its ops or their arguments are others; build both from the same version",
               path.c_str(), backend ? unsigned(backend->abi) : 0, unsigned(kAbi)));
  return backend;
}

}  // namespace

std::string cuda_library_path() {
  if (const char* path = override_path()) return path;
  return own_directory() + "/libesft_cuda.so";
}

const esft_backend* cuda_backend() {
  static std::mutex mutex;
  static const esft_backend* backend = nullptr;  // for the life of the process: its threads and contexts outlive a dlclose
  std::lock_guard<std::mutex> lock(mutex);
  if (!backend) backend = load();
  return backend;
}

}  // namespace esft
