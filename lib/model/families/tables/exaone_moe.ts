// K-EXAONE: grouped heads with RMSNorm of every head of q and k; layers with a sliding window are rotated, those that see everything
// have no positions (as long as there is a window at all); DeepSeek-V3's router, shared experts.

import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const exaoneMoe: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-5,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, b.headDim()).spec;
    const window = c.config["sliding_window"] === null ? 0 : c.int("sliding_window", 4096);
    const pattern = window === 0 ? 0 : c.int("sliding_window_pattern", 4);
    const kind = c.perLayer("layer_types", b.depth, ["sliding_attention", "full_attention"], (l) =>
      window > 0 && (l + 1) % pattern !== 0 ? "sliding_attention" : "full_attention",
    );
    const dense = c.int("first_k_dense_replace", 1, [0, 2 ** 31]);
    const mlp = c.perLayer("mlp_layer_types", b.depth, ["dense", "sparse"], (l) => (l < dense ? "dense" : "sparse"));
    const expertHidden = c.int("moe_intermediate_size");
    const shared = c.int("num_shared_experts", 1, [0, 2 ** 31]);
    return b.layers((at, l) => {
      const sliding = kind(l) === "sliding_attention";
      const positions = window === 0 || sliding ? rope : null;
      return b.preNorm(
        at,
        b.heads(`${at}.self_attn`, { rope: positions, norms: { over: "head" }, window: sliding ? window : 0 }),
        mlp(l) === "dense"
          ? b.mlp(`${at}.mlp`, c.int("intermediate_size"))
          : b.moe(`${at}.mlp`, {
              count: ["num_experts", "num_local_experts"],
              topK: c.int("num_experts_per_tok", 8),
              expertHidden,
              rule: b.sigmoidRule({ scaleDefault: 2.5 }),
              selectionBias: { name: `${at}.mlp.e_score_correction_bias` },
              ...(shared > 0 ? { shared: b.mlp(`${at}.mlp.shared_experts`, shared * expertHidden) } : {}),
            }),
      );
    });
  },
};
