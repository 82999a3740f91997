// Mixtral (mistralai/Mixtral-8x7B): grouped heads, every layer sparse, softmax router with weights renormalised, experts named
// w1 (gate), w3 (up), w2 (down).

import { softmaxRule, w132 } from "../build.ts";
import type { Family } from "../build.ts";
import { blockToMlp } from "../peft_names.ts";
import { ropeFromConfig } from "../rope.ts";

export const mixtral: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-5,
  peft: { rewritten: "mixtral", renames: blockToMlp },
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, b.headDim(), { theta: 1e6 }).spec;
    const attention = { rope, window: c.intOrNull("sliding_window") ?? 0, kvHeads: 8 };
    const router = {
      count: ["num_local_experts", "num_experts"],
      topK: c.int("num_experts_per_tok", 2),
      expertHidden: c.int("intermediate_size"),
      rule: { ...softmaxRule, renormalize: true },
      names: w132,
    } as const;
    return b.layers((at) => b.preNorm(at, b.heads(`${at}.self_attn`, attention), b.moe(b.named(at, "block_sparse_moe", "mlp"), router)));
  },
};
