// DeepSeek-V3 and what is built as it (Moonlight): multi-head latent attention, shared experts, first layers dense, sigmoid router
// with a selection bias and groups, weights renormalised and scaled.

import type { Family } from "../build.ts";
import { ranges } from "../config.ts";
import { ropeFromConfig } from "../rope.ts";

export const deepseekV3: Family = {
  accepts: {
    hidden_act: ["silu"],
    moe_layer_freq: [1],
    scoring_func: ["sigmoid"],
    topk_method: ["noaux_tc", "greedy"], // the second: as Transformers writes it; it computes the first
    mlp_bias: [false],
  },
  eps: 1e-6,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, c.int("qk_rope_head_dim", undefined, ranges.headDim), { interleaved: c.bool("rope_interleave", true) });
    const dense = c.int("first_k_dense_replace", 3, [0, 2 ** 31]);
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.latent(`${at}.self_attn`, rope),
        l < dense ? b.mlp(`${at}.mlp`, c.int("intermediate_size")) : b.moe(`${at}.mlp`, b.sigmoidMoe(`${at}.mlp`)),
      ),
    );
  },
};
