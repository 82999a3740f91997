// What every tokenizer model offers, and the model of tokenizer.json by its type.

import { ConfigError } from "../errors.ts";

export interface TokenModel {
  readonly vocab: ReadonlyMap<string, number>;
  /** Appends the ids of one word to `out`. */
  encode(word: string, out: number[]): void;
  /** The text each id of the word stands for, where it differs from the vocabulary's spelling (unknown pieces of Unigram). */
  spell?(word: string): string[];
}

export function readVocab(vocab: unknown): ReadonlyMap<string, number> {
  if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
    throw new ConfigError("tokenizer.json: model.vocab must be an object of token → id", { where: { key: "model.vocab" } });
  }
  const out = new Map<string, number>();
  for (const [token, id] of Object.entries(vocab)) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= 2 ** 26) {
      throw new ConfigError(
        `tokenizer.json: model.vocab[${JSON.stringify(token)}] is ${JSON.stringify(id)}; an id must be an integer in [0, 2^26)`,
        {
          where: { key: "model.vocab" },
        },
      );
    }
    out.set(token, id as number);
  }
  return out;
}
