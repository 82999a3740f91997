// The time of a run: when its signal fires, what a run says that ran out of it, and that it goes on to the same bits. No GPU.
// Alone: npx vitest run test/train/time_limit.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { TrainEvent } from "../../lib/train/events.ts";
import { CheckedRequest } from "../../lib/train/request.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { TimeLimit } from "../../lib/train/time_limit.ts";
import { runTraining } from "../../lib/train/trainer.ts";
import { cli } from "../cli/support.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { tinyExamples, tinyTraining, trainOptions } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
afterEach(() => vi.useRealTimers());

describe("the limit", () => {
  it("fires when its hours are over, not before", () => {
    vi.useFakeTimers();
    using limit = new TimeLimit(1.5);
    vi.advanceTimersByTime(1.5 * 3_600_000 - 1);
    expect(limit.signal.aborted).toBe(false);
    vi.advanceTimersByTime(1);
    expect(limit.signal.aborted).toBe(true);
  });
  it("never fires without hours, and not once it is disposed of", () => {
    vi.useFakeTimers();
    const limits = [new TimeLimit(undefined), new TimeLimit(1), new TimeLimit(500)];
    limits[1]![Symbol.dispose]();
    vi.advanceTimersByTime(499 * 3_600_000);
    expect(limits.map((l) => l.signal.aborted)).toEqual([false, false, false]);
    vi.advanceTimersByTime(3_600_000);
    expect(limits.map((l) => l.signal.aborted)).toEqual([false, false, true]);
  });
  it.each([0, -1, 501, "1h"])("of %s hours is refused", (maxHours) => {
    const request = { data: "d", method: "full", outDir: "o", maxHours } as unknown as TrainRequest;
    expect(() => CheckedRequest.parse(request)).toThrow(/^train\.maxHours: expected a number/);
  });
});

describe("a run", () => {
  let tiny: TinyTraining;
  beforeAll(async () => void (tiny = await tinyTraining()));
  afterAll(() => tiny.close());

  /** A start of a run whose time is used up when `when` says so. */
  async function run(name: string, when: (event: TrainEvent) => boolean = () => false, signal?: AbortSignal) {
    const [events, timeUp] = [[] as TrainEvent[], new AbortController()];
    const summary = await runTraining({
      model: tiny.model,
      trainable: tiny.trainable,
      train: tinyExamples(40),
      heldOut: tinyExamples(6, 2),
      options: trainOptions({ steps: 9, saveEvery: 4, evalEvery: 3, maxHours: 2 }),
      outDir: at(name),
      base: "tiny",
      padId: 0,
      hostBytes: 0,
      signal,
      timeUp: timeUp.signal,
      emit: (event) => {
        events.push(event);
        if (when(event)) timeUp.abort();
      },
      keepBest: async () => undefined,
      beforeSave: async () => undefined,
    }).finally(() => {
      tiny.model.freeze();
      tiny.model.release();
    });
    const figures = events.flatMap((e) => (e.type === "step" ? [[e.step, e.loss, e.gradNorm]] : []));
    return { summary, events, figures, done: events.at(-1)! };
  }

  it("out of time saves and says so; every start has the time again, and the end is the same", async () => {
    const whole = await run("whole");
    expect(whole.summary).toMatchObject({ reason: "finished", stopped: null });
    const parts = [
      await run("parts", (e) => e.type === "start"),
      await run("parts", (e) => e.type === "step" && e.step === 2),
      await run("parts", (e) => e.type === "step" && e.step === 6), // before its evaluation
      await run("parts"),
    ];
    expect(parts.map(({ summary }) => [summary.reason, summary.step])).toEqual([["interrupted", 0], ["interrupted", 2], ["interrupted", 6], ["finished", 9]]); // prettier-ignore
    expect(parts.map(({ summary }) => summary.stopped?.by)).toEqual(["time", "time", "time", undefined]);
    expect(parts.map(({ done }) => done)).toMatchObject([
      { type: "done", step: 0, reason: "time", message: "its time is used up (maxHours 2), with 0 updates in it" },
      { reason: "time", message: "its time is used up (maxHours 2), with 2 updates in it" },
      { reason: "time", message: "its time is used up (maxHours 2), with 4 updates in it" },
      { reason: "finished" },
    ]);
    for (const { events } of parts.slice(0, 3)) expect(events.slice(-2).map((e) => e.type)).toEqual(["checkpoint", "done"]);
    expect(parts.flatMap((p) => p.figures)).toEqual(whole.figures);
    expect(parts[3]!.summary).toMatchObject({ best: whole.summary.best, lastEval: whole.summary.lastEval, tokens: whole.summary.tokens });
  });

  it("that was interrupted was not out of time", async () => {
    const stop = new AbortController();
    const { summary, done } = await run("both", (e) => e.type === "step" && e.step === 2 && (stop.abort(), true), stop.signal);
    expect([summary.stopped, done]).toMatchObject([null, { reason: "interrupted" }]);
  });
});

it("on the command line it ends with exit code 0 and the way on; another limit is no other run", async () => {
  await writeTinyModel(at("model"), tinyDeepseek);
  writeFileSync(at("rows.jsonl"), toyRows(40).map((r) => JSON.stringify(r)).join("\n")); // prettier-ignore
  const flags = ["--max-length", "64", "--rows-per-step", "4", "--lr", "1e-3", "--method", "full", "--steps", "2"];
  const train = (out: string, ...more: string[]) =>
    cli(["train", "--model", at("model"), "--data", at("rows.jsonl"), ...flags, ...more, "--out", at(out)]);
  const { code, out, err } = await train("timed", "--max-hours", "1e-9");
  expect([code, out]).toEqual([0, ""]);
  expect(err).toContain("step 0: the run ends here: its time is used up (maxHours 1e-9), with 0 updates in it");
  expect(err).toContain(`checkpoint at step 0 in ${at("timed")}; go on with: esft resume ${at("timed")}`);
  expect((await cli(["resume", at("timed"), "--max-hours", "400"])).code).toBe(0);
  await train("untimed");
  expect(readFileSync(at("timed/adapter.safetensors")).equals(readFileSync(at("untimed/adapter.safetensors")))).toBe(true);
});
