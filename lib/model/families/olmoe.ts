// OLMoE (allenai/OLMoE-1B-7B): grouped heads with RMSNorm over the whole q and k projections, optional clip_qkv; every layer
// sparse; softmax router, weights renormalised only when norm_topk_prob says so.

import type { ModelSpec } from "../spec.ts";
import type { ConfigReader } from "./config.ts";
import { ropeFromConfig } from "./rope.ts";

export function olmoe(c: ConfigReader): ModelSpec {
  c.requireValue("hidden_act", ["silu"]);
  c.requireValue("attention_bias", [false]);
  const D = c.int("hidden_size");
  const F = c.int("intermediate_size");
  const heads = c.int("num_attention_heads");
  const kvHeads = c.int("num_key_value_heads", heads);
  const headDim = c.int("head_dim", D / heads);
  const experts = c.int("num_experts");
  const eps = c.number("rms_norm_eps", 1e-5);
  const clip = c.numberOrNull("clip_qkv");
  const rope = ropeFromConfig(c, headDim, false);
  const vocab = c.int("vocab_size");
  const norm = (name: string, size: number) => ({ weight: { name }, size, eps });
  const linear = (name: string, input: number, out: number) => ({ weight: { name }, in: input, out });
  const layers = Array.from({ length: c.int("num_hidden_layers") }, (_, l) => {
    const at = `model.layers.${l}`;
    return {
      attentionNorm: norm(`${at}.input_layernorm.weight`, D),
      attention: {
        kind: "heads" as const,
        heads,
        kvHeads,
        headDim,
        q: linear(`${at}.self_attn.q_proj.weight`, D, heads * headDim),
        k: linear(`${at}.self_attn.k_proj.weight`, D, kvHeads * headDim),
        v: linear(`${at}.self_attn.v_proj.weight`, D, kvHeads * headDim),
        o: linear(`${at}.self_attn.o_proj.weight`, heads * headDim, D),
        qNorm: norm(`${at}.self_attn.q_norm.weight`, heads * headDim),
        kNorm: norm(`${at}.self_attn.k_norm.weight`, kvHeads * headDim),
        ...(clip === null ? {} : { clip }),
        scale: headDim ** -0.5,
        rope: rope.spec,
      },
      mlpNorm: norm(`${at}.post_attention_layernorm.weight`, D),
      mlp: {
        kind: "moe" as const,
        experts: Array.from({ length: experts }, (_, e) => ({
          gate: { name: `${at}.mlp.experts.${e}.gate_proj.weight` },
          up: { name: `${at}.mlp.experts.${e}.up_proj.weight` },
          down: { name: `${at}.mlp.experts.${e}.down_proj.weight` },
        })),
        topK: c.int("num_experts_per_tok"),
        expertHidden: F,
        router: { name: `${at}.mlp.gate.weight` },
        rule: {
          score: "softmax" as const,
          groups: 1,
          topkGroups: 1,
          groupScore: "max" as const,
          dropped: "zero" as const,
          renormalize: c.bool("norm_topk_prob", false),
          normEps: 0,
          scale: 1,
        },
      },
    };
  });
  return {
    modelType: "olmoe",
    vocab,
    hidden: D,
    maxPositions: c.int("max_position_embeddings"),
    embedding: { name: "model.embed_tokens.weight" },
    layers,
    finalNorm: norm("model.norm.weight", D),
    head: { name: c.bool("tie_word_embeddings", false) ? "model.embed_tokens.weight" : "lm_head.weight" },
    eosIds: c.eosIds(),
  };
}
