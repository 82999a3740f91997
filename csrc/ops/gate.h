// Gates: what multiplies an activation by a number of its row or by a sigmoid.
//
// sigmoid_gate           y[r, c] = x[r, c] · σ(g[r, ⌊c·G/C⌋])       x, y [R, C] act, g [R, G] act, G divides C: each gate serves C/G
//                        neighbouring columns (G = 1: a shared expert's gate; G = C: gated attention). y may be x.
// sigmoid_gate_backward  dx = dy · σ(g) (optional; may be dy),  dg[r, j] = σ(1 − σ) · Σ_c dy[r, c] · x[r, c] over the columns of j
//                        (optional). dy, x, dx [R, C], g, dg [R, G] act. Sums in f32, in a fixed order.
// scale_rows             y[r, c] = x[r, c] · factors[positions[r]]   x, y [R, C] act, positions_R i32 in [0, P), else KernelError;
//                        factors_P f32. y may be x. Its own backward.
// Source: Qwen2-MoE's shared expert (config shared_expert_intermediate_size), gated attention of Qwen3-Next and AFMoE, the
// position-dependent queries of Llama 4 and Mistral 4. Reference: gate_ref.cc. Tests: test/ops/gate.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_sigmoid_gate(F) F(AIN, x) F(AIN, g) F(AOUT, y)
ESFT_DEFINE_ARGS(sigmoid_gate)

#define ESFT_ARGS_sigmoid_gate_backward(F) F(AIN, dy) F(AIN, x) F(AIN, g) F(AOUT_OPT, dx) F(AOUT_OPT, dg)
ESFT_DEFINE_ARGS(sigmoid_gate_backward)

#define ESFT_ARGS_scale_rows(F) F(AIN, x) F(IN, positions) F(IN, factors) F(AOUT, y)
ESFT_DEFINE_ARGS(scale_rows)
