// What a reading of rows tells meanwhile and at the end: counts, bad rows, progress, memory that is asked for, remarks. No GPU.
// Run alone: npx vitest run test/data/report.test.ts

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset, noUsableRow, remarks, type DatasetReport } from "../../lib/data/dataset.ts";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import type { EncodingOptions } from "../../lib/data/row_encoder.ts";
import { AbortError, ConfigError, DataError } from "../../lib/errors.ts";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-report-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let encoding: EncodingOptions;
beforeAll(async () => {
  encoding = { tokenizer: await loadTokenizer("examples/embedded"), template: "esft" };
});

const good = { prompt: "a", completion: "b" };
const bad = { prompt: "a", completion: 5 };
const repeat = <T>(n: number, row: T): T[] => Array.from({ length: n }, () => row);
const failure = async (work: Promise<unknown>): Promise<DataError> => (await work.catch((e: unknown) => e)) as DataError;

describe("a report", () => {
  it("counts rows by what they are, and keeps the first errors", async () => {
    const rows = [good, bad, { messages: [] }, bad, { instruction: "a", output: "" }, 7];
    const report = await Dataset.fromRows(rows).lint(encoding);
    const { errors, ...counts } = report;
    expect(counts).toEqual({
      file: null,
      rows: 6,
      good: 2,
      bad: 4,
      codes: { type: 3, empty: 1 },
      shapes: { prompt_completion: 1, alpaca: 1 },
      warnings: { "empty-answer": 1 },
    });
    expect(errors.map((e) => e.where["line"])).toEqual([2, 3, 4, 6]);
    const unencoded = await Dataset.fromRows(rows).lint();
    expect([unencoded.good, unencoded.bad, unencoded.warnings]).toEqual([2, 4, {}]);
    expect((await Dataset.fromRows(rows).lint(undefined, { maxErrors: 2 })).errors.map((e) => e.where["line"])).toEqual([2, 3]);
    const many = await Dataset.fromRows(repeat(150, bad)).lint();
    expect([many.bad, many.errors.length]).toEqual([150, 100]);
    expect((await Dataset.fromRows([], {}).lint()).rows).toBe(0);
  });

  it("is an error when rows are bad: the first ten by name, and how many more", async () => {
    const of = (n: number, rows = [good, ...repeat(n, bad)]) => failure(Dataset.fromRows(rows).encode(encoding));
    const ten = await of(10);
    expect(ten.message).toMatch(/^the given rows: 10 of 11 rows cannot be used; repair them, or leave them out with onBadRow: "skip"\n {2}row 2: [^\n]* \[type\]\n(.*\n){8} {2}row 11: [^\n]* \[type\]$/); // prettier-ignore
    expect((await of(12)).message).toMatch(/\n {2}row 11: [^\n]*\n {2}… and 2 more$/);
    expect(ten.where).toMatchObject({ rule: "type", key: "completion", line: 2, bad: 10, rows: 11 });
    expect(ten.cause).toBeInstanceOf(DataError);
    const path = join(dir, "rows.jsonl");
    writeFileSync(path, `${JSON.stringify(bad)}\n`);
    const named = await failure(Dataset.fromFile(path).encode(encoding));
    expect(named.message).toMatch(/^rows\.jsonl: 1 of 1 rows cannot be used/);
    const skipping = await failure(Dataset.fromFile(path, { onBadRow: "skip" }).encode(encoding));
    expect(skipping).toMatchObject({ message: `${path}: no usable row (1 rows, 1 bad)`, where: { rule: "empty", file: path, rows: 1, bad: 1 } }); // prettier-ignore
    expect(noUsableRow({ file: null, rows: 0, bad: 0 })).toMatchObject({ message: "the given rows: no usable row (0 rows, 0 bad)" });
    expect(noUsableRow({ file: null, rows: 0, bad: 0 }).where).toEqual({ rule: "empty", key: "", rows: 0, bad: 0 });
  });

  it("tells every 256 rows how far it is", async () => {
    const seen: unknown[] = [];
    const { examples } = await Dataset.fromRows([...repeat(300, good), ...repeat(212, bad)], { onBadRow: "skip" }).encode(encoding, {
      onProgress: (progress) => void seen.push(progress),
    });
    const size = examples.size(0);
    expect(seen).toEqual([{ rows: 256, tokens: 256 * size }, { rows: 512, tokens: 300 * size }]); // prettier-ignore
  });

  it("stops between rows, and says after how many", async () => {
    const stop = new AbortController();
    function onProgress(): void {
      stop.abort(new Error("enough"));
    }
    const reading = failure(Dataset.fromRows(repeat(600, good)).lint(undefined, { signal: stop.signal, onProgress }));
    expect(await reading).toBeInstanceOf(AbortError);
    expect(await reading).toMatchObject({ message: "reading the rows was stopped after 256 rows", cause: { message: "enough" } });
  });

  it("lets other work go on while it reads", async () => {
    const other: string[] = [];
    setImmediate(() => other.push("done"));
    await Dataset.fromRows(repeat(256, good)).lint();
    expect(other).toEqual(["done"]);
  });
});

