// Profiles, selection rules and expert-set files. No GPU. Run alone: npx vitest run test/experts/select.test.ts
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigError, IoError } from "../../lib/errors.ts";
import { diagnoseSelection } from "../../lib/experts/diagnose.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import type { SelectOptions } from "../../lib/experts/select.ts";
import { roundHalfEven4 } from "../../lib/experts/scores.ts";
import { selectRandom } from "../../lib/experts/select_random.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();

/** Two layers, E=4, K=2, T=10. */
function profile(over: Partial<ConstructorParameters<typeof Profile>[0]> = {}): Profile {
  return new Profile({
    source: "model",
    topK: 2,
    experts: 4,
    sequences: 2,
    layers: [
      { layer: 3, tokens: 10, counts: [2, 8, 8, 2], gateSums: [0.5, 2, 1.5, 0] },
      { layer: 1, tokens: 10, counts: [6, 6, 6, 2], gateSums: [0.1, 0.2, 0.3, 3.4] },
    ],
    ...over,
  });
}
const idsOf = (s: ExpertSet) => Object.fromEntries([...s.layers].map(([l, e]) => [l, e.ranked]));

describe("selectExperts", () => {
  it("takes the fewest experts that reach p, the crossing one included, ties to the lower id", () => {
    expect(idsOf(profile().select({ score: "token", p: 0.4 }))).toEqual({ 1: [0, 1], 3: [1] });
    expect(idsOf(profile().select({ score: "token", p: 0.41 }))).toEqual({ 1: [0, 1], 3: [1, 2] });
    expect(idsOf(profile().select({ score: "token", p: 0.9 }))).toEqual({ 1: [0, 1, 2], 3: [1, 2, 0] }); // 0.3 + 0.3 + 0.3 reaches 0.9
    expect(idsOf(profile().select({ score: "token", p: 1 }))).toEqual({ 1: [0, 1, 2, 3], 3: [1, 2, 0, 3] });
  });

  it("gate scores raw and per layer; a layer that cannot reach p gets all its experts and a warning", () => {
    const p = profile({ layers: [{ layer: 0, tokens: 10, counts: [5, 5, 5, 5], gateSums: [0.5, 1, 0.25, 0.25] }] });
    const raw = p.select({ score: "gate", p: 0.3 });
    expect(idsOf(raw)).toEqual({ 0: [1, 0, 2, 3] });
    expect(raw.warnings).toEqual(["layer 0: gate scores sum to 0.2000, below p = 0.3: all 4 experts are selected"]);
    expect(p.layerMass(0)).toBeCloseTo(0.2, 15);
    const perLayer = p.select({ score: "gate", gateNormalize: "perLayer", p: 0.5 });
    expect(idsOf(perLayer)).toEqual({ 0: [1] });
    expect(perLayer.rule).toEqual({ score: "gate", average: "tokens", gateNormalize: "perLayer", p: 0.5 });
  });

  it.each([0, -0.1, 1.0001, NaN, Infinity, "0.2"])("refuses p = %s", (p) => {
    expect(() => profile().select({ score: "token", p: p as number })).toThrow(ConfigError);
    expect(() => profile().select({ score: "token", p: p as number })).toThrow(/\(0, 1\]/);
  });

  it.each([
    [{}, /exactly one of/],
    [{ p: 0.2, topKPerLayer: 2 }, /exactly one of/],
    [{ p: 0.2, score: "both" }, /score to be "token" or "gate"/],
    [{ p: 0.2, gateNormalize: "sum" }, /gateNormalize/],
    [{ p: 0.2, compat: "esft-2025" }, /compat/],
    [{ p: 0.2, score: "gate", compat: "esft-2024", gateNormalize: "perLayer" }, /raw scores/],
    [{ p: 0.2, average: "sequences" }, /per-sequence sums/],
    [{ topKPerLayer: 0 }, /from 1 to 4/],
    [{ topKPerLayer: 5 }, /from 1 to 4/],
    [{ maxTrainableParams: 0, expertParams: 10 }, /above 0/],
    [{ maxTrainableParams: 9, expertParams: 10 }, /at least one expert \(10\)/],
    [{ maxTrainableParams: 9, expertParams: 0 }, /expertParams >= 1/],
    [{ maxTrainableParams: 9, expertParams: new Map([[1, 3]]) }, /expertParams >= 1 for layer 3/],
  ])("refuses %j", (options, message) => {
    expect(() => profile().select(options as SelectOptions)).toThrow(message);
  });

  it("a fixed number per layer", () => {
    expect(idsOf(profile().select({ topKPerLayer: 2 }))).toEqual({ 1: [0, 1], 3: [1, 2] });
  });

  it("a parameter budget: best score per parameter over all layers, what does not fit is skipped", () => {
    expect(idsOf(profile().select({ maxTrainableParams: 39, expertParams: 10 }))).toEqual({ 1: [0], 3: [1, 2] });
    const uneven = profile().select({ maxTrainableParams: 30, expertParams: new Map([[1, 5], [3, 20]]) }); // prettier-ignore
    expect(idsOf(uneven)).toEqual({ 1: [0, 1, 2, 3], 3: [] });
    expect(uneven.warnings).toEqual(["the budget leaves layer 3 without a trained expert"]);
    const all = profile().select({ score: "gate", maxTrainableParams: 1e9, expertParams: 10 });
    expect(all.count).toBe(7); // expert 3 of layer 3 has no gate weight at all
  });

  it("random control: same sizes, same set for the same seed, distinct ids", () => {
    const like = profile().select({ score: "token", p: 0.9 });
    const a = selectRandom(like, { experts: 64, seed: 1 });
    expect(a.equals(selectRandom(like, { experts: 64, seed: 1 }))).toBe(true);
    expect(a.equals(selectRandom(like, { experts: 64, seed: 2 }))).toBe(false);
    expect([...a.layers.values()].map((e) => e.ids.length)).toEqual([3, 3]);
    expect(() => selectRandom(like, { experts: 2, seed: 1 })).toThrow(ConfigError);
    expect(() => selectRandom(like, { experts: 4, seed: -1 })).toThrow(ConfigError);
  });

  it("a rule with a seed takes as many experts, drawn at random", () => {
    const rule = { score: "token", p: 0.9 } as const;
    const like = profile().select(rule);
    const drawn = profile().select({ ...rule, random: 5 });
    expect(drawn.equals(selectRandom(like, { experts: profile().layout, seed: 5 }))).toBe(true);
    expect([...drawn.layers.values()].map((e) => e.ids.length)).toEqual([...like.layers.values()].map((e) => e.ids.length));
    expect(drawn.rule).toEqual({ ...like.rule, random: 5 });
    expect(() => profile().select({ ...rule, random: -1 })).toThrow(/expected a seed >= 0, found -1/);
  });

  it("rounds as Python does: exact halves to even, everything else by the exact binary value", () => {
    const cases: [number, number][] = [[0.03125, 0.0312], [0.09375, 0.0938], [0.15625, 0.1562], [0.00005, 0.0001], [0.00015, 0.0001], [0.00025, 0.0003], [0.12345, 0.1235], [0.2, 0.2], [0.0625, 0.0625], [0.1875, 0.1875], [0, 0], [1, 1], [0.99995, 1]]; // prettier-ignore
    for (const [x, y] of cases) expect([x, roundHalfEven4(x)]).toEqual([x, y]);
  });

  it("diagnoses a foreign selection as unknown", () => {
    const odd = new ExpertSet({ layers: [[1, { ranked: [3] }], [3, { ranked: [0, 3] }]] }); // prettier-ignore
    expect(diagnoseSelection(odd, profile({ layers: [{ layer: 1, tokens: 10, counts: [6, 6, 6, 2], gateSums: [4, 3, 2, 1] }, { layer: 3, tokens: 10, counts: [2, 8, 8, 2], gateSums: [1, 2, 3, 1] }] })).verdict).toBe("unknown"); // prettier-ignore
  });
});

