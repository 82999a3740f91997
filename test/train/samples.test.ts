// Answers to held-out questions during a run: they are what the model says at that step, and the run ends in the same bits as without.
// No GPU. Alone: npx vitest run test/train/samples.test.ts

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import type { Examples } from "../../lib/data/examples.ts";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import { Sampler } from "../../lib/train/samples.ts";
import type { TrainSession } from "../../lib/train/session.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-samples-"));
  await writeTinyModel(join(root, "model"), tinyDeepseek);
});
afterAll(() => rm(root, { recursive: true, force: true }));

const experts = new ExpertSet({ layers: [[1, { ranked: [0, 3] }]] });
const rows = toyRows(40);

async function train(name: string, more: Partial<TrainRequest> = {}, signal?: AbortSignal, onEvent?: (e: TrainEvent) => void) {
  await using model = await MoeModel.fromPretrained(join(root, "model"), { threads: 2 });
  const run = model.train({
    data: { rows: Dataset.fromRows(rows), maxLength: 64 },
    method: { type: "esft", experts },
    outDir: join(root, name),
    steps: 5,
    rowsPerStep: 4,
    evalEvery: 0,
    saveEvery: 2,
    evalFraction: 0.1,
    keep: "last",
    optimizer: { lr: 2e-2 },
    signal,
    ...more,
  });
  const events: TrainEvent[] = [];
  for await (const e of run) {
    events.push(e);
    onEvent?.(e);
  }
  const result = await run.result;
  return { result, samples: events.flatMap((e) => (e.type === "sample" ? [e] : [])) };
}
const adapterBytes = (name: string): Promise<Buffer> => readFile(join(root, name, "adapter.safetensors"));

describe("answers during a run", () => {
  it("are what the model says at that step, at start and end too", async () => {
    const { samples } = await train("run", { sampleEvery: 2, sampleRows: 2, sampleTokens: 6 });
    expect(samples.map((s) => s.step)).toEqual([0, 0, 2, 2, 4, 4, 5, 5]);
    await using model = await MoeModel.fromPretrained(join(root, "model"), { threads: 1 });
    const tokenizer = await model.tokenizer();
    await model.adapters.add("trained", join(root, "run"));
    for (const [step, adapter] of [
      [0, null],
      [5, "trained"],
    ] as const)
      for (const { prompt, answer } of samples.filter((s) => s.step === step)) {
        const { text } = await model.generate(await tokenizer.encode(prompt), { adapter, maxTokens: 6, text: true }).result();
        expect(answer.trimStart()).toBe(text.trimStart());
      }
    const given = rows.map((r) => JSON.stringify(r));
    for (const { reference } of samples)
      expect(given.some((row) => row.includes(JSON.stringify(reference.trim()).slice(1, -1)))).toBe(true);
    const logged = (await readFile(join(root, "run/events.jsonl"), "utf8")).split("\n").filter((line) => line.includes('"sample"'));
    expect(logged).toHaveLength(8);
  });

  it("leave the run's bits as they are without", async () => {
    await train("with", { sampleEvery: 1 });
    await train("without");
    expect(await adapterBytes("with")).toEqual(await adapterBytes("without"));
  });

  it("may be asked for, or no longer, when a run is resumed", async () => {
    const stop = new AbortController();
    const first = await train("resumed", { sampleEvery: 2 }, stop.signal, (e) => e.type === "sample" && e.step === 2 && stop.abort());
    expect(first.result.reason).toBe("interrupted");
    const { result, samples } = await train("resumed", { resume: true, sampleEvery: 4, sampleRows: 1 });
    expect(result.reason).toBe("finished");
    expect(samples.map((s) => s.step)).toEqual([4, 5]);
    expect(await adapterBytes("resumed")).toEqual(await adapterBytes("without"));
  });

  it("need a question that is held out", async () => {
    const asked = train("none", { sampleEvery: 2, evalFraction: 0 });
    await expect(asked).rejects.toThrow(/train\.sampleEvery 2: expected held-out rows with a question and an answer, found none in 0/);
  });
});

describe("questions", () => {
  const example = (labels: string): Examples => {
    const builder = new ExampleBuilder();
    builder.add(
      { inputIds: Int32Array.from(labels, (_, i) => i + 1), labels: Int32Array.from(labels, (c, i) => (c === "x" ? i + 1 : -100)) },
      7,
    );
    return builder.build("rows.jsonl");
  };
  const asked = async (labels: string, positions = 100): Promise<{ prompts: unknown; samples: readonly object[] }> => {
    let prompts: unknown = null;
    const session = {
      spec: { maxPositions: positions },
      continuations: (of: readonly (readonly number[])[]) => ((prompts = of), Promise.resolve(of.map(() => [9]))),
    } as unknown as TrainSession;
    const tokenizer = { decode: (ids: readonly number[]) => ids.join(" ") } as unknown as ConstructorParameters<typeof Sampler>[1];
    const samples = await new Sampler(session, tokenizer, example(labels), 5, 8).sample(64, undefined);
    return { prompts, samples };
  };

  it.each([
    ["..xx", [1, 2], "3 4"],
    [".x..xx", [1, 2, 3, 4], "5 6"],
    ["..xx..", [1, 2], "3 4"],
  ])("end before the last answer (%s)", async (labels, prompt, reference) => {
    expect(await asked(labels)).toEqual({
      prompts: [prompt],
      samples: [{ place: "rows.jsonl:7", prompt: prompt.join(" "), reference, answer: "9" }],
    });
  });
  it.each(["xxxx", "...."])("are not made of %s", async (labels) => {
    expect((await asked(labels)).samples).toEqual([]);
  });
  it("leave room for an answer", async () => {
    expect((await asked("..xx", 2)).samples).toEqual([]);
    expect((await asked("..xx", 3)).samples).toHaveLength(1);
  });
});
