// A tokenizer as published in tokenizer.json, equal to the Rust library id for id.
//
//   text ─ added tokens ─▶ normalizer ─ normalized added tokens ─▶ pre-tokenizer ─▶ model ─▶ ids
//
// The regular expressions are translated by @huggingface/tokenizers; the steps around them are ours because that library
// differs from the reference in corner cases (digits, white space, byte fallback) without an error. A component we do not
// know is refused when the file is read.

import { ConfigError, DataError } from "../errors.ts";
import { AddedTokenMatcher, readAddedTokens, type AddedToken } from "./tokenizer_added.ts";
import { BpeModel } from "./tokenizer_bpe.ts";
import { buildDecoder, type Decoder } from "./tokenizer_decoder.ts";
import { readTokenizerFolder, type TokenizerFiles } from "./tokenizer_files.ts";
import type { TokenModel } from "./tokenizer_model.ts";
import { buildNormalizer, type Normalizer } from "./tokenizer_normalizer.ts";
import { buildPostProcessor, type Surround } from "./tokenizer_postprocessor.ts";
import { buildPreTokenizer, type PreTokenizer } from "./tokenizer_pretokenizer.ts";
import { UnigramModel } from "./tokenizer_unigram.ts";
import { WordLevelModel, WordPieceModel } from "./tokenizer_wordpiece.ts";
import { hasLoneSurrogate } from "./python_text.ts";

export interface EncodeOptions {
  /** Let the post-processor of tokenizer.json add its tokens. Chat text never wants them: the template writes BOS. Default false. */
  readonly addSpecialTokens?: boolean;
}
export interface DecodeOptions {
  readonly skipSpecialTokens?: boolean;
}

export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  return new Tokenizer(await readTokenizerFolder(dir));
}

export class Tokenizer {
  /** Largest id + 1 over vocabulary and added tokens. */
  readonly vocabSize: number;
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly padToken: string | null;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly padId: number | null;
  /** Tokens that end a turn: eos and those of generation_config.json. */
  readonly stopTokens: readonly string[];
  readonly chatTemplates: ReadonlyMap<string, string>;
  readonly dir: string;

  readonly #tokens: (string | undefined)[] = [];
  readonly #written: (string | undefined)[]; // as #tokens, but normalized added tokens in the form they are decoded to
  readonly #special = new Set<string>();
  readonly #ids: ReadonlyMap<string, number>;
  readonly #model: TokenModel;
  readonly #normalizer: Normalizer | null;
  readonly #preTokenizer: PreTokenizer | null;
  readonly #surround: Surround;
  readonly #decoder: Decoder;
  readonly #raw: AddedTokenMatcher;
  readonly #normalized: AddedTokenMatcher;
  readonly #addBos: boolean;

  constructor(files: TokenizerFiles) {
    const json = files.tokenizer;
    this.dir = files.dir;
    this.#model = buildModel(json["model"]);
    const normalizer = (this.#normalizer = buildNormalizer(json["normalizer"]));
    this.#preTokenizer = buildPreTokenizer(json["pre_tokenizer"]);
    this.#surround = buildPostProcessor(json["post_processor"]);
    this.#decoder = buildDecoder(json["decoder"]);
    const added = readAddedTokens(json["added_tokens"]);
    this.#ids = this.#collectIds(added);
    // special tokens are searched first, so they win where two spellings are equal
    const bySpecial = [...added.filter((t) => t.special), ...added.filter((t) => !t.special)];
    this.#raw = new AddedTokenMatcher(bySpecial.filter((t) => !t.normalized));
    this.#normalized = new AddedTokenMatcher(
      bySpecial.filter((t) => t.normalized),
      (t) => (normalizer === null ? t.content : normalizer(t.content)),
    );
    this.vocabSize = this.#tokens.length;
    this.#written = [...this.#tokens];
    for (const t of added) if (t.normalized && normalizer !== null) this.#written[t.id] = normalizer(t.content);
    this.#addBos = files.addBosToken;
    this.bosToken = files.bosToken;
    this.eosToken = files.eosToken;
    this.padToken = files.padToken;
    this.bosId = this.#named(files.bosToken, "bos_token");
    this.eosId = this.#named(files.eosToken, "eos_token");
    this.padId = this.#named(files.padToken, "pad_token");
    this.chatTemplates = files.chatTemplates;
    const stops = files.stopIds.map((id) => this.#tokens[id]).filter((t) => t !== undefined);
    this.stopTokens = [...new Set([...(files.eosToken === null ? [] : [files.eosToken]), ...stops])];
  }

  #collectIds(added: readonly AddedToken[]): ReadonlyMap<string, number> {
    const ids = new Map(this.#model.vocab);
    for (const [token, id] of ids) this.#tokens[id] = token;
    for (const { content, id, special } of added) {
      const known = this.#model.vocab.get(content);
      if (id < 0 || id >= 2 ** 26 || (known !== undefined && known !== id)) {
        throw new ConfigError(
          `tokenizer.json: the added token ${JSON.stringify(content)} has id ${id}, but model.vocab says ${known ?? "nothing"}`,
          {
            where: { key: "added_tokens", file: this.dir },
          },
        );
      }
      ids.set(content, id);
      this.#tokens[id] = content;
      if (special) this.#special.add(content);
    }
    return ids;
  }

  #named(token: string | null, key: string): number | null {
    if (token === null) return null;
    const id = this.#ids.get(token);
    if (id !== undefined) return id;
    throw new ConfigError(`tokenizer_config.json: ${key} is ${JSON.stringify(token)}, which tokenizer.json does not have`, {
      where: { key, file: this.dir },
    });
  }

