// Runs in stages: what trains when, values that stay, moments that start anew, the same bits after every interruption, what the adapter
// holds, and what is refused. No GPU. Run alone: npx vitest run test/train/stages.test.ts

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { mergeAdapter } from "../../lib/convert/merge.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { decodeFloats } from "../../lib/files/floats.ts";
import { MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { withCondensers } from "../../lib/methods/condenser.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import { perftTrainable } from "../../lib/methods/perft.ts";
import { withRouter } from "../../lib/methods/router_mode.ts";
import { withStages } from "../../lib/methods/stages.ts";
import { planActivations } from "../../lib/model/decoder.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

const spec = modelSpec(tinyDeepseek, "config.json");
const selected = new ExpertSet({ layers: [[1, { ranked: [5, 0] }], [2, { ranked: [7] }]] }); // prettier-ignore
const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
beforeAll(() => writeTinyModel(at("model"), tinyDeepseek));

const lora = loraTrainable(spec, { rank: 2, targets: ["all-linear"] }, 1);
const esft = (more = {}) => esftTrainable(spec, selected.with({ sharedExperts: false, nonExpertModules: true, ...more }));

describe("what a stage trains", () => {
  it("is what its pass works for: a router's term outside of the stage is no router that trains", () => {
    const terms = loraTrainable(spec, { rank: 2, targets: ["router", "attention"] }, 1);
    const { keys, attachments, stages } = withStages(spec, withRouter(spec, terms, { router: "ste" }, 1), [["router"], ["attention"]]);
    const straight = stages!.map(({ keys: active, lowestLayer }) =>
      planActivations(spec, { keys, attachments, active, lowestLayer })
        .table(64)
        .some((row) => row.name.endsWith("dweightsByExpert")),
    );
    expect(straight).toEqual([true, false]);
  });

  it("of LoRA groups, modules and patterns", () => {
    const of = withStages(spec, lora, [["attention", "router"], ["experts"], ["linear", "gate"]]).stages!;
    expect(of.map(({ roles }) => roles.map((r) => r.role))).toEqual([
      ["attention", "router"],
      ["expert"],
      expect.arrayContaining(["attention", "dense", "shared", "router"]),
    ]);
    expect([...of[0]!.keys].every((key) => /self_attn|mlp\.gate\.weight/.test(key))).toBe(true);
    const some = withStages(spec, lora, [["/experts\\.[0-3]\\./"], ["experts", "linear", "router"]]).stages!;
    expect(some[0]!.keys.size).toBe(2 * 4 * 3 * 2);
    expect(some[0]!.roles).toEqual([{ role: "expert", attached: true, tensors: 48, parameters: expect.any(Number) as number }]);
  });

  it("of ESFT what no stage names stays frozen, and takes no memory", () => {
    const { keys, stages, parameters } = withStages(spec, esft(), [["attention", "router"], ["experts"]]);
    expect(keys.some((key) => /embed|lm_head|norm\.weight$/.test(key) && !/kv_a_layernorm/.test(key))).toBe(false);
    expect(parameters).toBeLessThan(esft().parameters);
    expect([...stages![1]!.keys]).toHaveLength(9);
    expect(new Set([...stages![0]!.keys, ...stages![1]!.keys])).toEqual(new Set(keys));
  });

  it.each<[string, () => unknown, string, RegExp]>([
    ["no target", () => withStages(spec, lora, [["linear", "router", "experts"], []]), "stages.1.targets", /stage 2 trains nothing/],
    [
      "a target of nothing",
      () => withStages(spec, lora, [["exprets"]]),
      "stages.0.targets",
      /stage 1: target "exprets" names nothing that the method trains; did you mean "experts"/,
    ],
    [
      "what the method does not train",
      () => withStages(spec, lora, [["head"]]),
      "stages.0.targets",
      /names nothing that the method trains .*groups there: attention, dense, shared, router, experts/,
    ],
    ["a bad pattern", () => withStages(spec, lora, [["/(/"]]), "stages.0.targets", /is no regular expression/],
    [
      "terms in no stage",
      () => withStages(spec, lora, [["attention"]]),
      "stages",
      /no stage trains "lora\..*", which the method was asked for/,
    ],
    [
      "experts in no stage",
      () => withStages(spec, esft(), [["attention"]]),
      "stages",
      /no stage trains ".*experts.*", which the method was asked for/,
    ],
    [
      "routers that were asked for in no stage",
      () => withStages(spec, withRouter(spec, esft({ nonExpertModules: false }), { router: "ste" }, 1), [["experts"]]),
      "stages",
      /no stage trains ".*gate.weight", which the method was asked for/,
    ],
    [
      "half a product",
      () => withStages(spec, esft(), [["gate_proj", "down_proj"], ["up_proj"]]),
      "stages.0.targets",
      /stage 1: .* train together or not at all/,
    ],
    [
      "half a layer of PERFT",
      () => withStages(spec, perftTrainable(spec, { variant: "E", rank: 2 }, 1), [["/adapters\\.0/"], ["experts"]]),
      "stages.0.targets",
      /adapters of a layer train together or not at all/,
    ],
    [
      "ranks that are re-allocated",
      () => withStages(spec, loraTrainable(spec, { rank: 2, targets: ["experts"], reallocate: "epng" }, 1), [["experts"]]),
      "stages",
      /reallocate is not served together with stages/,
    ],
    [
      "condensers",
      () => withStages(spec, withCondensers(spec, esft(), { condensers: 1 }, true), [["experts", "router"]]),
      "stages",
      /condensers are not served together with stages/,
    ],
  ])("%s is refused", (_what, make, key, message) => {
    expect(make).toThrow(message);
    expect(make).toThrow(expect.objectContaining({ code: "ERR_CONFIG", where: expect.objectContaining({ key }) })); // prettier-ignore
  });
});

const request = (out: string, more: Partial<TrainRequest> = {}): TrainRequest => ({
  data: { rows: Dataset.fromRows(toyRows(40)), maxLength: 32 },
  method: { type: "lora", rank: 4, targets: "attention,router,experts" },
  stages: [
    { targets: "attention,router", steps: 3, lr: 0.01 },
    { targets: ["experts"], steps: 4, schedule: "linear" },
  ],
  outDir: at(out),
  rowsPerStep: 4,
  evalFraction: 0,
  keep: "last",
  optimizer: { lr: 0.02 },
  ...more,
});

async function run(out: string, more: Partial<TrainRequest> = {}, threads = 2, stopAfter = Infinity): Promise<TrainEvent[]> {
  await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu", threads });
  const stop = new AbortController();
  const events: TrainEvent[] = [];
  for await (const event of model.train({ ...request(out, more), signal: stop.signal })) {
    events.push(event);
    if (event.type === "step" && event.step === stopAfter) stop.abort();
  }
  return events;
}
const bytes = (out: string): Buffer => readFileSync(at(out, "adapter.safetensors"));
async function values(out: string): Promise<Map<string, Float32Array>> {
  const adapter = await Adapter.load(at(out));
  const found = new Map<string, Float32Array>();
  for (const [key, { dtype }] of [...adapter.tensors, ...adapter.attached]) found.set(key, decodeFloats(await adapter.read(key), dtype));
  return found;
}

describe.each<[string, Partial<TrainRequest>, RegExp]>([
  ["LoRA", {}, /self_attn|mlp\.gate\./],
  [
    "some experts of LoRA",
    {
      method: { type: "lora", rank: 4, targets: "experts" },
      stages: [
        { targets: "/experts\\.[0-3]\\./", steps: 3, lr: 0.01 },
        { targets: "/experts\\.[4-7]\\./", steps: 4, schedule: "linear" },
      ],
    },
    /experts\.[0-3]\./,
  ],
  [
    "ESFT and its routers",
    { method: { type: "esft", experts: selected, nonExpertModules: true }, adapterDtype: "f32" },
    /self_attn|mlp\.gate\./,
  ],
])("%s", (name, more, first) => {
  it("values of a stage stay in the next; each is a run of its own; interrupted anywhere, on one thread, the same bits", async () => {
    const events = await run(name, more);
    const told = events.flatMap((e) => (e.type === "stage" ? [e] : []));
    expect(told.map(({ step, stage, of }) => [step, stage, of])).toEqual([[1, 1, 2], [4, 2, 2]]); // prettier-ignore
    expect(events.flatMap((e) => (e.type === "step" ? [e.lr] : []))).toEqual([0.01, 0.01, 0.01, 0.02, 0.015, 0.01, 0.005]);
    const [stage1] = request("", more).stages!;
    // The first stage alone: the same stages, cut short.
    await run(`${name} short`, { ...more, saveEvery: 1 }, 2, 3);
    const whole = await values(name);
    const all = [...whole.keys()];
    expect(all.filter((key) => first.test(key)).length).toBeGreaterThan(4);
    expect(all.filter((key) => !first.test(key)).length).toBeGreaterThan(4);
    // A second stage without a rate changes nothing: what the first one left is what the adapter has.
    await run(`${name} still`, { ...more, stages: [stage1!, { ...request("", more).stages![1]!, lr: 0 }] });
    const still = await values(`${name} still`);
    const same = (key: string): boolean => {
      const [x, y] = [whole.get(key)!, still.get(key)!];
      return x.every((value, k) => Object.is(value, y[k]));
    };
    for (const key of all) if (first.test(key)) expect(same(key), key).toBe(true);
    const later = all.filter((key) => !first.test(key));
    expect(later.filter(same).length / later.length).toBeLessThan(0.2); // an expert that no token met has its first values
    for (const stop of [1, 3, 4]) {
      const out = `${name} ${stop}`;
      await run(out, { ...more, saveEvery: 2 }, 1, stop);
      const rest = await run(out, { ...more, saveEvery: 2, resume: true }, 1);
      expect(rest.flatMap((e) => (e.type === "stage" ? [e.step] : []))).toEqual([4].filter((step) => step > stop));
      expect(bytes(out)).toEqual(bytes(name));
      const log = readFileSync(at(out, "events.jsonl"), "utf8").split("\n").filter((line) => line.includes('"type":"stage"')); // prettier-ignore
      expect(log.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([1, 4]);
    }
  }, 120_000);

  it("its adapter is whole: it loads, gives the trained loss and merges", async () => {
    const adapter = await Adapter.load(at(name));
    expect(adapter.training).toMatchObject({ options: { stages: [{ steps: 3 }, { steps: 4 }], steps: 7 } });
    expect((await mergeAdapter(await openCheckpoint(at("model")), adapter, at(`${name} merged`))).ok).toBe(true);
  }, 60_000);
});

it("a stage that trains what the one before trained is a new start for its moments alone", async () => {
  const twice = [{ targets: "attention,router,experts", steps: 2 }, { targets: "attention,router,experts", steps: 3 }]; // prettier-ignore
  await run("twice", { stages: twice });
  await run("once", { stages: [{ targets: "attention,router,experts", steps: 5 }] });
  const { stages: _, ...plain } = request("plain");
  await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
  await model.train({ ...plain, steps: 5 }).result;
  expect(bytes("once")).toEqual(bytes("plain"));
  expect(bytes("twice")).not.toEqual(bytes("plain"));
}, 60_000);

it("memory of gradients is not made for what a stage leaves out: its layers keep nothing", async () => {
  await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
  const method = withStages(spec, lora, [["/layers\\.2\\./"], ["all-linear"]]);
  model.transformer.train(method);
  const all = model.transformer.describePlan(true).bytes(64);
  model.transformer.activate(method.stages![0]!.keys);
  expect(model.transformer.lowestTrained()).toBe(2);
  expect(model.transformer.describePlan(true).bytes(64)).toBeLessThan(all);
  expect(model.params.state!.parameters.filter((p) => p.grad !== null).length).toBe(method.stages![0]!.keys.size);
  model.transformer.freeze();
});

describe("requests", () => {
  it.each<[string, Partial<TrainRequest>, string, RegExp]>([
    ["no stage", { stages: [] }, "stages", /train.stages: expected at least one stage, found \[\]/],
    [
      "an unknown key",
      { stages: [{ targets: "experts", steps: 2, learningRate: 1 } as never] },
      "stages.0.learningRate",
      /train.stages.0: unknown key "learningRate".*lr/,
    ],
    [
      "no targets",
      { stages: [{ steps: 2 } as never] },
      "stages.0.targets",
      /expected what trains: names between commas, or a list of them, found nothing/,
    ],
    ["no steps", { stages: [{ targets: "experts" } as never] }, "stages.0.steps", /expected a whole number >= 1, found nothing/],
    ["half a step", { stages: [{ targets: "experts", steps: 1.5 }] }, "stages.0.steps", /found 1.5/],
    ["other steps", { steps: 9 }, "steps", /train.steps: expected 7, the sum of the stages' steps \(leave it out\), found 9/],
    [
      "text that is no list",
      { stages: "experts" as never },
      "stages",
      /expected a list of stages, on the command line as JSON .* found "experts"/,
    ],
    ["a text that is another value", { stages: "3" as never }, "stages", /expected a array|expected an array|expected a list/],
  ])("with %s are refused", async (_what, more, key, message) => {
    await expect(run("refused", more)).rejects.toThrow(message);
    await expect(run("refused", more)).rejects.toMatchObject({ code: "ERR_CONFIG", where: { key } });
  });

  it("of a run in stages the stages stay what they are", async () => {
    await run("changed", {}, 2, 2);
    const stages = request("").stages!;
    await expect(run("changed", { resume: true, stages: [stages[0]!, { ...stages[1]!, steps: 5 }] })).rejects.toThrow(/stages .* → /);
  });
});
