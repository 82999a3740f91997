// A training run as a user starts it: held-out loss falls, frozen weights stay, an interrupted run resumes to the same bits,
// threads do not matter, bad options are refused. No GPU. Alone: npx vitest run test/train/run.test.ts

import { cp, mkdir, mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { forget, temporary } from "../../lib/files/temporary.ts";
import { keptStates } from "../../lib/train/checkpoint.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-run-"));
  await writeTinyModel(join(root, "model"), tinyDeepseek);
});
afterAll(() => rm(root, { recursive: true, force: true }));

const experts = new ExpertSet({
  layers: [
    [1, { ranked: [0, 3] }],
    [2, { ranked: [5] }],
  ],
});

function request(outDir: string, more: Partial<TrainRequest> = {}): TrainRequest {
  return {
    data: { rows: Dataset.fromRows(toyRows(80)), maxLength: 64 },
    method: { type: "esft", experts },
    outDir: join(root, outDir),
    steps: 12,
    rowsPerStep: 4,
    microBatch: 3,
    evalEvery: 4,
    saveEvery: 3,
    evalFraction: 0.1,
    keep: "last",
    optimizer: { lr: 5e-3, schedule: "cosine", warmupSteps: 2 },
    ...more,
  };
}
async function train(outDir: string, more: Partial<TrainRequest> = {}, threads = 2, onEvent?: (e: TrainEvent) => void) {
  const model = await MoeModel.fromPretrained(join(root, "model"), { threads });
  try {
    const run = model.train(request(outDir, more));
    const events: TrainEvent[] = [];
    for await (const e of run) {
      events.push(e);
      onEvent?.(e);
    }
    return { result: await run.result, events };
  } finally {
    model.dispose();
  }
}
const adapterBytes = (outDir: string): Promise<Buffer> => readFile(join(root, outDir, "adapter.safetensors"));

