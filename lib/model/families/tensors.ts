// Do the tensors of a checkpoint and its config.json tell of the same model? Every tensor that the ModelSpec names is there in its
// shape, and every tensor that is there is used, or is one of the known exceptions below.

import { LayoutError } from "../../errors.ts";
import { shown, shownShape } from "../../files/fault.ts";
import type { SlicedTensor } from "../../files/slice.ts";
import { placeSlice } from "../../files/slice.ts";
import type { ModelSpec } from "../spec.ts";
import { fileShape, parameterShapes } from "../spec.ts";
import type { ConfigReader } from "./config.ts";
import type { CountedList, Headers } from "./headers.ts";

interface Exception {
  readonly what: string;
  readonly names: RegExp;
  /** Keys of config.json: unless one of them is there (and not 0), such tensors are no exception. */
  readonly announcedBy?: readonly string[];
  /** Of models of these types no key announces them. */
  readonly ofTypes?: readonly string[];
}

/** Tensors that published checkpoints hold and that the text model does not use. */
const exceptions: readonly Exception[] = [
  { what: "rotary buffers, which config.json determines", names: /\.rotary_emb\.(?:inv_freq|cos_cached|sin_cached)$/ },
  {
    what: "vision towers",
    names: /^(?:model\.)?(?:visual|vision_tower|vision_model|embed_vision|multi_modal_projector|mm_projector)\./,
    announcedBy: ["vision_config"],
  },
  { what: "audio towers", names: /^(?:model\.)?(?:audio_tower|embed_audio)\./, announcedBy: ["audio_config"] },
  {
    what: "multi-token prediction beside the layers",
    names: /^(?:model\.)?mtp(?:_layers)?\./,
    announcedBy: ["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers"],
    ofTypes: ["qwen3_next"],
  },
];

/** Multi-token prediction as layers behind the last one (DeepSeek-V3, GLM-4.5): how many of them the key announces. */
const layersBehind = "num_nextn_predict_layers";

/** No size, however well its value divides one. */
const noSize: ReadonlySet<string> = new Set(["first_k_dense_replace"]);

