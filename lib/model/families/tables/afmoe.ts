// Arcee Trinity (AFMoE): grouped heads with RMSNorm of every head of q and k and a gated output; layers with a sliding window are
// rotated, those that see everything have no positions; norms before and after both branches; sigmoid router with a selection bias and
// no groups, shared experts, first layers dense.

import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const afmoe: Family = {
  accepts: { hidden_act: ["silu"], score_func: ["sigmoid"], route_norm: [true], n_group: [1], topk_group: [1], num_expert_groups: [1] },
  eps: 1e-5,
  peft: { rewritten: "qwen2", linearRouter: true },
  layers(b) {
    const { c, D } = b;
    const rope = ropeFromConfig(c, b.headDim(128)).spec;
    const window = c.intOrNull("sliding_window") ?? 0;
    const every = c.int("global_attn_every_n_layers", 4);
    const kind = c.perLayer("layer_types", b.depth, ["sliding_attention", "full_attention"], (l) =>
      (l + 1) % every === 0 ? "full_attention" : "sliding_attention",
    );
    const bias = c.bool("attention_bias", false) ? "all" : "none";
    const dense = c.int("num_dense_layers", 1, [0, 2 ** 31]);
    const expertHidden = c.int("moe_intermediate_size");
    const shared = c.int("num_shared_experts", 2, [0, 2 ** 31]);
    return b.layers((at, l) => {
      const sliding = kind(l) === "sliding_attention";
      const heads = b.heads(`${at}.self_attn`, {
        rope: sliding ? rope : null,
        window: sliding ? window : 0,
        norms: { over: "head" },
        bias,
        headDim: 128,
      });
      return {
        attention: { ...heads, outputGate: b.linear(`${at}.self_attn.gate_proj`, D, heads.q.out) },
        attentionNorms: { before: b.norm(`${at}.input_layernorm`), after: b.norm(`${at}.post_attention_layernorm`) },
        mlp:
          l < dense
            ? b.mlp(`${at}.mlp`, c.int("intermediate_size"))
            : b.moe(`${at}.mlp`, {
                count: ["num_experts", "num_local_experts"],
                topK: c.int("num_experts_per_tok", 6),
                expertHidden,
                rule: b.sigmoidRule({ groups: false, scale: "route_scale", renormalize: true }),
                router: "router.gate",
                selectionBias: { name: `${at}.mlp.expert_bias` },
                ...(shared > 0 ? { shared: b.mlp(`${at}.mlp.shared_experts`, shared * expertHidden) } : {}),
              }),
        mlpNorms: { before: b.norm(`${at}.pre_mlp_layernorm`), after: b.norm(`${at}.post_mlp_layernorm`) },
        residualFactor: 1,
      };
    });
  },
  factors: (b) => ({ embedding: b.c.bool("mup_enabled", false) ? Math.fround(b.D ** 0.5) : 1 }),
};
