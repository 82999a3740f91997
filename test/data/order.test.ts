// The order of examples over epochs, what ties a cursor to data and options, and what of a text is trained. No GPU.
// Alone: npx vitest run test/data/order.test.ts

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import type { Examples } from "../../lib/data/examples.ts";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import { normaliseRow } from "../../lib/data/rows.ts";
import { shuffledIndices } from "../../lib/data/shuffle.ts";
import { BatchStream, type BatchOptions } from "../../lib/data/stream.ts";
import { readRowsFromFile } from "../../lib/data/lines.ts";
import { ConfigError, DataError } from "../../lib/errors.ts";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-order-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** One example per list of ids; all but the first token supervised unless labels say otherwise. */
function make(lists: readonly (readonly number[])[], labels?: readonly (readonly number[])[], file: string | null = null): Examples {
  const builder = new ExampleBuilder();
  for (const [i, ids] of lists.entries()) builder.add({ inputIds: ids, labels: labels?.[i] ?? ids.map((id, t) => (t === 0 ? -100 : id)) }, i + 1); // prettier-ignore
  return builder.build(file);
}
/** n examples of four tokens; the first says which it is. */
const many = (n: number): Examples => make(Array.from({ length: n }, (_, i) => [10 * i, 10 * i + 1, 10 * i + 2, 10 * i + 3]));
const options = (more: Partial<BatchOptions> = {}): BatchOptions => ({ packing: "none", onOverflow: "error", maxLength: 4, rowsPerBatch: 2, seed: 1, ...more }); // prettier-ignore
const firsts = (rows: Iterable<{ readonly ids: Int32Array }>): number[] => [...rows].map((r) => r.ids[0] as number);

describe("epochs", () => {
  it.each(["none", "document", "esft"] as const)("%s: each has an order of its own", (packing) => {
    const stream = new BatchStream(many(12), options({ packing, padId: 0 }));
    const orders = [0, 1, 2].map((epoch) => firsts(stream.rows(epoch)));
    expect(new Set(orders.map(String)).size).toBe(3);
    expect(new Set(orders.map((o) => String(o.toSorted((a, b) => a - b)))).size).toBe(1);
    expect(firsts(stream.rows())).toEqual(orders[0]);
    expect(firsts(stream.rows(0))).toEqual(orders[0]); // again, after others
    const asIs = new BatchStream(many(12), options({ packing, padId: 0, shuffle: false }));
    expect(firsts(asIs.rows(1))).toEqual(firsts(asIs.rows(0)));
  });

  it("next goes through them in that order, and labels a batch by its first row", async () => {
    const stream = new BatchStream(many(3), options());
    const want = [0, 1, 2].flatMap((epoch) => firsts(stream.rows(epoch)));
    const got: number[] = [];
    const labels: number[] = [];
    const cursors: unknown[] = [];
    for (let i = 0; i < 4; i++) {
      cursors.push([stream.cursor.epoch, stream.cursor.row]);
      const batch = await stream.next();
      labels.push(batch.epoch);
      got.push(...firsts(batch.rows));
      expect([batch.tokens, batch.supervised]).toEqual([8, 6]);
    }
    expect(got).toEqual(want.slice(0, 8));
    expect(labels).toEqual([0, 0, 1, 2]);
    expect(cursors).toEqual([[0, 0], [0, 2], [1, 1], [1, 3]]); // prettier-ignore
  });

  it("a cursor may stand at the end of an epoch and nowhere behind it, nor before its beginning", async () => {
    const stream = new BatchStream(many(3), options());
    const cursor = (epoch: number, row: number) => ({ epoch, row, fingerprint: stream.fingerprint });
    stream.restore(cursor(0, 3));
    expect((await stream.next()).epoch).toBe(1);
    for (const [epoch, row] of [
      [0, 4],
      [-1, 0],
      [0, -1],
    ] as const)
      // prettier-ignore
      expect(() => stream.restore(cursor(epoch, row))).toThrow(/does not exist/);
  });
});