/** Which keys of config.json decide whether a tensor is there (first) and how large it is; of the first line that matches, those that were read. */
const decides: readonly (readonly [names: RegExp, ...keys: string[]])[] = [
  [/weight_scale|scales?$|qweight|qzeros|weight_packed/, "quantization_config"],
  [/lm_head\.bias/, "lm_head_bias", "vocab_size"],
  [/lm_head\./, "tie_word_embeddings", "vocab_size", "hidden_size"],
  [/embed_tokens\./, "vocab_size", "hidden_size"],
  [/\.bias$/, "attention_bias", "mlp_bias"],
  [
    /\.(?:in_proj_|conv1d|A_log|dt_bias)/,
    "linear_num_value_heads",
    "linear_num_key_heads",
    "linear_value_head_dim",
    "linear_key_head_dim",
    "linear_conv_kernel_dim",
    "hidden_size",
  ],
  [/\.linear_attn\./, "linear_value_head_dim", "linear_num_value_heads", "hidden_size"],
  [/\.conv\./, "conv_L_cache", "hidden_size", "conv_bias"],
  [/\.[qk]_norm\./, "model_type", "num_attention_heads", "num_key_value_heads", "head_dim"],
  [/\.(?:q_a|q_b)_/, "q_lora_rank", "num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "hidden_size"],
  [/\.[kv]_proj\./, "num_key_value_heads", "head_dim", "hidden_size", "num_attention_heads"],
  [/\.kv_a_/, "kv_lora_rank", "qk_rope_head_dim", "hidden_size"],
  [/\.kv_b_/, "num_attention_heads", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank"],
  [/\.q_proj\./, "q_lora_rank", "num_attention_heads", "head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "hidden_size"],
  [/self_attn\./, "num_attention_heads", "head_dim", "v_head_dim", "hidden_size"],
  [/feed_forward\.(?:experts|shared_expert|router)\b/, "num_local_experts", "intermediate_size", "moe_layers", "hidden_size"],
  [/feed_forward\./, "intermediate_size_mlp", "moe_layers", "interleave_moe_layer_step", "intermediate_size", "hidden_size"],
  [/\.router\.|\.layer_scalar/, "num_experts", "enable_moe_block", "hidden_size"],
  [/shared_expert/, "n_shared_experts", "moe_intermediate_size", "hidden_size"],
  [/\.experts\./, "moe_intermediate_size", "intermediate_size", "num_experts", "n_routed_experts", "first_k_dense_replace", "hidden_size"],
  [/\.mlp\.gate\./, "n_routed_experts", "num_experts", "first_k_dense_replace", "hidden_size"],
  [/\.mlp\./, "first_k_dense_replace", "intermediate_size", "hidden_size"],
  [/norm\./, "hidden_size"],
];

/**
 * @param dir of the checkpoint, for messages
 * @throws LayoutError a tensor is missing, has another shape, or is not used; names the keys of config.json that disagree most likely
 */
export function requireSameModel(
  spec: ModelSpec,
  tensors: ReadonlyMap<string, SlicedTensor>,
  c: ConfigReader,
  headers: Headers,
  dir: string,
): void {
  const used = new Set<string>();
  for (const parameter of parameterShapes(spec)) {
    const { ref } = parameter;
    const shape = fileShape(parameter);
    used.add(ref.name);
    const found = tensors.get(ref.name);
    const file = found?.path ?? dir;
    const fail = (fault: string, keys: string): never => {
      throw new LayoutError(`${file}: tensor ${shown(ref.name)}: ${fault}${keys}`, { where: { file, tensor: ref.name } });
    };
    if (!found) fail(`expected ${shownShape(shape)}, found no such tensor`, suspects(ref.name, c, 3));
    else if (ref.index !== undefined || ref.rows) placeSlice(ref, found, shape);
    else if (found.shape.join() !== shape.join())
      fail(`expected ${shownShape(shape)}, found ${shownShape(found.shape)}`, suspects(ref.name, c, 3, shape, found.shape));
  }
  const unused = [...tensors.keys()].filter((name) => !used.has(name) && !isException(name, c, headers.lists));
  const [first] = unused;
  if (first === undefined) return;
  const list = headers.lists.find(({ at, count, shown: n }) => n > count && unused.some((name) => entryOf(name, at) >= count));
  const why = list ? `; ${c.source}: "${list.key}" is ${list.count}, the weights show ${list.shown}` : suspects(first, c, 1);
  const names = unused.slice(0, 3).map(shown).join(", ");
  throw new LayoutError(
    `${dir}: ${unused.length} of ${tensors.size} tensors belong to no part of the model that config.json describes: ${names}${unused.length > 3 ? " …" : ""}${why}`,
    { where: { file: dir, tensor: first, unused: unused.length, ...(list ? { key: list.key } : {}) } },
  );
}

function isException(name: string, c: ConfigReader, lists: readonly CountedList[]): boolean {
  const announced = (key: string): boolean => Boolean(c.config[key]);
  const type = c.config["model_type"];
  const known = ({ announcedBy, ofTypes }: Exception): boolean =>
    (announcedBy?.some(announced) ?? true) || (typeof type === "string" && (ofTypes?.includes(type) ?? false));
  if (exceptions.some((exception) => exception.names.test(name) && known(exception))) return true;
  const [layers] = lists;
  const behind = c.config[layersBehind];
  return (
    layers !== undefined &&
    typeof behind === "number" &&
    entryOf(name, layers.at) >= layers.count &&
    entryOf(name, layers.at) < layers.count + behind
  );
}

/** Which entry of a list a tensor belongs to; −1: none. */
function entryOf(name: string, at: string): number {
  if (!name.startsWith(`${at}.`)) return -1;
  const entry = /^\d+/.exec(name.slice(at.length + 1));
  return entry ? Number(entry[0]) : -1;
}

/** At most `most` keys that likely disagree, with their values; where one of them explains the shape that was found, it alone. */
function suspects(name: string, c: ConfigReader, most: number, expected: readonly number[] = [], found: readonly number[] = []): string {
  const line = decides.find(([names]) => names.test(name));
  if (!line) return "";
  const [, ...all] = line;
  const keys = all.filter((key) => c.read.has(key));
  const d = expected.length === found.length ? expected.findIndex((n, i) => n !== found[i]) : -1;
  const [e, f] = [expected[d], found[d]];
  for (const key of keys) {
    const value = c.read.get(key);
    if (e === undefined || f === undefined || typeof value !== "number" || noSize.has(key) || e % value !== 0) continue;
    const fits = f / (e / value); // the dimension is a multiple of it
    if (Number.isInteger(fits) && fits >= 1) return `; ${c.source}: "${key}" is ${value}, ${fits} would fit`;
  }
  const shownKeys = keys.slice(0, most).map((key) => `"${key}" (${JSON.stringify(c.read.get(key) ?? null)})`);
  return keys.length === 0 ? "" : `; ${c.source}: look at ${shownKeys.join(", ")}`;
}
