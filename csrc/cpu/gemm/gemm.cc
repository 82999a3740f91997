// Dense products (see ops/gemm.h): one product cut into row blocks and panel ranges over the threads.
#include "../../core/check.h"
#include "../kernels.h"
#include "gemm_tasks.h"

namespace esft::cpu::ESFT_ISA {

namespace {

enum Mode { NT = 0, NN = 1, TN = 2 };

Block whole_product(const esft_gemm_args& a, Segment* segment) {
  const bool tn = a.mode == TN;
  Block b = {};
  b.m = tn ? cols(a.a) : rows(a.a);
  b.k = tn ? rows(a.a) : cols(a.a);
  b.n = a.mode == NT ? rows(a.b.tensor) : cols(a.b.tensor);
  const bool bf16 = a.b.tensor.dtype == ESFT_BF16;
  b.kind = panel_kind(bf16, a.precision, b.m);
  b.a = {data<const float>(a.a), a.a.ld, nullptr};
  b.a_columns = tn;
  *segment = {a.b.tensor.data, a.b.tensor.ld, rows(a.b.tensor), bf16};
  b.source = a.mode == NT ? FROM_WEIGHT_ROWS : FROM_WEIGHT_COLUMNS;
  b.w = {segment, 1};
  b.streams = streams_weights(b);
  b.out.kind = OUT_PLAIN;
  b.out.c = data<float>(a.c);
  b.out.ldc = a.c.ld;
  b.out.add = a.accumulate != 0;
  if (present(a.bias)) {
    b.out.bias = a.bias.data;
    b.out.bias_bf16 = a.bias.dtype == ESFT_BF16;
  }
  if (present(a.residual)) {
    b.out.residual = data<const float>(a.residual);
    b.out.ldr = a.residual.ld;
  }
  return b;
}

}  // namespace

void gemm(const esft_gemm_args& a, Context& ctx) {
  Segment segment;
  const Block whole = whole_product(a, &segment);
  if (whole.m == 0 || whole.n == 0) return;
  const int64_t bound = tasks_bound(1, whole.m, ctx.threads());
  run_blocks(ctx, &whole, 1, static_cast<Task*>(ctx.shared_scratch(size_t(bound) * sizeof(Task))));
}

}  // namespace esft::cpu::ESFT_ISA
