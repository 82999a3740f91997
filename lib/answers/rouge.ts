// ROUGE-L (Lin 2004): F measure of the longest common subsequence of tokens, 0 to 1; of several references the best.
//
// Tokens are lower-case words: runs of letters, digits and combining marks. Characters of scripts that put no spaces between words
// (Chinese, Japanese, Thai, Lao, Khmer, Burmese) are tokens of their own. On ASCII text this is the rouge-score package of Google
// Research without its stemmer; beyond ASCII that package drops every letter, and Chinese has no token there at all.

import { bestOf, meanMetric } from "./metric.ts";

const UNSPACED = String.raw`\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}`;
const TOKEN = new RegExp(String.raw`[${UNSPACED}]\p{M}*|(?:(?![${UNSPACED}])[\p{L}\p{N}\p{M}])+`, "gu");

export function rougeTokens(text: string): string[] {
  return text.toLowerCase().match(TOKEN) ?? [];
}

export function rougeL(answer: readonly string[], reference: readonly string[]): number {
  if (answer.length === 0 || reference.length === 0) return 0;
  const common = longestCommon(answer, reference);
  const [precision, recall] = [common / answer.length, common / reference.length];
  return common === 0 ? 0 : (2 * precision * recall) / (precision + recall);
}

/** Length of the longest common subsequence, in |a|·|b| steps and one row of memory. */
function longestCommon(a: readonly string[], b: readonly string[]): number {
  const ids = new Map<string, number>();
  const numbered = (tokens: readonly string[]): Int32Array =>
    Int32Array.from(tokens, (token) => ids.get(token) ?? (ids.set(token, ids.size), ids.size - 1));
  const [x, y] = [numbered(a), numbered(b)];
  const row = new Int32Array(y.length + 1);
  for (const token of x) {
    let diagonal = 0; // of the row before, one to the left
    for (let j = 1; j <= y.length; j++) {
      const above = row[j]!;
      row[j] = y[j - 1] === token ? diagonal + 1 : Math.max(above, row[j - 1]!);
      diagonal = above;
    }
  }
  return row[y.length]!;
}

export const rougeLMetric = meanMetric("rouge-l", (row) => {
  const answer = rougeTokens(row.answer);
  return bestOf(row, (reference) => rougeL(answer, rougeTokens(reference)));
});
