// OLMoE (allenai/OLMoE-1B-7B): grouped heads with RMSNorm over the whole q and k projections, optional clip_qkv; every layer
// sparse; softmax router, weights renormalised only when norm_topk_prob says so.

import { softmaxRule } from "./build.ts";
import type { Family } from "./build.ts";
import { ranges } from "./config.ts";
import { ropeFromConfig } from "./rope.ts";

export const olmoe: Family = {
  accepts: { hidden_act: ["silu"], attention_bias: [false] },
  eps: 1e-5,
  layers(b) {
    const { c } = b;
    const heads = c.int("num_attention_heads");
    const kvHeads = c.int("num_key_value_heads", heads);
    const headDim = b.headDim("num_attention_heads");
    const rope = ropeFromConfig(c, headDim, false).spec;
    const attention = { heads, kvHeads, headDim, rope, norms: true, clip: c.numberOrNull("clip_qkv", ranges.clip) };
    const router = {
      topK: c.int("num_experts_per_tok"),
      expertHidden: c.int("intermediate_size"),
      rule: { ...softmaxRule, renormalize: c.bool("norm_topk_prob", false) },
    };
    return b.layers((at) => ({
      attentionNorm: b.norm(`${at}.input_layernorm`),
      attention: b.heads(`${at}.self_attn`, attention),
      mlpNorm: b.norm(`${at}.post_attention_layernorm`),
      mlp: b.moe(`${at}.mlp`, "num_experts", router),
    }));
  },
};
