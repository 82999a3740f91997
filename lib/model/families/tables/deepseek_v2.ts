// DeepSeek-V2 and V2-Lite: multi-head latent attention with interleaved rotary pairs, shared experts, first layers dense,
// softmax router, greedy or group-limited. With norm_topk_prob the weights are p / (Σp + 1e-20) without the scaling factor,
// else scaling factor · p (the published reference; Transformers ignores norm_topk_prob, published configs have it false).

import { softmaxRule } from "../build.ts";
import type { Family } from "../build.ts";
import { ranges } from "../config.ts";
import { ropeFromConfig } from "../rope.ts";

export const deepseekV2: Family = {
  accepts: { hidden_act: ["silu"], mlp_bias: [false], moe_layer_freq: [1], scoring_func: ["softmax"] },
  eps: 1e-6,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, c.int("qk_rope_head_dim", undefined, ranges.headDim), { interleaved: true });
    const topK = c.int("num_experts_per_tok");
    const expertHidden = c.int("moe_intermediate_size");
    const grouped = c.oneOf("topk_method", ["greedy", "group_limited_greedy"] as const, "greedy") === "group_limited_greedy";
    const renormalize = topK > 1 && c.bool("norm_topk_prob", false);
    const rule = {
      ...softmaxRule,
      groups: grouped ? c.int("n_group") : 1,
      topkGroups: grouped ? c.int("topk_group") : 1,
      renormalize,
      normEps: 1e-20,
      scale: renormalize ? 1 : c.number("routed_scaling_factor", ranges.factor, 1),
    };
    const shared = c.int("n_shared_experts", 0, [0, 2 ** 31]);
    const dense = c.int("first_k_dense_replace", 0, [0, 2 ** 31]);
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.latent(`${at}.self_attn`, rope),
        l < dense
          ? b.mlp(`${at}.mlp`, c.int("intermediate_size"))
          : b.moe(`${at}.mlp`, {
              count: ["n_routed_experts", "num_local_experts"],
              topK,
              expertHidden,
              rule,
              ...(shared > 0 ? { shared: b.mlp(`${at}.mlp.shared_experts`, shared * expertHidden) } : {}),
            }),
      ),
    );
  },
};
