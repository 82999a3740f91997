// WordPiece (longest known prefix, again and again) and WordLevel (the whole word or the unknown token).

import { ConfigError } from "../errors.ts";
import { readVocab, type TokenModel } from "./tokenizer_model.ts";

type Config = Readonly<Record<string, unknown>>;

export class WordPieceModel implements TokenModel {
  readonly vocab: ReadonlyMap<string, number>;
  readonly #unkId: number;
  readonly #prefix: string;
  readonly #maxChars: number;

  constructor(c: Config) {
    this.vocab = readVocab(c["vocab"]);
    this.#unkId = unknownId(this.vocab, c["unk_token"] ?? "[UNK]");
    this.#prefix = String(c["continuing_subword_prefix"] ?? "##");
    this.#maxChars = typeof c["max_input_chars_per_word"] === "number" ? c["max_input_chars_per_word"] : 100;
  }

  encode(word: string, out: number[]): void {
    const chars = Array.from(word);
    const ids: number[] = [];
    for (let start = 0; start < chars.length && chars.length <= this.#maxChars;) {
      let end = chars.length;
      let id: number | undefined;
      for (; end > start; end--) {
        id = this.vocab.get((start > 0 ? this.#prefix : "") + chars.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) break;
      ids.push(id);
      start = end;
      if (start === chars.length) {
        for (const known of ids) out.push(known);
        return;
      }
    }
    out.push(this.#unkId);
  }
}

export class WordLevelModel implements TokenModel {
  readonly vocab: ReadonlyMap<string, number>;
  readonly #unkId: number;

  constructor(c: Config) {
    this.vocab = readVocab(c["vocab"]);
    this.#unkId = unknownId(this.vocab, c["unk_token"] ?? "<unk>");
  }

  encode(word: string, out: number[]): void {
    out.push(this.vocab.get(word) ?? this.#unkId);
  }
}

function unknownId(vocab: ReadonlyMap<string, number>, token: unknown): number {
  const id = typeof token === "string" ? vocab.get(token) : undefined;
  if (id === undefined) {
    throw new ConfigError(`tokenizer.json: model.unk_token ${JSON.stringify(token)} is not in model.vocab`, {
      where: { key: "model.unk_token" },
    });
  }
  return id;
}
