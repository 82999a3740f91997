// Where a selection is decided by a hair: ties, budgets, rounding, seeds, majorities. No GPU.
// Alone: npx vitest run test/experts/edges.test.ts

import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ExpertSet, ranges } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { rank, roundHalfEven4 } from "../../lib/experts/scores.ts";
import type { ExpertScores } from "../../lib/experts/scores.ts";
import { selectExperts } from "../../lib/experts/select.ts";
import { selectRandom } from "../../lib/experts/select_random.ts";
import { readTraces } from "../../lib/experts/traces.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();
const chosen = (set: ExpertSet) => Object.fromEntries([...set.layers].map(([layer, e]) => [layer, e.ranked]));
/** Scores by layer, as if measured. */
const scored = (layers: Readonly<Record<number, readonly number[]>>): ExpertScores => ({
  layers: Object.keys(layers).map(Number),
  scores: (layer) => Float64Array.from(layers[layer]!),
});

describe("ties", () => {
  const even = scored({ 2: [0.25, 0.25, 0.25, 0.25], 5: [0.25, 0.25, 0.25, 0.25] });

  it("go to the lower id within a layer", () => {
    expect(rank([0.1, 0.3, 0.3, 0.3, 0.2])).toEqual([1, 2, 3, 4, 0]);
    expect(chosen(selectExperts(even, { p: 0.5 }))).toEqual({ 2: [0, 1], 5: [0, 1] });
    expect(chosen(selectExperts(even, { topKPerLayer: 3 }))).toEqual({ 2: [0, 1, 2], 5: [0, 1, 2] });
  });

  it("in a budget go to the lower layer first, then to the lower id", () => {
    const within = (experts: number) => chosen(selectExperts(even, { maxTrainableParams: 10 * experts, expertParams: 10 }));
    expect([within(1), within(4), within(6)]).toEqual([
      { 2: [0], 5: [] },
      { 2: [0, 1, 2, 3], 5: [] },
      { 2: [0, 1, 2, 3], 5: [0, 1] },
    ]);
    // as much per parameter, though scores and costs differ
    const rich = scored({ 1: [0.5, 0.5], 3: [1, 0] });
    const cost = new Map([[1, 10], [3, 20]]); // prettier-ignore
    expect(chosen(selectExperts(rich, { maxTrainableParams: 30, expertParams: cost }))).toEqual({ 1: [0, 1], 3: [] });
  });
});

describe("a budget", () => {
  const cost = new Map([[0, 100], [1, 10]]); // prettier-ignore

  it("skips what no longer fits and goes on", () => {
    const set = selectExperts(scored({ 0: [0.9, 0.8], 1: [0.06, 0.05, 0.04] }), { maxTrainableParams: 130, expertParams: cost });
    expect(chosen(set)).toEqual({ 0: [0], 1: [0, 1, 2] });
    expect(set.layers.get(1)).toMatchObject({ ids: [0, 1, 2], scores: [0.06, 0.05, 0.04] });
    expect(set.warnings).toEqual([]);
  });

  it("is used up to the last parameter and not overdrawn", () => {
    const scores = scored({ 1: [0.3, 0.2, 0.1] });
    const count = (maxTrainableParams: number) => selectExperts(scores, { maxTrainableParams, expertParams: 10 }).count;
    expect([count(10), count(19), count(20), count(30), count(1e9)]).toEqual([1, 1, 2, 3, 3]);
    expect(() => count(9)).toThrow(/at least one expert \(10\), found 9/);
    for (const odd of [0, -1, NaN, Infinity]) expect(() => count(odd)).toThrow(/maxTrainableParams above 0/);
  });

  it("names the layers that it leaves without an expert", () => {
    const scores = scored({ 0: [0.1], 4: [0.9], 7: [0.2] });
    const warnings = (maxTrainableParams: number) => selectExperts(scores, { maxTrainableParams, expertParams: 1 }).warnings;
    expect([warnings(1), warnings(2), warnings(3)]).toEqual([
      ["the budget leaves layers 0, 7 without a trained expert"],
      ["the budget leaves layer 0 without a trained expert"],
      [],
    ]);
    const unused = selectExperts(scored({ 0: [0, 1], 1: [0, 0] }), { maxTrainableParams: 100, expertParams: 1 });
    expect(chosen(unused)).toEqual({ 0: [1], 1: [] }); // never used, never trained
  });

  it.each([0, -1, 1.5, NaN, undefined])("needs the size of an expert, found %s", (size) => {
    expect(() => selectExperts(scored({ 3: [1] }), { maxTrainableParams: 9, expertParams: size as number })).toThrow(
      `expected expertParams >= 1 for layer 3, found ${size}`,
    );
  });
});

