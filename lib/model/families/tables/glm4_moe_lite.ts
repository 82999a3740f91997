// GLM-4.7-Flash: DeepSeek-V3's latent attention (head sizes of its own) and router; layers by mlp_layer_types.

import type { Family } from "../build.ts";
import { ranges } from "../config.ts";
import { ropeFromConfig } from "../rope.ts";

export const glm4MoeLite: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-5,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, c.int("qk_rope_head_dim", undefined, ranges.headDim), { interleaved: c.bool("rope_interleave", true) });
    const kind = c.perLayer("mlp_layer_types", b.depth, ["dense", "sparse"], (l) => (l === 0 ? "dense" : "sparse"));
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.latent(`${at}.self_attn`, rope),
        kind(l) === "dense" ? b.mlp(`${at}.mlp`, c.int("intermediate_size")) : b.moe(`${at}.mlp`, b.sigmoidMoe(`${at}.mlp`)),
      ),
    );
  },
};
