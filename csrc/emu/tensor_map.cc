// Tensor maps: what the driver checks when one is made, and what it keeps.
#include "machine.h"

namespace esft::emu {

constexpr uint64_t kMapMark = 0x70616d5f746673ffu;

static uint64_t checksum(const TensorMap& m) {
  uint64_t words[16], sum = 0x9e3779b97f4a7c15u;
  memcpy(words, &m, sizeof words);
  for (int i = 0; i < 15; i++) sum = (sum ^ words[i]) * 0xff51afd7ed558ccdu;
  return sum;
}

TensorMap decode_map(const CUtensorMap* map) {
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0) fail("tensor map at %p is not 64-byte aligned", static_cast<const void*>(map));
  TensorMap m;
  memcpy(&m, map, sizeof m);
  if (m.magic != kMapMark || m.check != checksum(m)) {
    fail("no tensor map at %p (not encoded, or overwritten)", static_cast<const void*>(map));
  }
  return m;
}

static CUresult refuse(const char* why) {
  fprintf(stderr, "esft emulation: cuTensorMapEncodeTiled refused: %s\n", why);
  return CUDA_ERROR_INVALID_VALUE;
}

static uint32_t element_bytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64: return 8;
    default: return 4;
  }
}

}  // namespace esft::emu

using namespace esft::emu;

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* dims,
                                const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill fill) {
  if (device_arch() < 90) return refuse("the device has no TMA");
  if (map == nullptr || reinterpret_cast<uintptr_t>(map) % 64 != 0) return refuse("the map is not 64-byte aligned");
  if (rank < 2 || rank > 3) return refuse("rank must be 2 or 3 in the emulation");
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) {
    return refuse("interleave and NaN fill are not emulated");
  }
  if (address == nullptr || reinterpret_cast<uintptr_t>(address) % 16 != 0) return refuse("the address is not 16-byte aligned");
  TensorMap m{};
  m.magic = kMapMark;
  m.base = static_cast<unsigned char*>(address);
  m.rank = rank;
  m.swizzle = uint32_t(swizzle);
  m.element_bytes = uint16_t(element_bytes(type));
  for (cuuint32_t i = 0; i < rank; i++) {
    if (dims[i] == 0 || dims[i] > uint64_t(1) << 32) return refuse("a dimension is not in 1..2^32");
    if (box[i] == 0 || box[i] > 256) return refuse("a box dimension is not in 1..256");
    if (element_strides[i] != 1) return refuse("element strides other than 1 are not emulated");
    m.dims[i] = dims[i];
    m.box[i] = uint16_t(box[i]);
  }
  for (cuuint32_t i = 0; i + 1 < rank; i++) {
    if (strides[i] % 16 != 0 || strides[i] >= uint64_t(1) << 40) return refuse("a stride is not a multiple of 16 bytes below 2^40");
    m.strides[i] = strides[i];
  }
  const uint32_t inner = box[0] * m.element_bytes;
  if (inner % 16 != 0) return refuse("the inner box dimension is not a multiple of 16 bytes");
  if (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && inner > 16u << uint32_t(swizzle)) {
    return refuse("the inner box dimension is larger than the swizzle span");
  }
  m.check = checksum(m);
  memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}