it("a row counts its examples, tokens and targets before it is made", () => {
  const lists = [[1, 2], [3, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13]]; // prettier-ignore
  const rows = new BatchStream(
    make(lists),
    options({ packing: "document", maxLength: 5, onOverflow: "truncateRight", shuffle: false }),
  ).rows();
  const counts = Array.from({ length: rows.length }, (_, r) => rows.count(r));
  expect(counts).toEqual([{ examples: 2, tokens: 5, supervised: 3 }, { examples: 1, tokens: 5, supervised: 4 }, { examples: 1, tokens: 2, supervised: 1 }]); // prettier-ignore
  expect([...rows].map((r) => ({ tokens: r.ids.length, supervised: r.supervised }))).toEqual(counts.map(({ examples: _, ...c }) => c));
});

describe("the fingerprint of a stream", () => {
  const base = new BatchStream(many(3), options()).fingerprint;
  it.each([
    ["onOverflow", { onOverflow: "drop" }],
    ["maxLength", { maxLength: 5 }],
    ["packing", { packing: "document" }],
    ["seed", { seed: 2 }],
    ["shuffle", { shuffle: false }],
  ] as const)("changes with %s", (_, more) => {
    expect(new BatchStream(many(3), options(more)).fingerprint).not.toBe(base);
    expect(() => new BatchStream(many(3), options(more)).restore({ epoch: 0, row: 0, fingerprint: base })).toThrow(ConfigError);
  });

  it("knows what pads the paper's rows, and does not mind it elsewhere", () => {
    const of = (packing: "esft" | "none", padId: number) => new BatchStream(many(3), options({ packing, padId })).fingerprint;
    expect(of("esft", 1)).not.toBe(of("esft", 2));
    expect(of("none", 1)).toBe(of("none", 2));
    expect(new BatchStream(many(3), options({ rowsPerBatch: 1 })).fingerprint).toBe(base); // a cursor counts rows
  });

  it("changes with ids, labels and boundaries of the examples, in their order", () => {
    const prints = [
      make([[1, 2], [3, 4]]),
      make([[1, 2], [3, 5]]),
      make([[1, 2], [3, 4]], [[-100, 2], [-100, -100]]),
      make([[1, 2], [3, 4]], [[1, 2], [-100, 4]]),
      make([[1, 2, 3, 4]], [[-100, 2, -100, 4]]),
      make([[1, 2, 3], [4]]),
      make([[3, 4], [1, 2]]),
      make([]),
    ].map((e) => e.fingerprint()); // prettier-ignore
    // the same bytes one after the other, but for the lengths between them
    prints.push(make([[5], [7]], [[-100], [7]]).fingerprint(), make([[5, 7 << 8]], [[-100, 7 << 8]]).fingerprint()); // prettier-ignore
    expect(new Set(prints).size).toBe(prints.length);
    expect(make([[1, 2], [3, 4]], undefined, "other.jsonl").fingerprint()).toBe(prints[0]); // prettier-ignore
    expect(make([[3, 4], [1, 2]]).subset([1, 0]).fingerprint()).toBe(prints[0]); // prettier-ignore
  });
});

