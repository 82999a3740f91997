// The value checks of index tensors as launches of their own. Each block finds the lowest bad position of its contiguous range,
// so a tensor of up to 4096 elements names its first one; bound by a launch.
#include "index_check.cuh"
#include "../host/launch.h"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kRange = 4096;  // elements per block
constexpr int64_t kNone = INT64_MAX;

struct CheckParams {
  const int32_t* index;
  int64_t count, columns, ld, limit;
  FaultRecord* faults;
  int32_t* owner;  // kNotPermutation: [limit], -1 where no slot has been seen
  int32_t op, detail;
  FaultArgument argument;
};

__device__ __forceinline__ int32_t element(const CheckParams& p, int64_t i) {
  if (p.ld == p.columns) return p.index[i];
  const int64_t row = i / p.columns;
  return p.index[row * p.ld + (i - row * p.columns)];
}

// The position at fault if element i is one, else kNone. The position is i, but for permutations: the later of two equal slots.
template <FaultKind kKind>
__device__ __forceinline__ int64_t bad_position(const CheckParams& p, int64_t i) {
  const int32_t value = element(p, i);
  const bool inside = value >= 0 && value < p.limit;
  if (kKind == kBadIndex) return inside ? kNone : i;
  if (kKind == kBadLabel) return inside || value == -100 ? kNone : i;
  if (kKind == kBadDocStart) return value >= (i ? element(p, i - 1) : 0) && value <= i ? kNone : i;
  if (kKind == kBadOffsets) {
    const bool ascends = value >= (i ? element(p, i - 1) : 0) && (i > 0 || value == 0);
    const bool ends = p.limit < 0 || i + 1 < p.count || value <= p.limit;
    return ascends && ends ? kNone : i;
  }
  if (!inside) return i;
  const int32_t other = atomicMax(&p.owner[value], int32_t(i));
  return other < 0 ? kNone : max_of(int64_t(other), i);
}

template <FaultKind kKind>
__device__ __forceinline__ void report(const CheckParams& p, int64_t i) {
  const int32_t value = element(p, i);
  FaultKind kind = kKind;
  int64_t limit = p.limit;
  int detail = p.detail;
  if (kKind == kBadDocStart || kKind == kBadOffsets) limit = i ? element(p, i - 1) : 0;
  if (kKind == kBadOffsets && i > 0 && value >= limit) limit = p.limit, detail = 1;
  if (kKind == kNotPermutation && (value < 0 || value >= limit)) kind = kBadIndex;
  report_fault(p.faults, kind, p.op, p.argument, i, value, limit, detail);
}

template <FaultKind kKind>
__global__ void __launch_bounds__(kThreads) check_values(const EarlyStart early, const CheckParams p) {
  early.wait();
  ESFT_SHARED(smem);
  int64_t* lowest = reinterpret_cast<int64_t*>(smem);  // [warps]
  const int64_t begin = blockIdx.x * kRange, end = min_of(p.count, begin + kRange);
  int64_t bad = kNone;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) bad = min_of(bad, bad_position<kKind>(p, i));
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) bad = min_of(bad, __shfl_xor_sync(0xffffffffu, bad, step));
  if (threadIdx.x % 32 == 0) lowest[threadIdx.x / 32] = bad;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kThreads / 32; w++) bad = min_of(bad, lowest[w]);
  if (bad != kNone) report<kKind>(p, bad);
}

template <FaultKind kKind>
void check(Context& c, esft_op op, FaultArgument argument, const esft_tensor& t, int64_t limit, int32_t* owner = nullptr) {
  const int64_t count = numel(t), columns = cols(t);
  const CheckParams p{data<int32_t>(t), count,   columns, rows(t) > 1 ? t.ld : columns, limit, c.faults, owner, op,
                      index_columns(t), argument};
  ESFT_LAUNCH((check_values<kKind>), c, dim3(unsigned(ceil_div(count, kRange))), kThreads, kThreads / 32 * sizeof(int64_t), p);
}

}  // namespace

void check_indices_on_device(Context& c, esft_op op, FaultArgument argument, const esft_tensor& index, int64_t limit) {
  check<kBadIndex>(c, op, argument, index, limit);
}
void check_labels_on_device(Context& c, esft_op op, FaultArgument argument, const esft_tensor& labels, int64_t limit) {
  check<kBadLabel>(c, op, argument, labels, limit);
}
void check_offsets_on_device(Context& c, esft_op op, const esft_tensor& offsets, int64_t n, FaultArgument argument) {
  check<kBadOffsets>(c, op, argument, offsets, n);
}
void check_doc_start_on_device(Context& c, esft_op op, FaultArgument argument, const esft_tensor& doc_start) {
  check<kBadDocStart>(c, op, argument, doc_start, 0);
}
void check_permutation_on_device(Context& c, esft_op op, FaultArgument argument, const esft_tensor& index, int64_t n) {
  if (n == 0 || numel(index) == 0) return check<kBadIndex>(c, op, argument, index, n);
  int32_t* owner = c.scratch_of<int32_t>(n);
  check_cuda(cudaMemsetAsync(owner, 0xff, size_t(n) * 4, c.stream), "check_permutation");
  check<kNotPermutation>(c, op, argument, index, n, owner);
}

}  // namespace esft::cuda
