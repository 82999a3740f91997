// The Backend table: the one seam between the addon and a device (CPU, reference, CUDA).
//
// Pure C ABI. A backend is a table of functions; the CPU and reference tables are in the addon, the CUDA table comes from
// its own library, opened on first use. Nothing above this file may assume that tensor memory is host memory or that an
// op has finished when its call returns: ops are submitted in order to one queue per device, and only `synchronize`
// waits.
//
// Every function that can fail returns 0 on success, or a non-zero esft_status with a message in `err`.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ESFT_ABI 6  // of this file; ops and their arguments: ops/fingerprint.h

typedef enum esft_dtype { ESFT_F32 = 0, ESFT_BF16 = 1, ESFT_I32 = 2, ESFT_I64 = 3, ESFT_F64 = 4, ESFT_U8 = 5 } esft_dtype;

typedef enum esft_status {
  ESFT_OK = 0,
  ESFT_BAD_ARGUMENT = 1,  // shapes, dtypes, ranges, values in index tensors
  ESFT_NO_MEMORY = 2,
  ESFT_UNSUPPORTED = 3,
  ESFT_DEVICE_FAULT = 4,
  ESFT_DISPOSED = 100  // never from a backend: a handle was used after dispose()
} esft_status;

#define ESFT_MAX_RANK 4

// A tensor is `rows` x `cols` scalars: cols = the last dimension, rows = the product of the others; consecutive rows are
// `ld` elements apart (ld == cols when contiguous). data == NULL means "absent" for optional arguments.
typedef struct esft_tensor {
  void* data;
  int32_t dtype;
  int32_t rank;
  int64_t shape[ESFT_MAX_RANK];
  int64_t ld;
} esft_tensor;

typedef struct esft_tensor_list {
  const esft_tensor* items;
  int64_t count;
} esft_tensor_list;

// How the numbers of a weight are stored. Plain: as the dtype of its tensor says; else the tensor holds codes, to be multiplied by the
// scale of their block. The products serve plain weights and refuse the others by name (ops/checks.h: expect_plain).
typedef enum esft_scheme { ESFT_PLAIN = 0, ESFT_FP8_BLOCKS = 1, ESFT_MXFP4 = 2 } esft_scheme;

typedef struct esft_scaling {
  int32_t scheme;  // esft_scheme
  int32_t block_rows, block_columns;  // numbers that share a scale; plain: 0
  esft_tensor scales;  // [rows / block_rows, columns / block_columns], rounded up; plain: absent
} esft_scaling;

typedef struct esft_weight {
  esft_tensor tensor;
  esft_scaling scaling;
} esft_weight;

// The tensors lie one behind the other, as those of an esft_tensor_list.
typedef struct esft_weight_list {
  const esft_tensor* items;
  int64_t count;
  const esft_scaling* scalings;  // of each; NULL: all plain
} esft_weight_list;

// Small integer lists that the host knows (trained expert ids): passed by value, never device memory.
typedef struct esft_ints {
  const int32_t* items;
  int64_t count;
} esft_ints;

typedef struct esft_device esft_device;  // opaque, one per opened device
typedef struct esft_graph esft_graph;    // opaque, a recorded sequence of ops

typedef struct esft_device_info {
  char name[128];         // "AMD EPYC, avx512bf16" ...
  char instruction_set[32];
  int32_t threads;
  int32_t host_memory;    // 1: device pointers are host pointers (mapped files can be used in place)
  int64_t memory_bytes;   // total
  int64_t memory_free;    // now; 0 = not known
  int32_t supports_bf16_compute;
  int32_t activation_dtype;  // dtype of activations the ops of this device take: ESFT_F32 or ESFT_BF16
  int32_t emulated;          // 1: the CUDA sources running on the host (tests)
} esft_device_info;

typedef struct esft_backend {
  int32_t abi;  // must equal kAbi of ops/fingerprint.h
  const char* name;
  int (*open)(int32_t index, int32_t threads, esft_device** out, char* err, size_t err_size);
  void (*close)(esft_device*);
  int (*info)(esft_device*, esft_device_info* out, char* err, size_t err_size);
  int (*alloc)(esft_device*, size_t bytes, void** out, char* err, size_t err_size);  // zero-filled, 64-byte aligned
  void (*free)(esft_device*, void*, size_t bytes);
  int (*upload)(esft_device*, void* dst, const void* src_host, size_t bytes, char* err, size_t err_size);
  int (*download)(esft_device*, void* dst_host, const void* src, size_t bytes, char* err, size_t err_size);
  int (*synchronize)(esft_device*, char* err, size_t err_size);
  // Runs (or enqueues) op `op` of ops/op_list.h with its argument struct. NULL table entry = op not supported.
  int (*const* run)(esft_device*, const void* args, char* err, size_t err_size);
  // Graphs; all NULL where the backend has none. Between begin and end ops are recorded, not run; upload, download and
  // synchronize are refused, and so is an op that would have to allocate (run the same ops once before recording).
  int (*capture_begin)(esft_device*, char* err, size_t err_size);
  int (*capture_end)(esft_device*, esft_graph** out, char* err, size_t err_size);
  int (*graph_launch)(esft_device*, esft_graph*, char* err, size_t err_size);
  void (*graph_destroy)(esft_device*, esft_graph*);
  // Streams; NULL where the device has one queue. What follows goes to stream `index` (0 at first; the next number makes one more), with
  // scratch of its own. Nothing orders streams but stream_order: what goes to `after` from now on waits for what went to `before` until
  // now. alloc, download, synchronize and graph_launch come after all that was submitted, to whichever stream, and before all that will be.
  int (*stream_use)(esft_device*, int32_t index, char* err, size_t err_size);
  int (*stream_order)(esft_device*, int32_t before, int32_t after, char* err, size_t err_size);
} esft_backend;

// The one symbol of libesft_cuda.so. Never fails; `open` says what is missing.
#define ESFT_CUDA_ENTRY "esft_cuda_backend"
typedef const esft_backend* (*esft_cuda_backend_fn)(void);

typedef int (*esft_run_fn)(esft_device*, const void* args, char* err, size_t err_size);

#ifdef __cplusplus
}
#endif
