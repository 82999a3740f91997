// Llama 4 (Scout, Maverick), the text model: three layers in four attend in chunks, rotated and then normalised without weights, the
// fourth sees everything, without positions and with queries that grow with theirs; the router's σ multiplies what an expert reads.

import { softmaxRule } from "../build.ts";
import type { Builder, Family } from "../build.ts";
import { ranges } from "../config.ts";
import { ropeFromConfig } from "../rope.ts";

export const llama4: Family = {
  accepts: { hidden_act: ["silu"] },
  eps: 1e-5,
  layers(b) {
    const { c } = b;
    const rope = ropeFromConfig(c, b.headDim(128), { interleaved: true, theta: 5e5 }).spec;
    const norms = c.bool("use_qk_norm", true) ? ({ over: "head", weightless: true, after: true } as const) : undefined;
    const rotated = rotatedLayers(b);
    const kind = c.perLayer("layer_types", b.depth, ["chunked_attention", "full_attention"], (l) =>
      rotated(l) ? "chunked_attention" : "full_attention",
    );
    const queryFactor = grown(b);
    const sparse = sparseLayers(b);
    const expertHidden = c.int("intermediate_size", 8192);
    const common = { headDim: 128, kvHeads: 8, bias: c.bool("attention_bias", false) ? "all" : "none" } as const;
    return b.layers((at, l) => {
      const chunk = kind(l) === "chunked_attention" ? { chunk: chunkSize(b) } : {};
      const attention = b.heads(`${at}.self_attn`, {
        ...common,
        ...chunk,
        ...(rotated(l) ? { rope, ...(norms ? { norms } : {}) } : { rope: null }),
      });
      return b.preNorm(
        at,
        rotated(l) || !queryFactor ? attention : { ...attention, queryFactor },
        sparse(l)
          ? b.moe(`${at}.feed_forward`, {
              count: ["num_local_experts"],
              topK: c.int("num_experts_per_tok", 1),
              expertHidden,
              router: "router",
              layout: "transposed",
              rule: { ...softmaxRule, score: "sigmoid", renormalize: false },
              weighted: "inputs",
              shared: b.mlp(`${at}.feed_forward.shared_expert`, expertHidden),
            })
          : b.mlp(`${at}.feed_forward`, c.int("intermediate_size_mlp", 16384)),
      );
    });
  },
};

/** Layers with rotary positions: 1 in no_rope_layers, else all but every no_rope_layer_interval-th. */
function rotatedLayers({ c, depth }: Builder): (l: number) => boolean {
  const list = c.intList("no_rope_layers", [0, 1]);
  const interval = c.int("no_rope_layer_interval", 4);
  if (list.length === 0) return (l) => (l + 1) % interval !== 0;
  if (list.length !== depth) c.fail("no_rope_layers", `a list of ${depth} (num_hidden_layers)`);
  return (l) => list[l] === 1;
}

/** Layers with experts: those of moe_layers, else every interleave_moe_layer_step-th. */
function sparseLayers({ c, depth }: Builder): (l: number) => boolean {
  const step = c.int("interleave_moe_layer_step", 1);
  if ((c.config["moe_layers"] ?? null) === null) return (l) => (l + 1) % step === 0;
  const layers = new Set(c.intList("moe_layers", [0, depth - 1]));
  return (l) => layers.has(l);
}

function chunkSize({ c }: Builder): number {
  if (c.config["attention_chunk_size"] === null) c.fail("attention_chunk_size", "a number of tokens (layers attend in chunks)");
  return c.int("attention_chunk_size", 8192);
}

/** What the queries of layers without positions are multiplied by; null: nothing. The flag was a number once. */
function grown({ c }: Builder) {
  const flag = c.config["attn_temperature_tuning"];
  const on =
    typeof flag === "number" ? c.int("attn_temperature_tuning", undefined, [0, 2 ** 31]) > 0 : c.bool("attn_temperature_tuning", true);
  return on ? { beta: c.number("attn_scale", [0, 100], 0.1), length: c.int("floor_scale", 8192, ranges.positions), offset: 1 } : null;
}
