// Qwen3.5 MoE (Qwen/Qwen3.5-35B-A3B), the text model: every projection of linear attention on its own, every layer sparse, weights always
// renormalised. Its mrope sections say nothing about text: the three streams of positions are equal.

import type { Family } from "../build.ts";
import { hybridLayers, hybridMoe } from "../hybrid.ts";

export const qwen35Moe: Family = {
  accepts: { hidden_act: ["silu"], attn_output_gate: [true] },
  eps: 1e-6,
  norms: "zero-centred",
  peft: { rewritten: "none" },
  layers(b) {
    const { D } = b;
    return hybridLayers(b, {
      projections: (at, { keys, values, heads }) => ({
        qkv: b.linear(`${at}.in_proj_qkv`, D, 2 * keys + values),
        z: b.linear(`${at}.in_proj_z`, D, values),
        b: b.linear(`${at}.in_proj_b`, D, heads),
        a: b.linear(`${at}.in_proj_a`, D, heads),
      }),
      mlp: (at) => hybridMoe(b, at, { topK: 8, renormalize: true }),
    });
  },
};
