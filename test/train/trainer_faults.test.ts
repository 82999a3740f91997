// A training loop in trouble: losses that are not finite, weights that diverge, saves that are refused, held-out rows of which nothing can
// be told. No GPU. Alone: npx vitest run test/train/trainer_faults.test.ts

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import { KernelError, LayoutError, NonFiniteError } from "../../lib/errors.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { keptStates, readRun } from "../../lib/train/checkpoint.ts";
import type { TrainEvent } from "../../lib/train/events.ts";
import { runTraining } from "../../lib/train/trainer.ts";
import type { TrainerInit } from "../../lib/train/trainer.ts";
import { tempDir } from "../support/fixture.ts";
import { withoutFsync } from "../support/faulty_disk.ts";
import { tinyExamples, tinyTraining, trainOptions } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

withoutFsync();
const root = tempDir();
let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());
afterEach(() => vi.restoreAllMocks());

/** A run in a directory of this name, to its end: what it told, and what it gave or threw. */
async function run(name: string, options: Record<string, unknown> = {}, more: Partial<TrainerInit> = {}) {
  const events: TrainEvent[] = [];
  const kept: number[] = [];
  const made = {
    model: tiny.model,
    trainable: tiny.trainable,
    train: tinyExamples(40),
    heldOut: null,
    options: trainOptions({ saveEvery: 2, ...options }),
    outDir: join(root, name),
    base: "tiny",
    padId: 0,
    hostBytes: 7,
    emit: (event: TrainEvent) => void events.push(event),
    keepBest: async (step: number) => void kept.push(step),
    beforeSave: async () => undefined,
    ...more,
  };
  const ended = await runTraining(made).then((summary) => ({ summary, error: null }), (error: unknown) => ({ summary: null, error })); // prettier-ignore
  tiny.model.freeze();
  tiny.model.release();
  return { ...ended, events, kept, told: events.map((e) => `${e.type} ${e.step}`) };
}
/** The sums of loss that the device reports, in this order; then as they are. */
function losses(...values: (number | null)[]): void {
  const readLoss = tiny.model.readLoss.bind(tiny.model);
  vi.spyOn(tiny.model, "readLoss").mockImplementation(async () => {
    const sums = await readLoss();
    const loss = values.shift() ?? null;
    return loss === null ? sums : { ...sums, loss };
  });
}
const heldOut = tinyExamples(6, 9);

describe("a held-out loss", () => {
  it("that is not finite before the first step is the base's fault, and ends the run", async () => {
    losses(NaN);
    const { error, events } = await run("nan", {}, { heldOut });
    expect(error).toBeInstanceOf(NonFiniteError);
    expect(error).toMatchObject({
      message: expect.stringMatching(/^the held-out loss before the first step is NaN: /) as string,
      where: { step: 0 },
    });
    expect(events.map((e) => e.type)).toEqual(["start"]);
  });

  it("that is not finite later is told, and never the best", async () => {
    losses(null, null, Number.POSITIVE_INFINITY, null, NaN);
    const { summary, events, kept } = await run("later", { steps: 2, evalEvery: 1, optimizer: { lr: 0 } }, { heldOut });
    const evals = events.flatMap((e) => (e.type === "eval" ? [e] : []));
    expect(evals.map((e) => [e.step, e.best, Number.isFinite(e.loss)])).toEqual([[0, true, true], [1, false, false], [2, false, false]]); // prettier-ignore
    expect(kept).toEqual([]);
    expect(summary).toMatchObject({ best: { step: 0, loss: evals[0]!.loss }, firstEval: evals[0]!.loss, lastEval: NaN });
  });

  it("as good as the best so far is not better", async () => {
    const { summary, events, kept } = await run("same", { steps: 2, evalEvery: 1, optimizer: { lr: 0 } }, { heldOut });
    expect(events.flatMap((e) => (e.type === "eval" ? [e.best] : []))).toEqual([true, false, false]);
    expect([kept, summary!.best!.step]).toEqual([[], 0]);
  });

  it("is taken over the first rows alone where so many are asked for, and is none where they have no target", async () => {
    // Packed as the paper does, a row may hold a prompt alone.
    const builder = new ExampleBuilder();
    const inputIds = Array.from({ length: 16 }, (_, i) => i);
    for (const labels of [inputIds.map(() => -100), inputIds]) builder.add({ inputIds, labels }, 1);
    const rows = builder.build(null);
    const of = (evalRows: number) => run(`rows${evalRows}`, { steps: 1, evalRows, data: { packing: "esft", maxLength: 16 } }, { heldOut: rows }); // prettier-ignore
    const { told, events, summary, error } = await of(1);
    expect([error, told]).toEqual([null, ["start 0", "step 1", "checkpoint 1", "done 1"]]);
    expect([events[0], summary]).toMatchObject([{ heldOut: 2 }, { best: null, firstEval: null, lastEval: null }]);
    for (const evalRows of [0, 2, 9])
      expect((await of(evalRows)).events.find((e) => e.type === "eval")).toMatchObject({ step: 0, supervised: 15 });
  });

  it("that fails at once fails as it is; after steps the weights have diverged", async () => {
    const failing = (after: number, error: Error): void => {
      const evaluate = tiny.model.evaluate.bind(tiny.model);
      let calls = 0;
      vi.spyOn(tiny.model, "evaluate").mockImplementation((host) => {
        if (calls++ >= after) throw error;
        evaluate(host);
      });
    };
    const bad = new NonFiniteError("evaluation: layer 1: the routing is NaN", { where: { layer: 1 } });
    failing(0, bad);
    expect((await run("at-once", {}, { heldOut })).error).toBe(bad);
    vi.restoreAllMocks();
    const options = { steps: 3, evalEvery: 1, saveEvery: 2, microBatch: 5 };
    for (const [name, after, step, kept] of [["diverged", 1, 1, /no checkpoint was written yet/], ["saved", 3, 3, /the checkpoint of step 2 is intact/]] as const) {
      failing(after, bad);
      const { error } = await run(name, options, { heldOut });
      expect(error).toMatchObject({ code: "ERR_NON_FINITE", where: { layer: 1, step }, message: expect.stringMatching(kept) as string, cause: bad });
      expect((error as Error).message).toMatch(new RegExp(`^after ${step} steps the trained weights have diverged \\(evaluation: layer 1\\)`));
      vi.restoreAllMocks();
    } // prettier-ignore
    failing(3, new TypeError("a defect"));
    expect((await run("defect", options, { heldOut })).error).toBeInstanceOf(TypeError);
  });
});

