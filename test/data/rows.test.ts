// Rows that no data set holds on purpose: too deep, too wide, within themselves, of things that JSON has not. No GPU.
// Alone: npx vitest run test/data/rows.test.ts

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import type { DatasetReport } from "../../lib/data/dataset.ts";
import { readRow } from "../../lib/data/lines.ts";
import { normaliseRow } from "../../lib/data/rows.ts";
import { DataError } from "../../lib/errors.ts";
import { MAX_DEPTH, MAX_VALUES, parseJson } from "../../lib/text/python_json.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-rows-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer("test/fixtures/text/tokenizers/qwen2");
});

const nest = (levels: number): string => "[".repeat(levels) + "]".repeat(levels);
/** A row of text with something of that JSON beside it. */
const row = (extra: string, content = '"Hello"'): string =>
  `{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ${content}}], "extra": ${extra}}`;

async function lint(...lines: string[]): Promise<DatasetReport> {
  const file = join(dir, "rows.jsonl");
  writeFileSync(file, lines.join("\n"));
  return Dataset.fromFile(file).lint({ tokenizer, template: { source: "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ tools|tojson if tools }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}" } }); // prettier-ignore
}

/** Levels of lists within one another. */
function deep(levels: number): unknown[] {
  const outer: unknown[] = [];
  let at = outer;
  for (let i = 1; i < levels; i++) at.push((at = []));
  return outer;
}

function refused(row: unknown): DataError {
  try {
    normaliseRow(row);
  } catch (error) {
    return error as DataError;
  }
  throw new Error("it was taken");
}

