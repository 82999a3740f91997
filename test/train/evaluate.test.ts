// Held-out loss against logits taken one document at a time: means over supervised tokens alone, however rows fall into batches.
// No GPU. Alone: npx vitest run test/train/evaluate.test.ts

import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import type { Rows } from "../../lib/data/epoch.ts";
import { BatchStream } from "../../lib/data/stream.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { evaluateRows } from "../../lib/train/evaluate.ts";
import { tinyExamples, tinyTraining } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());
afterEach(() => vi.restoreAllMocks());

const examples = tinyExamples(17, 5);
const rowsOf = (packing: "none" | "document" = "none", of = examples): Rows =>
  new BatchStream(of, { packing, maxLength: 16, onOverflow: "error", seed: 0, rowsPerBatch: 1, shuffle: false }).rows();

/** Sums over every target, from the logits of each example alone. */
async function byLogits(): Promise<{ loss: number; correct: number; targets: number; tokens: number; all: number }> {
  const sums = { loss: 0, correct: 0, targets: 0, tokens: 0, all: 0 };
  for (const { inputIds, labels } of examples) {
    using logits = tiny.model.logits(hostBatch([{ ids: inputIds, targets: inputIds.map(() => -100) }]));
    const values = await logits.readF32();
    sums.tokens += inputIds.length;
    for (let t = 0; t + 1 < inputIds.length; t++) {
      const row = values.subarray(t * 64, (t + 1) * 64);
      const right = row.every((x) => x <= row[inputIds[t + 1]!]!);
      if (right) sums.all++;
      if (labels[t + 1] === -100) continue;
      sums.targets++;
      if (right) sums.correct++;
      sums.loss += Math.log(row.reduce((n, x) => n + Math.exp(x), 0)) - row[inputIds[t + 1]!]!;
    }
  }
  return sums;
}

describe("evaluation", () => {
  it("is a mean over supervised tokens, whatever the batching and packing", async () => {
    const { loss, correct, targets, tokens } = await byLogits();
    expect(targets).toBeLessThan(tokens - examples.length);
    expect(correct).toBeGreaterThan(0);
    for (const packing of ["none", "document"] as const)
      for (const tokensPerBatch of [1, 16, 40, 10_000]) {
        const found = await evaluateRows(tiny.model, rowsOf(packing), tokensPerBatch);
        expect(found.loss).toBeCloseTo(loss / targets, 5);
        expect(found.perplexity).toBe(Math.exp(found.loss));
        expect(found.accuracy).toBe(correct / targets);
        expect([found.tokens, found.supervised]).toEqual([tokens, targets]);
        // Again: nothing is left of the sums of before.
        expect(await evaluateRows(tiny.model, rowsOf(packing), tokensPerBatch)).toEqual(found);
      }
  });

  it("runs as many rows at once as fit the tokens, at least one, in order, and prepares for the largest batch", async () => {
    const rows = rowsOf();
    const sizes = [...rows].map((row) => row.ids.length);
    const batches: number[] = [];
    const evaluate = tiny.model.evaluate.bind(tiny.model);
    vi.spyOn(tiny.model, "evaluate").mockImplementation((host) => {
      batches.push(host.ids.length);
      evaluate(host);
    });
    const prepare = vi.spyOn(tiny.model, "prepare");
    const progress: number[] = [];
    await evaluateRows(tiny.model, rows, 30, { onProgress: (p) => progress.push(p.done, p.total) });
    const wanted: number[] = [];
    const done: number[] = [];
    for (let at = 0; at < sizes.length;) {
      let size = sizes[at++]!;
      while (at < sizes.length && size + sizes[at]! <= 30) size += sizes[at++]!;
      wanted.push(size);
      done.push(at, sizes.length);
    }
    expect(batches).toEqual(wanted);
    expect(progress).toEqual(done);
    const all = sizes.reduce((a, b) => a + b, 0);
    await evaluateRows(tiny.model, rows, 2);
    await evaluateRows(tiny.model, rows, 9999);
    expect(prepare.mock.calls).toEqual([[30, false], [Math.max(...sizes), false], [all, false]]); // prettier-ignore
  });

  it("of no rows takes nothing and is 0", async () => {
    const prepare = vi.spyOn(tiny.model, "prepare");
    expect(await evaluateRows(tiny.model, rowsOf().first(0), 30)).toEqual({
      loss: 0,
      perplexity: 1,
      accuracy: 0,
      tokens: 0,
      supervised: 0,
    });
    expect(prepare).not.toHaveBeenCalled();
  });

  it("stops at a signal between batches", async () => {
    const stop = new AbortController();
    const seen: number[] = [];
    const onProgress = ({ done }: { done: number }): void => {
      seen.push(done);
      stop.abort();
    };
    await expect(evaluateRows(tiny.model, rowsOf(), 16, { signal: stop.signal, onProgress })).rejects.toMatchObject({
      code: "ERR_ABORTED",
      message: "evaluation was aborted",
    });
    expect(seen.length).toBe(1);
  });

  it("says where to look when the routing meets what is not finite", async () => {
    vi.spyOn(tiny.model.device, "synchronize").mockRejectedValueOnce(new Error("other"));
    await expect(evaluateRows(tiny.model, rowsOf(), 16)).rejects.toThrow("other");
  });

  it("of a row longer than the batch is that of the row", async () => {
    const builder = new ExampleBuilder();
    builder.add({ inputIds: [1, 2, 3, 4], labels: [1, 2, 3, 4] }, 1);
    expect(await evaluateRows(tiny.model, rowsOf("none", builder.build(null)), 2)).toMatchObject({ tokens: 4, supervised: 3 });
  });
});
