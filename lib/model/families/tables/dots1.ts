// dots.llm1: grouped heads with RMSNorm of every head of q and k, layers with a sliding window where layer_types says so; DeepSeek-V3's
// router, shared experts, first layers dense.

import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const dots1: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-6,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const attention = {
      rope: ropeFromConfig(c, b.headDim()).spec,
      norms: { over: "head" },
      bias: c.bool("attention_bias", false) ? "all" : "none",
    } as const;
    const window = c.intOrNull("sliding_window") ?? 0;
    const last = c.int("max_window_layers", 62, [0, 2 ** 31]);
    const kind = c.perLayer("layer_types", b.depth, ["full_attention", "sliding_attention"], (l) =>
      window > 0 && l >= last ? "sliding_attention" : "full_attention",
    );
    const dense = c.int("first_k_dense_replace", 0, [0, 2 ** 31]);
    const renormalize = c.bool("norm_topk_prob", false);
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.heads(`${at}.self_attn`, { ...attention, window: kind(l) === "sliding_attention" ? window : 0 }),
        l < dense
          ? b.mlp(`${at}.mlp`, c.int("intermediate_size"))
          : b.moe(`${at}.mlp`, b.sigmoidMoe(`${at}.mlp`, { renormalize, shared: 0 })),
      ),
    );
  },
};
