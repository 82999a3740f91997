// Phi-3.5-MoE: grouped heads with biases, LayerNorm everywhere, a bias of the head, longrope; every layer sparse, two experts by SparseMixer
// in the way of evaluation (nothing is sampled), experts named w1 (gate), w3 (up), w2 (down).

import { softmaxRule, w132 } from "../build.ts";
import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const phimoe: Family = {
  accepts: { hidden_act: ["silu"], num_experts_per_tok: [2] },
  eps: 1e-5,
  norms: "layer",
  layers(b) {
    const { c } = b;
    const attention = {
      rope: ropeFromConfig(c, b.headDim(), { theta: 1e6, types: ["default", "longrope"], mscales: true }).spec,
      window: c.intOrNull("sliding_window") ?? 0,
      bias: c.bool("attention_bias", false) ? "all" : "none",
      kvHeads: 8,
    } as const;
    const jitter = c.number("router_jitter_noise", [0, 0.5], 0.01);
    const expertHidden = c.int("intermediate_size", 6400);
    return b.layers((at) => {
      const block = b.named(at, "block_sparse_moe", "mlp");
      const moe = b.moe(block, {
        count: ["num_local_experts", "num_experts"],
        topK: c.int("num_experts_per_tok", 2),
        expertHidden,
        rule: { ...softmaxRule, score: "sparseMixer", renormalize: false, jitter },
        router: block.endsWith(".mlp") ? "router" : "gate",
        names: w132,
      });
      return b.preNorm(at, b.heads(`${at}.self_attn`, attention), moe);
    });
  },
  head: ({ c }) => ({ bias: c.bool("lm_head_bias", false) }),
};