  /** The chat template by name; without a name "tool_use" when there are tools and it exists, else "default". */
  chatTemplate(name?: string, hasTools = false): string | null {
    const wanted = name ?? (hasTools && this.chatTemplates.has("tool_use") ? "tool_use" : "default");
    return this.chatTemplates.get(wanted) ?? null;
  }

  tokenToId(token: string): number | null {
    return this.#ids.get(token) ?? null;
  }

  idToToken(id: number): string | null {
    return this.#tokens[id] ?? null;
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const ids: number[] = [];
    this.#walk(
      text,
      (id) => ids.push(id),
      (word) => this.#model.encode(word, ids),
    );
    if (options.addSpecialTokens !== true) return ids;
    return [...this.#surround.before, ...ids, ...this.#surround.after];
  }

  /** Ids with the text of each token as the vocabulary spells it (an added token with the white space it swallowed). */
  encodeTokens(text: string): { ids: number[]; tokens: string[] } {
    const ids: number[] = [];
    const tokens: string[] = [];
    this.#walk(
      text,
      (id, written) => {
        ids.push(id);
        tokens.push(written);
      },
      (word) => {
        const start = ids.length;
        this.#model.encode(word, ids);
        const spelled = this.#model.spell?.(word);
        for (let i = start; i < ids.length; i++) tokens.push(spelled?.[i - start] ?? this.#tokens[ids[i] as number] ?? "");
      },
    );
    return { ids, tokens };
  }

  /** A document for language modelling: as the post-processor says, and BOS in front where add_bos_token asks for it. */
  encodeRaw(text: string): number[] {
    const ids = this.encode(text, { addSpecialTokens: true });
    return this.#addBos && this.bosId !== null && ids[0] !== this.bosId ? [this.bosId, ...ids] : ids;
  }

  #walk(text: string, onAdded: (id: number, written: string) => void, onWord: (word: string) => void): void {
    if (hasLoneSurrogate(text)) {
      throw new DataError("the text holds a lone surrogate (half of a UTF-16 pair), which has no UTF-8 form; repair or drop it", {
        where: { rule: "surrogate" },
      });
    }
    let atStart = true;
    for (const outer of this.#raw.split(text)) {
      if (outer.id !== undefined) onAdded(outer.id, outer.text);
      else {
        for (const inner of this.#normalized.split(this.#normalizer?.(outer.text) ?? outer.text)) {
          if (inner.id !== undefined) onAdded(inner.id, inner.text);
          else for (const word of this.#words(inner.text, atStart)) onWord(word);
          atStart = false;
        }
      }
      atStart = false;
    }
  }

  #words(text: string, atStart: boolean): readonly string[] {
    return this.#preTokenizer === null ? [text] : this.#preTokenizer({ words: [text], atStart }).words;
  }

  /** Ids without a token are left out, as in the reference. Spaces are never cleaned up. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const tokens: string[] = [];
    for (let i = 0; i < ids.length; i++) {
      const token = this.#written[ids[i] as number];
      if (token === undefined || (options.skipSpecialTokens === true && this.#special.has(token))) continue;
      tokens.push(token);
    }
    return this.#decoder(tokens).join("");
  }
}

function buildModel(config: unknown): TokenModel {
  const c = (config ?? {}) as Readonly<Record<string, unknown>>;
  switch (c["type"] ?? (Array.isArray(c["merges"]) ? "BPE" : undefined)) {
    case "BPE":
      return new BpeModel(c);
    case "Unigram":
      return new UnigramModel(c);
    case "WordPiece":
      return new WordPieceModel(c);
    case "WordLevel":
      return new WordLevelModel(c);
    default:
      throw new ConfigError(
        `tokenizer.json: unsupported model ${JSON.stringify(c["type"])}; supported: BPE, Unigram, WordPiece, WordLevel`,
        {
          where: { key: "model.type" },
        },
      );
  }
}

/** Refuses a tokenizer that can produce ids the model has no embedding for. */
export function assertVocabulary(tokenizer: Tokenizer, vocabSize: number): void {
  for (let id = vocabSize; id < tokenizer.vocabSize; id++) {
    const token = tokenizer.idToToken(id);
    if (token === null) continue;
    throw new ConfigError(
      `the tokenizer's token ${JSON.stringify(token)} has id ${id}, but the model's vocab_size is ${vocabSize}; use the tokenizer that was published with the model`,
      { where: { token, id, vocabSize, file: tokenizer.dir } },
    );
  }
}
