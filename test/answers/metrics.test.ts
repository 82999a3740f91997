// Metrics of answers: what the golden numbers do not reach. Names and refusals, JSON, patterns, Chinese ROUGE-L, several references,
// modules of users.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Metric } from "../../lib/answers/metric.ts";
import { metricNames, metricsByName } from "../../lib/answers/metrics.ts";
import { rougeTokens } from "../../lib/answers/rouge.ts";
import { ConfigError, DataError } from "../../lib/errors.ts";

const byName = async (name: string): Promise<Metric> => (await metricsByName(name))[0]!;
const score = async (name: string, answer: string, ...references: string[]): Promise<number> =>
  (await byName(name)).score({ place: "law.jsonl:3", answer, references });

describe("names", () => {
  test("in their order, from a text or a list", async () => {
    const names = "exact,exact-squad,rouge-l,bleu,bleu-zh,json,json-exact,json-valid,regex,regex-full,intent";
    expect((await metricsByName(names)).map(({ name }) => name).join()).toBe(names);
    expect(metricNames.join()).toBe(names);
    expect((await metricsByName([" bleu", "exact "])).map(({ name, identity, best }) => [name, identity, best])).toEqual([
      ["bleu", "bleu", 100],
      ["exact", "exact", 1],
    ]);
  });

  test.each([
    [
      "rouge",
      /metric: expected one or more of exact, .*, intent, or the path of a JavaScript module; found "rouge"; did you mean rouge-l\?/,
    ],
    ["perplexity", /found "perplexity"$/],
    ["", /found none/],
    [[], /found none/],
    ["exact,,bleu", /found an empty name/],
    ["exact,exact", /found "exact" twice/],
    [5 as never, /metric: expected a list, found 5/],
    [[5] as never, /metric: expected a string, found 5/],
  ])("refused: %j", async (list, message) => {
    const made = metricsByName(list);
    await expect(made).rejects.toThrow(message);
    await expect(made).rejects.toThrow(ConfigError);
  });
});

test("no references, no answers", async () => {
  for (const name of metricNames.filter((n) => n !== "json-valid")) {
    await expect((async () => score(name, "x"))()).rejects.toThrow(/law.jsonl:3: expected at least one reference/);
    const metric = await byName(name);
    expect(() => metric.aggregate([])).toThrow(DataError);
  }
});

test("the mean is the figure of all, and the best reference the score of one", async () => {
  const metric = await byName("exact");
  expect(metric.aggregate([0, 1, 1, 0.5].map((s) => ({ place: "", answer: "", references: [], score: s })))).toBe(0.625);
  expect(await score("exact", " b\n", "a", "b")).toBe(1);
  expect(await score("exact", "B", "a", "b")).toBe(0);
  expect(await score("exact-squad", "The B.", "a", "b")).toBe(1);
  expect(await score("rouge-l", "one two", "three", "one three")).toBe(0.5);
});

describe("rouge-l beyond ASCII", () => {
  test.each([
    ["今天 天气很好，GPT-4 说。", ["今", "天", "天", "气", "很", "好", "gpt", "4", "说"]],
    ["Naïve Ärger — étude", ["naïve", "ärger", "étude"]],
    ["한국어 텍스트", ["한국어", "텍스트"]],
    ["ひらがなカタカナ", [..."ひらがなカタカナ"]],
    ["ᎠᏂᏲᏍᎩ ᎤᏣᏅᏗ", ["ᎠᏂᏲᏍᎩ", "ᎤᏣᏅᏗ"].map((w) => w.toLowerCase())],
    ["हिन्दी भाषा", ["हिन्दी", "भाषा"]],
    ["ไทย", ["ไ", "ท", "ย"]],
    ["🙂 — …", []],
  ])("tokens of %s", (text, tokens) => expect(rougeTokens(text)).toEqual(tokens));

  test("Chinese by characters", async () => {
    expect(await score("rouge-l", "今天天气好", "今天很好")).toBeCloseTo((2 * (3 / 5) * (3 / 4)) / (3 / 5 + 3 / 4), 12);
  });

  test("of long texts, in one row of memory", async () => {
    const [a, b] = [3, 4].map((n) => Array.from({ length: 4000 }, (_, i) => `w${i % n}`).join(" "));
    expect(await score("rouge-l", a!, b!)).toBeGreaterThan(0.5);
    expect(await score("rouge-l", a!, a!)).toBe(1);
  });
});

describe("json", () => {
  const reference = '{"a": 1, "b": {"c": [1, 2], "d": {}}, "e": "x"}'; // leaves: a, b.c.0, b.c.1, b.d, e
  test.each([
    [' {"e": "x", "b": {"d": {}, "c": [1.0, 2]}, "a": 1}\n', 1],
    ['{"a": 1, "b": {"c": [2, 1], "d": {}}, "e": "x"}', 0.6],
    ['{"a": 1, "b": {"c": [1, 2, 3], "d": {}}, "e": "x"}', 10 / 11],
    ['{"a": "1", "b": {"c": [1, 2], "d": []}, "e": "x"}', 0.6],
    ['{"a": 1}', 2 / 6],
    ['{"a": 1, "a": 1}', 0],
    ["```json\n{}\n```", 0],
    ["", 0],
    ["1e999", 0],
    ["[".repeat(100_000), 0],
  ])("%j", async (answer, expected) => {
    expect(await score("json", answer, reference)).toBeCloseTo(expected, 12);
    expect(await score("json-exact", answer, reference)).toBe(expected === 1 ? 1 : 0);
  });

  test("lists are no objects, infinity is no null, scalars are JSON", async () => {
    expect(await score("json", '["x"]', '{"0": "x"}')).toBe(0);
    expect(await score("json", "1e999", "null")).toBe(0);
    expect(await score("json", " 5 ", "7", "5.0")).toBe(1);
    expect(await score("json-valid", "[1, null]")).toBe(1);
    expect(await score("json-valid", "[1, null")).toBe(0);
  });

  test("a reference that is no JSON is named", async () => {
    await expect(score("json", "1", "{a: 1}")).rejects.toThrow(/law.jsonl:3: expected a reference in JSON, found/);
    await expect(score("json-exact", "no", "")).rejects.toThrow(DataError);
  });
});

