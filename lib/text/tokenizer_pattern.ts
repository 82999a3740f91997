// Regular expressions and character classes of tokenizer.json with the meaning they have in the Rust library.
// The translation from Oniguruma syntax is that of @huggingface/tokenizers (exact on all known tokenizers); what is wrong there
// (ByteLevel's own regex, Digits, white space around added tokens) is written here with Unicode properties instead.

import * as library from "@huggingface/tokenizers";
import { ConfigError } from "../errors.ts";

// The package's declarations lack file extensions, so its exports are untyped under "nodenext".
const { SplitPreTokenizer } = library as unknown as {
  SplitPreTokenizer: new (config: { type: string; pattern: { Regex: string }; behavior: string; invert: boolean }) => {
    readonly pattern: RegExp | null;
  };
};

export const WHITE_SPACE = "\\p{White_Space}"; // char::is_whitespace; JavaScript's \s adds U+FEFF and lacks U+0085
export const NUMERIC = "\\p{N}"; // char::is_numeric: Nd, Nl and No
export const PUNCTUATION = "\\p{P}!-/:-@\\[-`\\{-~";
export const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"; // \w of Rust's regex crate

/** The regex of GPT-2, used by ByteLevel when use_regex is true. */
export const BYTE_LEVEL_REGEX = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${WHITE_SPACE}\\p{L}\\p{N}]+|${WHITE_SPACE}+(?!\\P{White_Space})|${WHITE_SPACE}+`,
  "gu",
);

/** `{"String": s}` or `{"Regex": r}` of tokenizer.json as a global, Unicode-aware regular expression. */
export function compilePattern(pattern: unknown, where: string): RegExp {
  const given = pattern as { String?: unknown; Regex?: unknown } | null;
  if (typeof given?.String === "string") return new RegExp(escapeRegExp(given.String), "gu");
  if (typeof given?.Regex !== "string") {
    throw new ConfigError(`tokenizer.json: ${where}.pattern must be {"String": …} or {"Regex": …}`, { where: { key: `${where}.pattern` } });
  }
  const source = withUnicodeFolding(given.Regex);
  try {
    const compiled = new SplitPreTokenizer({ type: "Split", pattern: { Regex: source }, behavior: "Isolated", invert: false }).pattern;
    if (compiled !== null) return compiled;
  } catch (cause) {
    throw new ConfigError(`tokenizer.json: the regular expression of ${where} cannot be translated to JavaScript: ${String(cause)}`, {
      cause,
      where: { key: `${where}.pattern.Regex` },
    });
  }
  throw new ConfigError(`tokenizer.json: the regular expression of ${where} cannot be translated to JavaScript`, { where: { key: where } });
}

// Oniguruma folds case by Unicode inside (?i:…): s also matches U+017F, k also U+212A. The translation folds ASCII only.
function withUnicodeFolding(source: string): string {
  return source.replace(
    /\(\?i:([^()[\]\\]*)\)/g,
    (_, body: string) => `(?i:${body.replace(/s/gi, "[sS\u017f]").replace(/k/gi, "[kK\u212a]")})`,
  );
}

export function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
}
