// Rows from examples: packed documents, what is too long, batches that resume. No GPU.
// Run alone: npx vitest run test/data/packing.test.ts

import { describe, expect, test } from "vitest";
import { ConfigError, type DataError } from "../../lib/errors.ts";
import { ExampleBuilder, type Examples } from "../../lib/data/examples.ts";
import { esftRows, fit, kept, packDocuments, planRows, usableExamples, type PackedRow } from "../../lib/data/packing.ts";
import { BatchStream, type BatchOptions } from "../../lib/data/stream.ts";
import { ShuffleRandom } from "../../lib/data/shuffle.ts";

/** Examples of the given lengths with unique ids; the first `prompt` tokens are not supervised. */
function make(lengths: readonly number[], prompt = 1): Examples {
  const builder = new ExampleBuilder();
  let next = 0;
  lengths.forEach((n, i) => {
    const inputIds = Array.from({ length: n }, () => next++);
    builder.add({ inputIds, labels: inputIds.map((id, t) => (t < prompt ? -100 : id)) }, i + 1);
  });
  return builder.build("data.jsonl");
}
const options = (more: Partial<BatchOptions> = {}): BatchOptions => ({
  packing: "document",
  onOverflow: "error",
  maxLength: 16,
  rowsPerBatch: 2,
  seed: 1,
  ...more,
});

test("targets stay inside their document", () => {
  const row = packDocuments([
    { inputIds: [10, 11, 12], labels: [-100, 11, 12] },
    { inputIds: [20, 21], labels: [20, 21] },
  ]);
  expect(Array.from(row.targets)).toEqual([11, 12, -100, 21, -100]);
  expect(Array.from(row.docStart)).toEqual([0, 0, 0, 3, 3]);
  expect(Array.from(row.positions)).toEqual([0, 1, 2, 0, 1]);
  expect(row.supervised).toBe(3);
});

test("the plan holds every example once and never overflows", () => {
  const random = new ShuffleRandom(5);
  const sizes = Array.from({ length: 500 }, () => 1 + random.below(40));
  const rows = [...planRows(sizes.keys(), (i) => sizes[i] as number, 64)];
  expect(rows.flat().sort((a, b) => a - b)).toEqual(Array.from(sizes.keys()));
  const fill = rows.map((r) => r.reduce((n, i) => n + (sizes[i] as number), 0));
  expect(Math.max(...fill)).toBeLessThanOrEqual(64);
  expect(fill.reduce((a, b) => a + b, 0) / (64 * rows.length)).toBeGreaterThan(0.9);
});

test("the plan is first fit over at most 32 open rows; a row comes out when no second token fits", () => {
  const plan = (sizes: readonly number[]) => [...planRows(sizes.keys(), (i) => sizes[i] as number, 16)];
  expect(plan([14, 2, 15, 1, 10, 5])).toEqual([[0, 1], [2], [3, 4, 5]]);
  expect(plan([14, 3, 1, 1])).toEqual([
    [0, 2],
    [1, 3],
  ]); // 15 of 16 tokens are full
  expect(plan([99, 16])).toEqual([[0], [1]]);
  const many = Array.from({ length: 33 }, () => 10);
  expect(plan([...many.slice(1), 6])[0]).toEqual([0, 32]);
  expect(plan([...many, 6])).toEqual([[0], [1, 33], ...Array.from({ length: 31 }, (_, i) => [i + 2])]); // the oldest went for the 33rd
  expect(plan([])).toEqual([]);
});

test("an example is cut at the end or at the beginning, and only when it is too long", () => {
  const cut = (size: number, how: "truncateLeft" | "truncateRight") => {
    const ids = Array.from({ length: size }, (_, i) => i);
    const [from, to] = kept(size, 4, how);
    const whole = { inputIds: ids, labels: ids.map((id) => -id) };
    const { inputIds, labels } = fit(whole, 4, how);
    expect([inputIds, labels]).toEqual([ids.slice(from, to), whole.labels.slice(from, to)]);
    return [from, to];
  };
  expect([3, 4, 5, 9].map((size) => cut(size, "truncateRight"))).toEqual([[0, 3], [0, 4], [0, 4], [0, 4]]); // prettier-ignore
  expect([3, 4, 5, 9].map((size) => cut(size, "truncateLeft"))).toEqual([[0, 3], [0, 4], [1, 5], [5, 9]]); // prettier-ignore
});

test("the paper's rows are numbered, of one length, and follow the seed", () => {
  const rows = (seed: number) => esftRows(make([3, 9, 4, 16, 2, 7, 8, 8, 8], 0), 10, 500, seed);
  const of = (examples: Examples) => [...examples].map((e) => [...e.inputIds]);
  const first = rows(1);
  expect(Array.from({ length: first.length }, (_, i) => first.place(i))).toEqual([1, 2, 3, 4, 5].map((n) => `data.jsonl:${n}`));
  for (const { inputIds, labels } of first) expect([inputIds.length, [...labels]]).toEqual([10, [...inputIds].map((id) => (id === 500 ? -100 : id))]); // prettier-ignore
  expect(of(rows(1))).toEqual(of(first));
  expect(new Set([0, 1, 2, 3, 4, 5, 6, 7].map((seed) => String(of(rows(seed))))).size).toBeGreaterThan(1);
  expect(() => esftRows(make([3]), 10, undefined, 1)).toThrow(/needs padId/);
});