describe("p", () => {
  it("is reached by sums that miss it by rounding, but not where the released rule is asked for", () => {
    const scores = scored({ 0: [0.7, 0.1, 0.2, 0] }); // 0.7 + 0.2 = 0.8999999999999999
    expect(chosen(selectExperts(scores, { p: 0.9 }))).toEqual({ 0: [0, 2] });
    expect(chosen(selectExperts(scores, { p: 0.9, compat: "esft-2024" }))).toEqual({ 0: [0, 2, 1] });
    expect(chosen(selectExperts(scores, { p: 0.9 + 1e-9 }))).toEqual({ 0: [0, 2, 1] });
  });

  it("rounds each score to four decimals where the released rule is asked for", () => {
    const scores = scored({ 0: [0.50004, 0.29996, 0.2] });
    expect(chosen(selectExperts(scores, { p: 0.50002 }))).toEqual({ 0: [0] });
    expect(chosen(selectExperts(scores, { p: 0.50002, compat: "esft-2024" }))).toEqual({ 0: [0, 1] });
    const set = selectExperts(scores, { p: 0.6, compat: "esft-2024" });
    expect([set.layers.get(0)?.scores, set.rule]).toEqual([[0.5, 0.3], { score: "token", average: "tokens", p: 0.6, compat: "esft-2024" }]);
  });

  it("that a layer cannot reach takes all of it; a warning says so unless rounding is to blame", () => {
    const warnings = (sum: number, p = 1) => selectExperts(scored({ 4: [sum / 2, sum / 2] }), { score: "gate", p }).warnings;
    expect(warnings(0.9)).toEqual(["layer 4: gate scores sum to 0.9000, below p = 1: all 2 experts are selected"]);
    expect([warnings(0.9989).length, warnings(0.999), warnings(0.9995), warnings(0.9, 0.9)]).toEqual([1, [], [], []]);
  });

  it("goes with switches and records what was asked for", () => {
    const measured = { ...scored({ 0: [0.5, 0.5] }), base: "f" };
    const set = selectExperts(measured, { score: "gate", p: 0.5, sharedExperts: true });
    expect([set.sharedExperts, set.nonExpertModules, set.base, set.rule]).toEqual([true, false, "f", { score: "gate", average: "tokens", gateNormalize: "raw", p: 0.5 }]); // prettier-ignore
    const other = selectExperts(measured, { topKPerLayer: 1, nonExpertModules: true });
    expect([other.sharedExperts, other.nonExpertModules, other.rule]).toEqual([false, true, { score: "token", average: "tokens", topKPerLayer: 1 }]); // prettier-ignore
  });

  it("compat knows raw scores over tokens alone", () => {
    const scores = scored({ 0: [1] });
    const select = (more: object) => () => selectExperts(scores, { p: 0.5, compat: "esft-2024", ...more });
    expect(select({ average: "sequences" })).toThrow(/knows only raw scores averaged over tokens/);
    expect(select({ score: "gate", gateNormalize: "perLayer" })).toThrow(/knows only raw scores averaged over tokens/);
    expect(select({ score: "gate" })().count).toBe(1);
    expect(() => selectExperts(scores, {} as never)).toThrow(
      "expected exactly one of p, topKPerLayer, maxTrainableParams, fixed, found none",
    );
    expect(() => selectExperts(scores, { p: 1, topKPerLayer: 1 } as never)).toThrow("found p and topKPerLayer");
    const halves = selectExperts(scored({ 0: [0.5, 0.5] }), { p: 0.5, compat: "esft-2024" });
    expect([chosen(halves), halves.warnings]).toEqual([{ 0: [0] }, []]); // p itself is enough
    expect(selectExperts(scores, { topKPerLayer: 1, compat: "esft-2024" } as never).rule).toEqual({ score: "token", average: "tokens", topKPerLayer: 1 }); // prettier-ignore
    expect(select({ compat: "esft-2025" })).toThrow('selection: expected compat to be "esft-2024", found "esft-2025"');
    for (const [more, where] of [[{ p: 2 }, { option: "p" }], [{ compat: "x" }, { option: "compat" }], [{ score: "x" }, { option: "score" }], [{ average: "x" }, { option: "average" }]] as const)
      expect(select(more)).toThrow(expect.objectContaining({ code: "ERR_CONFIG", where })); // prettier-ignore
    for (const n of [0, 2, 1.5, "1"])
      expect(() => selectExperts(scores, { topKPerLayer: n as number })).toThrow(`from 1 to 1, the experts of layer 0, found ${n}`);
  });
});

