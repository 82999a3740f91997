// The gradient score of experts, ‖W ⊙ dW‖: against the gradients of training, in chunks of experts, interrupted, on other threads; and
// selecting by it, or the experts that are named, from the command line and from YAML. No GPU.
// Alone: npx vitest run test/experts/gradient.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { expertLayout, ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { ExpertSaliency } from "../../lib/experts/saliency.ts";
import { fixedExperts } from "../../lib/experts/select.ts";
import type { SelectOptions } from "../../lib/experts/select.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { moeLayers, moeOf } from "../../lib/model/spec.ts";
import { MoeModel } from "../../lib/moe_model.ts";
import { cli, writeRows } from "../cli/support.ts";
import { tempDir } from "../support/fixture.ts";
import { apart, tinyDeepseek, tinyGptOss, toyRows, writeTinyModel } from "../support/tiny_model.ts";

const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
const rows = (seed = 1): Dataset => Dataset.fromRows(toyRows(60, seed));
const options = { tokens: 900, batchTokens: 96, data: { maxLength: 64 }, gradient: true } as const;
const text = (p: Profile): string => JSON.stringify(p.toJSON());
let model: MoeModel;
beforeAll(async () => {
  await writeTinyModel(at("model"), tinyDeepseek);
  await writeTinyModel(at("gpt"), tinyGptOss);
  model = await MoeModel.fromPretrained(at("model"), { threads: 2 });
});
afterAll(() => model.dispose());

