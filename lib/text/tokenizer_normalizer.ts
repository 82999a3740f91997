// Normalizers of tokenizer.json: text → text, applied to what lies between added tokens.

import { ConfigError } from "../errors.ts";
import { toByteAlphabet } from "./tokenizer_bytes.ts";
import { precompiledNormalizer } from "./tokenizer_charsmap.ts";
import { compilePattern, WHITE_SPACE } from "./tokenizer_pattern.ts";

export type Normalizer = (text: string) => string;

type Config = Readonly<Record<string, unknown>>;

const CJK =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;
const STRIP_LEFT = new RegExp(`^[${WHITE_SPACE}]+`, "u");
const SPACE_CHAR = new RegExp(`[${WHITE_SPACE}]`, "gu");

export function buildNormalizer(config: unknown, where = "normalizer"): Normalizer | null {
  if (config === null || config === undefined) return null;
  const c = config as Config;
  switch (c["type"]) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = c["type"];
      return (text) => text.normalize(form);
    }
    case "Sequence": {
      const list = (c["normalizers"] as unknown[])
        .map((n, i) => buildNormalizer(n, `${where}.normalizers[${i}]`))
        .filter((n) => n !== null);
      return list.length === 0 ? null : (text) => list.reduce((t, normalize) => normalize(t), text);
    }
    case "Replace": {
      const pattern = compilePattern(c["pattern"], where);
      const content = String(c["content"] ?? "");
      return (text) => text.replace(pattern, () => content);
    }
    case "Prepend": {
      const prefix = String(c["prepend"]);
      return (text) => (text === "" ? text : prefix + text);
    }
    case "Lowercase":
      return lowerCase;
    case "Strip":
      return (text) => strip(text, c["strip_left"] === true, c["strip_right"] === true);
    case "StripAccents":
      return (text) => text.replace(/\p{M}/gu, "");
    case "ByteLevel":
      return toByteAlphabet;
    case "BertNormalizer":
      return bertNormalizer(c);
    case "Precompiled":
      return precompiledNormalizer(c["precompiled_charsmap"], where);
    default:
      throw new ConfigError(
        `tokenizer.json: unsupported normalizer ${JSON.stringify(c["type"])} at ${where}; supported: NFC, NFD, NFKC, NFKD, Sequence, Replace, Prepend, Lowercase, Strip, StripAccents, ByteLevel, BertNormalizer, Precompiled`,
        { where: { key: where } },
      );
  }
}

// Character by character, as Rust does: a final sigma stays σ.
function lowerCase(text: string): string {
  let out = "";
  for (const char of text) out += char.toLowerCase();
  return out;
}

function strip(text: string, left: boolean, right: boolean): string {
  let out = left ? text.replace(STRIP_LEFT, "") : text;
  if (right) {
    let end = out.length;
    while (end > 0 && /\p{White_Space}/u.test(out[end - 1] as string)) end--;
    out = out.slice(0, end);
  }
  return out;
}

function bertNormalizer(c: Config): Normalizer {
  const lower = c["lowercase"] !== false;
  const accents = typeof c["strip_accents"] === "boolean" ? c["strip_accents"] : lower;
  return (text) => {
    let out = text;
    if (c["clean_text"] !== false) {
      out = out.replace(/[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu, "").replace(SPACE_CHAR, " ");
    }
    if (c["handle_chinese_chars"] !== false) out = out.replace(CJK, " $& ");
    if (accents) out = out.normalize("NFD").replace(/\p{Mn}/gu, "");
    return lower ? lowerCase(out) : out;
  };
}
