// Qwen3-Next (Qwen/Qwen3-Next-80B-A3B): projections of linear attention with rows grouped by key head; layers are sparse by
// decoder_sparse_step and mlp_only_layers.

import type { Family } from "../build.ts";
import { hybridLayers, hybridMoe } from "../hybrid.ts";
import { sparseLayers } from "../sparse_layers.ts";

export const qwen3Next: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-6,
  norms: "zero-centred",
  peft: { rewritten: "qwen2" },
  layers(b) {
    const { c, D } = b;
    const renormalize = c.bool("norm_topk_prob", true);
    const sparse = sparseLayers(b);
    return hybridLayers(b, {
      projections: (at, { keys, values, heads }) => ({
        qkvz: b.linear(`${at}.in_proj_qkvz`, D, 2 * keys + 2 * values),
        ba: b.linear(`${at}.in_proj_ba`, D, 2 * heads),
      }),
      mlp: (at, l) => (sparse(l) ? hybridMoe(b, at, { topK: 10, renormalize }) : b.mlp(at, c.int("intermediate_size", 5632))),
    });
  },
};
