// Checkpoints of more than a text model: config.json holds the text model's fields in text_config, beside those of a vision tower, and
// the text model's tensors lie below a prefix that the headers show. What the text model does not use is left alone: tensors.ts
// knows it, a merge copies it.

import { ConfigError } from "../../errors.ts";
import { ConfigReader } from "./config.ts";
import type { JsonObject } from "./config.ts";
import type { Headers } from "./headers.ts";

/** Read at the top level alone: what is said of them in text_config does not count. */
const outerKeys = ["tie_word_embeddings", "quantization_config", "vision_config", "audio_config"];
/** Read in text_config, at the top level where they are not there. */
const eitherKeys = ["bos_token_id", "eos_token_id", "pad_token_id"];

/** The fields of text_config, and of the top level what is read there: errors name the place of a key. */
export class NestedReader extends ConfigReader {
  private readonly outer: ConfigReader;

  constructor(outer: ConfigReader, text: JsonObject) {
    const of = (keys: readonly string[]): JsonObject =>
      Object.fromEntries(keys.flatMap((key) => (key in outer.config ? [[key, outer.config[key]]] : [])));
    const inner = Object.fromEntries(Object.entries(text).filter(([key]) => !outerKeys.includes(key)));
    super({ ...of(eitherKeys), ...inner, ...of(outerKeys) }, `${outer.source} text_config`);
    this.outer = outer;
  }

  override fail(key: string, expected: string): never {
    if (outerKeys.includes(key)) return this.outer.fail(key, expected);
    return super.fail(key, expected);
  }
}

/**
 * The reader of the text model's fields, and its own model_type.
 * @param types what text_config's model_type may be; null: the fields lie at the top level
 * @throws ConfigError no text_config, or one of another model_type
 */
export function textModel(outer: ConfigReader, types: readonly string[] | null): { reader: ConfigReader; type: string } {
  const type = outer.string("model_type");
  if (!types) return { reader: outer, type };
  const text =
    outer.object("text_config") ?? outer.fail("text_config", `an object (model_type ${JSON.stringify(type)} has its text model there)`);
  const reader = new NestedReader(outer, text);
  const inner = reader.string("model_type", types[0]);
  if (!types.includes(inner))
    throw new ConfigError(
      `${reader.source}: "model_type" must be ${types.map((t) => JSON.stringify(t)).join(" or ")} in a model of type ${JSON.stringify(type)}, found ${JSON.stringify(inner)}`,
      { where: { file: outer.source, key: "model_type" } },
    );
  return { reader, type: inner };
}

/** Prefixes below which a text model lies: alone, and as part of a model (before and after the order of the two changed). */
const alone = ["model"] as const;
const within = ["model.language_model", "language_model.model", "model"] as const;

/** Names of a text model's parts: the prefix of embedding, layers and last norm that the headers show, and its head. */
export function textNames(headers: Headers, nested: boolean): { readonly root: string; readonly head: string } {
  const prefixes = nested ? within : alone;
  const root = prefixes.find((at) => headers.shows(`${at}.embed_tokens`)) ?? prefixes[0];
  const inside = "language_model.lm_head";
  return { root, head: nested && headers.shows(inside) ? inside : "lm_head" };
}