describe("training run", () => {
  it("learns, reports every step, and delivers exactly the selected experts", async () => {
    const { result, events } = await train("plain", { steps: 40, optimizer: { lr: 2e-2 } });
    const steps = events.filter((e) => e.type === "step");
    expect(steps.map((e) => e.step)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
    expect(result.lastEval!).toBeLessThan(result.firstEval! * 0.9);
    expect(result.adapter!.tensors.size).toBe(9);
    expect(steps.every((e) => e.coverage! > 0 && e.coverage! < 1)).toBe(true);
    expect(result.adapter!.frozenDigest).toMatch(/^[0-9a-f]{64}$/);
    const logged = (await readFile(join(root, "plain/events.jsonl"), "utf8")).trim().split("\n");
    expect(logged.map((l) => (JSON.parse(l) as TrainEvent).type)).toEqual(events.map((e) => e.type));
  });

  it("gives the same bits on 1 and 3 threads", async () => {
    await train("one", {}, 1);
    await train("three", {}, 3);
    expect(Buffer.compare(await adapterBytes("one"), await adapterBytes("three"))).toBe(0);
  });

  it("an interrupted run resumes to the bits of an uninterrupted one", async () => {
    await train("whole");
    for (const at of [1, 5, 8]) {
      const stop = new AbortController();
      const out = `cut${at}`;
      const { result } = await train(out, { signal: stop.signal }, 2, (e) => {
        if (e.type === "step" && e.step === at) stop.abort(new Error("stop"));
      });
      expect(result.reason).toBe("interrupted");
      expect(result.adapter).toBeNull();
      const { events } = await train(out, { resume: true });
      expect(events.find((e) => e.type === "start")!.step).toBeGreaterThanOrEqual(at);
      for (const file of ["adapter.safetensors", "adapter.json", "README.md"])
        expect(Buffer.compare(await readFile(join(root, out, file)), await readFile(join(root, "whole", file))), `${out} ${file}`).toBe(0);
    }
  });

  it("refuses to resume with other options, and to write over a run", async () => {
    await expect(train("whole")).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringContaining("holds a run already") as string,
    });
    const evalData = Dataset.fromRows(toyRows(9, 4));
    await expect(train("whole", { resume: true, evalData })).rejects.toMatchObject({ code: "ERR_CONFIG" });
    await expect(train("whole", { resume: true, seed: 2 })).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringContaining("other options") as string,
    });
  });

  it("names the nearest key for an unknown option", async () => {
    const bad = { evalEvry: 3 } as Partial<TrainRequest>;
    await expect(train("bad", bad)).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringContaining('did you mean "evalEvery"') as string,
    });
  });

  it("keeps the best adapter by held-out loss", async () => {
    const { result, events } = await train("best", { keep: "best", steps: 20, optimizer: { lr: 0.3, clipNorm: 0 }, evalEvery: 2 });
    const evals = events.filter((e) => e.type === "eval");
    const best = evals.reduce((a, b) => (b.loss < a.loss ? b : a));
    expect(result.best).toEqual({ step: best.step, loss: best.loss });
  });

  it("interrupted while it evaluates (first, in the middle, last) or delivers, resumes to the same bits", async () => {
    const best = { keep: "best", optimizer: { lr: 0.2, clipNorm: 0 }, evalEvery: 3 } as const;
    for (const [name, more] of [
      ["last", {}],
      ["best", best],
    ] as const) {
      await train(`through-${name}`, more);
      // An abort in the handler of the event before it fires when the evaluation, or the delivery, has begun.
      const moments: [string, (e: TrainEvent) => boolean][] = [
        ["first", (e) => e.type === "start"],
        ["middle", (e) => e.type === "step" && e.step === (name === "best" ? 6 : 8)],
        ["final", (e) => e.type === "step" && e.step === 12],
        ["delivery", (e) => e.type === "done"],
      ];
      for (const [moment, fires] of moments) {
        const out = `${moment}-${name}`;
        const stop = new AbortController();
        const { result } = await train(out, { ...more, signal: stop.signal }, 2, (e) => fires(e) && stop.abort(new Error("stop")));
        expect([result.reason, result.adapter], out).toEqual(["interrupted", null]);
        if (moment === "first") expect(result.step).toBe(0);
        await train(out, { ...more, resume: true });
        for (const file of ["adapter.safetensors", "adapter.json"])
          expect(
            Buffer.compare(await readFile(join(root, out, file)), await readFile(join(root, `through-${name}`, file))),
            `${out} ${file}`,
          ).toBe(0);
      }
    }
  });

  it("goes on from the last whole state when the process was killed while it saved the next", async () => {
    const stop = new AbortController();
    await train("torn", { signal: stop.signal }, 2, (e) => e.type === "step" && e.step === 5 && stop.abort(new Error("stop")));
    const [newest] = await keptStates(join(root, "torn"));
    const half = temporary(join(root, "torn/checkpoint/0009-step-6"));
    forget(half);
    await mkdir(half);
    await cp(join(newest!.path, "run.json"), join(half, "run.json"));
    const { events } = await train("torn", { resume: true });
    expect(events.find((e) => e.type === "start")!.step).toBe(5);
    expect(Buffer.compare(await adapterBytes("torn"), await adapterBytes("through-last"))).toBe(0);
    await expect(stat(half)).rejects.toThrow("ENOENT");
  });

  it("begins a log anew when a run was killed before its first checkpoint", async () => {
    await mkdir(join(root, "early"));
    await cp(join(root, "torn/events.jsonl"), join(root, "early/events.jsonl"));
    const { events } = await train("early", { steps: 2 });
    const logged = (await readFile(join(root, "early/events.jsonl"), "utf8")).trim().split("\n");
    expect(logged.length).toBe(events.length);
  });

  it("refuses fewer steps than done, and an adapter's directory without a checkpoint", async () => {
    await expect(train("torn", { resume: true, steps: 3 })).rejects.toMatchObject({ code: "ERR_CONFIG" });
    await cp(join(root, "torn"), join(root, "kept"), { recursive: true });
    await rm(join(root, "kept/checkpoint"), { recursive: true });
    for (const resume of [true, false])
      await expect(train("kept", { resume })).rejects.toMatchObject({
        code: "ERR_CONFIG",
        message: expect.stringContaining("holds an adapter already") as string,
      });
  });

  const burst = { optimizer: { lr: 1e30, clipNorm: 0 }, evalEvery: 0, steps: 30 } as const;
  const top = new ExpertSet({ layers: [[2, { ranked: [0, 1, 2, 3, 4, 5, 6, 7] }]] });

  it("says at which step the weights diverged, when routing meets it first", async () => {
    await expect(train("diverged", burst)).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
      message: expect.stringMatching(/after 1 steps the trained weights have diverged.*no checkpoint/) as string,
    });
  });

  it("skips updates with non-finite gradients and gives up after five, saying where", async () => {
    const model = await MoeModel.fromPretrained(join(root, "model"), { threads: 2 });
    const run = model.train(request("burst", { ...burst, method: { type: "esft", experts: top }, saveEvery: 1 }));
    const events: TrainEvent[] = [];
    const failure = { code: "ERR_NON_FINITE", message: expect.stringMatching(/5 steps in a row/) as string };
    await expect(
      (async () => {
        for await (const e of run) events.push(e);
      })(),
    ).rejects.toMatchObject(failure);
    await expect(run.result).rejects.toMatchObject(failure);
    expect(events.filter((e) => e.type === "warning").length).toBe(5);
    // What was saved is finite all the same, and the model is free and unchanged.
    const [newest] = await keptStates(join(root, "burst"));
    const state = await readFile(join(newest!.path, "run.json"), "utf8");
    expect(JSON.parse(state)).toMatchObject({ skipped: 4 });
    const { loss } = await model.evaluate(Dataset.fromRows(toyRows(8)), { maxLength: 64 });
    expect(loss).toBeLessThan(10);
    model.dispose();
  });

  it("refuses what does not fit in memory before it allocates or writes anything", async () => {
    const huge = { rowsPerStep: 100_000_000, microBatch: 100_000_000, data: { rows: Dataset.fromRows(toyRows(80)), maxLength: 256 } };
    await expect(train("huge", huge)).rejects.toMatchObject({
      code: "ERR_MEMORY",
      message: expect.stringMatching(/needs .*TiB.*are available.*1\. microBatch \d+/) as string,
    });
    await expect(stat(join(root, "huge"))).rejects.toThrow("ENOENT");
  });

  it("refuses a balancing loss that nothing would feel", async () => {
    await expect(train("aux", { auxLoss: 0.01 })).rejects.toMatchObject({ code: "ERR_CONFIG", where: { key: "auxLoss" } });
    const { result } = await train("aux", { auxLoss: 0.01, method: { type: "esft", experts, nonExpertModules: true }, steps: 2 });
    expect(result.reason).toBe("finished");
  });
});
