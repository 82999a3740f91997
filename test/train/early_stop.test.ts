// Early stopping: which evaluations count, where a run ends and what it delivers, the same wherever it was interrupted, and on with more
// patience. No GPU. Alone: npx vitest run test/train/early_stop.test.ts

import { cpSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { patienceOver, seen } from "../../lib/train/early_stop.ts";
import type { Waiting } from "../../lib/train/early_stop.ts";
import { CheckedRequest } from "../../lib/train/request.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { loggedEvents, runUntil } from "../support/training_run.ts";

const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
beforeAll(() => writeTinyModel(at("model"), tinyDeepseek));

describe("evaluations", () => {
  const walk = (losses: readonly number[], minDelta = 0): number[] => {
    let waiting: Waiting | null = null;
    return losses.map((loss) => (waiting = seen(waiting, loss, { patience: 1, minDelta }))?.evaluations ?? -1);
  };
  it("count from the last one that fell below all before", () => {
    expect(walk([3, 2, 2, 2.5, 1.9, 2, 1.95])).toEqual([0, 0, 1, 2, 0, 1, 2]);
  });
  it("have to fall by minDelta, small steps together too", () => {
    expect(walk([3, 2.75, 2.5, 2.25, 2.25], 0.5)).toEqual([0, 1, 2, 0, 1]);
  });
  it("that are not finite count, and are nothing to fall below", () => {
    expect(walk([NaN, 3, NaN, Infinity, 2])).toEqual([-1, 0, 1, 2, 0]);
  });
  it("are over with the last of the patience, in words", () => {
    const rule = { patience: 2, minDelta: 0 };
    expect(patienceOver({ loss: 1, evaluations: 1 }, rule)).toBeNull();
    expect(patienceOver(null, rule)).toBeNull();
    expect(patienceOver({ loss: 1.23456, evaluations: 2 }, rule)).toBe("the held-out loss did not fall below 1.2346 in 2 evaluations");
    expect(patienceOver({ loss: 1, evaluations: 3 }, { patience: 2, minDelta: 0.1 })).toMatch(/below 1\.0000 by more than 0\.1 in 3 eval/);
  });
});

describe("a request", () => {
  const stages = [{ targets: "attention", steps: 5 }];
  it.each([
    [{ earlyStop: { patience: 2 }, evalEvery: 0 }, /^train\.earlyStop: expected evaluations on the way, found evalEvery 0/],
    [{ earlyStop: { patience: 2 }, stages }, /^train\.earlyStop: expected a run without stages/],
    [{ earlyStop: { minDelta: 2 } }, /^train\.earlyStop\.patience: expected a whole number/],
    [{ earlyStop: { patience: 0 } }, /^train\.earlyStop\.patience: expected a number >= 1, found 0/],
    [{ earlyStop: 3 }, /^train\.earlyStop: expected keys and values, found 3/],
  ])("%j is refused", (more, message) => {
    const request = { data: "d", method: "full", outDir: "o", ...more } as unknown as TrainRequest;
    expect(() => CheckedRequest.parse(request)).toThrow(message);
  });
});

const experts = new ExpertSet({ layers: [[1, { ranked: [0, 3] }], [2, { ranked: [5] }]] }); // prettier-ignore
async function train(outDir: string, more: Partial<TrainRequest> = {}, stopAt?: (e: TrainEvent) => boolean, threads = 2) {
  using model = await MoeModel.fromPretrained(at("model"), { threads });
  const { result, events } = await runUntil(
    model,
    {
      data: { rows: Dataset.fromRows(toyRows(80)), maxLength: 64 },
      method: { type: "esft", experts },
      outDir: at(outDir),
      steps: 60,
      rowsPerStep: 4,
      microBatch: 3,
      evalEvery: 2,
      evalFraction: 0.1,
      saveEvery: 5,
      keep: "best",
      optimizer: { lr: 0.3, clipNorm: 0 },
      earlyStop: { patience: 3 },
      resume: true,
      ...more,
    },
    stopAt,
  );
  return { result, events, done: events.at(-1)! };
}
const logged = (outDir: string): TrainEvent[] => loggedEvents(at(outDir));
const evals = (events: readonly TrainEvent[]) => events.flatMap((e) => (e.type === "eval" ? [e] : []));
const figures = (outDir: string) =>
  logged(outDir).flatMap((e) => (e.type === "step" ? [[e.step, e.loss, e.gradNorm]] : e.type === "eval" ? [[e.step, e.loss, e.best]] : []));
const same = (a: string, b: string): void => {
  for (const file of ["adapter.safetensors", "adapter.json"]) expect(readFileSync(at(a, file)).equals(readFileSync(at(b, file))), `${file} of ${a}`).toBe(true); // prettier-ignore
};

describe("a run", () => {
  it("ends with the evaluation that its patience is over with, finished, and delivers the best adapter", async () => {
    const { result, events, done } = await train("whole");
    const losses = evals(events);
    const best = losses.reduce((a, b) => (b.loss < a.loss ? b : a));
    expect(losses.at(-1)!.step - best.step).toBe(3 * 2);
    expect(result).toMatchObject({ reason: "finished", step: best.step + 6, best: { step: best.step, loss: best.loss } });
    expect(result.step).toBeLessThan(60);
    const message = `the held-out loss did not fall below ${best.loss.toFixed(4)} in 3 evaluations`;
    expect(done).toMatchObject({ type: "done", step: result.step, reason: "earlyStop", message });
    expect(result.stopped).toEqual({ by: "earlyStop", message });
    expect(result.adapter!.training).toMatchObject({ step: best.step, stopped: { by: "earlyStop", message } });
    // The delivered values are those of the best step: the run of as many steps ends in them.
    await train("short", { steps: best.step, keep: "last", earlyStop: undefined });
    expect(readFileSync(at("whole/adapter.safetensors")).equals(readFileSync(at("short/adapter.safetensors")))).toBe(true);
  });

  it("interrupted anywhere, on other numbers of threads, ends where and as it would have", async () => {
    const { step } = (await train("whole")).result;
    const moments: [string, (e: TrainEvent) => boolean][] = [
      ["before the best", (e) => e.type === "step" && e.step === 1],
      ["while it waits", (e) => e.type === "step" && e.step === step - 3],
      ["before the last evaluation", (e) => e.type === "step" && e.step === step],
      ["after it", (e) => e.type === "eval" && e.step === step],
      ["delivering", (e) => e.type === "done"],
    ];
    for (const [i, [name, when]] of moments.entries()) {
      const out = `cut-${i}`;
      expect((await train(out, {}, when)).result.adapter, name).toBeNull();
      const { result } = await train(out, {}, undefined, 1 + i);
      expect(result, name).toMatchObject({ reason: "finished", step, stopped: { by: "earlyStop" } });
      same(out, "whole");
      expect(figures(out)).toEqual(figures("whole"));
    }
  });

  it("that ended goes no further when it is resumed, unless with more patience or without", async () => {
    const before = figures("whole");
    const { events, result } = await train("whole");
    expect(events.filter((e) => e.type === "step")).toEqual([]);
    expect(result).toMatchObject({ reason: "finished", stopped: { by: "earlyStop" } });
    expect(figures("whole")).toEqual(before);
    for (const [out, earlyStop] of [
      ["more", { patience: 5 }],
      ["without", undefined],
    ] as const) {
      // prettier-ignore
      cpSync(at("whole"), at(out), { recursive: true });
      const on = await train(out, { earlyStop, steps: result.step + 2 });
      expect(on.result).toMatchObject({ step: result.step + 2, stopped: null });
      expect(on.done).toMatchObject({ reason: "finished" });
      expect(on.done).not.toHaveProperty("message");
    }
    expect(figures("more")).toEqual(figures("without"));
  });

  it("that began without it waits from its best loss on", async () => {
    const whole = evals(logged("whole"));
    const best = whole.findLast((e) => e.best)!;
    await train("late", { earlyStop: undefined }, (e) => e.type === "step" && e.step === best.step + 1);
    expect((await train("late")).result.step).toBe(best.step + 6);
  });

  it("with nothing held out is refused before anything is written", async () => {
    await expect(train("none", { evalFraction: 0 })).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/^train\.earlyStop: expected held-out rows, found none/) as string,
    });
    expect(() => readFileSync(at("none/request.json"))).toThrow("ENOENT");
  });
});
