// What a word that is no option must have meant: one of ours that is written alike, or what other tools call it.

import { elsewhere, sameWord } from "./elsewhere.ts";

/** Letters to add, drop, replace or swap with the next (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? before[j - 2]! + 1 : Infinity;
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, replaced, swapped));
    }
    [before, row] = [row, next];
  }
  return row[b.length]!;
}

/** The one of `valid` that `word` must have meant: few letters apart, or one the beginning of the other; undefined where none is so near. */
export function nearest(word: string, valid: readonly string[]): string | undefined {
  const plain = (name: string): string => name.toLowerCase().replace(/^-+/, ""); // hyphens of a flag are no likeness
  const wanted = plain(word);
  let best: string | undefined;
  let least = Infinity;
  for (const name of valid) {
    const other = plain(name);
    const letters = Math.min(wanted.length, other.length);
    const apart = distance(wanted, other);
    const cut = letters >= 3 && (wanted.startsWith(other) || other.startsWith(wanted));
    if (apart < least && (cut || (apart < letters && apart <= Math.max(1, Math.floor(letters / 3))))) [best, least] = [name, apart];
  }
  return best;
}

/** An option of ours by its name, or an answer about another tool's. */
export type Meant = { readonly name: string } | { readonly answer: string };

/** @param own how an option of ours is written where the reader is: a flag, a key; null where it does not exist */
export function meantBy(word: string, valid: readonly string[], own: (path: string) => string | null): Meant | null {
  const same = valid.find((name) => sameWord(name, word));
  if (same !== undefined) return { name: same };
  const answer = elsewhere(word.replace(/^.*\./, ""), own); // also at the end of a dotted path
  if (answer !== null) return { answer };
  const name = nearest(word, valid);
  return name === undefined ? null : { name };
}
