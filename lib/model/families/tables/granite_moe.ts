// Granite 3 MoE, with or without a shared expert: grouped heads, factors on embedding, scores, branches and logits; all layers sparse,
// softmax over the chosen logits, experts fused.

import { softmaxRule } from "../build.ts";
import type { Builder, Family } from "../build.ts";
import { ranges } from "../config.ts";
import { ropeFromConfig } from "../rope.ts";
import type { MlpSpec } from "../../spec.ts";

const factor = (b: Builder, key: string): number => b.c.number(key, ranges.factor, 1);

/** `shared_mlp` below `at`: gate rows, then up rows of one matrix. */
function sharedMlp(at: string, hidden: number): MlpSpec {
  const name = `${at}.input_linear.weight`;
  const down = { name: `${at}.output_linear.weight` };
  return { kind: "dense", hidden, gate: { name, rows: [0, hidden] }, up: { name, rows: [hidden, 2 * hidden] }, down };
}

export const graniteMoe: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-6,
  peft: { rewritten: "none", renames: [[/\.router\.layer$/, ".router"]], experts: [/\.output_linear\.weight$/, ".experts"] },
  layers(b) {
    const { c } = b;
    const attention = {
      rope: ropeFromConfig(c, b.headDim()).spec,
      scale: factor(b, "attention_multiplier"),
      bias: c.bool("attention_bias", false) ? "all" : "none",
    } as const;
    const expertHidden = c.int("intermediate_size");
    const shared = c.int("shared_intermediate_size", 0, [0, 2 ** 31]);
    return b.layers((at) => {
      const block = `${at}.block_sparse_moe`;
      const experts = `${block}.input_linear.weight`;
      const layer = b.preNorm(at, b.heads(`${at}.self_attn`, attention), {
        kind: "moe",
        topK: c.int("num_experts_per_tok"),
        expertHidden,
        router: { name: `${block}.router.layer.weight` },
        rule: { ...softmaxRule, score: "softmaxTopk", renormalize: false },
        experts: b.list("num_local_experts", experts, (_, e) => b.fusedExpert(experts, `${block}.output_linear.weight`, e, expertHidden)),
        ...(shared > 0 ? { shared: sharedMlp(`${at}.shared_mlp`, shared) } : {}),
      });
      return { ...layer, residualFactor: factor(b, "residual_multiplier") };
    });
  },
  factors: (b) => ({ embedding: factor(b, "embedding_multiplier"), logits: 1 / factor(b, "logits_scaling") }),
};
