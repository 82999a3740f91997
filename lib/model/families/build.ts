// What families build a ModelSpec from. A family's file is a table: names of tensors, the router's formula, flags that it accepts;
// the shapes and the pieces that all have in common are made here.

import type {
  ConvSpec,
  ExpertWeights,
  FileLayout,
  HeadsAttentionSpec,
  LatentAttentionSpec,
  LayerSpec,
  LinearSpec,
  MlpSpec,
  ModelSpec,
  MoeSpec,
  NormSpec,
  RopeSpec,
  RoutedExpertWeights,
  SharedExpertSpec,
} from "../spec.ts";
import type { ConfigReader } from "./config.ts";
import { ranges } from "./config.ts";
import type { Headers } from "./headers.ts";
import { NestedReader, textNames } from "./nested.ts";
import type { PeftNaming } from "./peft_names.ts";
import type { RopeConfig } from "./rope.ts";

/** One family: how its config.json becomes a ModelSpec. */
export interface Family {
  /** Flags that would change the computation, with the values that are served; absent in config.json = the first one. */
  readonly accepts: Readonly<Record<string, readonly (string | number | boolean | null)[]>>;
  /** The norms' epsilon when absent. */
  readonly eps: number;
  /** Its key; rms_norm_eps unless given. */
  readonly epsKey?: string;
  /** What its norms are, save where a table says otherwise; "rms" unless given. "zero-centred": x ⊙ (1 + weight). */
  readonly norms?: "rms" | "zero-centred" | "layer";
  /** Name of the last norm; "norm" unless given. */
  readonly finalNorm?: string;
  /** tie_word_embeddings, when absent; false unless given. */
  readonly tied?: boolean;
  /** How PEFT's adapters name its modules; absent: not known, they are neither read nor written. */
  readonly peft?: PeftNaming;
  readonly layers: (b: Builder) => LayerSpec[];
  /** Factors on the embedding's output and on the logits; 1 unless given. */
  readonly factors?: (b: Builder) => { readonly embedding?: number; readonly logits?: number };
  /** What the head has besides its weight. */
  readonly head?: (b: Builder) => { readonly bias?: boolean; readonly cap?: number | null };
}

/** The rule that most routers vary: softmax, no groups, weights as they are. */
export const softmaxRule = { score: "softmax", groups: 1, topkGroups: 1, groupScore: "max", dropped: "zero", normEps: 0, scale: 1 } as const;

/** Names of the matrices of an expert below it: gate, up, down. */
export type ExpertNames = readonly [gate: string, up: string, down: string];
const projections: ExpertNames = ["gate_proj", "up_proj", "down_proj"];
/** As Mixtral has them. */
export const w132: ExpertNames = ["w1", "w3", "w2"];

export interface HeadsOptions {
  readonly rope: RopeSpec | null;
  /**
   * RMSNorm of q and k: over the whole projection or over each head; of these names, or without weights; before the rotation unless said.
   */
  readonly norms?: {
    readonly over: "projection" | "head";
    readonly q?: string;
    readonly k?: string;
    readonly weightless?: boolean;
    readonly after?: boolean;
  };
  /** RMSNorm of each head of v, without a weight; "with k": of what the projection of k makes, there is none of v. */
  readonly values?: "normed" | "with k";
  readonly clip?: number | null;
  /** Which projections have a bias. */
  readonly bias?: "none" | "qkv" | "all";
  /** Name of the last projection; "o_proj" unless given. */
  readonly o?: string;
  /** The output is gated, the gate's rows behind those of each head in q. */
  readonly gated?: boolean;
  /** Keys that a query sees; 0 = all. */
  readonly window?: number;
  /** Tokens of a chunk, whose queries see no earlier one. */
  readonly chunk?: number;
  /** A score per head beside those of the keys, `sinks`. */
  readonly sinks?: boolean;
  /** Of the scores; 1/√headDim unless given. */
  readonly scale?: number;
  /** Where num_key_value_heads is absent; the number of heads unless given. */
  readonly kvHeads?: number;
  /** Where head_dim is absent; what the model's width leaves for each head unless given. */
  readonly headDim?: number;
  /** Of these layers, whatever config.json says of the others. */
  readonly sizes?: { readonly headDim: number; readonly kvHeads: number };
}

