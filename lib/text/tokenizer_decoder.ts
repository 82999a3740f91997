// Decoders of tokenizer.json: token strings → text, step by step as the Rust library chains them.

import { ConfigError } from "../errors.ts";
import { CHAR_TO_BYTE, utf8 } from "./tokenizer_bytes.ts";
import { compilePattern } from "./tokenizer_pattern.ts";
import { prependScheme } from "./tokenizer_pretokenizer.ts";

export type Decoder = (tokens: readonly string[]) => readonly string[];

type Config = Readonly<Record<string, unknown>>;

const lossy = new TextDecoder("utf-8", { ignoreBOM: true });
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const CLEAN_UP: readonly (readonly [string, string])[] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" do not", " don't"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

export function buildDecoder(config: unknown, where = "decoder"): Decoder {
  if (config === null || config === undefined) return (tokens) => [tokens.join(" ")];
  const c = config as Config;
  switch (c["type"]) {
    case "ByteLevel":
      return byteLevel;
    case "ByteFallback":
      return byteFallback;
    case "Fuse":
      return (tokens) => [tokens.join("")];
    case "Sequence": {
      const steps = (c["decoders"] as unknown[]).map((d, i) => buildDecoder(d, `${where}.decoders[${i}]`));
      return (tokens) => steps.reduce((t, step) => step(t), tokens);
    }
    case "Replace": {
      const pattern = compilePattern(c["pattern"], where);
      const content = String(c["content"] ?? "");
      return (tokens) => tokens.map((t) => t.replace(pattern, () => content));
    }
    case "Strip":
      return (tokens) => tokens.map((t) => strip(t, String(c["content"]), Number(c["start"] ?? 0), Number(c["stop"] ?? 0)));
    case "Metaspace": {
      const mark = String(c["replacement"] ?? "▁");
      const dropsFirst = prependScheme(c, where) !== "never";
      return (tokens) => tokens.map((t, i) => t.replaceAll(mark, i === 0 && dropsFirst ? "" : " "));
    }
    case "WordPiece":
      return wordPiece(String(c["prefix"] ?? "##"), c["cleanup"] !== false);
    case "BPEDecoder": {
      const suffix = String(c["suffix"] ?? "</w>");
      return (tokens) => tokens.map((t, i) => t.replaceAll(suffix, i === tokens.length - 1 ? "" : " "));
    }
    default:
      throw new ConfigError(
        `tokenizer.json: unsupported decoder ${JSON.stringify(c["type"])} at ${where}; supported: ByteLevel, ByteFallback, Fuse, Sequence, Replace, Strip, Metaspace, WordPiece, BPEDecoder`,
        { where: { key: where } },
      );
  }
}

// A token of which every character is in the byte alphabet is bytes; any other (an added token) is itself.
function byteLevel(tokens: readonly string[]): readonly string[] {
  const bytes: number[] = [];
  for (const token of tokens) {
    const own = Array.from(token, (char) => CHAR_TO_BYTE.get(char));
    for (const byte of own.every((b) => b !== undefined) ? own : utf8(token)) bytes.push(byte);
  }
  return [lossy.decode(Uint8Array.from(bytes))];
}

// A run of byte tokens is text when all of it is valid UTF-8, else one U+FFFD per byte.
function byteFallback(tokens: readonly string[]): readonly string[] {
  const out: string[] = [];
  let run: number[] = [];
  const flush = (): void => {
    if (run.length === 0) return;
    try {
      out.push(strict.decode(Uint8Array.from(run)));
    } catch {
      for (let i = 0; i < run.length; i++) out.push("\ufffd");
    }
    run = [];
  };
  for (const token of tokens) {
    const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
    if (hex !== undefined) run.push(Number.parseInt(hex, 16));
    else {
      flush();
      out.push(token);
    }
  }
  flush();
  return out;
}

function strip(token: string, content: string, start: number, stop: number): string {
  const chars = Array.from(token);
  let from = 0;
  while (from < Math.min(start, chars.length) && chars[from] === content) from++;
  let to = chars.length;
  while (chars.length - to < stop && to > 0 && chars[to - 1] === content) to--;
  return chars.slice(from, to).join("");
}

function wordPiece(prefix: string, cleanUp: boolean): Decoder {
  return (tokens) =>
    tokens.map((token, i) => {
      const text = i === 0 ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
      return cleanUp ? CLEAN_UP.reduce((t, [from, to]) => t.replaceAll(from, to), text) : text;
    });
}
