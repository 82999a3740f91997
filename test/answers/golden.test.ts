// Scores against the packages that define them (test/fixtures/answers/make.py): BLEU of sacrebleu, ROUGE-L of rouge-score, SQuAD's exact
// match, the intent evaluator of deepseek-ai/ESFT.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { bleu, bleuZh } from "../../lib/answers/bleu.ts";
import { exactSquad } from "../../lib/answers/exact.ts";
import { intent } from "../../lib/answers/intent.ts";
import type { Metric, Scored } from "../../lib/answers/metric.ts";
import { rougeLMetric } from "../../lib/answers/rouge.ts";

interface Bleu {
  readonly sentence: number[];
  readonly corpus: number;
  readonly "first two, first references": number;
  readonly "one two": number;
}
interface Golden {
  readonly pairs: [answer: string, references: string[]][];
  readonly bleu: Bleu;
  readonly "bleu-zh": Bleu;
  readonly "rouge-l": Readonly<Record<string, number>>;
  readonly "exact-squad": [string, string, number][];
  readonly intent: [string, string, number][];
}
const golden = JSON.parse(readFileSync(join(import.meta.dirname, "../fixtures/answers/metrics.json"), "utf8")) as Golden;
const rows: Scored[] = golden.pairs.map(([answer, references], i) => ({ place: `pair ${i}`, answer, references, score: 0 }));
const score = (metric: Metric, answer: string, ...references: string[]): number =>
  metric.score({ place: "here", answer, references }) as number;

describe.each([
  [bleu, golden.bleu],
  [bleuZh, golden["bleu-zh"]],
])("$name", (metric, expected) => {
  test("sentences", () => {
    for (const [i, row] of rows.entries()) expect(metric.score(row), row.answer).toBeCloseTo(expected.sentence[i]!, 9);
    expect(new Set(expected.sentence).size).toBeGreaterThan(40);
  });

  test("corpora", () => {
    expect(metric.aggregate(rows)).toBeCloseTo(expected.corpus, 9);
    const few = rows.slice(0, 2).map((row) => ({ ...row, references: row.references.slice(0, 1) }));
    expect(metric.aggregate(few)).toBeCloseTo(expected["first two, first references"], 9);
    expect(metric.aggregate([{ place: "here", answer: "one two", references: ["one two"], score: 0 }])).toBe(expected["one two"]);
    expect(expected["one two"]).toBe(0);
  });
});

test("rouge-l on ASCII text", () => {
  const expected = Object.entries(golden["rouge-l"]);
  for (const [i, f] of expected) expect(rougeLMetric.score(rows[Number(i)]!), rows[Number(i)]!.answer).toBeCloseTo(f, 12);
  expect(expected.length).toBeGreaterThan(50);
});

test.each(golden["exact-squad"])("exact-squad: %j beside %j", (answer, reference, expected) => {
  expect(score(exactSquad, answer, reference)).toBe(expected);
});

test.each(golden.intent)("intent: %j", (answer, reference, expected) => {
  expect(score(intent, answer, reference)).toBe(expected);
});
