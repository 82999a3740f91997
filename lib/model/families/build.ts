// What families build a ModelSpec from. A family's file is a table: names of tensors, the router's formula, flags that it accepts;
// the shapes and the pieces that all have in common are made here.

import type {
  ExpertWeights,
  HeadsAttentionSpec,
  LatentAttentionSpec,
  LayerSpec,
  LinearSpec,
  MlpSpec,
  ModelSpec,
  MoeSpec,
  NormSpec,
  RopeSpec,
} from "../spec.ts";
import type { ConfigReader } from "./config.ts";
import type { RopeConfig } from "./rope.ts";

/** One family: how its config.json becomes a ModelSpec. */
export interface Family {
  /** Flags that would change the computation, with the values that are served; absent in config.json = the first one. */
  readonly accepts: Readonly<Record<string, readonly (string | number | boolean | null)[]>>;
  /** Key of the RMSNorm epsilon, and its value when absent. */
  readonly eps: number;
  readonly layers: (b: Builder) => LayerSpec[];
}

/** The rule that most routers vary: softmax, no groups, weights as they are. */
export const softmaxRule = { score: "softmax", groups: 1, topkGroups: 1, groupScore: "max", dropped: "zero", normEps: 0, scale: 1 } as const;

export class Builder {
  readonly c: ConfigReader;
  /** Model width. */
  readonly D: number;
  readonly eps: number;

  constructor(c: ConfigReader, eps: number) {
    this.c = c;
    this.D = c.int("hidden_size");
    this.eps = c.number("rms_norm_eps", eps);
  }

  /** `${name}.weight` [size]. */
  norm(name: string, size = this.D, eps = this.eps): NormSpec {
    return { weight: { name: `${name}.weight` }, size, eps };
  }
  /** `${name}.weight` [out, input], and `${name}.bias` where `bias`. */
  linear(name: string, input: number, out: number, bias = false): LinearSpec {
    return { weight: { name: `${name}.weight` }, ...(bias ? { bias: { name: `${name}.bias` } } : {}), in: input, out };
  }
  /** gate_proj, up_proj and down_proj below `at`. */
  expert(at: string): ExpertWeights {
    return {
      gate: { name: `${at}.gate_proj.weight` },
      up: { name: `${at}.up_proj.weight` },
      down: { name: `${at}.down_proj.weight` },
    };
  }
  mlp(at: string, hidden: number): MlpSpec {
    return { kind: "dense", hidden, ...this.expert(at) };
  }
  /** A router `${at}.gate` and `count` experts `${at}.experts.<e>`, one set of tensors each. */
  moe(at: string, count: number, rest: Omit<MoeSpec, "kind" | "router" | "experts">): MoeSpec {
    const experts = Array.from({ length: count }, (_, e) => this.expert(`${at}.experts.${e}`));
    return { kind: "moe", router: { name: `${at}.gate.weight` }, experts, ...rest };
  }
  /** q, k, v and o projections below `at`, with a norm over the whole of q and k where `norms`; scores scaled by 1/√headDim. */
  heads(
    at: string,
    o: { heads: number; kvHeads: number; headDim: number; rope: RopeSpec; norms?: boolean; clip?: number | null; bias?: boolean },
  ): HeadsAttentionSpec {
    const { heads, kvHeads, headDim, rope, bias } = o;
    const [Q, KV] = [heads * headDim, kvHeads * headDim];
    return {
      kind: "heads",
      heads,
      kvHeads,
      headDim,
      q: this.linear(`${at}.q_proj`, this.D, Q, bias),
      k: this.linear(`${at}.k_proj`, this.D, KV, bias),
      v: this.linear(`${at}.v_proj`, this.D, KV, bias),
      o: this.linear(`${at}.o_proj`, Q, this.D, bias),
      ...(o.norms ? { qNorm: this.norm(`${at}.q_norm`, Q), kNorm: this.norm(`${at}.k_norm`, KV) } : {}),
      ...(o.clip === undefined || o.clip === null ? {} : { clip: o.clip }),
      scale: headDim ** -0.5,
      rope,
    };
  }
  /**
   * Multi-head latent attention as DeepSeek names it below `at`: q_proj or q_a_proj → q_a_layernorm → q_b_proj, kv_a_proj_with_mqa,
   * kv_a_layernorm, kv_b_proj, o_proj; sizes from config.json. The norms of the low ranks have an epsilon of their own.
   */
  latent(at: string, rope: RopeConfig, rankEps = 1e-6): LatentAttentionSpec {
    const { c, D } = this;
    const heads = c.int("num_attention_heads");
    const [nopeDim, ropeDim, vDim] = [c.int("qk_nope_head_dim"), c.int("qk_rope_head_dim"), c.int("v_head_dim")];
    const kvRank = c.int("kv_lora_rank");
    const qRank = c.intOrNull("q_lora_rank");
    const bias = c.bool("attention_bias", false);
    const qOut = heads * (nopeDim + ropeDim);
    const lowRank = (rank: number) => ({
      a: this.linear(`${at}.q_a_proj`, D, rank, bias),
      norm: this.norm(`${at}.q_a_layernorm`, rank, rankEps),
      b: this.linear(`${at}.q_b_proj`, rank, qOut),
    });
    return {
      kind: "latent",
      heads,
      nopeDim,
      ropeDim,
      vDim,
      kvRank,
      q: qRank === null ? this.linear(`${at}.q_proj`, D, qOut) : lowRank(qRank),
      kvA: this.linear(`${at}.kv_a_proj_with_mqa`, D, kvRank + ropeDim, bias),
      kvNorm: this.norm(`${at}.kv_a_layernorm`, kvRank, rankEps),
      kvB: this.linear(`${at}.kv_b_proj`, kvRank, heads * (nopeDim + vDim)),
      o: this.linear(`${at}.o_proj`, heads * vDim, D, bias),
      scale: (nopeDim + ropeDim) ** -0.5 * rope.scoreFactor,
      rope: rope.spec,
    };
  }
  /** One entry per decoder layer, with the prefix of its tensors. */
  layers<T>(make: (at: string, l: number) => T): T[] {
    return Array.from({ length: this.c.int("num_hidden_layers") }, (_, l) => make(`model.layers.${l}`, l));
  }
}

/** The spec of a checkpoint of this family. @throws ConfigError naming file and key */
export function buildSpec(modelType: string, family: Family, c: ConfigReader): ModelSpec {
  for (const [key, values] of Object.entries(family.accepts)) c.requireValue(key, values);
  const b = new Builder(c, family.eps);
  const layers = family.layers(b);
  const embedding = "model.embed_tokens.weight";
  return {
    modelType,
    vocab: c.int("vocab_size"),
    hidden: b.D,
    maxPositions: c.int("max_position_embeddings"),
    embedding: { name: embedding },
    layers,
    finalNorm: b.norm("model.norm"),
    head: { name: c.bool("tie_word_embeddings", false) ? embedding : "lm_head.weight" },
    eosIds: c.eosIds(),
  };
}