describe("a profile with gradients", () => {
  it("has the norms of weights times the gradients that training has", async () => {
    const one = { ...options, tokens: 200, batchTokens: 4096 };
    const measured = await model.profile(rows(), one);
    const { examples } = await model.encode(rows(), options.data);
    // The same rows as one batch, and the experts' own gradients.
    const order = await import("../../lib/data/shuffle.ts").then((m) => m.shuffledIndices(examples.length, 1, 0));
    const batch = hostBatch(
      Array.from(order.slice(0, measured.data.sequences), (i) => {
        const { inputIds, labels } = examples.get(i);
        return { ids: inputIds, targets: Int32Array.from(inputIds, (_, t) => labels[t + 1] ?? -100) };
      }),
    );
    expect(measured.data.gradient).toEqual({ batchTokens: 4096, supervised: batch.supervised });
    const { transformer, spec } = model;
    const matrices = moeLayers(spec).map((l) => moeOf(spec, l)!.experts.map((e) => Object.values(apart(e)).map(sliceKey)));
    try {
      transformer.train({ keys: matrices.flat(2) });
      transformer.forwardBackward(batch, 1, batch.ids.length, {}, false);
      for (const [i, layer] of moeLayers(spec).entries())
        for (const [e, keys] of matrices[i]!.entries()) {
          let sum = 0;
          for (const key of keys) {
            const p = model.params.byName(key)!;
            const [w, g] = [await p.value.readF32(), await p.grad!.readF32()];
            w.forEach((x, j) => (sum += (x * g[j]!) ** 2));
          }
          const found = measured.layer(layer).gradientSums![e]!;
          expect(Math.abs(found - Math.sqrt(sum)), `layer ${layer}, expert ${e}`).toBeLessThanOrEqual(2e-4 * Math.sqrt(sum) + 1e-9);
        }
    } finally {
      transformer.freeze();
    }
    for (const layer of measured.layers) {
      const scores = measured.scores(layer, { score: "gradient" });
      expect(scores.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
    }
  });

  it("counts what a profile without counts, leaves the model as it was, and is the same on 1 thread", async () => {
    const plain = await model.profile(rows(), { ...options, gradient: false });
    const ids = hostBatch([{ ids: [5, 6, 7], targets: [-100, -100, -100] }]);
    const logits = await model.transformer.logits(ids).readF32();
    const whole = await model.profile(rows(), options);
    expect(await model.transformer.logits(ids).readF32()).toEqual(logits);
    for (const layer of plain.layers) expect(whole.layer(layer).counts).toEqual(plain.layer(layer).counts);
    const alone = await MoeModel.fromPretrained(at("model"), { threads: 1 });
    expect(text(await alone.profile(rows(), options))).toBe(text(whole));
    alone.dispose();
  });

  it("in chunks of one expert is that of all at once", async () => {
    const { transformer, spec, device } = model;
    const layout = expertLayout(spec);
    const sums = async (bytes?: number): Promise<number[][]> => {
      using saliency = new ExpertSaliency(device, spec, layout, bytes);
      transformer.train({ keys: [], attachments: saliency });
      const ids = Int32Array.from({ length: 40 }, (_, t) => (t * 97) % 2000);
      transformer.forwardBackward(hostBatch([{ ids, targets: Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100) }]), 1);
      await saliency.collect();
      transformer.freeze();
      return [...layout.keys()].map((l) => [...saliency.read(l)]);
    };
    const whole = await sums();
    expect(await sums(1)).toEqual(whole);
    expect(await sums(3 * 4 * 24 * 48)).toEqual(whole); // 3 of 8: the last chunk is smaller
    expect(whole.flat().filter((x) => x > 0).length).toBeGreaterThan(10);
  });

  it("experts whose gate and up are one matrix", async () => {
    await using gpt = await MoeModel.fromPretrained(at("gpt"), { threads: 2 });
    const p = await gpt.profile(rows(), { ...options, tokens: 200 });
    for (const layer of p.layers) expect(p.layer(layer).gradientSums!.every((x) => x >= 0)).toBe(true);
    expect(p.select({ score: "gradient", p: 0.3 }).count).toBeGreaterThan(0);
  });

  it("interrupted and resumed ends in the same bits; parts add up; other options are refused", async () => {
    const whole = await model.profile(rows(), options);
    const partials: Profile[] = [];
    await model.profile(rows(), { ...options, partialEvery: 1, onPartial: async (p) => void partials.push(p) });
    await partials[1]!.save(at("partial.json"));
    const resume = await Profile.load(at("partial.json"));
    expect(text(await model.profile(rows(), { ...options, resume }))).toBe(text(whole));
    await expect(model.profile(rows(), { ...options, batchTokens: 64, resume })).rejects.toThrow(/batches of 96 tokens, not 64/);
    const plain: Profile[] = [];
    await model.profile(rows(), { ...options, gradient: false, partialEvery: 1, onPartial: async (p) => void plain.push(p) });
    await expect(model.profile(rows(), { ...options, resume: plain[0]! })).rejects.toThrow(/measured without gradients/);
    const two = Profile.merge([whole, whole]);
    expect(two.layer(1).gradientSums).toEqual(whole.layer(1).gradientSums!.map((x) => 2 * x));
    expect(two.data.gradient!.supervised).toBe(2 * whole.data.gradient!.supervised);
    expect(() => Profile.merge([whole, plain[0]!])).toThrow(/different models/);
  });

  it("is refused where it means nothing", async () => {
    const plain = await model.profile(rows(), { ...options, gradient: false });
    expect(() => plain.select({ score: "gradient", p: 0.2 })).toThrow(/gradient scores were not measured; .*esft profile --gradient/);
    const whole = await model.profile(rows(), options);
    expect(() => whole.select({ score: "gradient", p: 0.2, average: "sequences" })).toThrow(/sums over batches/);
    expect(() => whole.select({ score: "gradient", p: 0.2, compat: "esft-2024" })).toThrow(/knows token and gate scores/);
    const unsupervised = Dataset.fromRows([{ messages: [{ role: "user", content: "a question" }] }]);
    await expect(model.profile(unsupervised, options)).rejects.toMatchObject({ name: "DataError" });
  });
});

