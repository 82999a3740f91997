// MoeModel as a whole: what it refuses, adapters put on and taken off, one thing at a time, memory given back, NaN weights named.
// No GPU. Alone: npx vitest run test/moe_model.test.ts

import { readFileSync } from "node:fs";
import { cp, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Dataset, ExpertSet, MoeModel } from "../lib/index.ts";
import type { Adapter } from "../lib/index.ts";
import { Examples } from "../lib/data/examples.ts";
import { HeldFiles } from "../lib/files/held.ts";
import { openSafetensors } from "../lib/files/safetensors.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "./support/tiny_model.ts";

let root: string;
let model: MoeModel;
const at = (...parts: string[]): string => join(root, ...parts);
const rows = Dataset.fromRows(toyRows(24));
const data = { maxLength: 64 } as const;

async function trainAdapter(outDir: string, layers: [number, number[]][], seed: number): Promise<Adapter> {
  const experts = new ExpertSet({ layers: layers.map(([l, ranked]) => [l, { ranked }] as const) });
  const run = model.train({ data: { rows, ...data }, method: { type: "esft", experts }, outDir: at(outDir), steps: 4, rowsPerStep: 4, seed, evalFraction: 0, optimizer: { lr: 0.05 } }); // prettier-ignore
  return (await run.result).adapter!;
}
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-model-"));
  await writeTinyModel(at("model"), tinyDeepseek);
  model = await MoeModel.fromPretrained(at("model"), { threads: 2 });
});
afterAll(async () => {
  model.dispose();
  await rm(root, { recursive: true, force: true });
});

it("evaluation tells its progress in the rows that were given, whatever they are packed into", async () => {
  const seen: { done: number; total: number }[] = [];
  await model.evaluate(rows, { ...data, rows: 12, batchTokens: 128 }, { onProgress: (p) => void seen.push(p) });
  expect(seen.length).toBeGreaterThan(1);
  expect(seen.map((p) => p.total)).toEqual(seen.map(() => 12));
  expect(seen.map((p) => p.done)).toEqual(seen.map((p) => p.done).toSorted((a, b) => a - b));
  expect(seen.at(-1)?.done).toBe(12);
});

describe("adapters", () => {
  it("go on, replace each other, and come off without a trace", async () => {
    const one = await trainAdapter("one", [[1, [0, 3]]], 1);
    const two = await trainAdapter("two", [[2, [5]]], 2);
    const loss = async (): Promise<number> => (await model.evaluate(rows, data)).loss;
    const base = await loss();
    await model.applyAdapter(at("one"));
    const withOne = await loss();
    await model.applyAdapter(two);
    const withTwo = await loss();
    expect(new Set([base, withOne, withTwo]).size).toBe(3);
    // Not a mixture: the second alone gives the same.
    model.removeAdapter();
    expect(await loss()).toBe(base);
    await model.applyAdapter(two);
    expect(await loss()).toBe(withTwo);
    // An adapter that does not fit changes nothing.
    const norm = {
      name: "model.norm.weight",
      role: "norm",
      layer: 3,
      dtype: "F32",
      shape: [3],
      read: async () => new Uint8Array(12),
    } as const;
    const foreign = one.with({ method: { type: "full" }, experts: null, tensors: [norm] });
    await expect(model.applyAdapter(foreign)).rejects.toMatchObject({ code: "ERR_LAYOUT" });
    expect(await loss()).toBe(withTwo);
    const profile = await model.profile(rows, { tokens: 100, data });
    expect(profile.data.model).toEqual({ name: "model with an adapter" });
    expect(() => model.train({ data: rows, method: "full", outDir: at("never") })).toThrow(/an adapter is applied/);
    model.removeAdapter();
    model.removeAdapter();
    expect(await loss()).toBe(base);
  });

  it("stop at a signal", async () => {
    await expect(model.applyAdapter(at("one"), { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ERR_ABORTED" });
  });
});

describe("one thing at a time", () => {
  it("refuses what would meet in the same activations", async () => {
    const running = model.evaluate(rows, data);
    await expect(model.evaluate(rows, data)).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/busy \(evaluating\)/) as string,
    });
    expect(() => model.removeAdapter()).toThrow(/busy/);
    await running;
    const run = model.train({ data: { rows, ...data }, method: "full", outDir: at("busy"), steps: 1, evalFraction: 0 });
    await expect(model.profile(rows)).rejects.toThrow(/busy \(training\)/);
    await run.result;
    expect((await model.generate([5, 6, 7], { maxTokens: 3, stopIds: [] }).result()).ids).toHaveLength(3);
  });

  it("after a run nothing of it is left in the model", async () => {
    expect(model.params.state).toBeNull();
    expect(model.params.all().every((p) => p.value === p.base && p.grad === null && p.master === null)).toBe(true);
  });
});

