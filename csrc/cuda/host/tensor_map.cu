#include "tensor_map.h"

#include <cuda_runtime.h>

#include "../../core/check.h"
#include "context.h"

namespace esft::cuda {

namespace {

// The addon links no driver library: the one driver function that is needed is looked up at run time.
using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                                 const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeTiled encode_function() {
  static EncodeTiled found = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult result;
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &result), "tensor map");
    if (result != cudaDriverEntryPointSuccess || !f)
      fail_status(ESFT_UNSUPPORTED, "open", "driver", "open: the driver has no cuTensorMapEncodeTiled; update the driver");
    return reinterpret_cast<EncodeTiled>(f);
  }();
  return found;
}

bool encode(CUtensorMap* map, const esft_tensor& t, int rank, int64_t count, int64_t distance, int box_rows) {
  const int64_t r = rows(t), c = cols(t), ld = r <= 1 ? c : t.ld;
  if (t.dtype != ESFT_BF16 || r == 0 || c == 0) return false;
  const int64_t stride = r <= 1 ? (c * 2 + 15) / 16 * 16 : ld * 2;  // of one row the stride means nothing, but must be legal
  if (count <= 1) distance = r * stride;  // nor the distance of one matrix
  if ((reinterpret_cast<uintptr_t>(t.data) & 15) || (stride & 15) || stride >= (int64_t(1) << 40) || (distance & 15) ||
      distance >= (int64_t(1) << 40) || r > 0xffffffffll || c > 0xffffffffll)
    return false;
  const cuuint64_t sizes[3] = {cuuint64_t(c), cuuint64_t(r), cuuint64_t(count)},
                   strides[2] = {cuuint64_t(stride), cuuint64_t(distance)};
  const cuuint32_t box[3] = {64, cuuint32_t(box_rows), 1}, element_strides[3] = {1, 1, 1};
  const CUresult status = encode_function()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, cuuint32_t(rank), t.data, sizes, strides, box,
                                            element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    fail_status(ESFT_DEVICE_FAULT, "tensor_map", "matrix",
                format("tensor map of %s: driver error %d", describe(t).c_str(), int(status)));
  return true;
}

}  // namespace

bool encode_tensor_map(CUtensorMap* map, const esft_tensor& t, int box_rows) { return encode(map, t, 2, 1, 0, box_rows); }

bool encode_stack_map(CUtensorMap* map, const esft_tensor& first, int64_t count, int64_t distance, int box_rows) {
  return encode(map, first, 3, count, distance, box_rows);
}

}  // namespace esft::cuda
