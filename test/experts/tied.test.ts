// Experts tied into groups: by hand, against single experts, and what is refused. No GPU.
// Alone: npx vitest run test/experts/tied.test.ts

import { describe, expect, it } from "vitest";
import { diagnoseSelection } from "../../lib/experts/diagnose.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { ruleWords } from "../../lib/experts/rule_words.ts";
import type { ExpertScores } from "../../lib/experts/scores.ts";
import { selectExperts } from "../../lib/experts/select.ts";
import type { SelectOptions } from "../../lib/experts/select.ts";
import { selectRandom } from "../../lib/experts/select_random.ts";
import { tied } from "../../lib/experts/tied.ts";

/** Scores by layer, as if measured. */
const scored = (layers: Readonly<Record<number, readonly number[]>>): ExpertScores => ({
  layers: Object.keys(layers).map(Number),
  scores: (layer) => Float64Array.from(layers[layer]!),
});
const chosen = (set: ExpertSet) => Object.fromEntries([...set.layers].map(([layer, e]) => [layer, e.ranked]));

// Pairs: layer 1 has 0.25, 0.35, 0.3, 0.1; layer 4 has 0.5, 0.125, 0.25, 0.125.
const measured = scored({ 1: [0.05, 0.2, 0.15, 0.2, 0.3, 0, 0.05, 0.05], 4: [0.25, 0.25, 0.0625, 0.0625, 0, 0.25, 0.125, 0] });

describe("groups of two", () => {
  it("reach p by their sums, as wholes, the best first", () => {
    const set = selectExperts(measured, { p: 0.6, groupSize: 2 });
    expect(chosen(set)).toEqual({ 1: [3, 2, 4, 5], 4: [0, 1, 5, 4] }); // the best expert alone is 4; its pair is the second
    expect(set.layers.get(1)!.scores).toEqual([0.2, 0.15, 0.3, 0]);
    expect(set.rule).toEqual({ score: "token", average: "tokens", p: 0.6, groupSize: 2 });
    expect(chosen(selectExperts(measured, { p: 0.35, groupSize: 2 }))).toEqual({ 1: [3, 2], 4: [0, 1] });
  });

  it("tie to the lower group", () => {
    expect(chosen(selectExperts(measured, { topKPerLayer: 6, groupSize: 2 }))).toEqual({ 1: [3, 2, 4, 5, 1, 0], 4: [0, 1, 5, 4, 2, 3] });
    const even = scored({ 0: [0, 0.5, 0.25, 0.25] });
    expect(chosen(selectExperts(even, { topKPerLayer: 2, groupSize: 2 }))).toEqual({ 0: [1, 0] });
  });

  it("share a budget: a pair costs two, and one that no longer fits is skipped", () => {
    const expertParams = new Map([[1, 10], [4, 30]]); // prettier-ignore
    // Per parameter: layer 1 0.0125, 0.0175, 0.015, 0.005; layer 4 0.0083, 0.0021, 0.0042, 0.0021.
    const within = (maxTrainableParams: number) => chosen(selectExperts(measured, { maxTrainableParams, expertParams, groupSize: 2 }));
    expect(within(59)).toEqual({ 1: [3, 2, 4, 5], 4: [] });
    expect(within(110)).toEqual({ 1: [3, 2, 4, 5, 1, 0, 6, 7], 4: [] });
    expect(within(120)).toEqual({ 1: [3, 2, 4, 5, 1, 0], 4: [0, 1] });
    expect(() => within(19)).toThrow("expected maxTrainableParams of at least one group of 2 experts (20), found 19");
  });

  it("are all of a layer that cannot reach p, in experts", () => {
    const set = selectExperts(scored({ 2: [0.1, 0.2, 0.1, 0] }), { score: "gate", p: 0.5, groupSize: 2 });
    expect(set.warnings).toEqual(["layer 2: gate scores sum to 0.4000, below p = 0.5: all 4 experts are selected"]);
    expect(set.count).toBe(4);
  });

  it("drawn at random are as many, and whole", () => {
    const rule = { p: 0.6, groupSize: 2 } as const;
    for (let random = 0; random < 20; random++) {
      const set = selectExperts(measured, { ...rule, random });
      expect(set.rule).toEqual({ ...selectExperts(measured, rule).rule, random });
      for (const { ids } of set.layers.values()) {
        expect(ids).toHaveLength(4);
        for (const id of ids) expect(ids).toContain(id ^ 1);
      }
    }
    const two = [3, 4].map((random) => chosen(selectExperts(measured, { ...rule, random })));
    expect(two[0]).not.toEqual(two[1]);
    const like = selectExperts(measured, { topKPerLayer: 3 });
    expect(() => selectRandom(like, { experts: 8, seed: 1, groupSize: 2 })).toThrow("layer 1: expected whole groups of 2 experts, found 3");
    expect(selectRandom(selectExperts(measured, rule), { experts: 8, seed: 1, groupSize: 2 }).rule).toMatchObject({ groupSize: 2 });
  });

  it("of a whole layer are the layer", () => {
    expect(chosen(selectExperts(measured, { p: 0.01, groupSize: 8 }))).toEqual({
      1: [4, 1, 3, 2, 0, 6, 7, 5],
      4: [0, 1, 5, 6, 2, 3, 4, 7],
    });
  });

  it("are recognised by doctor selection", () => {
    const counts = [[5, 20, 15, 20, 30, 0, 5, 5], [25, 25, 6, 6, 0, 25, 13, 0]]; // prettier-ignore
    const layers = counts.map((c, layer) => ({ layer, tokens: 100, counts: c, gateSums: c.map((n) => n / 2) }));
    const profile = new Profile({ source: "model", topK: 1, experts: 8, sequences: 1, layers });
    const set = profile.select({ p: 0.6, groupSize: 2 });
    expect(diagnoseSelection(set, profile)).toMatchObject({
      verdict: "esft-2024",
      hypotheses: [{ layersExplained: 2 }, {}, {}, {}, {}, {}],
    });
    const bare = new ExpertSet({ layers: set.layers });
    expect(diagnoseSelection(bare, profile).verdict).toBe("unknown");
  });
});

