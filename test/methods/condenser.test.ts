// Condensers: the rule that moves the biases, what they do to routing, runs that are interrupted, adapters and merging. No GPU.
// Alone: npx vitest run test/methods/condenser.test.ts

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { decodeFloats } from "../../lib/files/floats.ts";
import { Adapter, mergeAdapter, MoeModel, savePeftAdapter, verifyMerge } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { condense, condenserKey, condenserLimit, condenserRule } from "../../lib/methods/condenser.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { moeLayers, moeOf } from "../../lib/model/spec.ts";
import { cli, writeRows } from "../cli/support.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek, tinyGptOss, toyRows, writeTinyModel } from "../support/tiny_model.ts";

const v3 = {
  ...tinyDeepseek,
  model_type: "deepseek_v3",
  architectures: ["DeepseekV3ForCausalLM"],
  norm_topk_prob: true,
  routed_scaling_factor: 2.5,
  scoring_func: "sigmoid",
  topk_method: "noaux_tc",
  n_group: 1,
  topk_group: 1,
};
const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
const deepseek = modelSpec(tinyDeepseek, "config.json");

describe("the rule", () => {
  const rule = { condensers: 2, rate: 0.25, layers: [] };
  it("raises the most chosen, the lower id on ties, and lowers the rest, within its bounds", () => {
    const delta = new Float32Array(5);
    condense(delta, [3, 7, 7, 7, 0], 1, rule);
    expect([...delta]).toEqual([0, 0.25, 0.25, 0, 0]);
    condense(delta, [9, 0, 8, 0, 0], 1, rule);
    expect([...delta]).toEqual([0.25, 0, 0.5, 0, 0]);
  });
  it("keeps who is always active, whatever is chosen", () => {
    const delta = Float32Array.from([0, 1, 0.5, 0]);
    condense(delta, [9, 0, 8, 7], 1, rule);
    expect([...delta]).toEqual([0.25, 1, 0.25, 0]);
  });
  it("its limit beats every score, and what the family adds", () => {
    const of = (more: object) => condenserLimit({ rule: { ...moeOf(deepseek, 1)!.rule, ...more } }, null);
    expect([of({}), of({ groups: 4, groupScore: "max" }), of({ groups: 4, groupScore: "top2Sum" })]).toEqual([1, 1, 2]);
    expect(condenserLimit({ rule: moeOf(deepseek, 1)!.rule }, [-0.5, 0.25, 0])).toBe(1.75);
  });
  it.each<[string, () => unknown, RegExp]>([
    ["more than a token chooses", () => condenserRule(deepseek, { condensers: 4 }), /chooses 3 of 8 experts: at most 3 .* found 4/],
    ["none", () => condenserRule(deepseek, { condensers: 0 }), /found 0/],
    ["a dense model", () => condenserRule({ ...deepseek, layers: deepseek.layers.slice(0, 1) }, {}), /model has none/],
    ["rate 0", () => condenserRule(deepseek, { condenserRate: 0 }), /condenserRate must be a number > 0 and <= 1, found 0/],
    ["logits", () => condenserRule(modelSpec(tinyGptOss, "config.json"), {}), /experts are chosen by logits/],
  ])("%s is refused", (_what, make, message) => expect(make).toThrow(message));
  it("more than the groups hold are refused", () => {
    const layers = deepseek.layers.map((l) =>
      l.mlp.kind === "moe" ? { ...l, mlp: { ...l.mlp, rule: { ...l.mlp.rule, groups: 4, topkGroups: 1 } } } : l,
    );
    expect(() => condenserRule({ ...deepseek, layers } as ModelSpec, { condensers: 2 })).toThrow(/within 1 groups/);
  });
});

const experts = new ExpertSet({ layers: [[1, { ranked: [0, 3] }], [2, { ranked: [5] }]] }); // prettier-ignore
const method = { type: "esft", experts, router: "train", condensers: 2, condenserRate: 0.3 } as const;

