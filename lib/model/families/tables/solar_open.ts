// Solar Open: grouped heads without norms, all layers sparse, DeepSeek-V3's router, shared experts.

import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const solarOpen: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-5,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, b.headDim(128), { theta: 1e6 }).spec;
    const attention = { rope, bias: c.bool("attention_bias", false) ? "qkv" : "none", kvHeads: 8, headDim: 128 } as const;
    return b.layers((at) => b.preNorm(at, b.heads(`${at}.self_attn`, attention), b.moe(`${at}.mlp`, b.sigmoidMoe(`${at}.mlp`))));
  },
};
