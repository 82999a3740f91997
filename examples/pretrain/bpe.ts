// Byte-level BPE trainer. Deterministic: ties between pairs go to the lower pair of ids, nothing depends on insertion order.
// Method: Sennrich et al. 2016 (arXiv 1508.07909) over bytes; the printable alphabet for bytes is GPT-2's, as Hugging Face
// tokenizer.json files expect.

/** Pre-tokenisation, applied in order; each splits its matches off as pieces. Same source text in tokenizer.json. */
export const SPLITS = [
  // one digit per token: sums are learned digit by digit
  "\\p{N}",
  // one Chinese character per piece: no token spans characters, so a small vocabulary covers many of them
  "[一-鿿]",
  // words and punctuation runs with their leading space; white space otherwise
  " ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
] as const;

/** Splits a text exactly as the written tokenizer does before BPE. */
export function pretokenize(text: string): string[] {
  let pieces = [text];
  for (const source of SPLITS) {
    const pattern = new RegExp(source, "gu");
    pieces = pieces.flatMap((piece) => {
      const out: string[] = [];
      let at = 0;
      for (const match of piece.matchAll(pattern)) {
        if (match.index > at) out.push(piece.slice(at, match.index));
        out.push(match[0]);
        at = match.index + match[0].length;
      }
      if (at < piece.length) out.push(piece.slice(at));
      return out;
    });
  }
  return pieces;
}

/** GPT-2's printable stand-in for every byte: Latin-1 printables stay, the other 68 move to U+0100 and up. */
export const BYTE_CHARS: readonly string[] = (() => {
  const printable = (b: number): boolean => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  let moved = 0;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : 0x100 + moved++));
})();

export interface BpeModel {
  /** Token text in the printable alphabet, by id; specials first, then the 256 bytes, then the merges in order. */
  readonly tokens: readonly string[];
  readonly merges: readonly (readonly [string, string])[];
}

export interface BpeOptions {
  readonly specials: readonly string[];
  readonly vocabSize: number;
}

interface Word {
  readonly ids: number[];
  readonly count: number;
}

/** Trains on counted pieces. Throws RangeError when the pieces have too few pairs for the vocabulary. */
export function trainBpe(pieces: ReadonlyMap<string, number>, { specials, vocabSize }: BpeOptions): BpeModel {
  const tokens: string[] = [...specials, ...BYTE_CHARS];
  const base = specials.length;
  const encoder = new TextEncoder();
  const words: Word[] = [...pieces].map(([text, count]) => ({ ids: Array.from(encoder.encode(text), (b) => b + base), count }));

  // pair key = left · 2^16 + right; its total count, and the words where it may stand (a superset, checked on use)
  const counts = new Map<number, number>();
  const places = new Map<number, Set<number>>();
  const bump = (left: number, right: number, by: number, word: number): void => {
    const key = left * 65536 + right;
    counts.set(key, (counts.get(key) ?? 0) + by);
    if (by <= 0) return;
    let place = places.get(key);
    if (place === undefined) places.set(key, (place = new Set()));
    place.add(word);
  };
  words.forEach(({ ids, count }, w) => {
    for (let i = 0; i + 1 < ids.length; i++) bump(ids[i] as number, ids[i + 1] as number, count, w);
  });

  const merges: [string, string][] = [];
  while (tokens.length < vocabSize) {
    let best = -1;
    let bestCount = 1;
    for (const [key, count] of counts) {
      if (count > bestCount || (count === bestCount && best >= 0 && key < best)) [best, bestCount] = [key, count];
    }
    if (best < 0) throw new RangeError(`the text has pairs for ${tokens.length} tokens only, expected ${vocabSize}: train on more text`);
    const [left, right] = [Math.floor(best / 65536), best % 65536];
    const merged = tokens.length;
    merges.push([tokens[left] as string, tokens[right] as string]);
    tokens.push((tokens[left] as string) + (tokens[right] as string));

    for (const w of places.get(best) ?? []) {
      const { ids, count } = words[w] as Word;
      for (let i = 0; i + 1 < ids.length; i++) {
        if (ids[i] !== left || ids[i + 1] !== right) continue;
        const [before, after] = [ids[i - 1], ids[i + 2]];
        if (before !== undefined) {
          bump(before, left, -count, w);
          bump(before, merged, count, w);
        }
        if (after !== undefined) {
          bump(right, after, -count, w);
          bump(merged, after, count, w);
        }
        ids.splice(i, 2, merged);
      }
    }
    counts.delete(best);
    places.delete(best);
  }
  return { tokens, merges };
}
