// How long a run is: steps, epochs or stages, rows of epochs as training takes them, and that a run of epochs is the run of as many
// steps, told before it begins, resumed to the same bits. No GPU. Alone: npx vitest run test/train/length.test.ts

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readJob, readRunJob } from "../../lib/cli/job.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { ceilOf, rowsOf, stepsAsked } from "../../lib/train/length.ts";
import { CheckedRequest } from "../../lib/train/request.ts";
import { learningRate } from "../../lib/train/schedule.ts";
import { trainingStream } from "../../lib/train/streams.ts";
import { cli } from "../cli/support.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { tinyExamples, trainOptions } from "../support/tiny_training.ts";
import { runUntil } from "../support/training_run.ts";

const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
let model: MoeModel;
beforeAll(async () => {
  await writeTinyModel(at("model"), tinyDeepseek);
  writeFileSync(at("rows.jsonl"), toyRows(40).map((r) => JSON.stringify(r)).join("\n")); // prettier-ignore
  model = await MoeModel.fromPretrained(at("model"), { threads: 2 });
});
afterAll(() => model.dispose());

const stages = [
  { targets: "attention", steps: 2 },
  { targets: "experts", steps: 3 },
];

describe("the updates of a request", () => {
  it.each([
    [{}, 500],
    [{ steps: 7 }, 7],
    [{ stages }, 5],
    [{ steps: 5, stages }, 5],
    [{ epochs: 0.5 }, undefined],
  ])("%j are %s", (asked, steps) => expect(stepsAsked(asked)).toBe(steps));
  it.each([
    [{ steps: 5, epochs: 1 }, "epochs", /^train\.epochs: expected either epochs or steps, found both; leave one of them out$/],
    [{ stages, epochs: 1 }, "epochs", /^train\.epochs: expected either epochs or stages \(which have steps of their own\), found both/],
    [{ stages, steps: 6 }, "steps", /^train\.steps: expected 5, the sum of the stages' steps \(leave it out\), found 6$/],
  ])("%j are refused", (asked, key, message) => {
    const request = { data: "d", method: "full", outDir: "o", ...asked } as unknown as TrainRequest;
    expect(() => CheckedRequest.parse(request)).toThrow(expect.objectContaining({ where: { key }, message: expect.stringMatching(message) as string })); // prettier-ignore
  });
  it.each([0, -1, "two", NaN])("%s epochs are none", (epochs) => {
    const request = { data: "d", method: "full", outDir: "o", epochs } as unknown as TrainRequest;
    expect(() => CheckedRequest.parse(request)).toThrow(/^train\.epochs: expected a number > 0, found /);
  });
});

describe("the rows of epochs", () => {
  it.each(["document", "none", "esft"])("are those that training takes, packing %s", async (packing) => {
    const options = trainOptions({ rowsPerStep: 1, data: { packing, maxLength: 32 } });
    const taken: number[] = [];
    const stream = trainingStream(tinyExamples(37), options, 0);
    for (let batch = await stream.next(); batch.epoch < 3; batch = await stream.next()) taken[batch.epoch] = (taken[batch.epoch] ?? 0) + 1;
    const [first, second, third] = taken as [number, number, number];
    const counted = trainingStream(tinyExamples(37), options, 0);
    const rows = (epochs: number): Promise<number> => rowsOf(counted, epochs);
    expect(await Promise.all([rows(1), rows(2), rows(3)])).toEqual([first, first + second, first + second + third]);
    expect(await rows(0.5)).toBe(Math.ceil(first / 2));
    expect(await rows(1.25)).toBe(first + Math.ceil(second / 4));
    expect(await rows(1e-9)).toBe(1);
    expect(counted.cursor).toMatchObject({ epoch: 0, row: 0 });
  });
  it("stops counting when the signal fires", async () => {
    const stop = new AbortController();
    let asked = 0;
    const stream = { rowsInEpoch: () => (++asked === 3 && stop.abort(), 4) };
    await expect(rowsOf(stream, 100, stop.signal)).rejects.toMatchObject({ code: "ERR_ABORTED" });
    expect(asked).toBe(3);
  });
  it("a product of decimals is no little more than it is", () => {
    expect([ceilOf(0.1 * 3 * 10), ceilOf(0.07 * 100), ceilOf(2.001), ceilOf(0)]).toEqual([3, 7, 3, 0]);
  });
});

const experts = new ExpertSet({ layers: [[1, { ranked: [0, 3] }]] });
async function train(outDir: string, more: Partial<TrainRequest>, stopAt?: number) {
  const { result, events } = await runUntil(
    model,
    {
      data: { file: at("rows.jsonl"), maxLength: 64 },
      method: { type: "esft", experts },
      outDir: at(outDir),
      rowsPerStep: 4,
      evalFraction: 0.1,
      evalEvery: 3,
      saveEvery: 3,
      optimizer: { lr: 5e-3, schedule: "cosine" },
      ...more,
    },
    (e) => e.type === "step" && e.step === stopAt,
  );
  return { result, start: events.find((e) => e.type === "start")! };
}
const adapter = (outDir: string): Buffer => readFileSync(at(outDir, "adapter.safetensors"));

describe("a run of epochs", () => {
  it("tells its rows and updates before the first, and is the run of as many steps", async () => {
    const { start, result } = await train("epochs", { epochs: 2.5 });
    const steps = Math.ceil(start.epochRows! / 4);
    expect(start).toMatchObject({ epochs: 2.5, steps });
    expect(result.step).toBe(steps);
    expect(result.adapter!.training!["options"]).toMatchObject({ epochs: 2.5, steps });
    const plain = await train("steps", { steps });
    expect(plain.start).not.toHaveProperty("epochs");
    expect(adapter("epochs").equals(adapter("steps"))).toBe(true);
    // Cut and resumed from its directory, which keeps what was asked for.
    await train("cut", { epochs: 2.5 }, 4);
    expect(JSON.parse(readFileSync(at("cut/request.json"), "utf8"))).toMatchObject({ epochs: 2.5 });
    expect(JSON.parse(readFileSync(at("cut/request.json"), "utf8"))).not.toHaveProperty("steps");
    const { request } = await readRunJob(at("cut"), {}, { resume: true });
    await model.train(request).result;
    expect(adapter("cut").equals(adapter("steps"))).toBe(true);
    // As a number of steps it is the same run, and longer only where one asks for it.
    for (const [flags, message] of [
      [{ steps: steps + 1 }, new RegExp(`steps ${steps} → ${steps + 1} \\(a longer schedule is taken with --extend`)],
      [{ epochs: 3 }, new RegExp(`steps ${steps} → \\d+ \\(a longer`)],
    ] as const) {
      const { request: longer } = await readRunJob(at("cut"), flags, { resume: true });
      await expect(model.train(longer).result).rejects.toThrow(message);
    }
    const { request: extended } = await readRunJob(at("cut"), { epochs: 3 }, { resume: true, extend: true });
    expect((await model.train(extended).result).extensions).toMatchObject([{ step: steps, from: steps }]);
  });

  it("on the command line says how long it is", async () => {
    const flags = ["--data", at("rows.jsonl"), "--max-length", "64", "--rows-per-step", "16", "--lr", "1e-3", "--method", "full"];
    const { code, err } = await cli(["train", "--model", at("model"), ...flags, "--epochs", "0.5", "--out", at("flags")]);
    expect([code, err]).toEqual([0, expect.stringMatching(/^ {2}0\.5 epochs: (\d+) rows, (\d+) updates$/m)]);
    const [, rows, updates] = /epochs: (\d+) rows, (\d+) updates/.exec(err)!;
    expect(Number(updates)).toBe(Math.ceil(Number(rows) / 16));
  });
});

describe("rates over the steps of epochs", () => {
  it("warm up and decay in shares of them; what does not fit is told before anything is written", async () => {
    const optimizer = { lr: 1e-3, schedule: "wsd", warmupRatio: 0.2, decayRatio: 0.5 } as const;
    const { result } = await train("shares", { epochs: 3, optimizer });
    const lines = readFileSync(at("shares/events.jsonl"), "utf8").trim().split("\n").map((l) => JSON.parse(l) as TrainEvent); // prettier-ignore
    const lr = lines.flatMap((e) => (e.type === "step" ? [e.lr] : []));
    const { optimizer: checked } = CheckedRequest.parse({ data: "d", method: "full", outDir: "o", optimizer }).options;
    expect(lr).toEqual(Array.from({ length: result.step }, (_, i) => learningRate(checked, result.step, i)));
    expect(new Set(lr).size).toBeGreaterThan(2);
    const tooLong = train("too-long", { epochs: 1, optimizer: { schedule: "wsd", decaySteps: 100 } });
    await expect(tooLong).rejects.toThrow(/^train\.optimizer\.decaySteps: .* fit into \d+ steps, found 0 and 100; make/);
    expect(existsSync(at("too-long/request.json"))).toBe(false);
  });
  it("that depend on their number keep it, with a constant schedule too", async () => {
    const optimizer = { lr: 1e-3, warmupRatio: 0.5 };
    await train("warm", { steps: 4, optimizer }, 2);
    await expect(train("warm", { steps: 6, optimizer, resume: true })).rejects.toThrow(/: steps 4 → 6 \(a longer schedule is taken with --extend/);
    await expect(train("warm", { steps: 4, optimizer: { lr: 1e-3 }, resume: true })).rejects.toThrow(/optimizer\.warmupRatio 0\.5 → none/);
    await train("warm", { steps: 4, optimizer, resume: true });
    await train("warm-whole", { steps: 4, optimizer });
    expect(adapter("warm").equals(adapter("warm-whole"))).toBe(true);
  }); // prettier-ignore
});

describe("a flag", () => {
  const base = { model: "m", data: "d", method: "full", outDir: "o" };
  it("of one takes the place of the other in a file; both are one too many", async () => {
    writeFileSync(at("steps.json"), JSON.stringify({ ...base, steps: 3 }));
    writeFileSync(at("epochs.json"), JSON.stringify({ ...base, epochs: 3 }));
    const of = async (file: string, flags: Record<string, unknown>) => {
      const { steps, epochs } = (await readJob(at(file), flags, {})).request.options;
      return { steps, epochs };
    };
    expect(await of("steps.json", { epochs: 2 })).toEqual({ steps: undefined, epochs: 2 });
    expect(await of("epochs.json", { steps: 2 })).toEqual({ steps: 2, epochs: undefined });
    expect(await of("epochs.json", { seed: 2 })).toEqual({ steps: undefined, epochs: 3 });
    writeFileSync(at("warm.json"), JSON.stringify({ ...base, optimizer: { warmupSteps: 3, schedule: "wsd", decayRatio: 0.5, lr: 0.5 } }));
    const { optimizer } = (await readJob(at("warm.json"), { optimizer: { warmupRatio: 0.1, decaySteps: 4 } }, {})).request.options;
    expect(optimizer).toMatchObject({ warmupSteps: 0, warmupRatio: 0.1, decaySteps: 4, lr: 0.5 });
    expect(optimizer.decayRatio).toBeUndefined();
    await expect(of("steps.json", { epochs: 2, steps: 2 })).rejects.toThrow(/either epochs or steps, found both/);
  });
});
