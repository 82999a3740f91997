// Gemma 4 with experts (26B-A4B): layers with a sliding window, and layers that see everything, with heads of another size whose values come
// from the keys' projection; norms of each head of q, k and v, scores as they are. In every layer a dense MLP and experts beside each
// other, norms before and after each and after their sum, the layer's output times a number. The router reads the residual stream by a norm
// of its own; softmax, weights divided by their sum, times a factor per expert. Logits are capped, the head is tied.

import { softmaxRule } from "../build.ts";
import type { Builder, Family } from "../build.ts";
import { ConfigReader, ranges } from "../config.ts";
import { ropeFromConfig } from "../rope.ts";
import type { LayerSpec, RopeSpec } from "../../spec.ts";

const kinds = ["sliding_attention", "full_attention"] as const;
type Kind = (typeof kinds)[number];

interface Sizes {
  readonly headDim: number;
  readonly kvHeads: number;
}

/** Of rope_parameters where config.json has none. */
const rotary = {
  sliding_attention: { rope_type: "default", rope_theta: 10000 },
  full_attention: { rope_type: "proportional", rope_theta: 1000000, partial_rotary_factor: 0.25 },
};

export const gemma4: Family = {
  accepts: {
    hidden_activation: ["gelu_pytorch_tanh"],
    num_kv_shared_layers: [0, null],
    use_double_wide_mlp: [false],
    use_bidirectional_attention: [null, "vision"],
  },
  eps: 1e-6,
  tied: true,
  layers(b) {
    const { c, D } = b;
    requireServed(b);
    const kindOf = layerKinds(b);
    const sizesOf = layerSizes(b, kindOf);
    const keysAsValues = c.bool("attention_k_eq_v", false);
    const window = c.int("sliding_window", 512);
    const bias = c.bool("attention_bias", false) ? "all" : "none";
    const expertHidden = c.int("moe_intermediate_size");
    return b.layers((at, l): LayerSpec => {
      const sliding = kindOf(l) === "sliding_attention";
      const sizes = sizesOf(l);
      const attention = b.heads(`${at}.self_attn`, {
        rope: ropeOf(c, kindOf(l), sizes.headDim),
        norms: { over: "head" },
        values: keysAsValues && !sliding ? "with k" : "normed",
        window: sliding ? window : 0,
        scale: 1,
        bias,
        sizes,
      });
      const moe = b.moe(at, {
        count: ["num_experts"],
        topK: c.int("top_k_experts"),
        expertHidden,
        activation: { kind: "gelu tanh gate" },
        rule: { ...softmaxRule, renormalize: true },
        router: "router.proj",
        inputNorms: {
          experts: b.norm(`${at}.pre_feedforward_layernorm_2`),
          router: { kind: "rms", weight: { name: `${at}.router.scale` }, size: D, eps: b.eps },
        },
        logitsFactor: D ** -0.5,
        expertScale: { name: `${at}.router.per_expert_scale` },
      });
      return {
        attention,
        attentionNorms: { before: b.norm(`${at}.input_layernorm`), after: b.norm(`${at}.post_attention_layernorm`) },
        mlp: {
          kind: "parallel",
          dense: { ...b.mlp(`${at}.mlp`, c.int("intermediate_size")), activation: { kind: "gelu tanh gate" } },
          denseNorms: { before: b.norm(`${at}.pre_feedforward_layernorm`), after: b.norm(`${at}.post_feedforward_layernorm_1`) },
          moe,
          moeNorms: { after: b.norm(`${at}.post_feedforward_layernorm_2`) },
        },
        mlpNorms: { after: b.norm(`${at}.post_feedforward_layernorm`) },
        residualFactor: 1,
        outputFactor: { name: `${at}.layer_scalar` },
      };
    });
  },
  factors: (b) => ({ embedding: Math.fround(b.D ** 0.5) }),
  head: ({ c }) => ({ cap: c.numberOrNull("final_logit_softcapping", ranges.clip) }),
};

/** Flags whose absence means what is not served. */
function requireServed({ c }: Builder): void {
  if (!c.bool("enable_moe_block", false)) c.fail("enable_moe_block", "true (models without experts are not supported)");
  const key = "hidden_size_per_layer_input";
  if ((c.config[key] === undefined ? 256 : (c.config[key] ?? 0)) !== 0)
    c.fail(key, "0 (embeddings of each layer are not supported; where it is absent there are some)");
}

function layerKinds({ c, depth }: Builder): (l: number) => Kind {
  const kind = c.perLayer("layer_types", depth, kinds, (l) =>
    (l + 1) % 6 === 0 || l + 1 === depth ? "full_attention" : "sliding_attention",
  );
  if (kind(depth - 1) !== "full_attention") c.fail("layer_types", `a list whose last entry is "full_attention"`);
  return kind;
}

/** Sizes that layers have in per_layer_config, or, as published, those that see everything by keys of their own. */
function layerSizes({ c }: Builder, kindOf: (l: number) => Kind): (l: number) => Sizes {
  const sizes: Sizes = { headDim: c.int("head_dim", 256, ranges.headDim), kvHeads: c.int("num_key_value_heads", 4) };
  const perLayer = c.object("per_layer_config");
  if (perLayer) {
    const all = new ConfigReader(perLayer, `${c.source} per_layer_config`);
    return (l) => {
      const own = all.section(String(l));
      for (const key of Object.keys(own.config))
        if (key !== "head_dim" && key !== "num_key_value_heads")
          own.fail(key, "absent (only head_dim and num_key_value_heads are supported)");
      return { headDim: own.int("head_dim", sizes.headDim, ranges.headDim), kvHeads: own.int("num_key_value_heads", sizes.kvHeads) };
    };
  }
  const headDim = c.int("global_head_dim", 512, ranges.headDim);
  const kvHeads = c.bool("attention_k_eq_v", false) ? (c.intOrNull("num_global_key_value_heads") ?? sizes.kvHeads) : sizes.kvHeads;
  return (l) => (kindOf(l) === "full_attention" ? { headDim, kvHeads } : sizes);
}

function ropeOf(c: ConfigReader, kind: Kind, headDim: number): RopeSpec {
  const reader = c.object("rope_parameters") ? c : new ConfigReader({ ...c.config, rope_parameters: rotary }, c.source);
  const types = ["default", "linear", "proportional"];
  const own = reader.section("rope_parameters").object(kind);
  if (!own) return reader.fail("rope_parameters", `an object with one for "${kind}"`);
  if ((own["rope_type"] ?? "default") !== "proportional" && (own["partial_rotary_factor"] ?? 1) !== 1)
    reader.section("rope_parameters").section(kind).fail("partial_rotary_factor", "1 (a share needs rope_type proportional)");
  return ropeFromConfig(reader, headDim, { layerType: kind, types }).spec;
}
