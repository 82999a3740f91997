// The registry of model families: config.json's model_type → ModelSpec. A new family is one data file and one line here.

import { optionsArgument, shapeArgument, textArgument } from "../../arguments.ts";
import { join } from "node:path";
import { ConfigError } from "../../errors.ts";
import type { Checkpoint } from "../../files/checkpoint.ts";
import type { ModelSpec } from "../spec.ts";
import { moePart } from "../spec.ts";
import { buildSpec } from "./build.ts";
import type { Family } from "./build.ts";
import { ConfigReader } from "./config.ts";
import type { JsonObject } from "./config.ts";
import { Headers } from "./headers.ts";
import { textModel } from "./nested.ts";
import { afmoe } from "./tables/afmoe.ts";
import { deepseekV2 } from "./tables/deepseek_v2.ts";
import { deepseekV3 } from "./tables/deepseek_v3.ts";
import { dots1 } from "./tables/dots1.ts";
import { ernie45Moe } from "./tables/ernie4_5_moe.ts";
import { exaoneMoe } from "./tables/exaone_moe.ts";
import { flexOlmo } from "./tables/flex_olmo.ts";
import { gemma4 } from "./tables/gemma4.ts";
import { glm4Moe } from "./tables/glm4_moe.ts";
import { glm4MoeLite } from "./tables/glm4_moe_lite.ts";
import { gptOss } from "./tables/gpt_oss.ts";
import { graniteMoe } from "./tables/granite_moe.ts";
import { hunyuanV1Moe } from "./tables/hunyuan_v1_moe.ts";
import { hyV3 } from "./tables/hy_v3.ts";
import { lfm2Moe } from "./tables/lfm2_moe.ts";
import { llama4 } from "./tables/llama4.ts";
import { minimaxM2 } from "./tables/minimax_m2.ts";
import { mistral4 } from "./tables/mistral4.ts";
import { mixtral } from "./tables/mixtral.ts";
import { olmoe } from "./tables/olmoe.ts";
import { phimoe } from "./tables/phimoe.ts";
import { qwen2Moe } from "./tables/qwen2_moe.ts";
import { qwen35Moe } from "./tables/qwen3_5_moe.ts";
import { qwen3Moe } from "./tables/qwen3_moe.ts";
import { qwen3Next } from "./tables/qwen3_next.ts";
import { solarOpen } from "./tables/solar_open.ts";
import { namesOf } from "./peft_names.ts";
import type { PeftNames } from "./peft_names.ts";
import { requireSameModel } from "./tensors.ts";

export { gateUpKey } from "./fused.ts";
export type { PeftNames } from "./peft_names.ts";

const families: Readonly<Record<string, Family>> = {
  afmoe,
  deepseek_v2: deepseekV2,
  deepseek_v3: deepseekV3,
  dots1,
  ernie4_5_moe: ernie45Moe,
  exaone_moe: exaoneMoe,
  flex_olmo: flexOlmo,
  gemma4_text: gemma4,
  glm4_moe: glm4Moe,
  glm4_moe_lite: glm4MoeLite,
  gpt_oss: gptOss,
  granitemoe: graniteMoe,
  granitemoeshared: graniteMoe,
  hunyuan_v1_moe: hunyuanV1Moe,
  hy_v3: hyV3,
  lfm2_moe: lfm2Moe,
  llama4_text: llama4,
  minimax_m2: minimaxM2,
  mistral4,
  mixtral,
  olmoe,
  phimoe,
  qwen2_moe: qwen2Moe,
  qwen3_5_moe_text: qwen35Moe,
  qwen3_moe: qwen3Moe,
  qwen3_next: qwen3Next,
  solar_open: solarOpen,
};

/** Models that are more than a text model, and what their text_config may be. */
const nested: Readonly<Record<string, readonly [string, ...string[]]>> = {
  gemma4: ["gemma4_text"],
  llama4: ["llama4_text"],
  mistral3: ["mistral4"],
  qwen3_5_moe: ["qwen3_5_moe_text"],
};
/** Those of them whose text model's modules PEFT's adapters name as the checkpoint does. */
const nestedPeft: Readonly<Record<string, string>> = { qwen3_5_moe: "qwen3_5_moe_text" };

/** How PEFT's adapters name a model's modules. Null: not known for this model type. */
export function peftNames(modelType: string): PeftNames | null {
  const type = nestedPeft[modelType] ?? modelType;
  const naming = Object.hasOwn(families, type) ? families[type]?.peft : undefined;
  return naming ? namesOf(naming) : null;
}

