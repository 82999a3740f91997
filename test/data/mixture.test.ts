// Several files as the rows of one run: quotas, the order of epochs, what repeats, what is refused. No GPU.
// Alone: npx vitest run test/data/mixture.test.ts

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { ExampleBuilder, type Examples } from "../../lib/data/examples.ts";
import { chosenRows, Mixture, quotas, type DataFile } from "../../lib/data/mixture.ts";
import { encodeFiles, encodeSource } from "../../lib/data/source.ts";
import { BatchStream } from "../../lib/data/stream.ts";
import { ConfigError, DataError } from "../../lib/errors.ts";
import { dataSchema } from "../../lib/options.ts";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-mixture-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const tokenizer = () => loadTokenizer(join(import.meta.dirname, "../../examples/embedded"));
const options = dataSchema.parse({ shape: "text", template: "esft" });

/** Files of so many examples of three tokens; the first says the file and the row. */
function made(counts: readonly number[], weights: readonly number[] | null): Examples {
  const builder = new ExampleBuilder();
  const parts = counts.map((n, file) => {
    for (let row = 0; row < n; row++) {
      const inputIds = [1000 * file + row, 7, 8];
      builder.add({ inputIds, labels: inputIds }, row + 1);
    }
    return { origin: { file: `dir/${file}.csv`, unit: "line" as const }, end: builder.length };
  });
  return builder.buildFiles(parts).mixed(weights);
}
const stream = (examples: Examples, packing: "none" | "document" | "esft" = "none", seed = 1) =>
  new BatchStream(examples, { packing, maxLength: 3, onOverflow: "error", rowsPerBatch: 2, seed, padId: 9 });
/** First tokens of an epoch's rows. */
const epochOf = (of: BatchStream, epoch: number): number[] => [...of.rows(epoch)].map((row) => row.ids[0]!);
const byFile = (ids: readonly number[], files: number): number[] => Array.from({ length: files }, (_, f) => ids.filter((id) => Math.floor(id / 1000) === f).length); // prettier-ignore

describe("quotas", () => {
  it.each<[readonly number[], number, number[]]>([
    [[1, 1], 10, [5, 5]],
    [[2, 1], 10, [7, 3]],
    [[1, 1, 1], 10, [4, 3, 3]],
    [[1, 1, 1], 11, [4, 4, 3]],
    [[0.5, 0.25, 0.25], 7, [3, 2, 2]],
    [[1e9, 1], 5, [5, 0]],
    [[3], 4, [4]],
  ])("%j of %i rows: %j", (weights, total, expected) => expect(quotas(weights, total)).toEqual(expected));

  it("are never off by one, and sum up", () => {
    for (let k = 1; k < 200; k++) {
      const weights = Array.from({ length: 1 + (k % 5) }, (_, i) => ((k * 7919 + i * 104_729) % 97) + 1);
      const sum = weights.reduce((a, b) => a + b, 0);
      const found = quotas(weights, k * 3);
      expect(found.reduce((a, b) => a + b, 0)).toBe(k * 3);
      found.forEach((q, i) => expect(Math.abs(q - (k * 3 * weights[i]!) / sum)).toBeLessThan(1));
    }
  });
});

describe("an epoch of weighted files", () => {
  it("has as many rows as all files, by their weights; a small file repeats, a large one is read over several epochs", () => {
    const mixed = stream(made([4, 20], [1, 1]));
    expect(mixed.shares).toEqual([
      { file: "0.csv", weight: 1, rows: 4, tokens: 12, rowsPerEpoch: 12, share: 0.5 },
      { file: "1.csv", weight: 1, rows: 20, tokens: 60, rowsPerEpoch: 12, share: 0.5 },
    ]);
    const epochs = [0, 1, 2, 3, 4].map((e) => epochOf(mixed, e));
    for (const ids of epochs) {
      expect(byFile(ids, 2)).toEqual([12, 12]);
      for (let row = 0; row < 4; row++) expect(ids.filter((id) => id === row)).toHaveLength(3); // each as often as the others
    }
    // 60 rows of the large file: each of its 20 three times, none a second time before all came once.
    const large = epochs.map((ids) => ids.filter((id) => id >= 1000));
    expect(new Set(large[0]).size).toBe(12);
    expect(new Set([...large[0]!, ...large[1]!]).size).toBe(20);
    for (let row = 0; row < 20; row++) expect(large.flat().filter((id) => id === 1000 + row)).toHaveLength(3);
  });

  it("is the same for the same seed, another for another, and needs nothing of the ones before", () => {
    const weights = [3, 1, 1];
    const [a, b, c] = [1, 1, 2].map((seed) => stream(made([9, 5, 7], weights), "none", seed)) as [BatchStream, BatchStream, BatchStream];
    for (let e = 0; e < 4; e++) epochOf(a, e);
    expect(epochOf(a, 4)).toEqual(epochOf(b, 4));
    expect(epochOf(a, 0)).not.toEqual(epochOf(c, 0));
    expect(epochOf(a, 0)).not.toEqual(epochOf(a, 1));
    expect(byFile(epochOf(a, 7), 3)).toEqual(quotas(weights, 21));
  });

  it.each(["none", "document", "esft"] as const)("goes on from a cursor, packing %s", async (packing) => {
    const whole = stream(made([5, 11], [2, 1]), packing);
    const ids = async (of: BatchStream, n: number): Promise<number[]> => {
      const out: number[] = [];
      for (let i = 0; i < n; i++) out.push(...[...(await of.next()).rows].map((row) => row.ids[0]!));
      return out;
    };
    const first = await ids(whole, 13);
    const { cursor } = whole;
    const rest = await ids(whole, 13);
    const again = stream(made([5, 11], [2, 1]), packing);
    again.restore(cursor);
    expect(await ids(again, 13)).toEqual(rest);
    expect(first).toHaveLength(26);
    for (const other of [made([5, 11], [1, 1]), made([5, 11], null), made([6, 10], [2, 1])])
      expect(() => stream(other, packing).restore(cursor)).toThrow(/the data, tokenizer or packing options differ/);
  });

  it("refuses a file that gives nothing", () => {
    expect(() => stream(made([5, 3], [1e6, 1]))).toThrow(ConfigError);
    expect(() => stream(made([5, 3], [1e6, 1]))).toThrow(
      /^dir\/1\.csv: expected a weight that gives at least one of the 8 rows of an epoch, found 1;/,
    );
    expect(() => new Mixture(made([2, 2], [1, 1]), [0, 1], 1)).toThrow(/^dir\/1\.csv: expected rows to take by its weight, found none/);
  });

  it("holds out rows as they are, none of which is trained on", () => {
    const { train, heldOut } = made([10, 10], [5, 1]).split(0.3, 1);
    expect([train.weights, heldOut.weights, heldOut.length]).toEqual([[5, 1], null, 6]);
    const trained = new Set(epochOf(stream(train), 0));
    for (const { inputIds } of heldOut) expect(trained.has(inputIds[0]!)).toBe(false);
    expect(heldOut.place(0)).toMatch(/^dir\/[01]\.csv:\d+$/);
  });
});

