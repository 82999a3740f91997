// MiniMax-M2: grouped heads with RMSNorm over the whole q and k projections, a part of each head rotated; all layers sparse, sigmoid
// router with a selection bias, weights divided by their sum and not scaled, no shared expert.

import { w132 } from "../build.ts";
import type { Family } from "../build.ts";
import { blockToMlp } from "../peft_names.ts";
import { ropeFromConfig } from "../rope.ts";

export const minimaxM2: Family = {
  accepts: { hidden_act: ["silu"], scoring_func: ["sigmoid"], use_qk_norm: [true], qk_norm_type: ["per_layer"], use_routing_bias: [true] },
  eps: 1e-6,
  peft: { rewritten: "mixtral", renames: blockToMlp },
  layers(b) {
    const { c } = b;
    const headDim = b.headDim(128);
    // Published files say rotary_dim; Transformers 5 ignores that and writes partial_rotary_factor into rope_parameters, or rotates all.
    const partial = c.object("rope_parameters") ? 1 : c.int("rotary_dim", headDim) / headDim;
    const rope = ropeFromConfig(c, headDim, { theta: 5e6, partial }).spec;
    return b.layers((at) => {
      const block = b.named(at, "block_sparse_moe", "mlp");
      return b.preNorm(
        at,
        b.heads(`${at}.self_attn`, { rope, norms: { over: "projection" }, kvHeads: 8, headDim: 128 }),
        b.moe(block, {
          count: ["num_local_experts", "num_experts"],
          topK: c.int("num_experts_per_tok", 8),
          expertHidden: c.int("intermediate_size"),
          rule: b.sigmoidRule({ groups: false, scale: null, renormalize: true, normEps: 0 }),
          selectionBias: { name: `${block}.e_score_correction_bias` },
          names: w132,
        }),
      );
    });
  },
};
