// Tests of the emulation itself: that the wrappers mean what the PTX instructions mean, and that planted faults are caught.
//   npm run build:emu && build/Release/emu_test
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "harness.h"

namespace esft::emu::test {

static int passed = 0, failed = 0;

void check(bool ok, const std::string& name) {
  printf("%s %s\n", ok ? "ok  " : "FAIL", name.c_str());
  fflush(stdout);
  (ok ? passed : failed)++;
}

void expect_fault(const std::string& name, const std::string& text, const std::function<void()>& body) {
  int ends[2];
  if (pipe(ends) != 0) return check(false, name + ": no pipe");
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    body();
    _exit(0);
  }
  close(ends[1]);
  std::string report;
  char bytes[4096];
  for (ssize_t n; (n = read(ends[0], bytes, sizeof bytes)) > 0;) report.append(bytes, size_t(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  const bool aborted = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
  const bool ok = aborted && report.find(text) != std::string::npos;
  check(ok, "caught: " + name);
  if (!ok) printf("     expected \"%s\", received %s: %s\n", text.c_str(), aborted ? "abort" : "no abort", report.c_str());
}

int summary() {
  printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

void run(const char* name, dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel) {
  launch(nullptr, name, grid, block, shared_bytes, std::move(kernel));
  cudaDeviceSynchronize();
}

std::vector<uint16_t> random_bf16(size_t count, uint32_t seed) {
  std::vector<uint16_t> values(count);
  for (auto& v : values) {
    seed = seed * 1664525u + 1013904223u;
    v = uint16_t(cuda::float_to_bits(float(int(seed >> 24) % 17 - 8)) >> 16);
  }
  return values;
}
float bf16_value(uint16_t bits) { return cuda::bits_to_float(uint32_t(bits) << 16); }

CUtensorMap matrix_map(const uint16_t* data, uint64_t rows, uint64_t cols, uint32_t box_rows, uint32_t box_cols,
                       CUtensorMapSwizzle swizzle) {
  CUtensorMap map;
  const cuuint64_t dims[2] = {cols, rows}, strides[1] = {cols * 2};
  const cuuint32_t box[2] = {box_cols, box_rows}, steps[2] = {1, 1};
  const CUresult status = cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t*>(data), dims,
                                                 strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                                 CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) check(false, "encode of a tensor map");
  return map;
}

}  // namespace esft::emu::test

int main() {
  using namespace esft::emu::test;
  setenv("ESFT_EMU_CLUSTERS", "1000000", 0);  // grids of clusters here need not be persistent
  test_threads();
  test_copies();
  test_products();
  test_pipeline();
  test_runtime();
  test_faults();
  test_clusters();
  test_turns();
  test_allocator();
  test_segments();
  test_weights();
  return summary();
}