describe("files without weights", () => {
  it("are one after the other: the order and identity of one file with all rows", () => {
    const one = made([12], null);
    const builder = new ExampleBuilder();
    for (let i = 0; i < 12; i++) builder.add(one.get(i), (i % 6) + 1);
    const two = builder.buildFiles([{ origin: { file: "a", unit: "line" }, end: 6 }, { origin: { file: "b", unit: "row" }, end: 12 }]); // prettier-ignore
    expect([stream(two).fingerprint, epochOf(stream(two), 3)]).toEqual([stream(one).fingerprint, epochOf(stream(one), 3)]);
    expect([two.place(5), two.place(6), two.file]).toEqual(["a:6", "b: row 1", null]);
    expect(stream(one).shares).toBeNull();
    expect(stream(two, "esft").shares?.map((s) => [s.file, s.rows, s.share])).toEqual([["a", 6, 0.5], ["b", 6, 0.5]]); // prettier-ignore
  });
});

describe("encodeFiles", () => {
  const write = (name: string, texts: readonly string[]): string => {
    writeFileSync(join(dir, name), name.endsWith(".json") ? JSON.stringify(texts.map((text) => ({ text }))) : texts.map((text) => `${JSON.stringify({ text })}\n`).join("")); // prettier-ignore
    return join(dir, name);
  };
  const [a, b] = [write("a.jsonl", ["one", "two", "three"]), write("b.json", ["four", "five", "six", "seven", "eight"])];
  const encode = async (files: readonly DataFile[], seed = 1) => (await encodeFiles(files, options, tokenizer, seed)).examples;

  it("reads files of any format to the rows of each", async () => {
    const both = await encode([{ file: a }, { file: b }]);
    const each = await Promise.all([a, b].map(async (file) => (await encodeSource(file, options, tokenizer)).examples));
    expect([...both]).toEqual([...each[0]!, ...each[1]!]);
    expect([both.place(2), both.place(3)]).toEqual([`${a}:3`, `${b}: row 1`]);
  });

  it("takes some rows of a file, chosen by the seed, in their order", async () => {
    const some = await encode([{ file: a, weight: 1 }, { file: b, rows: 2, weight: 2 }]); // prettier-ignore
    expect([some.length, some.weights]).toEqual([5, [1, 2]]);
    const lines = (of: Examples): number[] => [of.line(3), of.line(4)];
    expect(lines(some)).toEqual(chosenRows({ file: b, rows: 2 }, 1, 5, 1).map((row) => row + 1));
    expect(lines(some)[0]).toBeLessThan(lines(some)[1]!);
    const others = await Promise.all([2, 3, 4, 5].map(async (seed) => lines(await encode([{ file: a }, { file: b, rows: 2 }], seed)).join())); // prettier-ignore
    expect(new Set(others).size).toBeGreaterThan(1);
  });

  it("refuses more rows than there are, and a file with a bad row", async () => {
    await expect(encode([{ file: a, rows: 4 }])).rejects.toThrow(DataError);
    await expect(encode([{ file: a, rows: 4 }])).rejects.toThrow(
      /a\.jsonl: expected at least 4 usable rows \(rows of data\), found 3; ask for 3 or fewer/,
    );
    const bad = join(dir, "bad.jsonl");
    writeFileSync(bad, '{"text": 1}\n');
    await expect(encode([{ file: a }, { file: bad }])).rejects.toThrow(/bad\.jsonl:1: text: text must be a string/);
  });
});