describe("regex", () => {
  test.each([
    ["regex", "The answer is 42.", [String.raw`\b\d+\b`], 1],
    ["regex", "none", [String.raw`\d`, "n.n"], 1],
    ["regex", "none", ["^one"], 0],
    ["regex", "a🙂b", ["^a.b$"], 1],
    ["regex-full", " 42\n", [String.raw`\d+`], 1],
    ["regex-full", "42 43", [String.raw`\d+`], 0],
    ["regex-full", "b", ["a|b"], 1],
    ["regex-full", "bx", ["a|b"], 0],
    ["regex-full", "a\nb", ["a.b"], 0],
  ])("%s: %j", async (name, answer, references, expected) => expect(await score(name, answer, ...references)).toBe(expected));

  test.each(["(", "a)|(b", String.raw`\-`])("a reference that is no pattern is named: %s", async (pattern) => {
    for (const name of ["regex", "regex-full"])
      await expect(score(name, "a", pattern)).rejects.toThrow(
        /law.jsonl:3: expected a reference that is a regular expression .*Invalid regular expression/,
      );
  });
});

test("intent: a reference without an object is named", async () => {
  await expect(score("intent", "{}", "no")).rejects.toThrow(
    /law.jsonl:3: expected a reference that is a JSON object with intent and slots, found "no"/,
  );
  expect(await score("intent", '{"intent": "A"}', '{"intent": "A"}。\n\n', "not read")).toBe(1);
  expect(await score("intent", "3", '{"intent": "A"}')).toBe(0);
  expect(await score("intent", "```json\n\n```", '{"intent": "A"}')).toBe(0);
});

describe("modules of users", () => {
  let dir: string;
  beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), "esft-metric-"))));
  afterAll(() => rm(dir, { recursive: true }));
  const write = async (name: string, text: string): Promise<string> => {
    await writeFile(join(dir, name), text);
    return join(dir, name);
  };

  test.each([
    ["named.mjs", "export const score = ({ answer, references, row }) => answer.length + references.length + row.extra;"],
    ["default.mjs", "export default async ({ answer, references, row }) => answer.length + references.length + row.extra;"],
    ["object.mjs", "export default { score: ({ answer, references, row }) => answer.length + references.length + row.extra };"],
    ["common.cjs", "exports.score = ({ answer, references, row }) => answer.length + references.length + row.extra;"],
    ["common2.cjs", "module.exports = ({ answer, references, row }) => answer.length + references.length + row.extra;"],
  ])("%s", async (name, text) => {
    const path = await write(name, text);
    const [first, metric] = await metricsByName(`exact,${path}`);
    expect(first!.name).toBe("exact");
    expect(metric!.name).toBe(path);
    expect(metric!.identity).toMatch(new RegExp(`^${name} [0-9a-f]{64}$`));
    expect(await metric!.score({ place: "x", answer: "ab", references: ["c"], row: { extra: 7 } })).toBe(10);
    expect(metric!.aggregate([1, 4].map((s) => ({ place: "", answer: "", references: [], score: s })))).toBe(2.5);
  });

  test.each([
    [
      "none.mjs",
      "export const other = 1;",
      /none.mjs: expected an export score\(\{answer, references, row\}\) → number, .*found the exports other/,
    ],
    ["empty.mjs", "", /found no export/],
    ["number.mjs", "export default 5;", /found the exports default/],
    ["broken.mjs", "export const = 1;", /broken.mjs: the module cannot be loaded: /],
    ["throws.mjs", "throw new Error('at once');", /throws.mjs: the module cannot be loaded: at once/],
    ["typed.ts", "export const score = () => 1;", /typed.ts: expected a metric in JavaScript .* compile TypeScript first/],
    ["script.py", "", /found ".*script.py"|expected a metric in JavaScript/],
  ])("%s is refused", async (name, text, message) => {
    const made = metricsByName(await write(name, text));
    await expect(made).rejects.toThrow(message);
    await expect(made).rejects.toThrow(ConfigError);
  });

  test("a file that is not there, and a folder", async () => {
    await expect(metricsByName(join(dir, "no.mjs"))).rejects.toThrow(/cannot open .*no.mjs: no such file/);
    await expect(metricsByName(dir)).rejects.toThrow(/expected a metric in JavaScript/);
  });

  test.each([
    ["nan.mjs", "export const score = () => NaN;", /law.jsonl:3: the metric .*nan.mjs returned NaN, expected a finite number/],
    ["text.mjs", "export const score = async () => '1';", /returned "1", expected a finite number/],
    ["fails.mjs", "export const score = () => { throw new TypeError('boom'); };", /law.jsonl:3: the metric .*fails.mjs failed: boom/],
    ["rejects.mjs", "export const score = () => Promise.reject('words');", /failed: words/],
  ])("%s: what it returns is checked", async (name, text, message) => {
    const [metric] = await metricsByName([await write(name, text)]);
    const made = Promise.resolve(metric!.score({ place: "law.jsonl:3", answer: "a", references: [] }));
    await expect(made).rejects.toThrow(message);
    await expect(made).rejects.toThrow(DataError);
  });
});
