// Hy3 (Tencent): grouped heads with RMSNorm of every head of q and k, sigmoid router with a selection bias and no groups, weights always
// renormalised; layers by mlp_layer_types.

import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const hyV3: Family = {
  accepts: { hidden_act: ["silu"], mlp_bias: [false] },
  eps: 1e-5,
  peft: {
    rewritten: "none",
    renames: [
      [/\.mlp\.router\.gate$/, ".mlp.gate"],
      [/\.mlp\.shared_mlp\./, ".mlp.shared_experts."],
    ],
  },
  layers(b) {
    const { c } = b;
    const attention = {
      rope: ropeFromConfig(c, b.headDim(128), { theta: 11158840 }).spec,
      norms: { over: "head" },
      bias: c.bool("attention_bias", false) ? "all" : "none",
      kvHeads: 8,
      headDim: 128,
    } as const;
    const kind = c.perLayer("mlp_layer_types", b.depth, ["dense", "sparse"], (l) => (l === 0 ? "dense" : "sparse"));
    const expertHidden = c.int("moe_intermediate_size");
    const shared = c.int("num_shared_experts", 1, [0, 2 ** 31]);
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.heads(`${at}.self_attn`, attention),
        kind(l) === "dense"
          ? b.mlp(`${at}.mlp`, c.int("intermediate_size"))
          : b.moe(`${at}.mlp`, {
              count: ["num_experts", "num_local_experts"],
              topK: c.int("num_experts_per_tok", 8),
              expertHidden,
              rule: b.sigmoidRule({ groups: false, scale: "router_scaling_factor", scaleDefault: 2.826, renormalize: true }),
              router: "router.gate",
              selectionBias: { name: `${at}.mlp.expert_bias` },
              ...(shared > 0 ? { shared: b.mlp(`${at}.mlp.shared_mlp`, shared * expertHidden) } : {}),
            }),
      ),
    );
  },
};
