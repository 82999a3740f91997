// Ops without a CUDA kernel yet: weak, so that a real run_<op> takes its place.
#include "context.h"

namespace esft::cuda {
#define ESFT_STUB(op)                                                                 \
  __attribute__((weak)) void run_##op(const esft_##op##_args&, Context&) {            \
    fail_status(ESFT_UNSUPPORTED, #op, "device", #op ": not available on CUDA yet"); \
  }
ESFT_OPS(ESFT_STUB)
}  // namespace esft::cuda
