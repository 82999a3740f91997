// The files of a Hugging Face tokenizer folder: tokenizer.json is the truth, the others name tokens and hold chat templates.

import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { ConfigError, IoError } from "../errors.ts";
import { readJsonFile } from "../files/json.ts";

type Json = Readonly<Record<string, unknown>>;

export interface TokenizerFiles {
  readonly dir: string;
  readonly tokenizer: Json;
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly padToken: string | null;
  readonly addBosToken: boolean;
  /** Named templates; "default" is the one used for chat. */
  readonly chatTemplates: ReadonlyMap<string, string>;
  /** eos ids of generation_config.json: what ends a turn besides eosToken. */
  readonly stopIds: readonly number[];
}

export async function readTokenizerFolder(dir: string): Promise<TokenizerFiles> {
  const names = new Set(
    await readdir(dir).catch((cause: unknown) => {
      throw new IoError(`cannot read the tokenizer folder ${dir}`, { cause, where: { file: dir } });
    }),
  );
  if (!names.has("tokenizer.json")) {
    throw new ConfigError(
      `no tokenizer.json in ${dir}; a folder with only tokenizer.model or *.tiktoken can be converted with Python: AutoTokenizer.from_pretrained(dir).save_pretrained(dir)`,
      { where: { file: join(dir, "tokenizer.json") } },
    );
  }
  const optional = async (name: string): Promise<Json> => (names.has(name) ? readObject(join(dir, name)) : {});
  const [tokenizer, config, special, generation] = await Promise.all([
    readObject(join(dir, "tokenizer.json")),
    optional("tokenizer_config.json"),
    optional("special_tokens_map.json"),
    optional("generation_config.json"),
  ]);
  const named = (name: string): string | null => tokenText(name in config ? config[name] : special[name], name, dir);
  const eosIds = generation["eos_token_id"];
  return {
    dir,
    tokenizer,
    bosToken: named("bos_token"),
    eosToken: named("eos_token"),
    padToken: named("pad_token"),
    addBosToken: config["add_bos_token"] === true,
    chatTemplates: await readTemplates(dir, names, config),
    stopIds: (Array.isArray(eosIds) ? eosIds : [eosIds]).filter((id): id is number => Number.isInteger(id)),
  };
}

async function readObject(file: string): Promise<Json> {
  const value = await readJsonFile(file, ConfigError, { maxBytes: 256 * 2 ** 20 });
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ConfigError(`${file} must hold a JSON object`, { where: { file } });
  }
  return value as Json;
}

/** A token is given as text or as {"content": text, …}. */
function tokenText(value: unknown, name: string, dir: string): string | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown }).content;
  if (typeof content === "string") return content;
  throw new ConfigError(`${join(dir, "tokenizer_config.json")}: ${name} must be a text or an object with content`, {
    where: { file: dir, key: name },
  });
}

// Precedence as in transformers: chat_template.jinja, then chat_template.json, then tokenizer_config.json.
async function readTemplates(dir: string, names: ReadonlySet<string>, config: Json): Promise<ReadonlyMap<string, string>> {
  const out = new Map<string, string>();
  const add = (value: unknown): void => {
    if (typeof value === "string") out.set("default", value);
    else if (Array.isArray(value)) {
      for (const entry of value as { name?: unknown; template?: unknown }[]) {
        if (typeof entry.name === "string" && typeof entry.template === "string") out.set(entry.name, entry.template);
      }
    }
  };
  add(config["chat_template"]);
  if (names.has("chat_template.json")) add((await readObject(join(dir, "chat_template.json")))["chat_template"]);
  const files = names.has("chat_template.jinja") ? [join(dir, "chat_template.jinja")] : [];
  if (names.has("additional_chat_templates")) {
    const folder = join(dir, "additional_chat_templates");
    for (const name of await readdir(folder)) if (name.endsWith(".jinja")) files.push(join(folder, name));
  }
  for (const file of files) {
    const name = basename(file, ".jinja");
    out.set(name === "chat_template" ? "default" : name, await readFile(file, "utf8"));
  }
  return out;
}
