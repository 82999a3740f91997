// One line per check, a summary at the end; planted faults run in a forked child, whose report is compared.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "../../cuda/types.cuh"
#include "../emu.h"

namespace esft::emu::test {

void check(bool ok, const std::string& name);
// The child must abort with `text` in its report.
void expect_fault(const std::string& name, const std::string& text, const std::function<void()>& body);
int summary();

constexpr const char* kSchedules[] = {"eager", "late", "random:1", "random:2", "random:3"};

// Device memory with host copies.
template <class T>
struct Buffer {
  T* device = nullptr;
  size_t count;
  explicit Buffer(size_t count) : count(count) { cudaMalloc(&device, count * sizeof(T)); }
  explicit Buffer(const std::vector<T>& host) : Buffer(host.size()) {
    cudaMemcpy(device, host.data(), count * sizeof(T), cudaMemcpyHostToDevice);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(device); }
  std::vector<T> host() const {
    std::vector<T> values(count);
    cudaMemcpy(values.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }
};

// Runs the kernel and waits.
void run(const char* name, dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel);
// Small integers as bf16: products and sums of a few of them are exact in f32.
std::vector<uint16_t> random_bf16(size_t count, uint32_t seed);
float bf16_value(uint16_t bits);
// A bf16 matrix [rows, cols] in boxes of box_cols x box_rows.
CUtensorMap matrix_map(const uint16_t* data, uint64_t rows, uint64_t cols, uint32_t box_rows, uint32_t box_cols,
                       CUtensorMapSwizzle swizzle);

void test_threads();
void test_copies();
void test_products();
void test_pipeline();
void test_runtime();
void test_faults();
void test_clusters();
void test_turns();
void test_allocator();
void test_segments();
void test_weights();

}  // namespace esft::emu::test
