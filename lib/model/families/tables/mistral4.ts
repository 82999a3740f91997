// Mistral Small 4: DeepSeek-V3's latent attention with queries that grow with their position, softmax router with groups and weights
// divided by their sum, shared experts, experts fused.

import type { Family } from "../build.ts";
import { ranges } from "../config.ts";
import { ropeFromConfig } from "../rope.ts";

export const mistral4: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-6,
  peft: { rewritten: "none" },
  layers(b) {
    const { c } = b;
    const ropeDim = c.int("qk_rope_head_dim", undefined, ranges.headDim);
    const rope = ropeFromConfig(c, ropeDim, {
      interleaved: c.bool("rope_interleave", true),
      partialOf: ropeDim + c.int("qk_nope_head_dim"),
    });
    const p = c.section("rope_parameters");
    const beta = p.numberOrNull("llama_4_scaling_beta", [0, 100]);
    const length = beta === null ? 1 : p.int("original_max_position_embeddings", undefined, ranges.positions);
    const dense = c.int("first_k_dense_replace", 0, [0, 2 ** 31]);
    return b.layers((at, l) => {
      const { selectionBias: _none, rule, ...moe } = b.sigmoidMoe(`${at}.mlp`);
      const latent = b.latent(`${at}.self_attn`, rope);
      return b.preNorm(
        at,
        beta === null ? latent : { ...latent, queryFactor: { beta, length, offset: 0 } },
        l < dense
          ? b.mlp(`${at}.mlp`, c.int("intermediate_size"))
          : b.moe(`${at}.mlp`, { ...moe, rule: { ...rule, score: "softmax", dropped: "zero" } }),
      );
    });
  },
};
