// A tokenizer as published in tokenizer.json: Hugging Face's own Rust library (npm tokenizers) does all encoding and decoding.
// Ours are the names and ids that the model's other files give, and refusals with a place and a fix.

import { optionsArgument, pathArgument, readSafely, textArgument } from "../arguments.ts";
import { ConfigError, DataError } from "../errors.ts";
import { modelFolder } from "../hub/folder.ts";
import { hasLoneSurrogate } from "./python_text.ts";
import { readTokenizerFolder, type TokenizerFiles } from "./tokenizer_files.ts";
import { DecodeStream } from "./tokenizer_stream.ts";
import type { Decoder, Tokenizer as Library } from "tokenizers";

export interface EncodeOptions {
  /** Let the post-processor of tokenizer.json add its tokens. Chat text never wants them: the template writes BOS. Default false. */
  readonly addSpecialTokens?: boolean;
}
export interface DecodeOptions {
  readonly skipSpecialTokens?: boolean;
}

// The library's regular expressions end the process after 10⁷ steps, one or two per character of a long run.
const MAX_TEXT = 2 ** 22; // UTF-16 units

export const loadTokenizer = (dir: string): Promise<Tokenizer> => Tokenizer.load(dir);

/** Loaded when the first tokenizer is, so that everything else works where the library does not. */
async function importLibrary(): Promise<typeof import("tokenizers")> {
  try {
    return await import("tokenizers");
  } catch (cause) {
    const platform = `${process.platform}-${process.arch}`;
    // the package's own message blames npm's optional dependencies, but its binaries all lie in the package
    const says = `the npm package tokenizers has no binary that loads on ${platform}; install it again (npm install tokenizers), or, on a platform other than Linux, macOS and Windows on x64 and arm64, build its bindings/node from source and name the file in NAPI_RS_NATIVE_LIBRARY_PATH`;
    throw new ConfigError(says, { where: { package: "tokenizers", platform }, cause });
  }
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

  readonly #library: Library;
  readonly #decoder: Decoder | null;
  readonly #special: ReadonlySet<string>;
  readonly #files: TokenizerFiles;

  /** Of a directory, or of org/name[@revision] on the hub, whose weights are not fetched. */
  static async load(dir: string): Promise<Tokenizer> {
    pathArgument(dir, "loadTokenizer: dir");
    const files = await readTokenizerFolder(await modelFolder(dir, {}, "tokenizer"));
    const { Tokenizer: Native } = await importLibrary();
    let library: Library;
    try {
      library = Native.fromFile(files.file);
    } catch (cause) {
      const says = `${files.file}: the tokenizers library cannot read it: ${(cause as Error).message}; copy it from the model again`;
      throw new ConfigError(says, { where: { file: files.file }, cause });
    }
    return new Tokenizer(files, library);
  }

  // private: so the library's declarations, which a strict compiler refuses, stay out of ours
  private constructor(files: TokenizerFiles, library: Library) {
    // what a file asks for when it was saved in use; rows are cut and padded by the packing
    library.disableTruncation();
    library.disablePadding();
    this.#library = library;
    this.#decoder = library.getDecoder();
    this.#files = files;
    this.#special = new Set(files.added.filter((t) => t.special).map((t) => t.content));
    this.dir = files.dir;
    this.vocabSize = files.vocabSize;
    const normalizer = library.getNormalizer();
    for (const { id, content, normalized } of files.added) {
      const known = normalized && normalizer?.normalizeString(content) === "" ? null : this.tokenToId(content);
      if (known === id) continue;
      const says = `the added token ${JSON.stringify(content)} has id ${id}, but the library gives it ${known ?? "none"}`;
      const fix = "added ids must equal or continue those of model.vocab";
      throw new ConfigError(`${files.file}: ${says}; ${fix}`, { where: { key: "added_tokens", file: files.file } });
    }
    for (const [token, id] of files.postProcessed) {
      const known = typeof token === "string" ? this.tokenToId(token) : null;
      if (known === id) continue;
      const says = `post_processor adds the token ${JSON.stringify(token)} with id ${String(id)}, which has id ${known ?? "none"}`;
      throw new ConfigError(`${files.file}: ${says}; copy the file from the model again`, {
        where: { key: "post_processor", file: files.file },
      });
    }
    this.bosToken = files.bosToken;
    this.eosToken = files.eosToken;
    this.padToken = files.padToken;
    this.bosId = this.#named(files.bosToken, "bos_token");
    this.eosId = this.#named(files.eosToken, "eos_token");
    this.padId = this.#named(files.padToken, "pad_token");
    this.chatTemplates = files.chatTemplates;
    this.stopTokens = [...new Set([files.eosToken, ...files.stopIds.map((id) => this.idToToken(id))])].filter((t) => t !== null);
  }

  #named(token: string | null, key: string): number | null {
    if (token === null) return null;
    const id = this.tokenToId(token);
    if (id !== null) return id;
    const says = `tokenizer_config.json: ${key} is ${JSON.stringify(token)}, which tokenizer.json does not have`;
    throw new ConfigError(says, { where: { key, file: this.dir } });
  }

  /** The chat template by name; without a name "tool_use" when there are tools and it exists, else "default". */
  chatTemplate(name?: string, hasTools = false): string | null {
    const wanted = name ?? (hasTools && this.chatTemplates.has("tool_use") ? "tool_use" : "default");
    return this.chatTemplates.get(wanted) ?? null;
  }

  tokenToId(token: string): number | null {
    textArgument(token, "tokenToId: token");
    return this.#library.tokenToId(token);
  }

  idToToken(id: number): string | null {
    return Number.isInteger(id) && id >= 0 && id < this.vocabSize ? this.#library.idToToken(id) : null;
  }

  /** The library encodes on a thread of its own. */
  async encode(text: string, options: EncodeOptions = {}): Promise<number[]> {
    textArgument(text, "encode: text");
    const { addSpecialTokens = false } = optionsArgument(options, "encode: options");
    if (hasLoneSurrogate(text)) {
      const says = "the text holds a lone surrogate (half of a UTF-16 pair), which has no UTF-8 form; repair or drop it";
      throw new DataError(says, { where: { rule: "surrogate" } });
    }
    if (text.length > MAX_TEXT) {
      const says = `the text has ${text.length} characters, expected at most ${MAX_TEXT}; split it into several rows`;
      throw new DataError(says, { where: { rule: "length" } });
    }
    try {
      return (await this.#library.encode(text, null, { addSpecialTokens })).getIds();
    } catch (cause) {
      const says = `${this.#files.file}: the tokenizers library cannot encode a text with it: ${(cause as Error).message}`;
      throw new ConfigError(says, { where: { file: this.#files.file }, cause });
    }
  }

  /** A document for language modelling: as the post-processor says, and BOS in front where add_bos_token asks for it. */
  async encodeRaw(text: string): Promise<number[]> {
    const ids = await this.encode(text, { addSpecialTokens: true });
    return this.#files.addBosToken && this.bosId !== null && ids[0] !== this.bosId ? [this.bosId, ...ids] : ids;
  }

  /** Ids without a token are left out, as in the reference. Spaces are never cleaned up. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const tokens = readSafely("decode: ids", () => Array.from(ids, (id) => this.#shown(id, options)).filter((t) => t !== null));
    return this.#decoder === null ? tokens.join(" ") : this.#decoder.decode(tokens);
  }

  /** decode() for ids that arrive one by one. */
  decodeStream(options: DecodeOptions = {}): DecodeStream {
    return new DecodeStream(
      (ids) => this.decode(ids, options),
      (id) => this.#shown(id, options),
    );
  }

  #shown(id: number, { skipSpecialTokens = false }: DecodeOptions): string | null {
    const token = this.idToToken(id);
    return token === null || (skipSpecialTokens && this.#special.has(token)) ? null : token;
  }
}

/** Refuses a tokenizer that can produce ids the model has no embedding for. */
export function assertVocabulary(tokenizer: Tokenizer, vocabSize: number): void {
  const id = tokenizer.vocabSize - 1;
  if (id < vocabSize) return;
  const token = tokenizer.idToToken(id) ?? "";
  const says = `the tokenizer's token ${JSON.stringify(token)} has id ${id}, but the model's vocab_size is ${vocabSize}`;
  const where = { token, id, vocabSize, file: tokenizer.dir };
  throw new ConfigError(`${says}; use the tokenizer that was published with the model`, { where });
}