describe("what can be learned", () => {
  it("a first token is never predicted: an example that supervises nothing else is left out", () => {
    const examples = make([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, -100, -100], [-100, -100, 6], [-100, 8, -100]]); // prettier-ignore
    for (const packing of ["none", "document"] as const) {
      const rows = [...new BatchStream(examples, options({ packing, shuffle: false })).rows()];
      expect(rows.flatMap((r) => Array.from(r.ids))).toEqual([4, 5, 6, 7, 8, 9]);
      expect(rows.map((r) => r.supervised).reduce((a, b) => a + b)).toBe(2);
    }
    const beforeTheCut = make([[1, 2, 3, 4, 5]], [[-100, 2, 3, -100, -100]]);
    const rows = (onOverflow: "truncateLeft" | "truncateRight") => new BatchStream(beforeTheCut, options({ maxLength: 3, onOverflow })).rowsInEpoch(0); // prettier-ignore
    expect(rows("truncateRight")).toBe(1);
    expect(() => rows("truncateLeft")).toThrow(/no example is left: 1 given, 1 longer than maxLength 3, 1 without a supervised token/); // 3 is first now
  });

  it("text ends with one EOS, and none where the tokenizer has none or the text has one", async () => {
    const tokenizer = await loadTokenizer("test/fixtures/text/tokenizers/deepseek-v2");
    const ids = async (text: string, more: object = {}): Promise<number[]> => {
      const { examples } = await Dataset.fromRows([{ text }], { shape: "text" }).encode({ tokenizer, ...more });
      return [...examples.get(0).inputIds];
    };
    const plain = await ids("some text");
    expect(plain.filter((id) => id === tokenizer.eosId)).toHaveLength(1);
    expect(await ids(`some text${tokenizer.eosToken}`)).toEqual(plain);
    expect(await ids("some text", { textEos: false })).toEqual(plain.slice(0, -1));
    const none = Object.create(tokenizer, { eosId: { value: null } }) as typeof tokenizer;
    none.encodeRaw = (text) => tokenizer.encodeRaw(text);
    expect(await ids("some text", { tokenizer: none })).toEqual(plain.slice(0, -1));
  });

  it("an empty system text is no turn, in every shape that has one", () => {
    const shapes = [{ prompt: "a", completion: "b" }, { instruction: "a", output: "b" }, { conversations: [{ from: "human", value: "a" }, { from: "gpt", value: "b" }] }]; // prettier-ignore
    const turns = [{ role: "user", content: "a" }, { role: "assistant", content: "b" }]; // prettier-ignore
    for (const row of shapes) {
      for (const system of ["", null]) expect(normaliseRow({ ...row, system })).toMatchObject({ row: { messages: turns } });
      expect(normaliseRow({ ...row, system: " " })).toMatchObject({ row: { messages: [{ role: "system", content: " " }, ...turns] } });
      expect(() => normaliseRow({ ...row, system: 5 })).toThrow(/system must be a string, not number/);
    }
    expect(normaliseRow({ messages: turns, system: "unused" })).toMatchObject({ row: { messages: turns } });
  });

  it("a line is as long as may be, whatever the lines before it", async () => {
    const path = join(dir, "long.jsonl");
    const row = JSON.stringify({ prompt: "a", completion: "b" });
    const lines = async (text: string, most: number): Promise<number[]> => {
      writeFileSync(path, text);
      const seen: number[] = [];
      for await (const { line } of readRowsFromFile(path, {}, undefined, most)) seen.push(line);
      return seen;
    };
    expect(await lines(`${row}\n${row}`, row.length)).toEqual([1, 2]);
    const error = (await lines(`${row}\n${row}`, row.length - 1).catch((e: unknown) => e)) as DataError;
    expect(error).toBeInstanceOf(DataError);
    expect(error.where).toEqual({ file: path, rule: "json" });
    const blank = `${" ".repeat(99)}\n`.repeat(25_000); // more than two pieces of a file
    expect(await lines(`${blank}${row}`, 100)).toEqual([25_001]);
  });

  it("a BOM opens a file, nothing else", async () => {
    const row = JSON.stringify({ prompt: "a", completion: "b" });
    const bad = async (text: string): Promise<unknown[]> => {
      writeFileSync(join(dir, "bom.jsonl"), text);
      const report = await Dataset.fromFile(join(dir, "bom.jsonl")).lint();
      return [report.good, ...report.errors.map((e) => [e.where["line"], e.where["rule"]])];
    };
    expect(await bad(`\ufeff${row}\n${row}\n`)).toEqual([2]);
    expect(await bad(`${row}\n\ufeff${row}\n`)).toEqual([1, [2, "json"]]);
    expect(await bad(`\n\ufeff${row}\n`)).toEqual([0, [2, "json"]]);
    expect(await bad(`\ufeff\ufeff${row}\n`)).toEqual([0, [1, "json"]]);
    expect(await bad(`\ufeff`)).toEqual([0]);
    for (const other of ["\u0eff", "\uff7f", "\ufefe"]) expect(await bad(`${other}${row}\n`)).toEqual([0, [1, "json"]]); // two of its bytes
  });
});

