// Hunyuan-A13B: grouped heads with RMSNorm of every head of q and k after the rotation; all layers sparse, softmax router with weights
// renormalised, one shared MLP; experts per token and layer.

import { softmaxRule } from "../build.ts";
import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const hunyuanV1Moe: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-5,
  peft: { rewritten: "qwen2", linearRouter: true },
  layers(b) {
    const { c } = b;
    const attention = {
      rope: ropeFromConfig(c, b.headDim(), { alpha: true }).spec,
      norms: { over: "head", q: "query_layernorm", k: "key_layernorm", after: true },
      bias: c.bool("attention_bias", false) ? "all" : "none",
    } as const;
    const hidden = c.int("intermediate_size");
    const experts = c.intPerLayer("num_experts", b.depth, 1);
    const topK = c.intPerLayer(c.anyOf("moe_topk", "num_experts_per_tok"), b.depth, 1);
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.heads(`${at}.self_attn`, attention),
        b.moe(`${at}.mlp`, {
          count: ["num_experts"],
          number: experts(l),
          topK: topK(l),
          expertHidden: hidden,
          rule: { ...softmaxRule, renormalize: true },
          router: "gate.wg",
          shared: b.mlp(`${at}.mlp.shared_mlp`, hidden),
        }),
      ),
    );
  },
};
