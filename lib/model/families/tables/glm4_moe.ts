// GLM-4.5 and 4.6, and Air: grouped heads of which a part is rotated, RMSNorm of every head of q and k where use_qk_norm says so;
// DeepSeek-V3's router, shared experts, first layers dense.

import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const glm4Moe: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-5,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const attention = {
      rope: ropeFromConfig(c, b.headDim(), { partial: 0.5 }).spec,
      ...(c.bool("use_qk_norm", false) ? { norms: { over: "head" } as const } : {}),
      bias: c.bool("attention_bias", false) ? "qkv" : "none",
      kvHeads: 8,
    } as const;
    const dense = c.int("first_k_dense_replace", 1, [0, 2 ** 31]);
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.heads(`${at}.self_attn`, attention),
        l < dense ? b.mlp(`${at}.mlp`, c.int("intermediate_size")) : b.moe(`${at}.mlp`, b.sigmoidMoe(`${at}.mlp`)),
      ),
    );
  },
};
