// One update: how a batch falls into micro-batches must not matter, what a step holds, where it can be stopped, what a skipped one
// leaves. No GPU. Alone: npx vitest run test/train/update.test.ts

import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { PackedRow } from "../../lib/data/packing.ts";
import { BatchStream } from "../../lib/data/stream.ts";
import type { Batch } from "../../lib/data/stream.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import type { TrainableSpec } from "../../lib/methods/method.ts";
import type { TrainingState } from "../../lib/model/weights/training_state.ts";
import { evaluateRows } from "../../lib/train/evaluate.ts";
import { Update } from "../../lib/train/update.ts";
import type { StepFigures } from "../../lib/train/update.ts";
import { tinyExamples, tinyTraining, trainOptions } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());
afterEach(() => vi.restoreAllMocks());

const examples = tinyExamples(40);
/** Batches of `rows` rows, always the same. */
const batches = (rows = 5): BatchStream =>
  new BatchStream(examples, { packing: "none", maxLength: 16, onOverflow: "error", seed: 3, rowsPerBatch: rows });

/** Works with a fresh update over a fresh state. */
async function withUpdate<T>(
  more: Record<string, unknown>,
  work: (update: Update, state: TrainingState) => Promise<T>,
  trainable: TrainableSpec = tiny.trainable,
): Promise<T> {
  const state = tiny.model.train(trainable);
  const update = new Update(tiny.model, state, trainOptions(more));
  try {
    return await work(update, state);
  } finally {
    vi.restoreAllMocks();
    await tiny.model.device.synchronize().catch(() => undefined);
    update.dispose();
    tiny.model.freeze();
    tiny.model.release();
  }
}
const distance = (a: Float32Array, b: Float32Array): number => Math.hypot(...a.map((x, i) => x - b[i]!)) / Math.hypot(...b);

/** Figures and gradient of one step. */
const stepOf = (more: Record<string, unknown>): Promise<{ figures: StepFigures; grad: Float32Array }> =>
  withUpdate({ optimizer: { lr: 0 }, ...more }, async (update, state) => {
    const figures = await update.apply(await batches().next(), 0);
    return { figures, grad: await state.grad.readF32() };
  });

