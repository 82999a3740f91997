// Qwen2-MoE and Qwen1.5-MoE: grouped heads with biases on q, k and v, softmax router, a shared expert with a gate of its own; layers are
// sparse by decoder_sparse_step and mlp_only_layers.

import { softmaxRule } from "../build.ts";
import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";
import { sparseLayers } from "../sparse_layers.ts";

export const qwen2Moe: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-6,
  peft: { rewritten: "none" },
  layers(b) {
    const { c } = b;
    const attention = { rope: ropeFromConfig(c, b.headDim()).spec, bias: c.bool("qkv_bias", true) ? "qkv" : "none", kvHeads: 16 } as const;
    const slides = c.bool("use_sliding_window", false);
    const window = slides ? (c.intOrNull("sliding_window") ?? 0) : 0;
    const lower = c.int("max_window_layers", 28, [0, 2 ** 31]);
    const kind = c.perLayer("layer_types", b.depth, ["full_attention", "sliding_attention"], (l) =>
      slides && (l + 1) % 2 === 1 && l < lower ? "sliding_attention" : "full_attention",
    );
    const router = {
      count: ["num_experts", "num_local_experts"],
      topK: c.int("num_experts_per_tok", 4),
      expertHidden: c.int("moe_intermediate_size"),
      rule: { ...softmaxRule, renormalize: c.bool("norm_topk_prob", false) },
    } as const;
    const sparse = sparseLayers(b);
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.heads(`${at}.self_attn`, { ...attention, window: kind(l) === "sliding_attention" ? window : 0 }),
        sparse(l) ? b.moe(`${at}.mlp`, { ...router, shared: b.gatedShared(`${at}.mlp`) }) : b.mlp(`${at}.mlp`, c.int("intermediate_size")),
      ),
    );
  },
};
