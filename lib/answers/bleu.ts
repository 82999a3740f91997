// BLEU as sacrebleu 2 computes it, 0 to 100 (Papineni et al. 2002, Post 2018): words and pairs to quadruples of words, several
// references, brevity penalty, exponential smoothing of orders without a match.
//
//   bleu      tokens of mteval-v13a ("13a", sacrebleu's default)
//   bleu-zh   every Chinese character is a token ("zh"), the rest as 13a
//
// The score of an answer is sentence BLEU, which leaves out orders that the answer is too short for; the figure for all is corpus BLEU:
// counts of all answers together, and no mean.

import { pythonSplit, pythonStrip } from "../text/python_text.ts";
import { counted, referencesOf } from "./metric.ts";
import type { Answered, Metric } from "./metric.ts";

const ORDERS = 4;

/** What sentence and corpus scores are computed from. */
interface Counts {
  length: number;
  /** Of the reference whose length is nearest, the shorter of two. */
  referenceLength: number;
  /** By order: n-grams of the answer that a reference has as well, at most as often; all of them. */
  readonly matched: number[];
  readonly total: number[];
}

/** Language-dependent part of mteval-v13a, for Western languages. */
function separate(line: string): string[] {
  const spaced = line
    .replace(/([{-~[-` -&(-+:-@/])/gu, " $1 ")
    .replace(/([^0-9])([.,])/gu, "$1 $2 ")
    .replace(/([.,])([^0-9])/gu, " $1 $2")
    .replace(/([0-9])(-)/gu, "$1 $2 ");
  return pythonSplit(spaced);
}

export function tokens13a(text: string): string[] {
  let line = pythonStrip(text, "right").replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
  if (line.includes("&")) line = line.replaceAll("&quot;", '"').replaceAll("&amp;", "&").replaceAll("&lt;", "<").replaceAll("&gt;", ">");
  return separate(` ${line} `);
}

// What sacrebleu takes for Chinese. Its table means U+20000-2A6D6 and U+2F800-2FA1D, but says U+2001-2A6D and U+2F81-2FA1.
const CHINESE =
  /[\u2001-\u2a6d\u2e80-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u33ff\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef]/gu;

export function tokensZh(text: string): string[] {
  return separate(pythonStrip(text).replace(CHINESE, " $& "));
}

/** How often each n-gram of 1 to 4 tokens occurs. A line feed is in no token. */
function ngrams(tokens: readonly string[]): { readonly order: number; readonly count: Map<string, number> }[] {
  return Array.from({ length: ORDERS }, (_, i) => {
    const count = new Map<string, number>();
    for (let at = 0; at + i < tokens.length; at++) {
      const gram = tokens.slice(at, at + i + 1).join("\n");
      count.set(gram, (count.get(gram) ?? 0) + 1);
    }
    return { order: i + 1, count };
  });
}

function count(row: Answered, tokens: (text: string) => string[]): Counts {
  const answer = tokens(row.answer);
  const references = referencesOf(row).map(tokens);
  const [first, ...rest] = references.map(({ length }) => length);
  const apart = (length: number): number => Math.abs(length - answer.length);
  const nearest = rest.reduce((a, b) => (apart(b) < apart(a) || (apart(b) === apart(a) && b < a) ? b : a), first!);
  const counts: Counts = { length: answer.length, referenceLength: nearest, matched: [], total: [] };
  const known = references.map(ngrams);
  for (const { order, count: own } of ngrams(answer)) {
    let matched = 0;
    for (const [gram, n] of own) matched += Math.min(n, Math.max(...known.map((of) => of[order - 1]!.count.get(gram) ?? 0)));
    counts.matched.push(matched);
    counts.total.push(Math.max(0, answer.length - order + 1));
  }
  return counts;
}

/** @param short leave out orders that the text is too short for */
function bleuOf({ length, referenceLength, matched, total }: Counts, short: boolean): number {
  if (!matched.some((n) => n > 0)) return 0;
  const orders = total.findIndex((n) => n === 0);
  if (orders >= 0 && !short) return 0; // no quadruple anywhere
  const used = orders < 0 ? ORDERS : orders;
  let halved = 1;
  let logs = 0;
  for (let i = 0; i < used; i++) {
    if (matched[i] === 0) halved *= 2;
    logs += Math.log(matched[i] === 0 ? 100 / (halved * total[i]!) : (100 * matched[i]!) / total[i]!);
  }
  return (length < referenceLength ? Math.exp(1 - referenceLength / length) : 1) * Math.exp(logs / used);
}

function bleuMetric(name: string, tokens: (text: string) => string[]): Metric {
  return {
    name,
    identity: name,
    best: 100,
    score: (row) => bleuOf(count(row, tokens), true),
    aggregate: (rows) => {
      const all: Counts = { length: 0, referenceLength: 0, matched: [0, 0, 0, 0], total: [0, 0, 0, 0] };
      for (const row of counted(rows)) {
        const one = count(row, tokens);
        all.length += one.length;
        all.referenceLength += one.referenceLength;
        for (let i = 0; i < ORDERS; i++) {
          all.matched[i]! += one.matched[i]!;
          all.total[i]! += one.total[i]!;
        }
      }
      return bleuOf(all, false);
    },
  };
}

export const bleu = bleuMetric("bleu", tokens13a);
export const bleuZh = bleuMetric("bleu-zh", tokensZh);