describe("a step", () => {
  it("that was skipped says what was not finite", async () => {
    const forwardBackward = tiny.model.forwardBackward.bind(tiny.model);
    vi.spyOn(tiny.model, "forwardBackward").mockImplementationOnce((...args) => {
      forwardBackward(...args);
      const { grad } = tiny.model.params.state!;
      grad.write(new Float32Array(grad.size).fill(Number.POSITIVE_INFINITY));
    });
    const { events } = await run("skipped", { steps: 1, microBatch: 5 });
    const [step] = events.flatMap((e) => (e.type === "step" ? [e] : []));
    expect(events.find((e) => e.type === "warning")).toEqual({
      type: "warning",
      step: 1,
      message: `step 1: loss ${step!.loss}, gradient norm ${step!.gradNorm}; first non-finite value in the gradient of ${tiny.trainable.keys[0]}; the update was skipped`,
    });
  });

  it("that fails after others names how many, and the state that is left", async () => {
    const bad = new NonFiniteError("layer 0: NaN");
    const failAt = (n: number): void => {
      const forwardBackward = tiny.model.forwardBackward.bind(tiny.model);
      let calls = 0;
      vi.spyOn(tiny.model, "forwardBackward").mockImplementation((...args) => {
        if (++calls === n) throw bad;
        forwardBackward(...args);
      });
    };
    failAt(1);
    expect((await run("first-step", { microBatch: 5 })).error).toBe(bad);
    vi.restoreAllMocks();
    failAt(4);
    expect((await run("fourth", { microBatch: 5 })).error).toMatchObject({
      message: expect.stringMatching(
        /^after 3 steps .*; the checkpoint of step 2 is intact\. Lower the learning rate, or set clipNorm$/,
      ) as string,
      where: { step: 3 },
    });
  });

  it("that a router refuses is named by its number", async () => {
    vi.spyOn(tiny.model, "forwardBackward").mockImplementation(() => {
      throw new KernelError("topk_route: logits must be finite", { where: { op: "topk_route" } });
    });
    const { error } = await run("refused");
    expect(error).toMatchObject({ code: "ERR_NON_FINITE", message: expect.stringMatching(/^step 1: a router's input is not finite/) as string }); // prettier-ignore
  });

  it("tells the share of trained experts where not all train, and its time", async () => {
    let now = 0;
    vi.spyOn(performance, "now").mockImplementation(() => (now += 1000)); // a second from one look at the clock to the next
    const { events } = await run("clock", { steps: 1 });
    vi.restoreAllMocks();
    const [step] = events.flatMap((e) => (e.type === "step" ? [e] : []));
    expect([step!.seconds, step!.tokensPerSecond]).toEqual([1, step!.tokens]);
    expect(step!.coverage).toBeGreaterThan(0);
    const start = events.find((e) => e.type === "start")!;
    const state = tiny.model.train(tiny.trainable);
    const { instructionSet } = tiny.model.device.info;
    expect(start).toMatchObject({ stateBytes: 16 * state.size, activationBytes: tiny.model.describePlan(true).bytes(2 * 16), device: instructionSet }); // prettier-ignore
    const all = await run("all", { steps: 1 }, { trainable: fullTrainable(tiny.model.spec) });
    expect(Object.keys(all.events.find((e) => e.type === "step")!)).not.toContain("coverage");
  });

  it("after which a run is stopped is saved once, where it was due anyway too", async () => {
    for (const at of [1, 2]) {
      const stop = new AbortController();
      const told: string[] = [];
      const emit = (e: TrainEvent): void => {
        told.push(`${e.type} ${e.step}`);
        if (e.type === "step" && e.step === at) stop.abort();
      };
      const { summary } = await run(`stop${at}`, {}, { emit, signal: stop.signal });
      expect([summary!.reason, told.slice(-3)]).toEqual(["interrupted", [`step ${at}`, `checkpoint ${at}`, `done ${at}`]]);
    }
  });

  it("balances no router that does not train; the model is left without that loss", async () => {
    const { error } = await run("unbalanced", { auxLoss: 0.1 });
    expect([error, existsSync(join(root, "unbalanced"))]).toMatchObject([{ code: "ERR_CONFIG", where: { key: "auxLoss" } }, false]);
    const all = fullTrainable(tiny.model.spec);
    expect((await run("balanced", { auxLoss: 0.1, steps: 1 }, { trainable: all })).error).toBeNull();
    expect(tiny.model.balance).toBe(0);
  });
});

describe("a state", () => {
  it("is saved only when what it rests on is unchanged", async () => {
    let saves = 0;
    const changed = new LayoutError("weights changed");
    const beforeSave = async (): Promise<void> => {
      if (++saves === 2) throw changed;
    };
    const { error, told } = await run("changed", {}, { beforeSave });
    expect([error, saves]).toEqual([changed, 2]);
    expect(told.slice(-3)).toEqual(["checkpoint 2", "step 3", "step 4"]);
    expect((await keptStates(join(root, "changed"))).map((k) => k.step)).toEqual([2]);
  });

  it("is taken up when its best adapter is there, else the one before is", async () => {
    await run("best", { steps: 4, evalEvery: 1, optimizer: { lr: 0.05 } }, { heldOut });
    const named: unknown[] = [];
    const checkBest = async (best: unknown): Promise<void> => {
      named.push(best);
      if (named.length === 1) throw new LayoutError("the best is gone");
    };
    const { events, told } = await run("best", { steps: 4, evalEvery: 1, optimizer: { lr: 0.05 } }, { heldOut, checkBest });
    const [newest, before] = await Promise.all((await keptStates(join(root, "best"))).map((k) => readRun(k)));
    expect([newest!.step, before!.step]).toEqual([4, 2]);
    expect(named[1]).toEqual(before!.best);
    expect(events[0]).toMatchObject({
      type: "warning",
      step: 2,
      message: expect.stringMatching(/^the best is gone\. The state of step 4 .* that of step 2$/) as string,
    });
    expect(told.slice(1, 3)).toEqual(["start 2", "step 3"]);
    const logged = readFileSync(join(root, "best/events.jsonl"), "utf8").trim().split("\n").map((l) => JSON.parse(l) as TrainEvent); // prettier-ignore
    expect(logged.filter((e) => e.type === "step").map((e) => e.step)).toEqual([1, 2, 3, 4]);
  });

  it("belongs to its outDir, which is made with its parents; a log from before it begins anew", async () => {
    const { told } = await run("deep/er/out", { steps: 1 });
    expect(readdirSync(join(root, "deep/er/out")).sort()).toEqual(["checkpoint", "events.jsonl"]);
    const path = join(root, "deep/er/events.jsonl");
    writeFileSync(path, '{"type":"start","step":0}\n');
    await run("deep/er", { steps: 1 });
    expect(readFileSync(path, "utf8").trim().split("\n").length).toBe(told.length);
  });

  it("of a longer schedule is saved before its first step, and says how it was lengthened", async () => {
    const linear = { optimizer: { lr: 0.01, schedule: "linear" } };
    await run("longer", { ...linear, steps: 2 });
    expect((await run("longer", { ...linear, steps: 3 })).error).toMatchObject({ code: "ERR_CONFIG", where: { key: "steps" } });
    const { told, events, summary } = await run("longer", { ...linear, steps: 3 }, { extend: true });
    expect(told).toEqual(["extend 2", "checkpoint 2", "start 2", "step 3", "checkpoint 3", "done 3"]);
    expect(events[0]).toEqual({ type: "extend", step: 2, from: 2, to: 3 });
    expect(summary!.extensions).toEqual([{ step: 2, from: 2, to: 3 }]);
    expect((await readRun((await keptStates(join(root, "longer")))[0]!)).extensions).toEqual(summary!.extensions);
  });
});