describe("random control", () => {
  const like = (sizes: readonly number[]) => new ExpertSet({ layers: sizes.map((n, i) => [2 * i, { ranked: Array.from({ length: n }, (_, id) => id) }] as const), sharedExperts: true, base: "f" }); // prettier-ignore
  const drawn = (sizes: readonly number[], experts: number, seed: number) => [...selectRandom(like(sizes), { experts, seed }).layers.values()].map((e) => e.ranked); // prettier-ignore

  it("is splitmix64 and a partial Fisher-Yates shuffle, the same on every machine", () => {
    // computed in Python from the published recurrence
    expect(drawn([3, 3], 8, 1)).toEqual([[1, 0, 2], [3, 6, 4]]); // prettier-ignore
    expect(drawn([4, 2], 6, 7)).toEqual([[3, 5, 4, 0], [4, 1]]); // prettier-ignore
    expect(drawn([6], 6, 0)).toEqual([[1, 0, 5, 4, 2, 3]]);
    expect(drawn([2], 64, Number.MAX_SAFE_INTEGER)).toEqual([[31, 3]]);
  });

  it("keeps layers, switches and base; each layer has its own number of experts", () => {
    const set = selectRandom(like([1, 2]), { experts: new Map([[0, 1], [2, 2]]), seed: 3 }); // prettier-ignore
    expect(selectRandom(like([1]), { experts: 8, seed: 3 }).rule).toEqual({ random: true, seed: 3, experts: 8 });
    expect([[...set.layers.keys()], set.ids(0), set.ids(2), set.sharedExperts, set.base]).toEqual([[0, 2], [0], [0, 1], true, "f"]);
    expect(() => selectRandom(like([1, 2]), { experts: new Map([[0, 1]]), seed: 3 })).toThrow(
      /layer 2: expected at most 0 experts, found 2/,
    );
    expect(() => selectRandom(like([3]), { experts: 2, seed: 3 })).toThrow(/layer 0: expected at most 2 experts, found 3/);
    for (const seed of [-1, 0.5, NaN, 2 ** 53]) expect(() => selectRandom(like([1]), { experts: 2, seed })).toThrow(/a seed >= 0, found/);
  });
});

describe("ExpertSet.equals", () => {
  const make = (more: object = {}, ranked = [3, 1]) => new ExpertSet({ layers: [[1, { ranked }], [4, { ranked: [] }]], ...more }); // prettier-ignore
  it("compares experts and switches, nothing else", () => {
    const set = make();
    expect(set.equals(make({ rule: { p: 1 }, base: "other", warnings: ["w"] }, [1, 3]))).toBe(true);
    expect(set.equals(new ExpertSet({ layers: [[1, { ranked: [3, 1] }]] }))).toBe(true); // no expert is no layer
    for (const other of [
      make({ sharedExperts: true }),
      make({ nonExpertModules: true }),
      make({}, [3]),
      make({}, [3, 2]),
      new ExpertSet({ layers: [[2, { ranked: [3, 1] }]] }),
    ]) {
      // prettier-ignore
      expect(set.equals(other)).toBe(false);
      expect(other.equals(set)).toBe(false);
    }
    expect(make({ sharedExperts: true }).equals(make({ nonExpertModules: true }))).toBe(false);
  });
});