export interface MoeOptions extends Omit<MoeSpec, "kind" | "router" | "experts"> {
  /** Keys of config.json of which one holds the number of experts, or that number for this layer. */
  readonly count: readonly [string, ...string[]];
  readonly number?: number;
  /** Name of the router below the block; "gate" unless given. */
  readonly router?: string;
  readonly names?: ExpertNames;
  /** Experts are fused, and lie so: gate_up_proj [E, D, 2F] and down_proj [E, F, D]. */
  readonly layout?: FileLayout;
  /** Fused experts of a layout have biases: gate_up_proj_bias [E, 2F] and down_proj_bias [E, D]. */
  readonly biases?: boolean;
}

export interface SigmoidOptions {
  /** By n_group and topk_group; false: none. */
  readonly groups?: boolean;
  /** Key of the factor; null: none. */
  readonly scale?: string | null;
  readonly scaleDefault?: number;
  readonly renormalize?: boolean;
  /** Added to the sum that weights are divided by. */
  readonly normEps?: number;
}

export class Builder {
  readonly c: ConfigReader;
  private readonly headers: Headers;
  /** Model width. */
  readonly D: number;
  readonly eps: number;
  /** Prefix of all that is not the head. */
  readonly root: string;
  private readonly norms: NonNullable<Family["norms"]>;

  constructor(c: ConfigReader, headers: Headers, family: Pick<Family, "eps" | "epsKey" | "norms">, root = "model") {
    this.c = c;
    this.headers = headers;
    this.root = root;
    this.D = c.int("hidden_size");
    this.eps = c.number(family.epsKey ?? "rms_norm_eps", ranges.eps, family.eps);
    this.norms = family.norms ?? "rms";
  }