export function supportedModelTypes(): string[] {
  return [...Object.keys(families), ...Object.keys(nested)].sort();
}

/**
 * The neutral description of a checkpoint, held against its headers.
 * @throws ConfigError unknown model_type, missing or impossible fields, a count that the weights do not show · LayoutError a tensor is
 * missing, has another shape, or belongs to no part of the model
 */
export function checkpointSpec(checkpoint: Pick<Checkpoint, "dir" | "config" | "weights">): ModelSpec {
  const { dir, config, weights } = checkpoint;
  const headers = new Headers(weights);
  const { spec, reader } = describe(config, join(dir, "config.json"), headers);
  requireSameModel(spec, weights, reader, headers, dir);
  return spec;
}

/**
 * The description of a model that has no weights yet.
 * @param config parsed config.json
 * @param source its path, for error messages
 * @throws ConfigError unknown model_type, missing or impossible fields
 */
export function modelSpec(config: JsonObject, source: string): ModelSpec {
  textArgument(source, "modelSpec: source");
  config = optionsArgument(shapeArgument(config, [], "config.json, parsed", "modelSpec: config"), "modelSpec: config");
  return describe(config, source, new Headers(null)).spec;
}

function describe(config: JsonObject, source: string, headers: Headers): { spec: ModelSpec; reader: ConfigReader } {
  const outer = new ConfigReader(config, source);
  const modelType = outer.string("model_type");
  const { reader, type } = textModel(outer, Object.hasOwn(nested, modelType) ? nested[modelType]! : null);
  reader.read.set("quantization_config", config["quantization_config"]); // explains tensors of scales
  const family = Object.hasOwn(families, type) ? families[type] : undefined;
  if (!family)
    throw new ConfigError(
      `${source}: "model_type" ${JSON.stringify(type)} is not supported; supported: ${supportedModelTypes().join(", ")}`,
      { where: { file: source, key: "model_type" } },
    );
  const spec = buildSpec(modelType, family, reader, headers);
  validate(spec, source);
  return { spec, reader };
}

function validate(spec: ModelSpec, source: string): void {
  const fail = (message: string): never => {
    throw new ConfigError(`${source}: ${message}`, { where: { file: source } });
  };
  const lengths = new Set(spec.layers.flatMap(({ attention: a }) => ("rope" in a && a.rope?.beyond ? [a.rope.beyond.length] : [])));
  if (lengths.size > 1) fail(`original_max_position_embeddings must be one for all layers, found ${[...lengths].join(" and ")}`);
  spec.layers.forEach((layer, l) => {
    const a = layer.attention;
    if (a.kind === "heads") {
      if (a.rope && a.rope.inverseFrequencies.length * 2 > a.headDim) fail(`layer ${l}: more rotary dimensions than head_dim ${a.headDim}`);
      if (a.heads % a.kvHeads !== 0)
        fail(`layer ${l}: num_attention_heads ${a.heads} must be a multiple of num_key_value_heads ${a.kvHeads}`);
      if (a.outputGate === "with q" && a.qNorm?.size !== a.headDim) fail(`layer ${l}: a gate beside q needs a norm of each head of q`);
      if (a.v === "with k" && !(a.kNorm && a.vNorm && a.norms === "before rotation"))
        fail(`layer ${l}: values from the projection of the keys need norms of both, before the rotation`);
      if (!Number.isInteger(a.headDim) || a.headDim % 2 !== 0) fail(`layer ${l}: head_dim ${a.headDim} must be an even integer`);
    } else if (a.kind === "latent" && a.ropeDim % 2 !== 0) fail(`layer ${l}: qk_rope_head_dim ${a.ropeDim} must be even`);
    else if (a.kind === "delta" && a.heads % a.keyHeads !== 0)
      fail(`layer ${l}: the ${a.heads} value heads of linear attention must be a multiple of its ${a.keyHeads} key heads`);
    const moe = moePart(layer);
    if (moe) {
      const { rule, experts, topK } = moe;
      if (experts.length % rule.groups !== 0)
        fail(`layer ${l}: the number of routed experts must be a multiple of n_group ${rule.groups}, found ${experts.length}`);
      if (topK > experts.length) fail(`layer ${l}: num_experts_per_tok ${topK} exceeds the ${experts.length} experts`);
      if (rule.topkGroups > rule.groups) fail(`layer ${l}: topk_group ${rule.topkGroups} exceeds n_group ${rule.groups}`);
      if (topK > (rule.topkGroups * experts.length) / rule.groups)
        fail(`layer ${l}: num_experts_per_tok ${topK} exceeds the experts of ${rule.topkGroups} groups`);
    }
  });
}
