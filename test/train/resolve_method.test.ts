// From the method a request names to what trains: experts and profiles from files or memory, and what is said of those that were measured
// on another model. No GPU. Alone: npx vitest run test/train/resolve_method.test.ts

import { join } from "node:path";
import { expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { expertParameters } from "../../lib/model/spec.ts";
import type { MethodOptions } from "../../lib/train/method_options.ts";
import { resolveMethod } from "../../lib/train/resolve_method.ts";
import type { TrainSession } from "../../lib/train/session.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek } from "../support/tiny_model.ts";

const root = tempDir();
const spec = modelSpec(tinyDeepseek, "config.json");
/** What trains, what was said, and how often the base's identity was asked for. */
async function resolved(method: MethodOptions, seed = 1) {
  const said: string[] = [];
  let asked = 0;
  const identity = async () => {
    asked++;
    return { fingerprint: "mine" };
  };
  const session = { spec, identity } as unknown as TrainSession;
  const trainable = await resolveMethod(session, method, seed, (message) => said.push(message));
  return { trainable, said, asked };
}
const set = (more: object = {}): ExpertSet => new ExpertSet({ layers: [[1, { ranked: [3, 0] }]], ...more });

it("full and LoRA take nothing but the model", async () => {
  expect(await resolved({ type: "full" })).toEqual({ trainable: fullTrainable(spec), said: [], asked: 0 });
  const of = async (more: object, seed = 1) => (await resolved({ type: "lora", rank: 4, targets: "linear", ...more }, seed)).trainable;
  const wanted = (alpha: number, targets: string[], rank = 4) => loraTrainable(spec, { rank, alpha, targets }, 1);
  const brief = ({ type, options, attachments }: ReturnType<typeof wanted>) => [type, options, attachments!.parameters.map((p) => p.key)];
  expect(brief(await of({}))).toEqual(brief(wanted(8, ["linear"])));
  expect(brief(await of({ rank: 3, alpha: 2, targets: "attention, dense" }))).toEqual(brief(wanted(2, ["attention", "dense"], 3)));
  const pattern = "/layers\\.\\d{1,2}\\..*o_proj$/";
  expect(brief(await of({ targets: `dense, ${pattern}` }))).toEqual(brief(wanted(8, ["dense", pattern])));
  expect(brief(await of({ targets: ["shared", "router"] }))).toEqual(brief(wanted(8, ["shared", "router"])));
  await expect(of({ targets: "no such" })).rejects.toMatchObject({ code: "ERR_CONFIG" });
});

it("experts are a set or its file; what they warn of and another base are told", async () => {
  const wanted = esftTrainable(spec, set());
  const { trainable, said, asked } = await resolved({ type: "esft", experts: set() });
  expect([trainable.type, trainable.keys, said, asked]).toEqual(["esft", wanted.keys, [], 0]); // of no known base: nothing to compare
  await set({ warnings: ["few", "odd"], base: "other" }).save(join(root, "set.json"));
  const other = await resolved({ type: "esft", experts: join(root, "set.json") });
  expect([other.trainable.keys, other.said]).toEqual([
    wanted.keys,
    ["the experts were selected on another checkpoint than the one to train", "few", "odd"],
  ]);
  expect((await resolved({ type: "esft", experts: set({ base: "mine" }) })).said).toEqual([]);
});

it("LoRA takes the routed experts of a set, and says so where it names more", async () => {
  const of = async (own: object) => (await resolved({ type: "lora", rank: 2, targets: "experts", experts: set(own) })).said;
  expect(await of({})).toEqual([]);
  expect(await of({ sharedExperts: true })).toEqual([expect.stringMatching(/LoRA adapts what its targets name/)]);
});

it("switches are the request's, else the set's", async () => {
  const switches = async (own: object, asked: object) => {
    const { experts } = (await resolved({ type: "esft", experts: set(own), ...asked })).trainable;
    return [experts!.sharedExperts, experts!.nonExpertModules];
  };
  expect([await switches({}, {}), await switches({ sharedExperts: true }, {}), await switches({ nonExpertModules: true }, {})]).toEqual([
    [false, false],
    [true, false],
    [false, true],
  ]);
  expect(await switches({ sharedExperts: true, nonExpertModules: true }, { sharedExperts: false, nonExpertModules: false })).toEqual([
    false,
    false,
  ]);
  expect(await switches({}, { sharedExperts: true })).toEqual([true, false]);
});

it("a profile, or its file, is selected from by the rule; budgets know the size of an expert", async () => {
  const layer = { tokens: 10, counts: [8, 7, 5, 4, 3, 2, 1, 0], gateSums: [1, 1, 1, 1, 1, 1, 1, 1] };
  const profile = (model?: object): Profile =>
    new Profile({ source: "model", topK: 3, experts: 8, sequences: 1, layers: [1, 2].map((l) => ({ layer: l, ...layer })), model });
  const chosen = async (select: object, from: Profile | string) => {
    const { trainable, said } = await resolved({ type: "esft", profile: from, select } as unknown as MethodOptions);
    return [Object.fromEntries([...trainable.experts!.layers].map(([l, { ids }]) => [l, ids])), said];
  };
  expect(await chosen({ score: "token", topKPerLayer: 2 }, profile())).toEqual([{ 1: [0, 1], 2: [0, 1] }, []]);
  const expert = expertParameters(spec).get(1)!;
  const maxTrainableParams = 3 * expert + 1;
  expect(await chosen({ maxTrainableParams }, profile({ fingerprint: "mine" }))).toEqual([{ 1: [0, 1], 2: [0] }, []]);
  await profile({ name: "x", fingerprint: "other" }).save(join(root, "profile.json"));
  expect(await chosen({ p: 0.2 }, join(root, "profile.json"))).toEqual([
    { 1: [0], 2: [0] },
    ["the profile was measured on another checkpoint than the one to train"],
  ]);
  expect((await chosen({ p: 0.2 }, profile({ name: "x" })))[1]).toEqual([]);
});
