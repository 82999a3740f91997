// FlexOlmo: OLMoE's attention and router in layers that are normalised behind their branches; the router sees the residual stream.

import { softmaxRule } from "../build.ts";
import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const flexOlmo: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-6,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const attention = {
      rope: ropeFromConfig(c, b.headDim(), { theta: 5e5 }).spec,
      norms: { over: "projection" },
      bias: c.bool("attention_bias", false) ? "all" : "none",
    } as const;
    const router = {
      count: ["num_experts", "num_local_experts"],
      topK: c.int("num_experts_per_tok", 5),
      expertHidden: c.int("intermediate_size"),
      rule: { ...softmaxRule, renormalize: c.bool("norm_topk_prob", false) },
    } as const;
    return b.layers((at) => ({
      attention: b.heads(`${at}.self_attn`, attention),
      attentionNorms: { after: b.norm(`${at}.post_attention_layernorm`) },
      mlp: b.moe(`${at}.mlp`, router),
      mlpNorms: { after: b.norm(`${at}.post_feedforward_layernorm`) },
      residualFactor: 1,
    }));
  },
};
