// A training run as a user starts it: held-out loss falls, frozen weights stay, an interrupted run resumes to the same bits,
// threads do not matter, bad options are refused. No GPU. Alone: npx vitest run test/train/run.test.ts

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/io/dataset.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent } from "../../lib/index.ts";
import type { TrainRequest } from "../../lib/train/run.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-run-"));
  await writeTinyModel(join(root, "model"), tinyDeepseek);
});
afterAll(() => rm(root, { recursive: true, force: true }));

const experts = new ExpertSet({ layers: [[1, { ranked: [0, 3] }], [2, { ranked: [5] }]] });

function request(outDir: string, more: Partial<TrainRequest> = {}): TrainRequest {
  return {
    dataset: Dataset.fromRows(toyRows(80)),
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
    data: { maxLength: 64 },
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
    await expect(train("whole")).rejects.toMatchObject({ code: "ERR_CONFIG", message: expect.stringContaining("holds a run already") as string });
    await expect(train("whole", { resume: true, seed: 2 })).rejects.toMatchObject({ code: "ERR_CONFIG", message: expect.stringContaining("other options") as string });
  });

  it("names the nearest key for an unknown option", async () => {
    const bad = { evalEvry: 3 } as Partial<TrainRequest>;
    await expect(train("bad", bad)).rejects.toMatchObject({ code: "ERR_CONFIG", message: expect.stringContaining('did you mean "evalEvery"') as string });
  });

  it("keeps the best adapter by held-out loss", async () => {
    const { result, events } = await train("best", { keep: "best", steps: 20, optimizer: { lr: 0.3, clipNorm: 0 }, evalEvery: 2 });
    const evals = events.filter((e) => e.type === "eval");
    const best = evals.reduce((a, b) => (b.loss < a.loss ? b : a));
    expect(result.best).toEqual({ step: best.step, loss: best.loss });
  });
});
