// GPT-OSS (openai/gpt-oss-20b, -120b): grouped heads with a learned score that every query sees beside its keys, biases everywhere, windows
// in every other layer; softmax over the chosen logits; experts with a clamped activation, fused with gate and up as even and odd columns.

import { softmaxRule } from "../build.ts";
import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const gptOss: Family = {
  accepts: { hidden_act: ["silu"], swiglu_limit: [7] },
  eps: 1e-5,
  layers(b) {
    const { c } = b;
    if (!c.object("rope_parameters") && !c.object("rope_scaling"))
      c.fail("rope_parameters", "how rotations are scaled, as published checkpoints say it");
    const rope = ropeFromConfig(c, b.headDim(64), { theta: 150000 }).spec;
    const window = c.config["sliding_window"] === null ? 0 : c.int("sliding_window", 128);
    const kind = c.perLayer("layer_types", b.depth, ["sliding_attention", "full_attention"], (l) =>
      (l + 1) % 2 === 1 ? "sliding_attention" : "full_attention",
    );
    const heads = { rope, sinks: true, headDim: 64, kvHeads: 8, bias: c.bool("attention_bias", true) ? "all" : "none" } as const;
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.heads(`${at}.self_attn`, { ...heads, window: kind(l) === "sliding_attention" ? window : 0 }),
        b.moe(`${at}.mlp`, {
          count: ["num_local_experts", "num_experts"],
          topK: c.int("num_experts_per_tok", 4),
          expertHidden: c.int("intermediate_size"),
          activation: { kind: "clamped swiglu", alpha: 1.702, limit: 7 },
          router: "router",
          routerBias: { name: `${at}.mlp.router.bias` },
          rule: { ...softmaxRule, score: "softmaxTopk", renormalize: false },
          layout: "transposed pairs",
          biases: true,
        }),
      ),
    );
  },
};
