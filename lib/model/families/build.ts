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
import { ranges } from "./config.ts";
import type { Headers } from "./headers.ts";
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
  private readonly headers: Headers;
  /** Model width. */
  readonly D: number;
  readonly eps: number;

  constructor(c: ConfigReader, headers: Headers, eps: number) {
    this.c = c;
    this.headers = headers;
    this.D = c.int("hidden_size");
    this.eps = c.number("rms_norm_eps", ranges.eps, eps);
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
  /**
   * As many entries as the count `key` of config.json says, once the headers show that many: numbered parts `${at}.<i>`, or the first
   * dimension of the fused tensor `at`. Every list of a spec is made here: nothing has a length that config.json alone claims.
   * @throws ConfigError naming the key and what the weights show
   */
  list<T>(key: string, at: string, make: (entry: string, i: number) => T): T[] {
    const count = this.c.int(key);
    this.headers.requireList({ key, at, count }, this.c.source);
    return Array.from({ length: count }, (_, i) => make(`${at}.${i}`, i));
  }
  /** A router `${at}.gate` and experts `${at}.experts.<e>`, one set of tensors each; `count` is the key of their number. */
  moe(at: string, count: string, rest: Omit<MoeSpec, "kind" | "router" | "experts">): MoeSpec {
    const experts = this.list(count, `${at}.experts`, (expert) => this.expert(expert));
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
    const [nopeDim, ropeDim, vDim] = ["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"].map((k) => c.int(k, undefined, ranges.headDim)) as [number, number, number];
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
  /** Dimensions of one of `heads` heads: head_dim, or what the model's width leaves for each. */
  headDim(heads: string): number {
    const { c, D } = this;
    if ((c.config["head_dim"] ?? null) === null && D % c.int(heads) !== 0) c.fail(heads, `a divisor of hidden_size ${D} (head_dim is not given)`);
    return c.int("head_dim", D / c.int(heads), ranges.headDim);
  }
  /** One entry per decoder layer, with the prefix of its tensors. */
  layers<T>(make: (at: string, l: number) => T): T[] {
    return this.list("num_hidden_layers", "model.layers", make);
  }
}

/** The spec of a checkpoint of this family. @throws ConfigError naming file and key */
export function buildSpec(modelType: string, family: Family, c: ConfigReader, headers: Headers): ModelSpec {
  for (const [key, values] of Object.entries(family.accepts)) c.requireValue(key, values);
  const b = new Builder(c, headers, family.eps);
  const layers = family.layers(b);
  const embedding = "model.embed_tokens.weight";
  const vocab = c.int("vocab_size");
  for (const key of ["bos_token_id", "pad_token_id"]) c.ids(key, [-1, vocab - 1]); // −1: none
  return {
    modelType,
    vocab,
    hidden: b.D,
    maxPositions: c.int("max_position_embeddings", undefined, ranges.positions),
    embedding: { name: embedding },
    layers,
    finalNorm: b.norm("model.norm"),
    head: { name: c.bool("tie_word_embeddings", false) ? embedding : "lm_head.weight" },
    eosIds: c.ids("eos_token_id", [0, vocab - 1]),
  };
}