describe("Profile", () => {
  it("saves, loads and adds up", async () => {
    const a = profile({ seed: 3, data: { name: "law", sha256: "x" }, model: { fingerprint: "f" }, resume: { row: 12 } });
    await a.save(join(root, "p.json"));
    const b = await Profile.load(join(root, "p.json"));
    expect(b.data).toEqual(a.data);
    const sum = Profile.merge([a, b]);
    expect(sum.data).toMatchObject({ sequences: 4, seed: 3, data: { name: "law" } });
    expect(sum.data.resume).toBeUndefined();
    expect(sum.layer(3)).toMatchObject({ tokens: 20, counts: [4, 16, 16, 4] });
    expect(sum.select({ score: "token", p: 0.4 }).equals(a.select({ score: "token", p: 0.4 }))).toBe(true);
    expect(() => Profile.merge([a, profile()])).toThrow(/different models/);
    expect(() => Profile.merge([])).toThrow(ConfigError);
  });

  it.each([
    [{ experts: 3 }, /expected 3 values in counts, found 4/],
    [{ topK: 1 }, /1 experts × 10 tokens = 10, found 20/],
    [{ topK: 9 }, /× 10 tokens/],
    [{ layers: [] }, /layers/],
    [{ layers: [{ layer: 0, tokens: 1, counts: [1, 1, 0, 0], gateSums: [NaN, 0, 0, 0] }] }, /gateSums/],
    [{ layers: [{ layer: 0, tokens: 1, counts: [3, -1, 0, 0], gateSums: [0, 0, 0, 0] }] }, /counts/],
    [{ layers: [{ layer: 0, tokens: 1, counts: [1, 1, 0, 0], gateSums: [0, 0, 0, 0] }, { layer: 0, tokens: 1, counts: [1, 1, 0, 0], gateSums: [0, 0, 0, 0] }] }, /twice/],
    [{ surprise: 1 }, /surprise/],
  ])("refuses %j", (over, message) => {
    expect(() => profile(over as object)).toThrow(ConfigError);
    expect(() => profile(over as object)).toThrow(message);
  }); // prettier-ignore

  it("layers may have other numbers of experts", async () => {
    const layers = [
      { layer: 0, tokens: 10, counts: [2, 8, 8, 2], gateSums: [1, 2, 3, 1] },
      { layer: 1, tokens: 10, topK: 1, experts: 3, counts: [1, 2, 7], gateSums: [1, 2, 3] },
    ];
    const p = profile({ layers, model: { fingerprint: "f" } });
    await p.save(join(root, "uneven.json"));
    expect((await Profile.load(join(root, "uneven.json"))).data).toEqual(p.data);
    expect([[...p.layout.values()], p.expertCount, p.topK(0), p.topK(1)]).toEqual([[4, 3], 7, 2, 1]);
    expect([...p.scores(1, { score: "token" })]).toEqual([0.1, 0.2, 0.7]);
    expect(idsOf(p.select({ score: "token", p: 0.8 }))).toEqual({ 0: [1, 2], 1: [2, 1] });
    expect(() => p.select({ topKPerLayer: 4 })).toThrow(/from 1 to 3, the experts of layer 1, found 4/);
    p.select({ score: "token", p: 0.8 }).validate(p.layout);
    const sum = Profile.merge([p, p]);
    expect([sum.layer(1), sum.expertCount]).toMatchObject([{ tokens: 20, topK: 1, experts: 3, counts: [2, 4, 14] }, 7]);
    const even = { layer: 1, tokens: 10, topK: 1, counts: [1, 2, 7, 0], gateSums: [1, 2, 3, 0] };
    expect(() => Profile.merge([p, profile({ layers: [layers[0]!, even], model: { fingerprint: "f" } })])).toThrow(/different models/);
    expect(() => profile({ layers: [{ ...layers[1]!, experts: 4 }] })).toThrow(/layer 1: expected 4 values in counts, found 3/);
    expect(() => profile({ layers: [{ ...layers[1]!, topK: 2 }] })).toThrow(/2 experts × 10 tokens/);
    const diagnosis = diagnoseSelection(p.select({ score: "token", p: 0.8 }), p);
    expect(diagnosis.hypotheses.find((h) => h.normalization === "per-layer")).toMatchObject({ score: "token", layersExplained: 2 });
    const random = selectRandom(p.select({ score: "token", p: 0.8 }), { experts: p.layout, seed: 1 });
    random.validate(p.layout);
    expect(random.rule).toEqual({ random: true, seed: 1, experts: { 0: 4, 1: 3 } });
  });

  it("refuses broken files, unprofiled layers and layers without tokens", async () => {
    for (const text of ["", "{}", "[]", '{"format":"esft-profile","version":2}']) {
      writeFileSync(join(root, "bad.json"), text);
      await expect(Profile.load(join(root, "bad.json"))).rejects.toThrow(ConfigError);
    }
    await expect(Profile.load(join(root, "absent.json"))).rejects.toThrow(IoError);
    expect(() => profile().layer(2)).toThrow(/one of the layers 1, 3, found 2/);
    const empty = profile({ layers: [{ layer: 0, tokens: 0, counts: [0, 0, 0, 0], gateSums: [0, 0, 0, 0] }] });
    expect(() => empty.select({ score: "token", p: 0.2 })).toThrow(/expected scored tokens/);
  });
});