  /** `${name}.weight` [size], and `${name}.bias` of a LayerNorm. */
  norm(name: string, size = this.D, eps = this.eps, norms = this.norms): NormSpec {
    const weight = { name: `${name}.weight` };
    if (norms === "layer") return { kind: "layer", weight, bias: { name: `${name}.bias` }, size, eps };
    return { kind: "rms", weight, size, eps, ...(norms === "zero-centred" ? { zeroCentred: true } : {}) };
  }
  /** RMSNorm without a weight. */
  unitNorm(size: number): NormSpec {
    return { kind: "rms", size, eps: this.eps };
  }
  /** `${name}.weight` [channels, 1, taps], and `${name}.bias` where `bias`. */
  conv(name: string, channels: number, taps: number, bias = false): ConvSpec {
    return { weight: { name: `${name}.weight` }, ...(bias ? { bias: { name: `${name}.bias` } } : {}), channels, taps };
  }
  /** `${name}.weight` [out, input], and `${name}.bias` where `bias`. */
  linear(name: string, input: number, out: number, bias = false): LinearSpec {
    return { weight: { name: `${name}.weight` }, ...(bias ? { bias: { name: `${name}.bias` } } : {}), in: input, out };
  }
  /** gate_proj, up_proj and down_proj below `at`, or what else they are called. */
  expert(at: string, [gate, up, down] = projections): ExpertWeights {
    return { gate: { name: `${at}.${gate}.weight` }, up: { name: `${at}.${up}.weight` }, down: { name: `${at}.${down}.weight` } };
  }
  mlp(at: string, hidden: number, names?: ExpertNames): MlpSpec {
    return { kind: "dense", hidden, ...this.expert(at, names) };
  }
  /** Of several names of one part below `at` the one that the headers show, else the first. */
  named(at: string, ...names: readonly [string, ...string[]]): string {
    return `${at}.${names.find((name) => this.headers.shows(`${at}.${name}`)) ?? names[0]}`;
  }
  /**
   * As many entries as the count `key` of config.json says, once the headers show that many: numbered parts `${at}.<i>`, or the first
   * dimension of the fused tensor `at`. Every list of a spec is made here: nothing has a length that config.json alone claims.
   * @throws ConfigError naming the key and what the weights show
   */
  list<T>(key: string, at: string, make: (entry: string, i: number) => T, count = this.c.int(key)): T[] {
    this.headers.requireList({ key, at, count }, this.c.source);
    return Array.from({ length: count }, (_, i) => make(`${at}.${i}`, i));
  }
  /**
   * A router and experts below `at`: one set of tensors for each expert in `experts.<e>`, or, where the headers show them, the fused
   * `experts.gate_up_proj` [E, 2F, D] (gate rows first) and `experts.down_proj` [E, D, F].
   */
  moe(at: string, options: MoeOptions): MoeSpec {
    const { count: keys, number, router = "gate", names, layout, biases = false, ...rest } = options;
    const key = this.c.anyOf(...keys);
    const fused = `${at}.experts.gate_up_proj`;
    const isFused = this.headers.shows(fused) ?? false;
    const down = `${at}.experts.down_proj`;
    const of = (e: number, suffix = "") => ({
      gateUp: { name: `${fused}${suffix}`, index: e },
      down: { name: `${down}${suffix}`, index: e },
    });
    const mixed = (e: number, layout: FileLayout): RoutedExpertWeights => ({
      ...of(e),
      layout,
      ...(biases ? { biases: of(e, "_bias") } : {}),
    });
    const experts = layout
      ? this.list<RoutedExpertWeights>(key, fused, (_, e) => mixed(e, layout), number)
      : isFused
      ? this.list(key, fused, (_, e) => this.fusedExpert(fused, down, e, rest.expertHidden), number)
      : this.list(key, `${at}.experts`, (expert) => this.expert(expert, names), number);
    return { kind: "moe", router: { name: `${at}.${router}.weight` }, experts, ...rest };
  }
  /** Expert e of fused tensors: gate rows, then up rows. */
  fusedExpert(gateUp: string, down: string, e: number, F: number): ExpertWeights {
    return {
      gate: { name: gateUp, index: e, rows: [0, F] },
      up: { name: gateUp, index: e, rows: [F, 2 * F] },
      down: { name: down, index: e },
    };
  }
  /**
   * DeepSeek-V3's router: sigmoid scores, chosen by score + bias, groups by the sum of their two best, weights divided by their sum and
   * scaled.
   */
  sigmoidRule(o: SigmoidOptions = {}): MoeSpec["rule"] {
    const { c } = this;
    const { groups = true, scale = "routed_scaling_factor", scaleDefault = 1, normEps = 1e-20 } = o;
    const renormalize = o.renormalize ?? c.bool("norm_topk_prob", true);
    return {
      score: "sigmoid",
      groups: groups ? c.int("n_group", 1) : 1,
      topkGroups: groups ? c.int("topk_group", 1) : 1,
      groupScore: "top2Sum",
      dropped: "minusInfinity",
      renormalize,
      normEps,
      scale: scale === null ? 1 : c.number(scale, ranges.factor, scaleDefault),
    };
  }
  /** The block `at` as DeepSeek-V3 and GLM have it: that router, its bias below the gate, n_shared_experts in one MLP. */
  sigmoidMoe(at: string, o: SigmoidOptions & { shared?: number } = {}): MoeOptions {
    const { c } = this;
    const expertHidden = c.int("moe_intermediate_size");
    const shared = c.int("n_shared_experts", o.shared ?? 1, [0, 2 ** 31]);
    return {
      count: ["n_routed_experts", "num_local_experts"],
      topK: c.int("num_experts_per_tok", 8),
      expertHidden,
      rule: this.sigmoidRule(o),
      selectionBias: { name: `${at}.gate.e_score_correction_bias` },
      ...(shared > 0 ? { shared: this.mlp(`${at}.shared_experts`, shared * expertHidden) } : {}),
    };
  }
  /** Qwen's shared expert of the block `at`: an MLP of its own width, its output times σ of one gate. */
  gatedShared(at: string): SharedExpertSpec {
    const hidden = this.c.int("shared_expert_intermediate_size");
    return { ...this.mlp(`${at}.shared_expert`, hidden), outputGate: this.linear(`${at}.shared_expert_gate`, this.D, 1) };
  }
  /** q, k, v and o projections below `at`; sizes from config.json. */
  heads(at: string, o: HeadsOptions): HeadsAttentionSpec {
    const { c, D } = this;
    const heads = c.int("num_attention_heads");
    const { kvHeads, headDim } = o.sizes ?? {
      kvHeads: c.int("num_key_value_heads", o.kvHeads ?? heads),
      headDim: this.headDim(o.headDim),
    };
    const { rope, norms, bias = "none", window = 0, scale = headDim ** -0.5 } = o;
    const [Q, KV] = [heads * headDim, kvHeads * headDim];
    const normed = (name: string, whole: number): NormSpec => {
      const size = norms?.over === "head" ? headDim : whole;
      return norms?.weightless ? this.unitNorm(size) : this.norm(`${at}.${name}`, size);
    };
    return {
      kind: "heads",
      heads,
      kvHeads,
      headDim,
      q: this.linear(`${at}.q_proj`, D, o.gated ? 2 * Q : Q, bias !== "none"),
      k: this.linear(`${at}.k_proj`, D, KV, bias !== "none"),
      v: o.values === "with k" ? o.values : this.linear(`${at}.v_proj`, D, KV, bias !== "none"),
      o: this.linear(`${at}.${o.o ?? "o_proj"}`, Q, D, bias === "all"),
      ...(norms ? { qNorm: normed(norms.q ?? "q_norm", Q), kNorm: normed(norms.k ?? "k_norm", KV) } : {}),
      ...(o.values ? { vNorm: this.unitNorm(headDim) } : {}),
      norms: norms?.after ? "after rotation" : "before rotation",
      ...(o.gated ? { outputGate: "with q" } : {}),
      ...(o.clip === undefined || o.clip === null ? {} : { clip: o.clip }),
      scale,
      rope,
      window,
      ...(o.chunk === undefined ? {} : { chunk: o.chunk }),
      ...(o.sinks ? { sinks: { name: `${at}.sinks` } } : {}),
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
  /** Dimensions of a head: head_dim, else `otherwise`, else what the model's width leaves for each of num_attention_heads. */
  headDim(otherwise?: number): number {
    const { c, D } = this;
    const heads = c.int("num_attention_heads");
    if ((c.config["head_dim"] ?? null) === null && otherwise === undefined && D % heads !== 0)
      c.fail("num_attention_heads", `a divisor of hidden_size ${D} (head_dim is not given)`);
    return c.int("head_dim", otherwise ?? D / heads, ranges.headDim);
  }
  /** The layer that most families have: a norm before each branch. */
  preNorm(at: string, attention: LayerSpec["attention"], mlp: LayerSpec["mlp"]): LayerSpec {
    return {
      attention,
      attentionNorms: { before: this.norm(`${at}.input_layernorm`) },
      mlp,
      mlpNorms: { before: this.norm(`${at}.post_attention_layernorm`) },
      residualFactor: 1,
    };
  }
  /** num_hidden_layers. */
  get depth(): number {
    return this.c.int("num_hidden_layers");
  }
  /** One entry per decoder layer, with the prefix of its tensors. */
  layers<T>(make: (at: string, l: number) => T): T[] {
    return this.list("num_hidden_layers", `${this.root}.layers`, make);
  }
}

/** The spec of a checkpoint of this family. @throws ConfigError naming file and key */
export function buildSpec(modelType: string, family: Family, c: ConfigReader, headers: Headers): ModelSpec {
  for (const [key, values] of Object.entries(family.accepts)) c.requireValue(key, values);
  const { root, head } = textNames(headers, c instanceof NestedReader);
  const b = new Builder(c, headers, family, root);
  const layers = family.layers(b);
  const embedding = `${root}.embed_tokens.weight`;
  const vocab = c.int("vocab_size");
  const factors = family.factors?.(b);
  const { bias = false, cap = null } = family.head?.(b) ?? {};
  for (const key of ["bos_token_id", "pad_token_id"]) c.ids(key, [-1, vocab - 1]); // −1: none
  return {
    modelType,
    vocab,
    hidden: b.D,
    maxPositions: c.int("max_position_embeddings", undefined, ranges.positions),
    embedding: { name: embedding },
    layers,
    finalNorm: b.norm(`${root}.${family.finalNorm ?? "norm"}`),
    head: { name: c.bool("tie_word_embeddings", family.tied ?? false) ? embedding : `${head}.weight` },
    embeddingFactor: factors?.embedding ?? 1,
    ...(bias ? { headBias: { name: `${head}.bias` } } : {}),
    logitsFactor: factors?.logits ?? 1,
    ...(cap === null ? {} : { logitsCap: cap }),
    eosIds: c.ids("eos_token_id", [0, vocab - 1]),
  };
}
