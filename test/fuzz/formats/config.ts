// config.json: whatever is accepted describes the model that the file describes, and fits the weights beside it.

import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ConfigError } from "../../../lib/errors.ts";
import { openCheckpoint } from "../../../lib/files/checkpoint.ts";
import { checkpointSpec, modelSpec } from "../../../lib/model/families/index.ts";
import type { JsonObject } from "../../../lib/model/families/config.ts";
import type { AttentionSpec, ModelSpec, NormSpec } from "../../../lib/model/spec.ts";
import { densePart, moePart } from "../../../lib/model/spec.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateJson } from "../case.ts";
import { jsonOf, toTree } from "../tree.ts";
import { families, parseBytes, readFamily } from "./seeds.ts";

type Config = Readonly<Record<string, unknown>>;

/** Configurations as they are published: rope in the old place, every kind of it, keys that nobody needs. */
function variants(config: Config): Config[] {
  const { rope_parameters: _, ...rest } = config;
  return [
    config,
    { ...rest, rope_theta: 10000, rope_scaling: null },
    { ...rest, rope_theta: 500000, rope_scaling: { type: "linear", factor: 4 } },
    { ...rest, rope_scaling: { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 } },
    {
      ...rest, torch_dtype: "bfloat16", rope_theta: 10000,
      rope_scaling: { type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 0.707, mscale_all_dim: 0.707, original_max_position_embeddings: 64 },
    },
  ]; // prettier-ignore
}

export const config: Format = {
  name: "config",
  async open(dir) {
    const seeds = families.flatMap((family) =>
      variants(readFamily(family)).map((value, i) => {
        const own = join(dir, `${family}-${i}`);
        cpSync(join("test/fixtures/families", family), own, { recursive: true });
        return { dir: own, tree: toTree(value), spec: modelSpec(value, "config.json") };
      }),
    );
    const weights = await Promise.all(seeds.map((seed) => openCheckpoint(seed.dir)));
    return (dice): Case => {
      const i = dice.top.below(seeds.length);
      const seed = seeds[i]!;
      const asFile = dice.top.once(24);
      const { bytes, steps, same } = mutateJson(seed.tree, dice);
      const path = join(seed.dir, "config.json");
      return {
        steps,
        same,
        files: { "config.json": bytes },
        file: "config.json",
        parse: async () => {
          if (!asFile) return checkpointSpec({ ...weights[i]!, config: objectOf(bytes) });
          writeFileSync(path, bytes);
          return checkpointSpec(await openCheckpoint(seed.dir));
        },
        judge: (spec: ModelSpec) => {
          const said = jsonOf(bytes);
          if (!said) return "accepted what is not JSON with each key once";
          if (same) return difference(seed.spec, spec, "spec");
          return (
            difference(expected(said.value as Config, spec), seen(spec), "spec") ?? ropeFault(said.value as Config, spec) ?? wild(spec)
          );
        },
      };
    };
  },
};

function objectOf(bytes: Uint8Array): JsonObject {
  const value = parseBytes(bytes, "config.json", ConfigError);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new ConfigError("config.json: not an object");
  return value as JsonObject;
}

function mixer(a: AttentionSpec) {
  switch (a.kind) {
    case "heads":
      return { heads: a.heads, kvHeads: a.kvHeads, headDim: a.headDim, clip: a.clip };
    case "latent":
      return {
        heads: a.heads,
        nope: a.nopeDim,
        rope: a.ropeDim,
        v: a.vDim,
        kvRank: a.kvRank,
        qRank: "a" in a.q ? a.q.a.out : null,
        bias: a.kvA.bias !== undefined,
      };
    case "delta":
      return { heads: a.heads, keyHeads: a.keyHeads, keyDim: a.keyDim, valueDim: a.valueDim, taps: a.conv.taps };
    case "conv":
      return { channels: a.conv.channels, taps: a.conv.taps };
  }
}
const rotary = (a: AttentionSpec) => ("rope" in a ? a.rope : null);

/** What decides the computation, beside the rotary embedding, as the spec has it. */
function seen(spec: ModelSpec) {
  const norms: NormSpec[] = [spec.finalNorm];
  const layers = spec.layers.map((l) => {
    for (const n of [l.attentionNorms, l.mlpNorms]) norms.push(...[n.before, n.after].filter((x) => x !== undefined));
    const m = moePart(l);
    return {
      attention: mixer(l.attention),
      mlp:
        m === undefined
          ? { hidden: densePart(l)?.hidden ?? 0 }
          : {
              experts: m.experts.length, topK: m.topK, hidden: m.expertHidden, shared: m.shared?.hidden ?? 0, groups: m.rule.groups,
              topkGroups: m.rule.topkGroups, renormalize: m.rule.renormalize, scale: m.rule.scale,
            }, // prettier-ignore
    };
  });
  const { vocab, hidden, maxPositions, head, embedding, eosIds, modelType } = spec;
  return {
    modelType,
    vocab,
    hidden,
    maxPositions,
    tied: head.name === embedding.name,
    eosIds,
    eps: [...new Set(norms.map((n) => n.eps))],
    layers,
  };
}

