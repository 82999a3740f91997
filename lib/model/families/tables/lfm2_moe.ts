// LFM2-MoE (LiquidAI/LFM2-8B-A1B): layers of short convolutions, some of grouped heads with RMSNorm of every head of q and k;
// DeepSeek-V3's router without groups, the weights divided by their sum + 1e-6, dense first layers; the head is the embedding.

import { w132 } from "../build.ts";
import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const lfm2Moe: Family = {
  accepts: { tie_embedding: [true] },
  eps: 1e-5,
  epsKey: "norm_eps",
  tied: true,
  finalNorm: "embedding_norm",
  peft: { rewritten: "none" },
  layers(b) {
    const { c, D } = b;
    const rope = ropeFromConfig(c, b.headDim(), { theta: 1e6 }).spec;
    const taps = c.int("conv_L_cache", 3, [1, 8]);
    const convBias = c.bool("conv_bias", false);
    const kind = c.perLayer("layer_types", b.depth, ["conv", "full_attention"], () => c.fail("layer_types", "there"));
    const dense = c.int("num_dense_layers", 2, [0, 2 ** 31]);
    const bias = c.bool("use_expert_bias", true);
    const expertHidden = c.int("moe_intermediate_size");
    const norms = { over: "head", q: "q_layernorm", k: "k_layernorm" } as const;
    return b.layers((at, l) => ({
      attention:
        kind(l) === "conv"
          ? {
              kind: "conv",
              bcx: b.linear(`${at}.conv.in_proj`, D, 3 * D, convBias),
              conv: b.conv(`${at}.conv.conv`, D, taps, convBias),
              o: b.linear(`${at}.conv.out_proj`, D, D, convBias),
            }
          : b.heads(`${at}.self_attn`, { rope, norms, o: "out_proj", kvHeads: 8 }),
      attentionNorms: { before: b.norm(`${at}.operator_norm`) },
      mlp:
        l < dense
          ? b.mlp(`${at}.feed_forward`, c.int("intermediate_size"), w132)
          : b.moe(`${at}.feed_forward`, {
              count: ["num_experts", "num_local_experts"],
              topK: c.int("num_experts_per_tok", 4),
              expertHidden,
              rule: b.sigmoidRule({ groups: false, normEps: 1e-6 }),
              ...(bias ? { selectionBias: { name: `${at}.feed_forward.expert_bias` } } : {}),
              names: w132,
            }),
      mlpNorms: { before: b.norm(`${at}.ffn_norm`) },
      residualFactor: 1,
    }));
  },
};
