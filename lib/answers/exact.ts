// Exact match: the answer is one of the references, 1 or 0.
//
//   exact         white space at both ends does not count (Unicode's; nothing else is touched)
//   exact-squad   SQuAD's: lower case, without ASCII punctuation, without the words a, an, the, and with single spaces

import { pythonSplit } from "../text/python_text.ts";
import { bestOf, meanMetric } from "./metric.ts";

/** Rajpurkar et al. 2016, evaluate-v1.1.py. Word boundaries are Python's: letters and digits of any script, and "_". */
export function squadNormalised(text: string): string {
  const bare = text.toLowerCase().replace(/[!-/:-@[-`{-~]/g, "");
  return pythonSplit(bare.replace(/(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu, " ")).join(" ");
}

export const exact = meanMetric("exact", (row) => bestOf(row, (reference) => (row.answer.trim() === reference.trim() ? 1 : 0)));

export const exactSquad = meanMetric("exact-squad", (row) => {
  const answer = squadNormalised(row.answer);
  return bestOf(row, (reference) => (answer === squadNormalised(reference) ? 1 : 0));
});