describe("fixed experts", () => {
  const profile = (): Profile => {
    const layer = { tokens: 10, counts: [8, 7, 5, 4, 3, 2, 1, 0], gateSums: [1, 1, 1, 1, 1, 1, 1, 1] };
    return new Profile({ source: "model", topK: 3, experts: 8, sequences: 1, layers: [1, 2].map((l) => ({ layer: l, ...layer })) });
  };
  it("are those that are named, with their scores", () => {
    const set = profile().select({ fixed: { 2: [5, 0] } });
    expect([set.ids(1), set.layers.get(2), set.rule]).toEqual([[], { ids: [0, 5], ranked: [5, 0], scores: [2 / 30, 8 / 30] }, expect.objectContaining({ fixed: true })]); // prettier-ignore
    expect([...fixedExperts("1=3+0, 2=5")]).toEqual([[1, [3, 0]], [2, [5]]]); // prettier-ignore
  });
  it.each<[SelectOptions, RegExp]>([
    [{ fixed: "1" }, /expected fixed experts as layer=id\+id.* found "1"/],
    [{ fixed: "1=x" }, /found "x"/],
    [{ fixed: "1=2,1=3" }, /layer 1 twice/],
    [{ fixed: { 1: [-1] } }, /found \[-1\]/],
    [{ fixed: null as never }, /found null/],
    [{ fixed: [] as never }, /found \[\]/],
    [{ fixed: "3=1" }, /of the layers 1, 2, found layer 3/],
    [{ fixed: "1=8" }, /from 0 to 7, each once, found 8/],
    [{ fixed: "1=2+2" }, /each once, found 2, 2/],
    [{ fixed: "1=2", p: 0.2 } as SelectOptions, /exactly one of/],
  ])("%j is refused", (asked, message) => expect(() => profile().select(asked)).toThrow(message));
});

it("from the command line and from YAML", async () => {
  const data = writeRows(at("rows.jsonl"), toyRows(40));
  const measured = await cli(["profile", at("model"), data, "-o", at("p.json"), "--tokens", "600", "--max-length", "64", "--gradient"]);
  expect([measured.code, measured.out]).toEqual([0, expect.stringMatching(/best by gradient/)]);
  expect(measured.err).toMatch(/gradient scores take [\d.]+ \wB of activations and weight gradients/);
  expect((await cli(["select", at("p.json"), "--score", "gradient", "--p", "0.3", "-o", at("set.json")])).code).toBe(0);
  const set = await ExpertSet.load(at("set.json"));
  expect(set.rule).toMatchObject({ score: "gradient", p: 0.3 });
  const fixed = await cli(["select", at("p.json"), "--fixed", "1=3+0,2=5", "--model", at("model"), "-o", at("fixed.json")]);
  expect([fixed.code, (await ExpertSet.load(at("fixed.json"))).layers.get(1)!.ranked]).toEqual([0, [3, 0]]);

  const train = async (method: object, out: string): Promise<Buffer> => {
    const job = { model: at("model"), data: { file: data, maxLength: 64 }, method, outDir: at(out), steps: 2, rowsPerStep: 4 };
    writeFileSync(at(`${out}.yaml`), JSON.stringify(job));
    const run = await cli(["train", at(`${out}.yaml`)]);
    expect([run.code, run.err]).toEqual([0, expect.any(String)]);
    return readFileSync(at(out, "adapter.safetensors"));
  };
  const chosen = await train({ profile: at("p.json"), select: { score: "gradient", p: 0.3 } }, "by-gradient");
  expect(await train({ experts: at("set.json") }, "by-set")).toEqual(chosen);
  const named = await train({ experts: { 1: [3, 0], 2: [5] } }, "named");
  expect(await train({ profile: at("p.json"), select: { fixed: "1=3+0,2=5" } }, "by-fixed")).toEqual(named);
  const flags = ["--model", at("model"), "--data", data, "--max-length", "64", "--rows-per-step", "4", "--steps", "2"];
  const byFlag = await cli(["train", ...flags, "--profile", at("p.json"), "--fixed", "1=3+0,2=5", "--out", at("by-flag")]);
  expect([byFlag.code, readFileSync(at("by-flag", "adapter.safetensors"))]).toEqual([0, named]);
}, 120_000);
