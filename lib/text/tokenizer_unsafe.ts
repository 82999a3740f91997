// The library panics on some contradictions in tokenizer.json, which ends the process. Those are refused before it reads the file.

import { isUtf8 } from "node:buffer";
import { ConfigError } from "../errors.ts";

type Json = Readonly<Record<string, unknown>>;

export const object = (value: unknown): Json => (typeof value === "object" && value !== null ? (value as Json) : {});
export const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** By type of part: what it must have, false when it has it. */
const MUST_HAVE: Readonly<Record<string, (part: Json) => string | false>> = {
  BPE: ({ dropout, continuing_subword_prefix: prefix, merges }) =>
    (Boolean(dropout) && "no dropout: it makes ids random") || // no panic, but nothing to train on
    (typeof prefix === "string" &&
      list(merges).some((m) => !String(typeof m === "string" ? m.split(" ")[1] : list(m)[1]).startsWith(prefix)) &&
      `merges whose second half begins with continuing_subword_prefix ${JSON.stringify(prefix)}`),
  FixedLength: ({ length }) => length === 0 && "a length of at least 1",
  // u32 size of a trie in bytes · the trie, 256 units of 4 bytes at least · texts
  Precompiled: ({ precompiled_charsmap: map }) => {
    const bytes = Buffer.from(String(map), "base64");
    const trie = bytes.length < 4 ? 0 : bytes.readUInt32LE(0);
    const whole = bytes.toString("base64") === map && trie >= 1024 && trie % 4 === 0 && 4 + trie <= bytes.length;
    return !(whole && isUtf8(bytes.subarray(4 + trie))) && "a whole precompiled_charsmap";
  },
  Strip: ({ stop = 0 }) => stop !== 0 && "stop 0",
  TemplateProcessing: ({ single, special_tokens: known }) =>
    list(single).some((piece) => {
      const { Sequence: sequence, SpecialToken: token } = object(piece);
      return object(sequence)["id"] === "B" || (token !== undefined && !Object.hasOwn(object(known), String(object(token)["id"])));
    }) && "a single of the sequence A and of tokens that special_tokens has",
};

/** By type of part: how many characters one may become. A sequence of such parts multiplies them. */
const GROWTH: Readonly<Record<string, (part: Json) => number>> = {
  ByteLevel: () => 4, // bytes of UTF-8
  Replace: ({ pattern, content }) => Math.max(1, String(content).length / Math.max(1, String(object(pattern)["String"] ?? "").length)),
};
const MOST_GROWTH = 256;

export function refuseUnsafe(tokenizer: Json, file: string): void {
  let growth = 1;
  const check = (part: Json, key: string, type: unknown): void => {
    const wanted = typeof type === "string" && Object.hasOwn(MUST_HAVE, type) && MUST_HAVE[type]?.(part);
    if (wanted) throw new ConfigError(`${file}: ${key} (${String(type)}) must have ${wanted}`, { where: { file, key } });
    if (typeof type === "string" && Object.hasOwn(GROWTH, type)) growth *= GROWTH[type]!(part);
    if (growth <= MOST_GROWTH) return;
    const says = `${key} (${String(type)}) and the parts before it make a text more than ${MOST_GROWTH} times as long`;
    throw new ConfigError(`${file}: ${says}; a tokenizer needs each of them once`, { where: { file, key } });
  };
  const walk = (part: Json, key: string): void => {
    check(part, key, part["type"]);
    for (const [name, child] of Object.entries(part)) walk(object(child), `${key}.${name}`);
  };
  for (const key of ["normalizer", "pre_tokenizer"]) walk(object(tokenizer[key]), key);
  for (const key of ["post_processor", "decoder"]) {
    growth = 1;
    walk(object(tokenizer[key]), key);
  }
  const model = object(tokenizer["model"]);
  check(model, "model", model["type"] ?? "BPE");
}