describe("memory", () => {
  it("is asked for before it is taken, and whoever refuses ends the reading", async () => {
    const asked: number[] = [];
    const room = async (bytes: number): Promise<void> => void asked.push(bytes);
    const rows = [good, { prompt: "a", completion: "b".repeat(40_000) }];
    const { examples } = await Dataset.fromRows(rows).encode(encoding, { room });
    const tokens = examples.size(0) + examples.size(1);
    expect(tokens).toBeGreaterThan(2 ** 14);
    expect(asked).toEqual([5 * Math.max(2 ** 15, tokens), 5 * tokens + 2 * 12]);
    expect((await Dataset.fromRows(rows).encode(encoding)).examples.length).toBe(2); // nobody is asked
    const full = Promise.reject(new ConfigError("no room"));
    full.catch(() => undefined);
    await expect(Dataset.fromRows(rows).encode(encoding, { room: () => full })).rejects.toThrow("no room");
  });

  it("grows to twice its size, or to what a long example needs", () => {
    const builder = new ExampleBuilder();
    const START = 2 ** 14;
    expect([builder.growth(START), builder.growth(START + 1), builder.growth(3 * START)]).toEqual([0, 10 * START, 15 * START]);
    const example = (n: number) => ({ inputIds: new Int32Array(n), labels: new Int32Array(n) });
    builder.add(example(10), 1);
    expect([builder.growth(START - 10), builder.growth(START - 9), builder.buildBytes]).toEqual([0, 10 * START, 62]);
    builder.add(example(START), 2);
    expect([builder.growth(START - 10), builder.growth(START - 9), builder.buildBytes]).toEqual([0, 20 * START, 5 * START + 74]);
    // ids, one byte of labels, three boundaries of 8 bytes, two lines of 4; and two indices
    const examples = builder.build(null);
    expect([examples.bytes, examples.subset([1, 0]).bytes]).toEqual([5 * (START + 10) + 32, 5 * (START + 10) + 40]);
  });
});

describe("options", () => {
  it("that cannot be meant are refused by name", async () => {
    for (const [work, key] of [
      [() => Dataset.fromFile(""), "Dataset.fromFile: file"],
      [() => Dataset.fromFile("x", 5 as never), "Dataset.fromFile: options"],
      [() => Dataset.fromRows(5 as never), "Dataset.fromRows: rows"],
      [() => Dataset.fromRows([], [] as never), "Dataset.fromRows: options"],
    ] as const) {
      expect(work).toThrow(ConfigError);
      expect(work).toThrow(`${key}: expected `);
    }
    const data = Dataset.fromRows([good]);
    const trap = new Proxy({}, { getPrototypeOf: () => { throw new Error("a trap"); } }); // prettier-ignore
    for (const [wrong, message] of [
      [{ trainOn: "first" }, 'trainOn must be "all" or "last", not "first"'],
      [{ onDropped: "warn" }, 'onDropped must be "error" or "allow", not "warn"'],
      [{ tokenizer: {} }, "encoding.tokenizer: expected a Tokenizer, found "],
      [{ tokenizer: trap }, "encoding.tokenizer: expected values that can be read"],
      [{ template: "chat.jinja" }, 'template must be "tokenizer", "esft", a ChatTemplate or { source }, not "chat.jinja"'],
      [{ template: {} }, "template must be "],
      [{ template: null }, "template must be "],
      [{ template: 5 }, "template must be "],
    ] as const) {
      await expect(data.encode({ ...encoding, ...wrong } as never)).rejects.toThrow(message);
      await expect(data.encode({ ...encoding, ...wrong } as never)).rejects.toBeInstanceOf(ConfigError);
    }
    await expect(data.encode(5 as never)).rejects.toThrow(/^encoding: expected an object of options/);
    await expect(data.encode(undefined as never)).rejects.toThrow(/encoding\.tokenizer: expected a Tokenizer/);
    await expect(data.encode(encoding, { onProgress: 5 } as never)).rejects.toThrow(/dataset: reading\.onProgress/);
    for (const n of [-1, 0.5, "2"]) await expect(data.preview(n as number, encoding)).rejects.toThrow(/preview: n/);
    expect(() => Dataset.fromRows([], { onBadRow: "warn" as never })).toThrow('onBadRow must be "error" or "skip", not "warn"');
  });
});

describe("remarks", () => {
  const clean: DatasetReport = { file: "f", rows: 9, good: 9, bad: 0, codes: {}, shapes: {}, errors: [], warnings: {} };

  it("are about what is left out, dropped, empty or without an end, and nothing else", () => {
    expect(remarks(clean)).toEqual([]);
    expect(remarks({ ...clean, warnings: { adapted: 3, dropped: 0 } })).toEqual([]);
    const warnings = { "stop-untrained": 1, dropped: 2, "empty-answer": 3, adapted: 4 };
    const all = remarks({ ...clean, bad: 5, codes: { json: 3, type: 2 }, warnings });
    expect(all).toEqual([
      "f: 5 of 9 rows cannot be used and are left out (3 json, 2 type)",
      expect.stringMatching(/^f: 2 of 9 rows are trained without the messages, tool calls or tools that the chat template leaves out$/),
      expect.stringMatching(/^f: 3 of 9 rows have an answer of no text/),
      expect.stringMatching(/^f: 1 of 9 rows have an answer that does not teach the model to stop/),
    ]);
    expect(remarks({ ...clean, file: null, warnings: { dropped: 1 } })[0]).toMatch(/^the given rows: 1 of 9 rows /);
  });
});