describe("overflow", () => {
  const examples = make([5, 30, 8]);
  test("is an error by default, with place and fix", () => {
    expect(() => new BatchStream(examples, options())).toThrow(
      /1 of 3 examples are longer than maxLength 16: the first at data.jsonl:2 has 30 tokens.*onOverflow/,
    );
    const thrown = (of: Examples, how: "error" | "drop" = "error"): unknown => {
      try {
        return usableExamples(of, options({ onOverflow: how }));
      } catch (error) {
        return error;
      }
    };
    expect(thrown(make([17, 30, 16, 20]))).toMatchObject({
      message: expect.stringContaining("3 of 4 examples are longer than maxLength 16: the first at data.jsonl:1 has 17 tokens, the longest 30;") as string, // prettier-ignore
      where: { rule: "overflow", line: 1, file: "data.jsonl", maxLength: 16, found: 30 },
    });
    expect(thrown(make([30, 40, 1]), "drop")).toMatchObject({
      message: "no example is left: 3 given, 2 longer than maxLength 16, 1 without a supervised token",
      where: { rule: "nothing-to-learn", maxLength: 16 },
    });
    const nameless = new ExampleBuilder();
    nameless.add({ inputIds: new Int32Array(20), labels: new Int32Array(20) }, 1);
    expect(Object.keys((thrown(nameless.build(null)) as DataError).where)).not.toContain("file");
    expect(usableExamples(make([16, 2, 1]), options())).toEqual(Uint32Array.of(0, 1));
  });
  test("drop, truncateLeft, truncateRight", () => {
    const ids = (how: "drop" | "truncateLeft" | "truncateRight"): number[] => {
      const stream = new BatchStream(examples, options({ onOverflow: how, shuffle: false, packing: "none" }));
      return [...stream.rows()].flatMap((r) => [r.ids[0] as number, r.ids.length]);
    };
    expect(ids("drop")).toEqual([0, 5, 35, 8]);
    expect(ids("truncateLeft")).toEqual([0, 5, 19, 16, 35, 8]);
    expect(ids("truncateRight")).toEqual([0, 5, 5, 16, 35, 8]);
  });
  test("an answer that is cut away altogether is not trained", () => {
    const used = (lengths: readonly number[], prompt: number): number =>
      new BatchStream(make(lengths, prompt), options({ onOverflow: "truncateLeft", packing: "none" })).rowsInEpoch(0);
    expect([used([30, 25], 20), used([30, 40], 35)]).toEqual([2, 1]);
    expect(() => new BatchStream(make([30], 20), options({ onOverflow: "truncateRight" }))).toThrow(
      /no example is left: 1 given, 1 longer than maxLength 16, 1 without/,
    );
  });
});

describe("batches", () => {
  const examples = make([3, 9, 4, 16, 2, 7, 7, 12, 5, 6]);
  const flat = (rows: Iterable<PackedRow>): number[] => [...rows].flatMap((r) => [...Array.from(r.ids), -1]);

  test("same seed, same batches; other seed, other order; every token once per epoch", async () => {
    const a = new BatchStream(examples, options());
    const b = new BatchStream(examples, options());
    for (let i = 0; i < 20; i++) expect(flat((await a.next()).rows)).toEqual(flat((await b.next()).rows));
    const epoch = (seed: number): number[] => [...new BatchStream(examples, options({ seed })).rows(0)].flatMap((r) => Array.from(r.ids));
    expect(epoch(1)).not.toEqual(epoch(2));
    expect(epoch(1).sort((x, y) => x - y)).toEqual(Array.from({ length: 71 }, (_, i) => i));
    expect(flat((await new BatchStream(examples, options({ shuffle: false })).next()).rows)[0]).toBe(0);
  });

  test.each(["document", "none", "esft"] as const)("%s: resumes exactly from any cursor, through JSON", async (packing) => {
    const given = options({ packing, padId: 0 });
    const whole = new BatchStream(examples, given);
    for (let i = 0; i < 17; i++) {
      const cursor = JSON.parse(JSON.stringify(whole.cursor));
      const resumed = new BatchStream(examples, given);
      resumed.restore(cursor);
      const expected = await whole.next();
      expect(flat((await resumed.next()).rows)).toEqual(flat(expected.rows));
      expect([...expected.rows]).toHaveLength(2);
    }
    expect(whole.cursor.epoch).toBeGreaterThan(1);
  });

  test("a cursor of other data or options is refused", () => {
    const { cursor } = new BatchStream(examples, options());
    expect(() => new BatchStream(make([3, 9]), options()).restore(cursor)).toThrow(ConfigError);
    expect(() => new BatchStream(examples, options({ maxLength: 17 })).restore(cursor)).toThrow(/differ from those of the run/);
    expect(() => new BatchStream(examples, options()).restore({ ...cursor, row: 99 })).toThrow(/does not exist/);
  });

  test("the paper's packing needs what it pads with", () => {
    expect(() => new BatchStream(examples, options({ packing: "esft" }))).toThrow(ConfigError);
  });

  test("a held-out part is chosen by seed and disjoint", () => {
    const { train, heldOut } = examples.split(0.3, 4);
    expect([train.length, heldOut.length]).toEqual([7, 3]);
    const first = (e: Examples): number[] => [...e].map((x) => x.inputIds[0] as number);
    expect([...first(train), ...first(heldOut)].sort((a, b) => a - b)).toEqual(first(examples));
    expect(first(examples.split(0.3, 4).heldOut)).toEqual(first(heldOut));
    expect(train.fingerprint()).not.toBe(heldOut.fingerprint());
  });
});
