// A bug planted in native code: a place in csrc, what stands there while the bug is on, and the tests that must notice.

export interface Mutant {
  /** Below csrc. */
  readonly file: string;
  /** A piece of the file that is there once; between « and » what the bug replaces: an expression, or statements that end in ";". */
  readonly at: string;
  /** An expression, or statements; empty = the statements are left out. */
  readonly becomes: string;
  /** Test files. */
  readonly tests: readonly string[];
}

/** Mutants of one file that the same tests answer for. */
export const of = (file: string, tests: readonly string[], ...list: readonly (readonly [at: string, becomes: string])[]): Mutant[] =>
  list.map(([at, becomes]) => ({ file, at, becomes, tests }));

/** Files of test/ops by their stems. */
export const ops = (...stems: string[]): string[] => stems.map((stem) => `test/ops/${stem}.test.ts`);

/** Where a bug is planted in its file, and what stands there; in words what is wrong with the place. */
export function placeOf(source: string, { file, at }: Mutant): { readonly from: number; readonly original: string } | string {
  const [before, original, after] = at.split(/[«»]/);
  if (before === undefined || original === undefined || after === undefined) return `${file}: "${at}" marks no place with « and »`;
  const place = before + original + after;
  const found = source.indexOf(place);
  if (found < 0) return `csrc/${file}: "${place}" is not there; the source has changed, and scripts/mutants must follow`;
  if (source.includes(place, found + 1)) return `csrc/${file}: "${place}" is there more than once; say more of its surroundings`;
  return { from: found + before.length, original };
}