describe("Examples", () => {
  it("a held-out part follows its seed alone, and has as many examples as the share says", () => {
    const examples = many(40);
    const held = (seed: number): number[] => firsts([...examples.split(0.25, seed).heldOut].map((e) => ({ ids: e.inputIds })));
    const seeds = [0, 1, 2, 3].map(held);
    expect(new Set(seeds.map(String)).size).toBe(4);
    for (const [seed, part] of seeds.entries()) {
      expect(part).toEqual(held(seed));
      expect(part).toEqual(part.toSorted((a, b) => a - b)); // order is kept
      expect(new Set(part).size).toBe(10);
    }
    const sizes = (n: number, fraction: number): number[] => [many(n).split(fraction, 1).train.length, many(n).split(fraction, 1).heldOut.length]; // prettier-ignore
    expect([sizes(10, 0), sizes(1, 0.5), sizes(2, 0.001), sizes(2, 0.999), sizes(10, 0.25), sizes(0, 0.5)]).toEqual([[10, 0], [1, 0], [1, 1], [1, 1], [7, 3], [0, 0]]); // prettier-ignore
    for (const fraction of [-0.1, 1, NaN]) expect(() => many(3).split(fraction, 1)).toThrow(/in \[0, 1\), not/);
  });

  it("know their places, through parts of parts", () => {
    const examples = make([[1, 2], [3, 4, 5], [6, 7]], undefined, "a.jsonl"); // prettier-ignore
    const part = examples.subset([2, 1]).subset([1]);
    expect([part.length, part.size(0), part.line(0), part.place(0), part.file]).toEqual([1, 3, 2, "a.jsonl:2", "a.jsonl"]);
    expect([...part].map((e) => [...e.inputIds])).toEqual([[3, 4, 5]]);
    expect(make([[1, 2]]).place(0)).toBe("row 1");
    for (const i of [-1, 1, 0.5, NaN]) expect(() => part.get(i)).toThrow(`example ${i} does not exist; there are 1`);
  });

  it("grow beyond what they began with, token by token", () => {
    const long = Array.from({ length: 40_000 }, (_, t) => t);
    const examples = make([long.slice(0, 16_384), [5, 6], long], [long.slice(0, 16_384).map((id) => (id % 3 === 0 ? id : -100)), [-100, 6], long]); // prettier-ignore
    expect(examples.length).toBe(3);
    expect([...examples.get(0).inputIds]).toEqual(long.slice(0, 16_384));
    expect([...examples.get(0).labels]).toEqual(long.slice(0, 16_384).map((id) => (id % 3 === 0 ? id : -100)));
    expect([...examples.get(1).labels]).toEqual([-100, 6]);
    expect([...examples.get(2).labels]).toEqual(long);
  });
});

it("shuffles are different by seed and by epoch, beyond 32 bits too", () => {
  const orders = [[1, 0], [1, 1], [2, 0], [2 ** 32 + 1, 0], [2 ** 33 + 1, 0]].map(([seed, epoch]) => String(shuffledIndices(50, seed!, epoch!))); // prettier-ignore
  expect(new Set(orders).size).toBe(5);
  expect([...shuffledIndices(1, 1, 0), ...shuffledIndices(0, 1, 0)]).toEqual([0]);
});