describe("ExpertSet", () => {
  it("round-trips both formats; the official one keeps rank order and lexicographic keys", async () => {
    const set = new ExpertSet({ layers: [[2, { ranked: [5, 1] }], [10, { ranked: [3], scores: [0.5] }], [1, { ranked: [] }]], sharedExperts: true, rule: { p: 0.2 }, warnings: ["w"] }); // prettier-ignore
    await set.save(join(root, "ours.json"));
    const ours = await ExpertSet.load(join(root, "ours.json"));
    expect(ours.toJSON()).toEqual(set.toJSON());
    await set.save(join(root, "esft.json"), { format: "esft" });
    expect(readFileSync(join(root, "esft.json"), "utf8")).toBe(
      '{"experts": {"1": [], "10": [3], "2": [5, 1]}, "shared_experts": true, "non_expert_modules": false}',
    );
    const official = await ExpertSet.load(join(root, "esft.json"));
    expect(official.equals(set)).toBe(true);
    expect(official.layers.get(2)).toMatchObject({ ids: [1, 5], ranked: [5, 1] });
    expect(set.with({ nonExpertModules: true }).nonExpertModules).toBe(true);
    expect([set.count, set.has(2, 5), set.has(2, 4), set.ids(7)]).toEqual([3, true, false, []]);
  });

  it("checks itself against a model", () => {
    const layout = new Map([[1, 8], [2, 8], [3, 10]]); // prettier-ignore
    const make = (layer: number, id: number) => new ExpertSet({ layers: [[layer, { ranked: [id] }]] });
    make(3, 7).validate(layout);
    expect(() => make(0, 1).validate(layout)).toThrow(/layers with routed experts \(1 to 3\), found layer 0/);
    expect(() => make(1, 8).validate(layout)).toThrow(/below 8, found 8/);
    make(3, 8).validate(layout);
    expect(() => make(3, 10).validate(layout)).toThrow(/below 10, found 10/);
    expect(() => new ExpertSet({ layers: [] }).validate(layout)).toThrow(/something to train/);
    new ExpertSet({ layers: [], sharedExperts: true }).validate(layout);
    expect(() => make(1, -1)).toThrow(ConfigError);
    expect(() => make(1.5, 1)).toThrow(ConfigError);
    expect(() => new ExpertSet({ layers: [[1, { ranked: [2, 2] }]] })).toThrow(/found 2 twice/);
  });

  it.each([
    '{"experts": {"1": [1]}}',
    '{"experts": {"x": [1]}, "shared_experts": false, "non_expert_modules": false}',
    '{"experts": {"01": [1]}, "shared_experts": false, "non_expert_modules": false}',
    '{"experts": {"1": [1.5]}, "shared_experts": false, "non_expert_modules": false}',
    '{"experts": {"1": [1]}, "shared_experts": "no", "non_expert_modules": false}',
    '{"experts": {"1": [1], "1": [2]}, "shared_experts": false, "non_expert_modules": false}',
    '{"format": "esft-experts", "version": 9}',
    "[]",
  ])("refuses the file %s", async (text) => {
    writeFileSync(join(root, "bad.json"), text);
    await expect(ExpertSet.load(join(root, "bad.json"))).rejects.toThrow(ConfigError);
    const twice = '{"experts": {"1": [2, 2]}, "shared_experts": false, "non_expert_modules": false}';
    writeFileSync(join(root, "bad.json"), twice);
    await expect(ExpertSet.load(join(root, "bad.json"))).rejects.toThrow(/bad\.json, layer 1: expected each expert once, found 2 twice$/);
  });
});