describe("a line of JSON", () => {
  it.each([
    ["100,000 lists", row(nest(100_000)), /rows\.jsonl:2: nested deeper than 128 levels; no row needs that$/],
    ["100,000 objects", row(`${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`), /rows\.jsonl:2: nested deeper than 128 levels/],
    ["lists that nothing closes", "[".repeat(1_000_000), /nested deeper than 128 levels/],
    ["a million and one values", row(`[${"1,".repeat(1_000_000)}1]`), /more than 1000000 values/],
    ["a million empty objects", row(`[${"{},".repeat(1_000_000)}{}]`), /more than 1000000 values/],
    [
      "tools as deep text",
      `${row("1").slice(0, -1)}, "tools": ${JSON.stringify(nest(200))}}`,
      /tools is text but not JSON \(nested deeper/,
    ],
    ["a function call as deep text", `{"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": ${JSON.stringify(nest(200))}}]}`, /function_call must hold JSON with name and arguments \(nested deeper/], // prettier-ignore
  ])("of %s is refused with file and line", async (_, line, message) => {
    const { bad, good, errors } = await lint(row("1"), line);
    expect([good, bad]).toEqual([1, 1]);
    expect(errors[0]).toBeInstanceOf(DataError);
    expect(errors[0]?.message).toMatch(message);
    expect(errors[0]?.where).toMatchObject({ line: 2 });
  });

  it("may be as deep and as long as the bounds say", () => {
    expect(readRow(row(nest(MAX_DEPTH - 1)), 1)).toMatchObject({ ok: true });
    expect(readRow(row(nest(MAX_DEPTH)), 1)).toMatchObject({ ok: false });
    // brackets within text are text, quotes may be escaped
    expect(readRow(row('"x"', JSON.stringify(`"${nest(500)}\\`)), 1)).toMatchObject({ ok: true });
    expect(parseJson(`[${"[],".repeat(MAX_VALUES / 2 - 2)}[]]`)).toHaveLength(MAX_VALUES / 2 - 1);
    expect(() => parseJson(`[${"[],".repeat(MAX_VALUES / 2)}[]]`)).toThrow(/more than 1000000 values/);
  });

  it("may hold two thousand messages, in any shape", () => {
    const turns = (n: number) => Array.from({ length: n }, (_, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content: "x" }));
    const said = (n: number) => turns(n).map(({ role, content }) => ({ from: role, value: content }));
    const history = (n: number) => Array.from({ length: n }, () => ["a", "b"]);
    for (const make of [
      (n: number) => ({ messages: turns(n) }),
      (n: number) => ({ conversations: said(n) }),
      (n: number) => ({ prompt: turns(n), completion: turns(2) }),
      (n: number) => ({ instruction: "a", output: "b", history: history(n) }),
    ]) {
      expect(normaliseRow(make(2000))).toMatchObject({ row: {} });
      const error = refused(make(2001));
      expect(error.message).toMatch(/^(\w+): \1 has 2001 entries, expected at most 2000; split it into several rows$/);
      expect(error.where).toMatchObject({ rule: "length", key: error.message.split(":")[0] });
    }
  });

  it("numbers at any depth keep their form, and the bounds hold there too", () => {
    const levels = MAX_DEPTH - 2;
    const text = "[".repeat(levels) + "1.0" + "]".repeat(levels);
    expect(readRow(row(text), 1)).toMatchObject({ ok: true });
  });

  it("NUL is text; half a character is refused where it stands, in keys too", async () => {
    const nul = await lint(row("1", '"a\\u0000b"'));
    expect(nul).toMatchObject({ good: 1, bad: 0 });
    const lone = await lint(row('{"deep": ["x", "\\ud800"]}'), row('{"a": {"\\udc00": 1}}'), row("1", '"\\ud83d"'));
    expect(lone.errors.map((e) => e.where["key"])).toEqual(["extra.deep[1]", "extra.a", "messages[1].content"]);
    expect(lone.codes).toEqual({ surrogate: 3 });
  });

  it("a huge text is refused for its length, and no message repeats it", async () => {
    const huge = "x".repeat(2 ** 22 + 1);
    const { errors } = await lint(
      row("1", JSON.stringify(huge)),
      `{"messages": [{"role": ${JSON.stringify(huge)}, "content": "y"}]}`,
      `{"${huge}": 1}`,
    );
    expect(errors.map((e) => e.where["rule"])).toEqual(["length", "role", "unknown-shape"]);
    expect(errors[0]?.message).toMatch(/rows\.jsonl:1: .*41943\d\d characters, expected at most 4194304/);
    for (const error of errors) expect(error.message.length).toBeLessThan(1500);
  });
});

describe("a row of a program", () => {
  const messages = [
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Hello" },
  ];
  const circle: Record<string, unknown> = {};
  circle["self"] = circle;
  let shared: unknown = [1];
  for (let i = 0; i < 100; i++) shared = [shared, shared];

  it.each([
    ["a value within itself", { extra: circle }, /nested deeper than 128 levels, or a value within itself/],
    ["depth", { extra: deep(100_000) }, /nested deeper than 128 levels/],
    ["one list 2^100 times", { extra: shared }, /more than 1000000 values/],
    ["a Date", { extra: { when: new Date(0) } }, /^row 1: extra\.when: expected what JSON can hold, found an object of a class/],
    ["a typed array", { extra: [new Uint8Array(2)] }, /^row 1: extra\[0\]: expected what JSON can hold/],
    ["a function", { extra: () => 1 }, /^row 1: extra: expected what JSON can hold, found function/],
    ["a bigint", { extra: 7n }, /^row 1: extra: expected what JSON can hold, found bigint 7/],
    ["a symbol", { extra: Symbol("s") }, /^row 1: extra: expected what JSON can hold, found symbol Symbol\(s\)/],
    ["NaN", { extra: NaN }, /^row 1: extra: expected what JSON can hold, found number NaN/],
    ["infinity", { extra: -Infinity }, /^row 1: extra: expected what JSON can hold, found number -Infinity/],
    ["half a character in a Map's key", { extra: new Map([["\ud800", 1]]) }, /^row 1: extra: a key holds a lone surrogate/],
  ])("with %s is refused by number", async (_, more, message) => {
    const { errors, bad } = await Dataset.fromRows([{ messages, ...more }]).lint();
    expect(bad).toBe(1);
    expect(errors[0]).toBeInstanceOf(DataError);
    expect(errors[0]?.message).toMatch(message);
  });

  it.each([
    [{ extra: circle }, "depth", ""],
    [{ extra: shared }, "depth", ""],
    [{ extra: { when: [new Date(0)] } }, "type", "extra.when[0]"],
    [{ extra: { "\udc00": 1 } }, "surrogate", "extra"],
    [{ extra: ["\udc00"] }, "surrogate", "extra[0]"],
  ])("says the rule and the place (%#)", (more, rule, key) => {
    expect(refused({ messages, ...more }).where).toMatchObject({ rule, key });
  });

  it("may hold undefined, null, Maps, objects without a prototype, and 127 levels below itself", () => {
    const bare = Object.assign(Object.create(null) as object, { a: undefined });
    const more = { bare, none: null, map: new Map([["10", [true]]]), deep: deep(MAX_DEPTH - 1) };
    expect(normaliseRow({ messages, ...more })).toEqual({ shape: "messages", row: { messages } });
    expect(normaliseRow(runInNewContext(`(${JSON.stringify({ messages })})`))).toEqual({ shape: "messages", row: { messages } });
    expect(() => normaliseRow({ messages, deep: deep(MAX_DEPTH) })).toThrow(/nested deeper/);
  });

  it.each([[null], ["text"], [5], [[1]], [undefined], [() => 1]])("%s is no row", async (value) => {
    const { errors } = await Dataset.fromRows([value]).lint();
    expect(errors[0]?.message).toMatch(/^row 1: (a row must be an object, not|: expected what JSON can hold|expected what JSON can hold)/);
  });
});