it("a group of one is an expert: the same set, whatever the rule", () => {
  let state = 1;
  const next = (): number => (state = (state * 48271) % 2147483647) / 2147483647;
  for (let i = 0; i < 200; i++) {
    const E = 1 + Math.floor(next() * 12);
    const layer = (): number[] => Array.from({ length: E }, () => Math.round(next() * 8) / 8); // with ties
    const scores = scored({ 0: layer(), 3: layer() });
    const rules: SelectOptions[] = [
      { p: Math.max(0.01, next()) },
      { p: Math.max(0.01, next()), compat: "esft-2024" },
      { topKPerLayer: 1 + Math.floor(next() * E) },
      { maxTrainableParams: 5 + Math.floor(next() * 50), expertParams: 5 },
      { fixed: { 0: [0] } },
      { p: 0.5, random: i },
    ];
    for (const rule of rules) {
      const outcome = (more: object) => {
        try {
          return JSON.stringify(selectExperts(scores, { ...rule, ...more }));
        } catch (error) {
          return String(error);
        }
      };
      expect(outcome({ groupSize: 1 })).toBe(outcome({}));
    }
  }
});

it("a group's score is the sum of its experts' scores", () => {
  expect([...tied(measured, 4).scores(4, { score: "token" })]).toEqual([0.625, 0.375]);
});

it.each([
  [{ p: 0.5, groupSize: 3 }, /^selection, layer 1: expected a groupSize that divides its 8 experts, found 3; take one of 1, 2, 4, 8$/],
  [{ p: 0.5, groupSize: 16 }, /divides its 8 experts, found 16/],
  [{ p: 0.5, groupSize: 0 }, /groupSize as a whole number >= 1, found 0/],
  [{ p: 0.5, groupSize: 1.5 }, /groupSize as a whole number >= 1, found 1\.5/],
  [{ topKPerLayer: 3, groupSize: 2 }, /expected topKPerLayer as a number of experts in whole groups of 2, a multiple of it, found 3/],
  [{ topKPerLayer: 10, groupSize: 2 }, /topKPerLayer from 1 to 8, the experts of layer 1, found 10/],
  [{ fixed: { 1: [0] }, groupSize: 2 }, /expected no groupSize with fixed experts, which know single experts, found 2; drop groupSize/],
  [{ p: 0.5, compat: "esft-2024", groupSize: 2 }, /expected no groupSize with compat "esft-2024"/],
])("refuses %j", (options, message) => {
  const select = () => selectExperts(measured, options as SelectOptions);
  expect(select).toThrow(message);
  expect(select).toThrow(expect.objectContaining({ code: "ERR_CONFIG" }));
});

it("layers may have other numbers of experts, each of which n divides", () => {
  expect(selectExperts(scored({ 0: [0.5, 0.5], 1: [0.1, 0.2, 0.3, 0.4] }), { p: 0.6, groupSize: 2 }).count).toBe(4);
  expect(() => selectExperts(scored({ 0: [0.5, 0.5], 1: [0.3, 0.3, 0.4] }), { p: 0.6, groupSize: 2 })).toThrow(/layer 1: .* its 3 experts/);
});

it.each([
  [undefined, null],
  [{}, null],
  [{ fixed: true, score: "token" }, "experts that were named"],
  [{ score: "gate", gateNormalize: "perLayer", average: "sequences", p: 0.2 }, "gate scores (scaled per layer, averaged over sequences) up to p = 0.2"],
  [{ score: "token", p: 0.2, compat: "esft-2024" }, "token scores (as in esft-2024) up to p = 0.2"],
  [{ score: "gradient", topKPerLayer: 4, groupSize: 2, random: 7 }, "the best 4 of each layer by gradient scores, in groups of 2 neighbours, as many drawn at random, seed 7"],
  [{ score: "token", maxTrainableParams: 5e6 }, "the best within 5.0M parameters by token scores"],
  [{ random: true, seed: 3, experts: 8 }, "as many drawn at random, seed 3"],
])("the rule %j in words", (rule, words) => {
  expect(ruleWords(rule)).toBe(words);
}); // prettier-ignore
