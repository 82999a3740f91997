// DeepSeek-V2 and V2-Lite: multi-head latent attention with interleaved rotary pairs, shared experts, first layers dense,
// softmax router, greedy or group-limited. With norm_topk_prob the weights are p / (Σp + 1e-20) without the scaling factor,
// else scaling factor · p (the published reference; Transformers ignores norm_topk_prob, published configs have it false).

import { ConfigError } from "../../errors.ts";
import type { LayerSpec, MlpSpec, ModelSpec } from "../spec.ts";
import type { ConfigReader } from "./config.ts";
import { ropeFromConfig } from "./rope.ts";

export function deepseekV2(c: ConfigReader): ModelSpec {
  c.requireValue("hidden_act", ["silu"]);
  c.requireValue("mlp_bias", [false]);
  c.requireValue("moe_layer_freq", [1]);
  c.requireValue("scoring_func", ["softmax"]);
  const D = c.int("hidden_size");
  const heads = c.int("num_attention_heads");
  const nopeDim = c.int("qk_nope_head_dim");
  const ropeDim = c.int("qk_rope_head_dim");
  const vDim = c.int("v_head_dim");
  const kvRank = c.int("kv_lora_rank");
  const qRank = c.intOrNull("q_lora_rank");
  const eps = c.number("rms_norm_eps", 1e-6);
  const bias = c.bool("attention_bias", false);
  const rope = ropeFromConfig(c, ropeDim, true);
  const vocab = c.int("vocab_size");
  const denseLayers = c.int("first_k_dense_replace", 0, 0);
  const experts = c.int("n_routed_experts");
  const topK = c.int("num_experts_per_tok");
  const F = c.int("moe_intermediate_size");
  const sharedCount = c.config["n_shared_experts"] === null ? 0 : c.int("n_shared_experts", 0, 0);
  const method = c.oneOf("topk_method", ["greedy", "group_limited_greedy"] as const, "greedy");
  const grouped = method === "group_limited_greedy";
  const groups = grouped ? c.int("n_group") : 1;
  if (experts % groups !== 0)
    throw new ConfigError(`${c.source}: "n_routed_experts" must be a multiple of "n_group" = ${groups}, found ${experts}`, {
      where: { file: c.source, key: "n_group" },
    });
  const renormalize = topK > 1 && c.bool("norm_topk_prob", false);
  const norm = (name: string, size: number, e = eps) => ({ weight: { name }, size, eps: e });
  const linear = (name: string, input: number, out: number, withBias = false) => ({
    weight: { name: `${name}.weight` },
    ...(withBias ? { bias: { name: `${name}.bias` } } : {}),
    in: input,
    out,
  });
  const mlp = (at: string, hidden: number): MlpSpec => ({
    kind: "dense",
    hidden,
    gate: { name: `${at}.gate_proj.weight` },
    up: { name: `${at}.up_proj.weight` },
    down: { name: `${at}.down_proj.weight` },
  });
  const layers = Array.from({ length: c.int("num_hidden_layers") }, (_, l): LayerSpec => {
    const at = `model.layers.${l}`;
    const qOut = heads * (nopeDim + ropeDim);
    return {
      attentionNorm: norm(`${at}.input_layernorm.weight`, D),
      attention: {
        kind: "latent",
        heads,
        nopeDim,
        ropeDim,
        vDim,
        kvRank,
        q:
          qRank === null
            ? linear(`${at}.self_attn.q_proj`, D, qOut)
            : {
                a: linear(`${at}.self_attn.q_a_proj`, D, qRank, bias),
                norm: norm(`${at}.self_attn.q_a_layernorm.weight`, qRank, 1e-6),
                b: linear(`${at}.self_attn.q_b_proj`, qRank, qOut),
              },
        kvA: linear(`${at}.self_attn.kv_a_proj_with_mqa`, D, kvRank + ropeDim, bias),
        kvNorm: norm(`${at}.self_attn.kv_a_layernorm.weight`, kvRank, 1e-6),
        kvB: linear(`${at}.self_attn.kv_b_proj`, kvRank, heads * (nopeDim + vDim)),
        o: linear(`${at}.self_attn.o_proj`, heads * vDim, D, bias),
        scale: (nopeDim + ropeDim) ** -0.5 * rope.scoreFactor,
        rope: rope.spec,
      },
      mlpNorm: norm(`${at}.post_attention_layernorm.weight`, D),
      mlp:
        l < denseLayers
          ? mlp(`${at}.mlp`, c.int("intermediate_size"))
          : {
              kind: "moe",
              experts: Array.from({ length: experts }, (_, e) => ({
                gate: { name: `${at}.mlp.experts.${e}.gate_proj.weight` },
                up: { name: `${at}.mlp.experts.${e}.up_proj.weight` },
                down: { name: `${at}.mlp.experts.${e}.down_proj.weight` },
              })),
              topK,
              expertHidden: F,
              router: { name: `${at}.mlp.gate.weight` },
              rule: {
                score: "softmax",
                groups,
                topkGroups: grouped ? c.int("topk_group") : 1,
                groupScore: "max",
                dropped: "zero",
                renormalize,
                normEps: 1e-20,
                scale: renormalize ? 1 : c.number("routed_scaling_factor", 1),
              },
              ...(sharedCount > 0 ? { shared: mlp(`${at}.mlp.shared_experts`, sharedCount * F) } : {}),
            },
    };
  });
  return {
    modelType: "deepseek_v2",
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
