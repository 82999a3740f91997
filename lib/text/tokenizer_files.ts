// The files of a Hugging Face tokenizer folder: tokenizer.json is the truth, the others name tokens and hold chat templates.
// Of tokenizer.json only what the library does not tell is read here.

import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { ConfigError, IoError } from "../errors.ts";
import { readJsonFile } from "../files/json.ts";
import { readTextFile } from "../files/regular.ts";
import { list, object, refuseUnsafe } from "./tokenizer_unsafe.ts";

type Json = Readonly<Record<string, unknown>>;

export type TokenizerFiles = Awaited<ReturnType<typeof readTokenizerFolder>>;

type AddedToken = Readonly<{ id: number; content: string; special: boolean; normalized: boolean }>;

export async function readTokenizerFolder(dir: string) {
  const names = new Set(
    await readdir(dir).catch((cause: unknown) => {
      throw new IoError(`cannot read the tokenizer folder ${dir}`, { cause, where: { file: dir } });
    }),
  );
  const file = join(dir, "tokenizer.json");
  if (!names.has("tokenizer.json")) {
    const fix = "a folder with only tokenizer.model or *.tiktoken can be converted with Python";
    throw new ConfigError(`no tokenizer.json in ${dir}; ${fix}: AutoTokenizer.from_pretrained(dir).save_pretrained(dir)`, {
      where: { file },
    });
  }
  const optional = async (name: string): Promise<Json> => (names.has(name) ? readObject(join(dir, name)) : {});
  const [tokenizer, config, special, generation] = await Promise.all([
    readObject(file),
    optional("tokenizer_config.json"),
    optional("special_tokens_map.json"),
    optional("generation_config.json"),
  ]);
  refuseUnsafe(tokenizer, file);
  const { vocab } = object(tokenizer["model"]);
  const added = list(tokenizer["added_tokens"]) as readonly AddedToken[]; // the library checks the shape
  const ids = [...(Array.isArray(vocab) ? vocab.keys() : Object.values(object(vocab))), ...added.map((t) => object(t)["id"])];
  const named = (name: string): string | null => tokenText(name in config ? config[name] : special[name], name, dir);
  return {
    dir,
    file, // tokenizer.json, for the library to read
    added,
    vocabSize: ids.reduce((most: number, id) => Math.max(most, Number(id) + 1), 0), // largest id + 1
    bosToken: named("bos_token"),
    eosToken: named("eos_token"),
    padToken: named("pad_token"),
    postProcessed: postProcessed(tokenizer["post_processor"]),
    addBosToken: flag(config, "add_bos_token", join(dir, "tokenizer_config.json")),
    chatTemplates: await readTemplates(dir, names, config), // by name; "default" is the one used for chat
    // what ends a turn besides eosToken
    stopIds: tokenIds(generation, "eos_token_id", join(dir, "generation_config.json")),
  };
}

const NAMES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.json", "chat_template.jinja"]; // prettier-ignore
const MORE_TEMPLATES = "additional_chat_templates";

/** Those of the files that are there, as paths below `dir`, sorted; none where there is no folder. */
export async function tokenizerFilesOf(dir: string): Promise<string[]> {
  const inside = (folder: string): Promise<string[]> => readdir(folder).catch(() => []);
  const templates = (await inside(join(dir, MORE_TEMPLATES))).filter((name) => name.endsWith(".jinja"));
  const there = (await inside(dir)).filter((name) => NAMES.includes(name));
  return [...there, ...templates.map((name) => `${MORE_TEMPLATES}/${name}`)].sort();
}

/** Tokens that the post-processor adds to a text, with the ids that it gives them. */
function postProcessed(part: unknown): readonly (readonly unknown[])[] {
  const { sep, cls, single, special_tokens: known, processors } = object(part);
  const template = list(single).flatMap((piece) => {
    const { ids, tokens } = object(object(known)[String(object(object(piece)["SpecialToken"])["id"])]);
    return list(ids).map((id, i) => [list(tokens)[i], id]);
  });
  return [...[sep, cls].filter(Array.isArray), ...template, ...list(processors).flatMap(postProcessed)];
}

function refuse(file: string, key: string, wanted: string, found: unknown): never {
  throw new ConfigError(`${file}: ${key} must be ${wanted}, found ${JSON.stringify(found).slice(0, 60)}`, { where: { file, key } });
}

/** Absent is false. */
function flag(config: Json, key: string, file: string): boolean {
  const value = config[key] ?? false;
  return typeof value === "boolean" ? value : refuse(file, key, "true or false", value);
}

/** One id or a list; none when absent. */
function tokenIds(config: Json, key: string, file: string): readonly number[] {
  const value = config[key] ?? [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  const areIds = ids.every((id): id is number => Number.isInteger(id));
  return areIds ? ids : refuse(file, key, "a token id or a list of them", value);
}

async function readObject(file: string): Promise<Json> {
  const value = await readJsonFile(file, ConfigError, { maxBytes: 256 * 2 ** 20 });
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  throw new ConfigError(`${file} must hold a JSON object`, { where: { file } });
}

/** A token is given as text or as {"content": text, …}. */
function tokenText(value: unknown, key: string, dir: string): string | null {
  const text = typeof value === "object" && value !== null ? object(value)["content"] : (value ?? null);
  if (text === null || typeof text === "string") return text;
  const file = join(dir, "tokenizer_config.json");
  throw new ConfigError(`${file}: ${key} must be a text or an object with content`, { where: { file, key } });
}

// Precedence as in transformers: *.jinja, then chat_template.json, then tokenizer_config.json.
async function readTemplates(dir: string, names: ReadonlySet<string>, config: Json): Promise<ReadonlyMap<string, string>> {
  const out = new Map<string, string>();
  // one template, or several by name
  const addAll = (value: unknown, file: string): void => {
    if (typeof value === "string") out.set("default", value);
    else if (value !== undefined && value !== null)
      for (const entry of Array.isArray(value) ? value : [value]) {
        const { name, template } = object(entry);
        if (typeof name === "string" && typeof template === "string") out.set(name, template);
        else refuse(join(dir, file), "chat_template", "a text or a list of objects with name and template", value);
      }
  };
  addAll(config["chat_template"], "tokenizer_config.json");
  if (names.has("chat_template.json")) addAll((await readObject(join(dir, "chat_template.json")))["chat_template"], "chat_template.json");
  if (names.has("chat_template.jinja")) out.set("default", await readTextFile(join(dir, "chat_template.jinja")));
  if (names.has(MORE_TEMPLATES)) {
    const folder = join(dir, MORE_TEMPLATES);
    for (const name of await readdir(folder))
      if (name.endsWith(".jinja")) out.set(basename(name, ".jinja"), await readTextFile(join(folder, name)));
  }
  return out;
}