describe("Profile", () => {
  const profile = (more: object = {}) =>
    new Profile({ source: "model", topK: 1, experts: 2, sequences: 1, layers: [{ layer: 0, tokens: 4, counts: [3, 1], gateSums: [1, 1] }], ...more }); // prettier-ignore

  it("of two seeds or two data sets, added, tells neither; of one it keeps both", () => {
    const law = { name: "law", sha256: "1" };
    const merged = (a: object, b: object) => Profile.merge([profile(a), profile(b)]).data;
    expect(merged({ seed: 1, data: law }, { seed: 1, data: law })).toMatchObject({ seed: 1, data: law, sequences: 2 });
    for (const [a, b] of [
      [
        { seed: 1, data: law },
        { seed: 2, data: law },
      ],
      [
        { seed: 1, data: law },
        { seed: 1, data: { ...law, sha256: "2" } },
      ],
      [{ seed: 1, data: law }, { data: law }],
    ] as const) {
      const { seed, data, sequences, layers } = merged(a, b);
      expect([seed, data, sequences, layers[0]?.counts]).toEqual([undefined, undefined, 2, [6, 2]]);
    }
  });

  it("adds sequence sums only where all parts have them, and parts of one model alone", () => {
    const layer = { layer: 0, tokens: 4, counts: [3, 1], gateSums: [1, 1] };
    const whole = { layers: [{ ...layer, sequenceTokenSums: [0.5, 0.25], sequenceGateSums: [0.1, 0.2] }] };
    const both = Profile.merge([profile(whole), profile(whole)]).layer(0);
    expect([both.sequenceTokenSums, both.sequenceGateSums]).toEqual([[1, 0.5], [0.2, 0.4]]); // prettier-ignore
    const mixed = Profile.merge([profile(whole), profile()]).layer(0);
    expect([mixed.sequenceTokenSums, mixed.sequenceGateSums]).toEqual([undefined, undefined]);
    for (const other of [
      { source: "traces" },
      { model: { fingerprint: "g" } },
      { normTopkProb: true },
      { layers: [{ ...layer, layer: 1 }] },
    ])
      expect(() => Profile.merge([profile(), profile(other)])).toThrow(/cannot merge profiles of different models/);
    expect(Profile.merge([profile({ model: { name: "a" } }), profile({ model: { name: "b" } })]).tokens).toBe(8); // a name is no identity
  });
});

describe("traces", () => {
  const line = (...ids: number[]): string => `${ids.join("\t")}\t\t${ids.map(() => "0.5").join("\t")}\n`;
  const traces = (...layers: string[]): string => {
    const dir = mkdtempSync(join(root, "t-"));
    for (const [i, text] of layers.entries()) writeFileSync(join(dir, `expert_weights_${i}.txt`), text);
    return dir;
  };

  it("must have the same lines in every layer, not only as many tokens", async () => {
    const dir = traces(line(0, 1) + line(2, 3), line(0, 1, 2, 3));
    await expect(readTraces(dir, { topK: 2, experts: 4 })).rejects.toThrow(
      /found 2 lines with 2 tokens in layer 0 and 1 lines with 2 tokens in layer 1/,
    );
    await expect(readTraces(traces(line(0, 1), line(0, 1, 2, 3)), { topK: 2, experts: 4 })).rejects.toThrow(
      /found 1 lines with 1 tokens in layer 0 and 1 lines with 2 tokens in layer 1/,
    );
    const { data } = await readTraces(traces(line(0, 1) + line(2, 3), line(0, 1) + line(2, 3)), { topK: 2, experts: 4 });
    expect([data.sequences, data.layers.map((l) => l.tokens)]).toEqual([2, [2, 2]]);
  });

  it("tell the number of experts when most layers used the highest, half is not most", async () => {
    const [low, high] = [line(0, 1), line(0, 3)];
    await expect(readTraces(traces(high, high, low, low), { topK: 2 })).rejects.toThrow(/the highest id is 3, used in only 2 of 4 layers/);
    expect((await readTraces(traces(high, high, high, low, low), { topK: 2 })).experts).toBe(4);
    expect((await readTraces(traces(high), { topK: 2 })).experts).toBe(4);
  });
});

it("rounds negative halves and very large numbers as Python does", () => {
  const cases = [[-0.03125, -0.0312], [-0.09375, -0.0938], [1e15, 1e15], [1e15 + 0.5, 1e15 + 0.5], [123456.03125, 123456.0312], [1e22, 1e22]]; // prettier-ignore
  for (const [x, y] of cases) expect([x, roundHalfEven4(x!)]).toEqual([x, y]);
});

it("says layers in words", () => {
  expect([ranges([]), ranges([3]), ranges([3, 4]), ranges([0, 2, 3]), ranges([0, 2])]).toEqual(["none", "3", "3 to 4", "0, 2, 3", "0, 2"]);
});
