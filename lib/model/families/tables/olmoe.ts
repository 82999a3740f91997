// OLMoE (allenai/OLMoE-1B-7B): grouped heads with RMSNorm over the whole q and k projections, optional clip_qkv and biases; every layer
// sparse; softmax router, weights renormalised only when norm_topk_prob says so.

import { softmaxRule } from "../build.ts";
import type { Family } from "../build.ts";
import { ranges } from "../config.ts";
import { ropeFromConfig } from "../rope.ts";

export const olmoe: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-5,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, b.headDim()).spec;
    const bias = c.bool("attention_bias", false) ? "all" : "none";
    const clip = c.numberOrNull("clip_qkv", ranges.clip);
    const router = {
      count: ["num_experts", "num_local_experts"],
      topK: c.int("num_experts_per_tok"),
      expertHidden: c.int("intermediate_size"),
      rule: { ...softmaxRule, renormalize: c.bool("norm_topk_prob", false) },
    } as const;
    return b.layers((at) =>
      b.preNorm(at, b.heads(`${at}.self_attn`, { rope, norms: { over: "projection" }, clip, bias }), b.moe(`${at}.mlp`, router)),
    );
  },
};
