// What plain JavaScript may give: every argument that is not what it must be is refused with its name. No GPU.
// Alone: npx vitest run test/experts/arguments.test.ts

import { expect, it } from "vitest";
import { diagnoseSelection } from "../../lib/experts/diagnose.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { selectExperts } from "../../lib/experts/select.ts";
import { selectRandom } from "../../lib/experts/select_random.ts";
import { readTraces } from "../../lib/experts/traces.ts";

const set = new ExpertSet({ layers: [[0, { ranked: [1] }]] });
const data = { source: "model", topK: 1, experts: 2, sequences: 1, layers: [{ layer: 0, tokens: 1, counts: [1, 0], gateSums: [1, 0] }] } as const; // prettier-ignore
const profile = new Profile(structuredClone(data) as never);

const wrong: [string, (x: never) => unknown][] = [
  ["readTraces: dir", (x) => readTraces(x)],
  ["readTraces: options", (x) => readTraces("logs", x)],
  ["diagnoseSelection: experts", (x) => diagnoseSelection(x, profile)],
  ["diagnoseSelection: profile", (x) => diagnoseSelection(set, x)],
  ["selectExperts: profile", (x) => selectExperts(x, { p: 0.5 })],
  ["select: options", (x) => selectExperts(profile, x)],
  ["selectRandom: like", (x) => selectRandom(x, { experts: 2, seed: 1 })],
  ["selectRandom: options", (x) => selectRandom(set, x)],
  ["selectRandom: options.experts", (x) => selectRandom(set, { experts: [x] as never, seed: 1 })],
  ["new Profile: file", (x) => new Profile(profile.data, x)],
  ["profile: data", (x) => new Profile(x)],
  ["profile: layer", (x) => profile.layer(x)],
  ["profile.scores: options", (x) => profile.scores(0, x)],
  ["Profile.merge: parts", (x) => Profile.merge(x)],
  ["Profile.merge: parts", (x) => Profile.merge([profile, x])],
  ["profile.save: path", (x) => profile.save(x)],
  ["Profile.load: path", (x) => Profile.load(x)],
  ["ExpertSet: source", (x) => new ExpertSet({ layers: [] }, x)],
  ["expert set: init", (x) => new ExpertSet(x)],
  ["expert set: layers", (x) => new ExpertSet({ layers: x })],
  ["expert set: layers", (x) => new ExpertSet({ layers: [x] })],
  ["expert set: layers", (x) => new ExpertSet({ layers: [[0, x]] })],
  ["expert set: layers.ranked", (x) => new ExpertSet({ layers: [[0, { ranked: x }]] })],
  ["experts.with: changes", (x) => set.with(x)],
  ["experts.equals: other", (x) => set.equals(x)],
  ["experts.validate: layout", (x) => set.validate(x)],
  ["ExpertSet.fromJSON: file", (x) => ExpertSet.fromJSON(set.toJSON(), x)],
  ["ExpertSet.fromEsftConfig: file", (x) => ExpertSet.fromEsftConfig({ experts: {}, shared_experts: true, non_expert_modules: true }, x)],
  ["experts.save: path", (x) => set.save(x)],
  ["experts.save: options", (x) => set.save("experts.json", x)],
  ["ExpertSet.load: path", (x) => ExpertSet.load(x)],
];
it("a profile is what has layers and scores", () => {
  for (const value of [{}, { layers: [0] }, { scores: () => [1] }, { layers: null, scores: () => [1] }])
    expect(() => selectExperts(value as never, { p: 0.5 })).toThrow(/^selectExperts: profile: expected a Profile, found /);
});

it.each(wrong)("%s", async (key, call) => {
  for (const value of [-5, null]) {
    const error: unknown = await (async () => call(value as never))().catch((e: unknown) => e);
    expect(error).toMatchObject({ code: "ERR_CONFIG", where: { key } });
  }
});
