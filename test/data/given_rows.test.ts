// Rows of a program as they come: iterables, async iterables, functions that make them. No GPU.
// Alone: npx vitest run test/data/given_rows.test.ts

import { join } from "node:path";
import { Readable } from "node:stream";
import { beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import type { GivenRows } from "../../lib/data/given_rows.ts";
import { ConfigError, DataError } from "../../lib/errors.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(join(import.meta.dirname, "../../examples/embedded"));
});
const rows = [{ text: "one" }, { text: "two" }, { text: "three" }];
const make = (given: GivenRows) => Dataset.from(given, { shape: "text" });
const encode = async (given: GivenRows) => (await make(given).encode({ tokenizer })).examples;
async function* later(list: readonly unknown[] = rows) {
  for (const row of list) {
    await new Promise(setImmediate);
    yield row;
  }
}

describe("Dataset.from", () => {
  it.each<[string, () => GivenRows, boolean]>([
    ["a list", () => rows, true],
    ["a set", () => new Set(rows), true],
    ["a generator", () => rows.values(), false],
    ["an async generator", () => later(), false],
    ["a stream of objects", () => Readable.from(rows), false],
    ["promises", () => rows.map((row) => Promise.resolve(row)), true],
    ["a function that makes a generator", () => () => rows.values(), true],
    ["a function that makes an async generator", () => () => later(), true],
  ])("reads %s as the same rows in a list", async (_, given, again) => {
    const expected = (await Dataset.fromRows(rows, { shape: "text" }).encode({ tokenizer })).examples;
    expect((await encode(given())).fingerprint()).toBe(expected.fingerprint());
    const dataset = make(given());
    expect((await dataset.lint()).good).toBe(3);
    const second = dataset.lint();
    if (again) expect((await second).good).toBe(3);
    else await expect(second).rejects.toThrow(/^Dataset\.from: rows: these rows can be read once, and were; give a list, or a function/);
  });

  it("asks for no row before it is needed, keeps none, and lets go of what is left", async () => {
    let [asked, left] = [0, false];
    async function* endless() {
      try {
        for (;;) yield { text: `row ${++asked}` };
      } finally {
        left = true;
      }
    }
    const dataset = make(endless());
    expect(asked).toBe(0);
    const previews = await dataset.preview(2, { tokenizer });
    expect([previews.map((p) => [p.line, p.unit]), asked, left]).toEqual([[[1, "row"], [2, "row"]], 2, true]); // prettier-ignore
  });

  it("names a bad row by its number, and the row at which the source throws", async () => {
    await expect(encode(later([rows[0], { text: 5 }]))).rejects.toThrow(/row 2: text: text must be a string/);
    const broken = async function* () {
      yield rows[0];
      throw new Error("the connection was lost");
    };
    const error = await encode(broken()).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DataError);
    expect((error as DataError).message).toBe("row 2: expected a row of what was given, found that it throws: the connection was lost");
    expect((error as DataError).where).toEqual({ rule: "source", line: 2 });
    await expect(encode([Promise.reject(new Error("late"))])).rejects.toThrow(/^row 1: .*late$/);
  });

  it("stops at a signal, also while it waits for a row that never comes", async () => {
    const stop = new AbortController();
    const never = { [Symbol.asyncIterator]: () => ({ next: () => new Promise<IteratorResult<unknown>>(() => undefined) }) };
    const reading = make(never).encode({ tokenizer }, { signal: stop.signal });
    setImmediate(() => stop.abort());
    await expect(reading).rejects.toMatchObject({ code: "ERR_ABORTED" });
  });

  it.each<[unknown, RegExp]>([
    ["rows.jsonl", /found "rows\.jsonl"; a file is read by Dataset\.fromFile$/],
    [5, /expected an iterable or async iterable of rows, or a function that makes one, found 5$/],
    [null, /found null$/],
    [{}, /found \{\}$/],
  ])("refuses %j", (given, message) => {
    expect(() => make(given as never)).toThrow(ConfigError);
    expect(() => make(given as never)).toThrow(message);
  });

  it("refuses what a function makes, when it is read", async () => {
    await expect(encode((() => 5) as never)).rejects.toThrow(/^Dataset\.from: rows: expected an iterable .*, found 5$/);
    await expect(encode(() => { throw new Error("mine"); })).rejects.toThrow(ConfigError); // prettier-ignore
    await expect(encode({ [Symbol.iterator]: () => ({ next: () => 5 }) } as never)).rejects.toThrow(/row 1: .*its next\(\) gave 5/);
  });
});