/** The same, read off config.json. */
function expected(c: Config, spec: ModelSpec): ReturnType<typeof seen> {
  const or = <T>(key: string, fallback: T): T => (c[key] ?? fallback) as T;
  const n = (key: string): number => c[key] as number;
  const eos = c["eos_token_id"] ?? [];
  const olmoe = c["model_type"] === "olmoe";
  const topK = n("num_experts_per_tok");
  const grouped = c["topk_method"] === "group_limited_greedy";
  const renormalize = or("norm_topk_prob", false) && (olmoe || topK > 1);
  const dense = olmoe ? 0 : or("first_k_dense_replace", 0);
  const layer = (l: number): ReturnType<typeof seen>["layers"][number] => ({
    attention: olmoe
      ? {
          heads: n("num_attention_heads"), kvHeads: or("num_key_value_heads", n("num_attention_heads")),
          headDim: or("head_dim", n("hidden_size") / n("num_attention_heads")), clip: or("clip_qkv", undefined),
        }
      : {
          heads: n("num_attention_heads"), nope: n("qk_nope_head_dim"), rope: n("qk_rope_head_dim"), v: n("v_head_dim"), kvRank: n("kv_lora_rank"),
          qRank: or("q_lora_rank", null), bias: or("attention_bias", false),
        },
    mlp:
      l < dense
        ? { hidden: n("intermediate_size") }
        : {
            experts: n(olmoe ? "num_experts" : "n_routed_experts"), topK, hidden: n(olmoe ? "intermediate_size" : "moe_intermediate_size"),
            shared: olmoe ? 0 : or("n_shared_experts", 0) * n("moe_intermediate_size"), groups: grouped ? n("n_group") : 1,
            topkGroups: grouped ? n("topk_group") : 1, renormalize, scale: olmoe || renormalize ? 1 : or("routed_scaling_factor", 1),
          },
  }); // prettier-ignore
  return {
    modelType: c["model_type"] as string,
    vocab: n("vocab_size"),
    hidden: n("hidden_size"),
    maxPositions: n("max_position_embeddings"),
    tied: or("tie_word_embeddings", false),
    eosIds: (Array.isArray(eos) ? eos : [eos]) as number[],
    eps: [or("rms_norm_eps", olmoe ? 1e-5 : 1e-6)],
    layers: Array.from({ length: n("num_hidden_layers") }, (_, l) => layer(Math.min(l, spec.layers.length - 1))),
  };
}

/** Flags that would change the computation: with any other value the file must be refused. */
const FIXED: Readonly<Record<string, unknown>> = { hidden_act: "silu", mlp_bias: false, moe_layer_freq: 1, scoring_func: "softmax" };

/** Frequencies by the formulas of the papers; for yarn and llama3 bounds only. */
function ropeFault(c: Config, spec: ModelSpec): string | null {
  for (const [key, value] of Object.entries(FIXED))
    if (c[key] !== undefined && c[key] !== value && !(c["model_type"] === "olmoe" && key !== "hidden_act"))
      return `accepted ${key} ${String(c[key])}`;
  const scaling = (c["rope_parameters"] ?? c["rope_scaling"] ?? {}) as Config;
  const theta = Number((c["rope_parameters"] as Config | null)?.["rope_theta"] ?? c["rope_theta"] ?? 10000);
  const type = scaling["rope_type"] ?? scaling["type"] ?? "default";
  const longest = Number(c["max_position_embeddings"]);
  const factor = Number(
    scaling["factor"] ?? (type === "yarn" ? longest / Number(scaling["original_max_position_embeddings"] ?? longest) : 1),
  );
  const first = spec.layers[0] && rotary(spec.layers[0].attention);
  for (const [i, x] of (first?.inverseFrequencies ?? []).entries()) {
    const plain = theta ** ((-2 * i) / (2 * first!.inverseFrequencies.length));
    const [low, high] =
      type === "default" ? [plain, plain] : type === "linear" ? [plain / factor, plain / factor] : [plain / Math.max(1, factor), plain];
    if (!(x >= low * (1 - 1e-4) && x <= high * (1 + 1e-4))) return `inverse frequency ${i}: expected ${low} to ${high}, found ${x}`;
  }
  return null;
}

/** A number with which nothing can be computed. */
function wild(spec: ModelSpec): string | null {
  let fault: string | null = null;
  const walk = (x: unknown, path: string): void => {
    if (typeof x === "number" && (!Number.isFinite(Math.fround(x)) || (x < 0 && !path.includes("eosIds")))) fault ??= `${path} is ${x}`;
    if (typeof x === "object" && x !== null) for (const [key, v] of Object.entries(x)) walk(v, `${path}.${key}`);
  };
  walk(seen(spec), "spec");
  for (const l of spec.layers.slice(0, 1)) walk([rotary(l.attention), "scale" in l.attention ? l.attention.scale : null], "attention");
  if (spec.finalNorm.eps > 0.1) return `an epsilon of ${spec.finalNorm.eps}`;
  return fault;
}