describe.each([
  ["without a bias in its checkpoint", "v2", tinyDeepseek],
  ["with one", "v3", v3],
])("a family %s", (_what, name, config) => {
  let model: MoeModel;
  beforeAll(async () => {
    await writeTinyModel(at(name), config, { dtype: "f32" });
    model = await MoeModel.fromPretrained(at(name), { threads: 2 });
  });
  afterAll(() => model.dispose());

  async function train(out: string, more: Partial<TrainRequest> = {}, stopAt?: number, of = model): Promise<TrainEvent[]> {
    const stop = new AbortController();
    const run = of.train({
      data: { rows: Dataset.fromRows(toyRows(60)), maxLength: 64 },
      method,
      outDir: at(out),
      steps: 12,
      rowsPerStep: 4,
      microBatch: 2,
      saveEvery: 2,
      evalFraction: 0,
      optimizer: { lr: 5e-3 },
      signal: stop.signal,
      ...more,
    } as TrainRequest);
    const events: TrainEvent[] = [];
    for await (const e of run) {
      events.push(e);
      if (e.type === "step" && e.step === stopAt) stop.abort(new Error("stop"));
    }
    await run.result;
    return events;
  }
  const bytes = (out: string): Buffer => readFileSync(at(out, "adapter.safetensors"));

  it("some experts of each layer become always active; interrupted, resumed and on 1 thread the bits are the same", async () => {
    const events = await train(`${name}-whole`);
    const active = events.flatMap((e) => (e.type === "step" ? [e.alwaysActive] : []));
    expect([active[0], active.at(-1)! > 0]).toEqual([0, true]);
    await train(`${name}-stopped`, {}, 3);
    await train(`${name}-stopped`, { resume: true });
    expect(bytes(`${name}-stopped`)).toEqual(bytes(`${name}-whole`));
    const alone = await MoeModel.fromPretrained(at(name), { threads: 1 });
    await train(`${name}-alone`, {}, undefined, alone);
    alone.dispose();
    expect(bytes(`${name}-alone`)).toEqual(bytes(`${name}-whole`));

    const adapter = await Adapter.load(at(`${name}-whole`));
    const found: number[][] = [];
    for (const layer of moeLayers(model.spec)) {
      const key = condenserKey(layer);
      found.push([...decodeFloats(await adapter.read(key), adapter.attached.get(key)!.dtype)]);
    }
    expect(found.flat().every((d) => d >= 0)).toBe(true);
    expect(adapter.method).toMatchObject({ router: "train", condensers: 2, condenserRate: 0.3 });

    // Those at the limit are chosen for every token by the adapter that is applied.
    await model.applyAdapter(adapter);
    const profile = await model.profile(Dataset.fromRows(toyRows(9, 4)), { tokens: 200, data: { maxLength: 64 } });
    let checked = 0;
    for (const [i, layer] of moeLayers(model.spec).entries()) {
      const { selectionBias, rule } = moeOf(model.spec, layer)!;
      const base = selectionBias ? await model.params.get(selectionBias).value.readF32() : null;
      const limit = Math.fround(condenserLimit({ rule }, base));
      const settled = found[i]!.filter((d) => d > 0 && d < limit).length === 0;
      found[i]!.forEach((d, e) => {
        if (!settled || d < limit) return;
        expect(profile.layer(layer).counts[e]).toBe(profile.tokens);
        checked++;
      });
    }
    expect(checked).toBeGreaterThan(0);
    model.removeAdapter();
  }, 60_000);

  it("is merged where the checkpoint has a place for the bias, and refused with the reason where not; PEFT has none", async () => {
    const adapter = await Adapter.load(at(`${name}-whole`));
    if (name === "v2")
      return expect(mergeAdapter(model.checkpoint, adapter, at("never"))).rejects.toThrow(
        /condensers cannot be merged into a deepseek_v2 model: .*no place for a bias/,
      );
    await mergeAdapter(model.checkpoint, adapter, at("merged"));
    expect((await verifyMerge(model.checkpoint, adapter, at("merged"))).ok).toBe(true);
    const rows = Dataset.fromRows(toyRows(9, 4));
    await using merged = await MoeModel.fromPretrained(at("merged"), { threads: 2 });
    const plain = await merged.evaluate(rows, { maxLength: 64 });
    await model.applyAdapter(adapter);
    expect((await model.evaluate(rows, { maxLength: 64 })).loss).toBe(plain.loss);
    model.removeAdapter();
    const terms = { type: "lora", rank: 2, targets: ["router"], router: "ste", condensers: 1 } as const;
    await train("v3-lora", { method: terms, steps: 2 });
    const beside = await Adapter.load(at("v3-lora"));
    await expect(savePeftAdapter(beside, model.checkpoint, at("peft"))).rejects.toThrow(/bias on the choice of experts/);
  }, 60_000);
});

it("beside LoRA whose ranks move: the same bits when interrupted, and the adapter applies", async () => {
  await writeTinyModel(at("both"), tinyDeepseek);
  await using model = await MoeModel.fromPretrained(at("both"), { threads: 2 });
  const moving = { type: "lora", rank: 2, targets: "experts", reallocate: "epng", reallocateWarmup: 1, reallocateEvery: 1 } as const;
  const train = async (out: string, stopAt?: number, resume = false): Promise<void> => {
    const stop = new AbortController();
    const run = model.train({
      data: { rows: Dataset.fromRows(toyRows(60)), maxLength: 64 },
      method: { ...moving, router: "train", condensers: 1, condenserRate: 0.2 },
      outDir: at(out),
      steps: 5,
      rowsPerStep: 4,
      evalFraction: 0,
      resume,
      signal: stop.signal,
    });
    for await (const e of run) if (e.type === "step" && e.step === stopAt) stop.abort(new Error("stop"));
    await run.result;
  };
  await train("both-whole");
  await train("both-stopped", 3);
  await train("both-stopped", undefined, true);
  expect(readFileSync(at("both-stopped", "adapter.safetensors"))).toEqual(readFileSync(at("both-whole", "adapter.safetensors")));
  await model.applyAdapter(at("both-whole"));
  expect((await model.evaluate(Dataset.fromRows(toyRows(9, 4)), { maxLength: 64 })).loss).toBeGreaterThan(0);
}, 60_000);

it("from the command line; routers that do not train are refused", async () => {
  await writeTinyModel(at("cli"), tinyDeepseek);
  const data = writeRows(at("rows.jsonl"), toyRows(30));
  const flags = ["--model", at("cli"), "--data", data, "--max-length", "64", "--rows-per-step", "4", "--steps", "2", "--method", "full"];
  const run = await cli(["train", ...flags, "--condensers", "1", "--condenser-rate", "1", "--out", at("run")]);
  expect([run.code, run.err]).toEqual([0, expect.stringMatching(/trains beside selection biases: 2 tensors, 16 parameters/)]);
  expect((await cli(["verify", at("run"), "--base", at("cli")])).code).toBe(0);
  const refused = await cli(["train", ...flags.slice(0, -2), "--method", "perft", "--condensers", "1", "--out", at("never")]);
  expect([refused.code, refused.err]).toEqual([1, expect.stringMatching(/ERR_CONFIG.*take router "train" or "ste"/)]);
}, 60_000);