describe("a batch in micro-batches", () => {
  it("gives the loss, accuracy and gradient of the whole, the last and shorter one included", async () => {
    const whole = await stepOf({ microBatch: 5 });
    expect(whole.figures.loss).toBeGreaterThan(1);
    for (const microBatch of [1, 2, 3, 4]) {
      const { figures, grad } = await stepOf({ microBatch });
      expect(figures.loss / whole.figures.loss, `microBatch ${microBatch}`).toBeCloseTo(1, 5);
      expect(distance(grad, whole.grad), `microBatch ${microBatch}`).toBeLessThan(1e-5);
      const { loss, gradNorm, routing } = figures;
      expect(figures).toEqual({ ...whole.figures, loss, gradNorm, routing });
      const slots = ({ routing: of }: typeof figures): (readonly number[])[] => [...of!.values()].map(({ counts }) => counts);
      expect(slots(figures)).toEqual(slots(whole.figures));
      expect(figures.gradNorm / whole.figures.gradNorm).toBeCloseTo(1, 5);
    }
  });

  it("counts tokens, targets and the share of trained experts of the step alone", async () => {
    await withUpdate({ optimizer: { lr: 0 } }, async (update) => {
      const stream = batches();
      const [a, b] = [await stream.next(), await stream.next()];
      const first = await update.apply(a, 0);
      const rows = [...a.rows];
      expect(first.tokens).toBe(rows.reduce((n, r) => n + r.ids.length, 0));
      expect(first.supervised).toBe(rows.reduce((n, r) => n + r.targets.filter((t) => t >= 0).length, 0));
      expect(first.coverage).toBeGreaterThan(0);
      expect(first.coverage).toBeLessThan(1);
      const other = await update.apply(b, 1);
      expect([other.loss, other.coverage]).not.toEqual([first.loss, first.coverage]);
      // Nothing of one step is left in the next: sums, counts, gradients.
      expect(await update.apply(a, 2)).toEqual(first);
    });
  });

  it("reads nothing of what the gradients were, and leaves the bits of a step over zeros", async () => {
    const batch = await batches().next();
    const outcome = (before: number) =>
      withUpdate({ microBatch: 2, optimizer: { lr: 1e-2 } }, async (update, state) => {
        for (const p of state.parameters) p.grad!.write(new Float32Array(p.shape.reduce((a, b) => a * b, 1)).fill(before));
        const figures = await update.apply(batch, 0);
        const bytes = await Promise.all([state.grad, state.master, state.m, state.v].map(async (t) => Buffer.from(await t.readBytes())));
        return { figures, bytes };
      });
    const zeros = await outcome(0);
    expect(await outcome(Number.NaN)).toEqual(zeros);
    expect(zeros.figures.gradNorm).toBeGreaterThan(0);
  });

  it("has the loss and accuracy of an evaluation of its rows", async () => {
    const stream = batches();
    const rows = stream.rows().first(5);
    const { loss, accuracy, tokens, supervised } = await evaluateRows(tiny.model, rows, 32);
    await withUpdate({}, async (update) => {
      const figures = await update.apply(await stream.next(), 0);
      expect(figures.loss).toBeCloseTo(loss, 5);
      expect(figures).toMatchObject({ accuracy, tokens, supervised, epoch: 0 });
      expect(accuracy).toBeGreaterThan(0);
    });
  });

  it("is scaled by all its targets: a step without any has no gradient and no loss", async () => {
    const rows = [...(await batches().next()).rows].map((row) => ({ ...row, targets: row.targets.map(() => -100), supervised: 0 }));
    const tokens = rows.reduce((n, r) => n + r.ids.length, 0);
    await withUpdate({}, async (update, state) => {
      const figures = await update.apply({ rows, length: 5, epoch: 0, tokens, supervised: 0 }, 0);
      expect(figures).toMatchObject({ loss: 0, accuracy: 0, gradNorm: 0 });
      expect((await state.grad.readF32()).every((x) => x === 0)).toBe(true);
    });
  });

  it("has no coverage where every expert trains", async () => {
    const all = fullTrainable(tiny.model.spec);
    const figures = await withUpdate({}, async (update) => update.apply(await batches().next(), 0), all);
    expect(figures.coverage).toBeNull();
  });

  it("balances the router by auxLoss · supervised / tokens", async () => {
    const all = fullTrainable(tiny.model.spec);
    const seen: number[] = [];
    const forwardBackward = tiny.model.forwardBackward.bind(tiny.model);
    vi.spyOn(tiny.model, "forwardBackward").mockImplementation((...args) => {
      seen.push(tiny.model.balance);
      expect(args[2]).toBe(32); // what activations are planned for: microBatch · maxLength
      forwardBackward(...args);
    });
    const batch = await batches().next();
    await withUpdate({ auxLoss: 0.25 }, (update) => update.apply(batch, 0), all);
    expect(batch.supervised).toBeLessThan(batch.tokens);
    expect(seen).toEqual(Array(3).fill((0.25 * batch.supervised) / batch.tokens));
    expect(tiny.model.balance).toBe(0);
  });

  it("knows the learning rate of its step", async () => {
    const optimizer = { lr: 0.5, schedule: "linear", warmupSteps: 2 };
    await withUpdate({ optimizer, steps: 6 }, async (update) => {
      const batch = await batches().next();
      const rates: number[] = [];
      for (const done of [0, 1, 2, 4]) rates.push((await update.apply(batch, done)).lr);
      expect(rates).toEqual([0.25, 0.5, 0.5, 0.25]);
    });
  });
});

