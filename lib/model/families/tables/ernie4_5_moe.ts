// ERNIE 4.5: grouped heads with interleaved rotary pairs, softmax router with a selection bias, weights divided by their sum, shared
// experts; layers are sparse by start, end and interval.

import { softmaxRule } from "../build.ts";
import type { Family } from "../build.ts";
import { ropeFromConfig } from "../rope.ts";

export const ernie45Moe: Family = {
  accepts: { hidden_act: ["silu"], use_bias: [false], moe_norm_min: [1e-12] },
  eps: 1e-5,
  tied: true,
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, b.headDim(), { interleaved: true, theta: 5e5 }).spec;
    const expertHidden = c.int("moe_intermediate_size");
    const shared = c.int("moe_num_shared_experts", 2, [0, 2 ** 31]);
    const [start, interval] = [c.int("moe_layer_start_index", 1, [0, 2 ** 31]), c.int("moe_layer_interval", 1)];
    const last = c.int("moe_layer_end_index", -1, [-1, 2 ** 31]);
    const end = last === -1 ? b.depth - 1 : last;
    const sparse = (l: number): boolean => (l + 1) % interval === 0 && l >= start && l <= end;
    return b.layers((at, l) =>
      b.preNorm(
        at,
        b.heads(`${at}.self_attn`, { rope, kvHeads: 4 }),
        sparse(l)
          ? b.moe(`${at}.mlp`, {
              count: ["moe_num_experts", "num_experts"],
              topK: c.int(c.anyOf("moe_k", "num_experts_per_tok"), 6),
              expertHidden,
              // The divisor is at least moe_norm_min: that much added to it is the same in f32 wherever a weight can be seen.
              rule: { ...softmaxRule, renormalize: true, normEps: 1e-12 },
              selectionBias: { name: `${at}.mlp.moe_statics.e_score_correction_bias`, index: 0 },
              ...(shared > 0 ? { shared: b.mlp(`${at}.mlp.shared_experts`, shared * expertHidden) } : {}),
            })
          : b.mlp(`${at}.mlp`, c.int("intermediate_size")),
      ),
    );
  },
};
