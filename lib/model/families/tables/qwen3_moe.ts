// Qwen3-MoE (Qwen/Qwen3-30B-A3B): grouped heads with RMSNorm of every head of q and k, softmax router, no shared expert; layers are
// sparse by decoder_sparse_step and mlp_only_layers.

import { softmaxRule } from "../build.ts";
import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";
import { sparseLayers } from "../sparse_layers.ts";

export const qwen3Moe: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-6,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const attention = {
      rope: ropeFromConfig(c, b.headDim()).spec,
      norms: { over: "head" },
      bias: c.bool("attention_bias", false) ? "all" : "none",
      window: c.bool("use_sliding_window", false) ? (c.intOrNull("sliding_window") ?? 0) : 0,
      kvHeads: 4,
    } as const;
    const router = {
      count: ["num_experts", "num_local_experts"],
      topK: c.int("num_experts_per_tok", 8),
      expertHidden: c.int("moe_intermediate_size"),
      rule: { ...softmaxRule, renormalize: c.bool("norm_topk_prob", false) },
    } as const;
    const sparse = sparseLayers(b);
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.heads(`${at}.self_attn`, attention),
        sparse(l) ? b.moe(`${at}.mlp`, router) : b.mlp(`${at}.mlp`, c.int("intermediate_size")),
      ),
    );
  },
};
