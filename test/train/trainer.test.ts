// The training loop without a run directory's request: stopped inside a step it resumes to the same bits, and what it counts outlives
// the stop. No GPU. Alone: npx vitest run test/train/trainer.test.ts

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { Examples } from "../../lib/data/examples.ts";
import type { TrainEvent } from "../../lib/train/events.ts";
import { runTraining } from "../../lib/train/trainer.ts";
import type { TrainSummary } from "../../lib/train/trainer.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyExamples, tinyTraining, trainOptions } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

const root = tempDir();
let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());
afterEach(() => vi.restoreAllMocks());

interface Part {
  readonly options?: Record<string, unknown>;
  readonly heldOut?: Examples | null;
  readonly stop?: AbortController;
  readonly onEvent?: (event: TrainEvent) => void;
}
/** A run, or one more part of it, in a directory of this name. */
async function run(name: string, { options = {}, heldOut = null, stop = new AbortController(), onEvent }: Part = {}) {
  const events: TrainEvent[] = [];
  const kept: number[] = [];
  const summary: TrainSummary = await runTraining({
    model: tiny.model,
    trainable: tiny.trainable,
    train: tinyExamples(40),
    heldOut,
    options: trainOptions({ saveEvery: 2, ...options }),
    outDir: join(root, name),
    base: "tiny",
    padId: 0,
    hostBytes: 7,
    signal: stop.signal,
    emit: (event) => {
      events.push(event);
      onEvent?.(event);
    },
    keepBest: async (step) => void kept.push(step),
    beforeSave: async () => undefined,
  }).finally(() => {
    tiny.model.freeze();
    tiny.model.release();
  });
  const steps = events.flatMap((e) => (e.type === "step" ? [e] : []));
  return { summary, events, steps, kept };
}
/** A file of the newest state. */
const newest = (name: string, file: string): Buffer => {
  const dir = join(root, name, "checkpoint");
  return readFileSync(join(dir, readdirSync(dir).sort().at(-1)!, file));
};
const saved = (name: string): Record<string, unknown> => JSON.parse(newest(name, "run.json").toString()) as Record<string, unknown>;
const state = (name: string): Buffer => newest(name, "state.safetensors");
/** Calls `at` with the number of each micro-batch of what follows, from 1. */
function onMicroBatch(at: (n: number) => void): void {
  const forwardBackward = tiny.model.forwardBackward.bind(tiny.model);
  let n = 0;
  vi.spyOn(tiny.model, "forwardBackward").mockImplementation((...args) => {
    forwardBackward(...args);
    at(++n);
  });
}
/** Spoils the gradients of these updates, counted over the parts of a run. */
function spoil(steps: readonly number[], microBatches = 3): void {
  onMicroBatch((n) => {
    if (n % microBatches !== 0 || !steps.includes(n / microBatches)) return;
    const { grad } = tiny.model.params.state!;
    grad.write(new Float32Array(grad.size).fill(NaN));
  });
}

describe("stopped inside a step", () => {
  const options = { rowsPerStep: 12, microBatch: 2, steps: 4 };
  it.each([1, 7, 15, 20])("near micro-batch %i it drops the half-made gradient, saves, and resumes to the same bits", async (at) => {
    const straight = await run(`straight${at}`, { options });
    const stop = new AbortController();
    onMicroBatch((n) => n === at && setImmediate(() => stop.abort()));
    const cut = await run(`cut${at}`, { options, stop });
    const step = Math.floor((at - 1) / 6);
    expect(cut.summary).toMatchObject({ reason: "interrupted", step });
    expect(cut.events.slice(-2).map((e) => [e.type, e.step])).toEqual([["checkpoint", step], ["done", step]]); // prettier-ignore
    expect(saved(`cut${at}`)).toMatchObject({ step, optimizerSteps: step, cursor: { epoch: 0, row: 12 * step } });
    vi.restoreAllMocks();
    const rest = await run(`cut${at}`, { options });
    expect(rest.summary).toMatchObject({ reason: "finished", step: 4 });
    const figures = ({ steps }: typeof rest): unknown => steps.map(({ loss, gradNorm, epoch }) => [loss, gradNorm, epoch]);
    expect([...(figures(cut) as []), ...(figures(rest) as [])]).toEqual(figures(straight));
    expect(state(`cut${at}`).equals(state(`straight${at}`))).toBe(true);
    expect(rest.summary.tokens).toBe(straight.summary.tokens);
  });

  it("also while a step of endless rows is counted", async () => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 50);
    const { summary } = await run("endless", { options: { rowsPerStep: Number.MAX_SAFE_INTEGER }, stop });
    expect(summary).toMatchObject({ reason: "interrupted", step: 0 });
    expect(saved("endless")).toMatchObject({ step: 0, cursor: { epoch: 0, row: 0 } });
  });
});