describe("opening", () => {
  it("names the tensor and the element of a weight that is NaN", async () => {
    await cp(at("model"), at("nan"), { recursive: true });
    const name = "model.layers.1.mlp.experts.3.up_proj.weight";
    const { begin } = (await openSafetensors(at("nan/model.safetensors"))).tensors.get(name)!;
    const file = await open(at("nan/model.safetensors"), "r+");
    await file.write(Uint8Array.of(0xc0, 0x7f), 0, 2, begin + 2 * 17);
    await file.close();
    await expect(MoeModel.fromPretrained(at("nan"))).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
      where: { tensor: name, element: 17 },
    });
    using unchecked = await MoeModel.fromPretrained(at("nan"), { checkWeights: false });
    await expect(unchecked.evaluate(rows, data)).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
      message: expect.stringMatching(/checkWeights/) as string,
    });
    await expect(unchecked.profile(rows, { tokens: 2000, data })).rejects.toMatchObject({ code: "ERR_NON_FINITE" });
  });

  it("refuses a tokenizer with ids that the model does not have, and such ids themselves", async () => {
    await writeTinyModel(at("small"), { ...tinyDeepseek, vocab_size: 100 });
    using small = await MoeModel.fromPretrained(at("small"), { threads: 1 });
    await expect(small.tokenizer()).rejects.toMatchObject({ code: "ERR_CONFIG" });
    const { examples } = await model.encode(rows);
    expect(examples).toBeInstanceOf(Examples);
    await expect(small.evaluate(examples, data)).rejects.toMatchObject({
      code: "ERR_DATA",
      message: expect.stringMatching(/outside the model's vocabulary of 100/) as string,
    });
  });

  it("refuses devices and precisions that it does not know", async () => {
    const bad = { device: "tpu", precision: "fp16" };
    for (const [key, value] of Object.entries(bad))
      await expect(MoeModel.fromPretrained(at("model"), { [key]: value })).rejects.toMatchObject({ code: "ERR_CONFIG", where: { key } });
    await expect(MoeModel.fromPretrained(at("model"), { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ERR_ABORTED" });
  });

  it("gives up its files when it is disposed, however often", async () => {
    const short = await MoeModel.fromPretrained(at("model"), { threads: 1 });
    await short[Symbol.asyncDispose]();
    short.dispose();
    await expect(short.evaluate(rows, data)).rejects.toMatchObject({ code: "ERR_DISPOSED" });
  });
});

describe("disposed while it is used", () => {
  const full = (outDir: string, more = {}) => ({ data: { rows, ...data }, method: "full", outDir: at(outDir), steps: 500, rowsPerStep: 2, evalFraction: 0, ...more } as const); // prettier-ignore
  const gone = { code: "ERR_DISPOSED" };

  it.each([0, 1, 5, 20])("asyncDispose %i turns after train() stops the run first: DisposedError, or a checkpoint", async (turns) => {
    const short = await MoeModel.fromPretrained(at("model"), { threads: 1 });
    const run = short.train(full(`turns${turns}`));
    for (let i = 0; i < turns; i++) await new Promise(setImmediate);
    let ended = false;
    const end = run.result.then(
      ({ reason, adapter }) => expect([reason, adapter]).toEqual(["interrupted", null]),
      (error) => expect(error).toMatchObject({ ...gone, message: expect.stringMatching(/was disposed \(training was in progress\)/) as string }),
    ).finally(() => (ended = true)); // prettier-ignore
    await short[Symbol.asyncDispose]();
    await Promise.resolve();
    await Promise.resolve();
    expect(ended).toBe(true);
    await end;
  });

  it("asyncDispose in the middle of a run is an abort: the checkpoint is kept and resumes to the same bits", async () => {
    await model.train(full("whole", { steps: 6 })).result;
    const short = await MoeModel.fromPretrained(at("model"), { threads: 1 });
    const run = short.train(full("cut", { steps: 6 }));
    for await (const event of run) if (event.type === "step" && event.step === 2) void short[Symbol.asyncDispose]();
    expect(await run.result).toMatchObject({ reason: "interrupted", step: 2 });
    await short[Symbol.asyncDispose]();
    expect(() => short.train(full("cut"))).toThrow(/was disposed/);
    await model.train(full("cut", { steps: 6, resume: true })).result;
    const bytes = (dir: string): Buffer => readFileSync(at(dir, "adapter.safetensors"));
    expect(bytes("cut").equals(bytes("whole"))).toBe(true);
  });

  it("dispose() does not wait: the run rejects, whenever it comes", async () => {
    const at2 = await MoeModel.fromPretrained(at("model"), { threads: 1 });
    const run = at2.train(full("now"));
    await expect(
      (async () => {
        for await (const event of run) if (event.type === "step" && event.step === 2) at2.dispose();
      })(),
    ).rejects.toMatchObject(gone);
    await expect(run.result).rejects.toMatchObject(gone);
    for (let turns = 0; turns < 30; turns += 3) {
      const short = await MoeModel.fromPretrained(at("model"), { threads: 1 });
      const { result } = short.train(full(`sync${turns}`));
      for (let i = 0; i < turns; i++) await new Promise(setImmediate);
      short.dispose();
      await expect(result, `${turns} turns`).rejects.toMatchObject(gone);
    }
  });

  it.each([
    ["profiling", (m: MoeModel) => m.profile(rows, { tokens: 2000, batchTokens: 64, data })],
    ["evaluating", (m: MoeModel) => m.evaluate(rows, { ...data, batchTokens: 64 })],
    ["generating", (m: MoeModel) => m.generate([5, 6, 7], { maxTokens: 200, stopIds: [] }).result()],
    ["applying an adapter", (m: MoeModel) => m.applyAdapter(at("one"))],
  ])("%s ends first, with DisposedError", async (what, work) => {
    // A look at the weight files that takes its time belongs to the work, too.
    const look = vi.spyOn(HeldFiles.prototype, "requireUnchanged").mockImplementation(() => sleep(20, []));
    for (const way of [Symbol.asyncDispose, Symbol.dispose] as const) {
      const short = await MoeModel.fromPretrained(at("model"), { threads: 1 });
      let ended = false;
      const end = expect(work(short)).rejects.toMatchObject({ ...gone, message: expect.stringMatching(new RegExp(`disposed|${what}`)) as string }).then(() => (ended = true)); // prettier-ignore
      await new Promise(setImmediate);
      await short[way]();
      if (way === Symbol.asyncDispose) await new Promise(setImmediate);
      if (way === Symbol.asyncDispose) expect(ended).toBe(true);
      await end;
      await expect(work(short)).rejects.toMatchObject(gone);
    }
    look.mockRestore();
  });
});
