// Sentencepiece's precompiled character map (normalizer "Precompiled"): a double-array trie from byte strings to replacements.
// Layout: u32 size of the trie in bytes · trie units (u32) · replacement texts, each ended by a zero byte; little-endian, base64.

import { ConfigError } from "../errors.ts";
import { utf8 } from "./tokenizer_bytes.ts";

const LONGEST_GRAPHEME = 5; // bytes: only shorter grapheme clusters are looked up whole, as in the reference
const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function precompiledNormalizer(charsmap: unknown, where: string): (text: string) => string {
  const bytes = typeof charsmap === "string" ? Buffer.from(charsmap, "base64") : Buffer.alloc(0);
  const trieBytes = bytes.length >= 4 ? bytes.readUInt32LE(0) : 0;
  if (trieBytes === 0 || trieBytes % 4 !== 0 || 4 + trieBytes > bytes.length) {
    throw new ConfigError(`tokenizer.json: ${where}.precompiled_charsmap is not a character map`, {
      where: { key: `${where}.precompiled_charsmap` },
    });
  }
  const units = Uint32Array.from({ length: trieBytes / 4 }, (_, i) => bytes.readUInt32LE(4 + 4 * i));
  const texts = bytes.subarray(4 + trieBytes);
  const known = new Map<string, string | null>();
  const lookUp = (piece: string): string | null => {
    let found = known.get(piece);
    if (found === undefined) {
      const at = shortestPrefix(units, utf8(piece));
      found = at === null ? null : decoder.decode(texts.subarray(at, texts.indexOf(0, at)));
      if (known.size < 100_000) known.set(piece, found);
    }
    return found;
  };
  return (text) => {
    let out = "";
    for (const { segment } of graphemes.segment(text)) {
      const whole = utf8(segment).length <= LONGEST_GRAPHEME ? lookUp(segment) : null;
      if (whole !== null) out += whole;
      else for (const char of segment) out += lookUp(char) ?? char;
    }
    return out;
  };
}

/** Offset of the replacement for the shortest key that begins `key`; null when no key does. */
function shortestPrefix(units: Uint32Array, key: Uint8Array): number | null {
  const offset = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6);
  let node = offset(units[0] as number);
  for (const byte of key) {
    if (byte === 0) return null;
    node ^= byte;
    const unit = units[node] ?? 0;
    if ((unit & 0x800000ff) !== byte) return null;
    node ^= offset(unit);
    if (((unit >>> 8) & 1) === 1) return (units[node] ?? 0) & 0x7fffffff;
  }
  return null;
}