describe("skipped updates", () => {
  const options = { steps: 12, saveEvery: 1 };
  it("in a row are counted over a stop, and the fifth ends the run", async () => {
    const stop = new AbortController();
    spoil([2, 3, 4]);
    const { steps, events } = await run("skip", { options, stop, onEvent: (e) => e.type === "step" && e.step === 4 && stop.abort() });
    expect(steps.map((e) => Number.isFinite(e.gradNorm))).toEqual([true, false, false, false]);
    expect(events.filter((e) => e.type === "warning").map((e) => e.step)).toEqual([2, 3, 4]);
    expect(saved("skip")).toMatchObject({ step: 4, skipped: 3, optimizerSteps: 1 });
    vi.restoreAllMocks();
    spoil([1, 2, 3]);
    const failed: TrainEvent[] = [];
    await expect(run("skip", { options, onEvent: (e) => failed.push(e) })).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
      message: expect.stringMatching(/^step 6: loss .*first non-finite value in the gradient of .*5 steps in a row/) as string,
      where: { step: 6 },
    });
    expect(failed.filter((e) => e.type === "step").map((e) => e.step)).toEqual([5]);
  });

  it("are forgotten after a good one", async () => {
    spoil([1, 2, 3, 4, 6, 7, 8, 9, 11]);
    const { summary, steps } = await run("mixed", { options });
    expect(summary).toMatchObject({ reason: "finished", step: 12 });
    expect(steps.flatMap((e) => (Number.isFinite(e.gradNorm) ? [e.step] : []))).toEqual([5, 10, 12]);
    expect(saved("mixed")).toMatchObject({ skipped: 0, optimizerSteps: 3 });
  });
});

describe("time", () => {
  it("of the parts before counts", async () => {
    const stop = new AbortController();
    let now = 0;
    const clock = vi.spyOn(performance, "now").mockImplementation(() => (now += 1_000_000));
    const first = await run("timed", { stop, onEvent: (e) => e.type === "step" && e.step === 2 && stop.abort() });
    clock.mockRestore();
    expect(first.summary.seconds).toBeGreaterThan(2000);
    const before = saved("timed")["seconds"] as number;
    expect(before).toBeGreaterThan(2000);
    const { summary, steps } = await run("timed");
    expect(summary.seconds).toBeGreaterThan(before);
    expect(summary.seconds).toBeLessThan(before + 600);
    // What is left is taken to go on as all steps so far.
    expect(steps[0]!.etaSeconds).toBeGreaterThan(before / 3);
    expect(steps.at(-1)!.etaSeconds).toBe(0);
  });
});

describe("held-out loss", () => {
  const options = { steps: 5, evalEvery: 2 };
  it("is taken at the start, every so often and at the end; the best is kept", async () => {
    const heldOut = tinyExamples(6, 9);
    const { events, summary, kept } = await run("held", { options, heldOut });
    const evals = events.flatMap((e) => (e.type === "eval" ? [e] : []));
    expect(evals.map((e) => e.step)).toEqual([0, 2, 4, 5]);
    let best = Number.POSITIVE_INFINITY;
    for (const e of evals) {
      expect(e.best).toBe(e.loss < best);
      best = Math.min(best, e.loss);
    }
    expect(summary).toMatchObject({ firstEval: evals[0]!.loss, lastEval: evals.at(-1)!.loss, best: { loss: best } });
    expect(kept).toEqual(evals.filter((e) => e.best && e.step > 0).map((e) => e.step));
    const supervised = [...heldOut].reduce((n, { labels }) => n + labels.slice(1).filter((t) => t >= 0).length, 0);
    expect(evals.map((e) => e.supervised)).toEqual([supervised, supervised, supervised, supervised]);
    const few = await run("few", { options: { ...options, evalRows: 2, evalEvery: 0 }, heldOut });
    const fewEvals = few.events.flatMap((e) => (e.type === "eval" ? [e] : []));
    expect(fewEvals.map((e) => e.step)).toEqual([0, 5]);
    expect(fewEvals[0]!.supervised).toBeLessThan(supervised);
  });

  it("other held-out rows are another run", async () => {
    const stop = (): AbortController => {
      const stop = new AbortController();
      setTimeout(() => stop.abort());
      return stop;
    };
    await run("mine", { heldOut: tinyExamples(6, 9), stop: stop(), options: { steps: 200 } });
    for (const heldOut of [tinyExamples(6, 10), null])
      await expect(run("mine", { heldOut, options: { steps: 200 } })).rejects.toMatchObject({ code: "ERR_CONFIG" });
  });
});

describe("what is told", () => {
  it("begins with the plan and ends with how it ended; checkpoints when they are due", async () => {
    const { events, steps, summary } = await run("told");
    expect(events.map((e) => `${e.type} ${e.step}`)).toEqual(
      ["start 0", "step 1", "step 2", "checkpoint 2", "step 3", "step 4", "checkpoint 4", "done 4"], // prettier-ignore
    );
    expect(events[0]).toMatchObject({ steps: 4, method: "esft", examples: 40, heldOut: 0, precision: "f32", hostBytes: 7, trainedParameters: tiny.trainable.parameters }); // prettier-ignore
    expect(events.at(-1)).toMatchObject({ reason: "finished" });
    expect(summary.tokens).toBe(steps.reduce((n, e) => n + e.tokens, 0));
    for (const e of steps) expect(e.tokensPerSecond).toBeCloseTo(e.tokens / e.seconds, 6);
    const again = await run("told");
    expect(again.events.map((e) => `${e.type} ${e.step}`)).toEqual(["start 4", "done 4"]);
    const more = await run("told", { options: { steps: 5 } }); // a constant schedule may go on
    expect(more.events.map((e) => `${e.type} ${e.step}`)).toEqual(["start 4", "step 5", "checkpoint 5", "done 5"]);
    await expect(run("told", { options: { steps: 3 } })).rejects.toMatchObject({ code: "ERR_CONFIG", where: { key: "steps" } });
  });

  it("stopped before its first step a run has a checkpoint all the same", async () => {
    const stop = new AbortController();
    stop.abort();
    const { events } = await run("early", { stop });
    expect(events.map((e) => `${e.type} ${e.step}`)).toEqual(["start 0", "checkpoint 0", "done 0"]);
  });
});