describe("what a step holds", () => {
  /** A batch that says how many of its rows were made. */
  function counted(batch: Batch): { batch: Batch; made: () => number } {
    let made = 0;
    function* rows(): Generator<PackedRow> {
      for (const row of batch.rows) {
        made++;
        yield row;
      }
    }
    return { batch: { ...batch, rows: { [Symbol.iterator]: rows } }, made: () => made };
  }

  it("is one micro-batch of rows, with one more waiting on the device", async () => {
    const { batch, made } = counted(await batches(12).next());
    await withUpdate({ rowsPerStep: 12, microBatch: 2, optimizer: { lr: 0 } }, async (update) => {
      const submitted = vi.spyOn(tiny.model, "forwardBackward").mockImplementation(() => undefined);
      const finished: (() => void)[] = [];
      vi.spyOn(tiny.model.device, "synchronize").mockImplementation(() => new Promise((resolve) => finished.push(resolve)));
      const applied = update.apply(batch, 0);
      const settle = async (): Promise<unknown> => new Promise(setImmediate);
      await settle();
      const seen = [[submitted.mock.calls.length, made()]];
      for (let i = 0; i < 4; i++) {
        finished[i]!();
        await settle();
        seen.push([submitted.mock.calls.length, made()]);
      }
      expect(seen).toEqual([2, 3, 4, 5, 6].map((n) => [n, 2 * n]));
      expect(finished.length).toBe(4); // the last two are waited for with the figures
      await applied;
    });
  });

  it("an ordinary step waits for nothing but its figures", async () => {
    await withUpdate({ rowsPerStep: 4, microBatch: 2 }, async (update) => {
      const wait = vi.spyOn(tiny.model.device, "synchronize");
      await update.apply(await batches(4).next(), 0);
      expect(wait).not.toHaveBeenCalled();
    });
  });

  it("stops between micro-batches at the signal; the update after it has the bits of one never disturbed", async () => {
    const more = { rowsPerStep: 12, microBatch: 2 };
    const straight = await withUpdate(more, async (update, state) => {
      const figures = await update.apply(await batches(12).next(), 0);
      return { figures, master: await state.master.readF32() };
    });
    await withUpdate(more, async (update, state) => {
      const before = await state.master.readF32();
      const stop = new AbortController();
      const { batch, made } = counted(await batches(12).next());
      const forwardBackward = tiny.model.forwardBackward.bind(tiny.model);
      const spy = vi.spyOn(tiny.model, "forwardBackward").mockImplementation((...args) => {
        forwardBackward(...args);
        if (spy.mock.calls.length === 2) setImmediate(() => stop.abort(new Error("enough")));
      });
      await expect(update.apply(batch, 0, stop.signal)).rejects.toMatchObject({ code: "ERR_ABORTED", cause: { message: "enough" } });
      expect(spy.mock.calls.length).toBeLessThan(6);
      expect(made()).toBe(2 * spy.mock.calls.length);
      expect([update.optimizer.steps, await state.master.readF32()]).toEqual([0, before]);
      vi.restoreAllMocks();
      expect(await update.apply(batch, 0)).toEqual(straight.figures);
      expect(await state.master.readF32()).toEqual(straight.master);
    });
  });

  it("a signal that fires in the last micro-batch stops nothing", async () => {
    await withUpdate({ microBatch: 5 }, async (update) => {
      expect((await update.apply(await batches().next(), 0, AbortSignal.abort())).loss).toBeGreaterThan(0);
    });
  });

  it("what the device finds in the middle of a step is thrown there", async () => {
    await withUpdate({ rowsPerStep: 12, microBatch: 1 }, async (update) => {
      vi.spyOn(tiny.model.device, "synchronize").mockRejectedValue(new Error("found"));
      await expect(update.apply(await batches(12).next(), 0)).rejects.toThrow("found");
    });
  });
});

describe("a gradient that is not finite", () => {
  /** Spoils the gradient of parameter number `index` in the next update. */
  function spoil(state: TrainingState, index: number): void {
    const forwardBackward = tiny.model.forwardBackward.bind(tiny.model);
    vi.spyOn(tiny.model, "forwardBackward").mockImplementation((...args) => {
      forwardBackward(...args);
      const grad = state.parameters[index]!.grad!;
      grad.write(new Float32Array(grad.size).fill(NaN, 1, 2)); // one element of it
    });
  }

  it("changes nothing, is named, and is no update in the bias correction", async () => {
    const straight = await withUpdate({}, async (update, state) => {
      const figures = await update.apply(await batches().next(), 0);
      return { figures, all: [await state.master.readF32(), await state.m.readF32(), await state.v.readF32()] };
    });
    await withUpdate({}, async (update, state) => {
      const batch = await batches().next();
      const before = await state.master.readF32();
      spoil(state, 4);
      const figures = await update.apply(batch, 0);
      expect(figures.gradNorm).toBeNaN();
      expect(await update.firstNonFinite()).toBe(`the gradient of ${state.parameters[4]!.key}`);
      expect(update.optimizer.steps).toBe(0);
      expect(await state.master.readF32()).toEqual(before);
      vi.restoreAllMocks();
      expect(await update.apply(batch, 0)).toEqual(straight.figures);
      expect(update.optimizer.steps).toBe(1);
      expect(await update.firstNonFinite()).toBe("the loss");
      expect([await state.master.readF32(), await state.m.readF32(), await state.v.readF32()]).toEqual(straight.all);
    });
  });
});
