// Batches whose rows are made as they are read: counted as made, one at a time, over any number of epochs; counting stops at a signal.
// No GPU. Alone: npx vitest run test/data/stream.test.ts

import { describe, expect, it, vi } from "vitest";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import type { Examples } from "../../lib/data/examples.ts";
import type { PackedRow } from "../../lib/data/packing.ts";
import { BatchStream } from "../../lib/data/stream.ts";
import type { BatchOptions } from "../../lib/data/stream.ts";

/** Examples of these lengths with unique ids; the first `prompt` tokens are not supervised. */
function make(lengths: readonly number[], prompt = 1): Examples {
  const builder = new ExampleBuilder();
  let next = 0;
  lengths.forEach((n, i) => {
    const inputIds = Array.from({ length: n }, () => next++);
    builder.add({ inputIds, labels: inputIds.map((id, t) => (t < prompt ? -100 : id)) }, i + 1);
  });
  return builder.build(null);
}
const options = (more: Partial<BatchOptions> = {}): BatchOptions => ({ packing: "document", onOverflow: "truncateRight", maxLength: 16, rowsPerBatch: 2, seed: 1, padId: 9999, ...more }); // prettier-ignore
const lengths = [3, 9, 4, 16, 2, 7, 40, 12, 5, 6, 21];
const idsOf = (rows: Iterable<PackedRow>): number[][] => [...rows].map((r) => [...r.ids]);

describe.each(["document", "none", "esft"] as const)("packing %s", (packing) => {
  it.each(["truncateLeft", "truncateRight", "drop"] as const)("counts what the rows hold, %s", async (onOverflow) => {
    for (const prompt of [0, 1, 5]) {
      const stream = new BatchStream(make(lengths, prompt), options({ packing, onOverflow, rowsPerBatch: 3 }));
      for (let i = 0; i < 6; i++) {
        const { rows, length, tokens, supervised } = await stream.next();
        const made = [...rows];
        expect([length, made.length]).toEqual([3, 3]);
        expect(tokens).toBe(made.reduce((n, r) => n + r.ids.length, 0));
        expect(supervised).toBe(made.reduce((n, r) => n + r.targets.filter((t) => t !== -100).length, 0));
        expect(supervised).toBe(made.reduce((n, r) => n + r.supervised, 0));
      }
      const epoch = stream.rows(3);
      for (let r = 0; r < epoch.length; r++) {
        const row = epoch.make(r);
        expect(epoch.count(r)).toMatchObject({ tokens: row.ids.length, supervised: row.supervised });
      }
    }
  });

  it("a batch over many epochs is the batches of one row that it replaces", async () => {
    const examples = make(lengths);
    const [one, many] = [1, 57].map((rowsPerBatch) => new BatchStream(examples, options({ packing, rowsPerBatch }))) as [BatchStream, BatchStream]; // prettier-ignore
    for (let batch = 0; batch < 2; batch++) {
      const singles: { epoch: number; ids: number[]; tokens: number; supervised: number }[] = [];
      for (let i = 0; i < 57; i++) {
        const { rows, epoch, tokens, supervised } = await one.next();
        singles.push({ epoch, ids: idsOf(rows)[0]!, tokens, supervised });
      }
      const { rows, epoch, tokens, supervised } = await many.next();
      expect(epoch).toBe(singles[0]!.epoch);
      for (const _ of [1, 2]) expect(idsOf(rows)).toEqual(singles.map((s) => s.ids)); // and once more, made anew
      expect(tokens).toBe(singles.reduce((n, s) => n + s.tokens, 0));
      expect(supervised).toBe(singles.reduce((n, s) => n + s.supervised, 0));
      expect(many.cursor).toEqual(one.cursor);
    }
    expect(many.cursor.epoch).toBeGreaterThan(8);
  });
});

describe("rows of an epoch", () => {
  it("are planned once, for the two epochs that were asked for last", () => {
    const stream = new BatchStream(make(lengths), options());
    const [zero, one] = [stream.rows(0), stream.rows(1)];
    expect([stream.rows(0), stream.rows(1), stream.rows()]).toEqual([zero, one, zero]);
    expect([stream.rows(0) === zero, stream.rows(1) === one]).toEqual([true, true]);
    stream.rows(2);
    expect([stream.rows(1) === one, stream.rows(0) === zero]).toEqual([true, false]);
    expect(idsOf(stream.rows(0))).toEqual(idsOf(zero));
  });

  it("can be read again and again, the first few alone too", () => {
    const rows = new BatchStream(make(lengths), options({ packing: "none", shuffle: false })).rows();
    const all = idsOf(rows);
    expect(all.map((ids) => ids.length)).toEqual(lengths.map((n) => Math.min(n, 16)));
    expect(idsOf(rows)).toEqual(all);
    expect([rows.first(3).length, rows.first(99).length, rows.first(3).first(5).length]).toEqual([3, 11, 3]);
    expect(idsOf(rows.first(3))).toEqual(all.slice(0, 3));
  });

  it("are made only when they are read", async () => {
    const examples = make(lengths);
    const stream = new BatchStream(examples, options({ packing: "none", rowsPerBatch: 8 }));
    const get = vi.spyOn(examples, "get");
    const { rows } = await stream.next();
    expect(get).not.toHaveBeenCalled();
    const reading = rows[Symbol.iterator]();
    reading.next();
    reading.next();
    expect(get).toHaveBeenCalledTimes(2);
  });
});

describe("a batch too large to be counted at once", () => {
  const examples = make([4, 5, 6]);
  it("lets the event loop turn, and stops at the signal with the cursor where it was", async () => {
    const stream = new BatchStream(examples, options({ rowsPerBatch: Number.MAX_SAFE_INTEGER }));
    const { cursor } = stream;
    const stop = new AbortController();
    setTimeout(() => stop.abort(new Error("enough")), 20);
    await expect(stream.next(stop.signal)).rejects.toMatchObject({ code: "ERR_ABORTED", message: "training was aborted" });
    expect(stream.cursor).toEqual(cursor);
  });

  it("is one all the same", async () => {
    const n = 3 * 10_000;
    const [whole, half] = [n, n / 2].map((rowsPerBatch) => new BatchStream(examples, options({ packing: "none", rowsPerBatch }))) as [BatchStream, BatchStream]; // prettier-ignore
    expect(await whole.next()).toMatchObject({ length: n, tokens: 150_000, supervised: 120_000 });
    await half.next();
    await half.next();
    expect(half.cursor).toEqual(whole.cursor);
  });
});
