// Which rule made a selection, told from the profile alone: bounds of p, majorities of layers, the words of it. No GPU.
// Alone: npx vitest run test/experts/diagnose.test.ts

import { describe, expect, it } from "vitest";
import { diagnoseSelection, normalizedScores } from "../../lib/experts/diagnose.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { rank } from "../../lib/experts/scores.ts";
import type { ExpertScores } from "../../lib/experts/scores.ts";

/** Scores by layer, as if measured. */
const scored = (layers: Readonly<Record<number, readonly number[]>>): ExpertScores => ({
  layers: Object.keys(layers).map(Number),
  scores: (layer) => Float64Array.from(layers[layer]!),
});

describe("diagnosis", () => {
  const counts = [[40, 30, 20, 10], [10, 20, 30, 40], [25, 35, 5, 35]]; // prettier-ignore
  const profile = new Profile({ source: "model", topK: 1, experts: 4, sequences: 1, layers: counts.map((c, layer) => ({ layer, tokens: 100, counts: c, gateSums: c.map((n) => n * n) })) }); // prettier-ignore

  it("gives the bounds of p that explain most layers", () => {
    const { verdict, hypotheses, message } = diagnoseSelection(profile.select({ p: 0.65 }), profile);
    expect(verdict).toBe("esft-2024"); // the same scores rounded: the first of equals
    const exact = hypotheses.find((h) => h.normalization === "per-layer" && h.score === "token")!;
    expect([exact.layersExplained, exact.layers]).toEqual([3, 3]);
    expect(exact.p!.above).toBeCloseTo(0.4, 12);
    expect(exact.p!.upTo).toBeCloseTo(0.7, 12);
    expect(message).toMatch(
      /token scores, taken per layer and rounded to 4 decimals .*explain 3 of 3 layers with p in \(0\.4000, 0\.7000\]/,
    );
  });

  it("divides by the sum over layers for the defective script, and leaves out what no layer used", () => {
    const scores = normalizedScores(profile, "axis-0", "token");
    expect([...scores.get(0)!].map((v) => v.toFixed(6))).toEqual([40 / 75, 30 / 85, 20 / 55, 10 / 85].map((v) => v.toFixed(6)));
    const unused = new Profile({ source: "model", topK: 1, experts: 2, sequences: 1, layers: [{ layer: 0, tokens: 1, counts: [1, 0], gateSums: [1, 0] }] }); // prettier-ignore
    expect([...normalizedScores(unused, "axis-0", "gate").get(0)!]).toEqual([1, 0]);
  });

  it("says in words which rule made a set, and with which p", () => {
    const said = (set: ExpertSet, of = profile) => diagnoseSelection(set, of);
    const rounded = said(profile.select({ p: 0.65, compat: "esft-2024" }));
    expect(rounded.message).toBe(
      "token scores, taken per layer and rounded to 4 decimals as in the released configs, explain 3 of 3 layers with p in (0.4000, 0.7000]",
    );
    // Ranks that rounding to four decimals would turn round.
    const close = [[0.30001, 0.30002, 0.2, 0.19997], [0.1, 0.2, 0.3, 0.4]].map((s) => s.map((x) => x * 1e5)); // prettier-ignore
    const fine = new Profile({ source: "model", topK: 1, experts: 4, sequences: 1, layers: close.map((c, layer) => ({ layer, tokens: 1e5, counts: c.map(Math.round), gateSums: [1, 1, 1, 1] })) }); // prettier-ignore
    const exact = said(fine.select({ p: 0.3 }), fine);
    expect([exact.verdict, exact.message]).toEqual(["per-layer", "token scores, taken per layer, explain 2 of 2 layers with p in (0.0000, 0.3000]"]); // prettier-ignore
    // What the defective script takes: the scores of an expert over the layers.
    const uneven = new Profile({ source: "model", topK: 1, experts: 3, sequences: 1, layers: [[90, 5, 5], [60, 30, 10], [98, 1, 1]].map((c, layer) => ({ layer, tokens: 100, counts: c, gateSums: c })) }); // prettier-ignore
    const script = new ExpertSet({
      layers: [...normalizedScores(uneven, "axis-0", "token")].map(([layer, s]) => [layer, { ranked: rank(s).slice(0, 1) }] as const),
    });
    const found = said(script, uneven);
    expect([found.verdict, found.hypotheses[0]]).toMatchObject(["axis-0", { normalization: "axis-0", score: "token", layersExplained: 3, layers: 3 }]); // prettier-ignore
    expect(found.message).toMatch(
      /^this selection was made by normalising each expert over the layers .*: it explains 3 of 3 layers with p in \(0\.0000, 0\.\d{4}\]\. Select again from the profile$/,
    );
  });

  it("takes p up to the end of a layer's interval and not its beginning; of intervals as good the first", () => {
    const even = new Profile({ source: "model", topK: 1, experts: 3, sequences: 1, layers: [0, 1].map((layer) => ({ layer, tokens: 4, counts: [2, 1, 1], gateSums: [2, 1, 1] })) }); // prettier-ignore
    const set = new ExpertSet({ layers: [[0, { ranked: [0] }], [1, { ranked: [0, 1] }]] }); // prettier-ignore
    const { verdict, hypotheses } = diagnoseSelection(set, even);
    expect([verdict, hypotheses[0]]).toMatchObject(["unknown", { layersExplained: 1, layers: 2, p: { above: 0, upTo: 0.5 } }]);
    expect(hypotheses.map((h) => `${h.score} ${h.normalization}`)).toEqual(["token esft-2024", "token per-layer", "token axis-0", "gate esft-2024", "gate per-layer", "gate axis-0"]); // prettier-ignore
  });

  it("explains a layer by the whole set, and by the p between its last expert and the one before", () => {
    const layers = [[50, 30, 15, 5], [40, 35, 15, 10]].map((c, layer) => ({ layer, tokens: 100, counts: c, gateSums: c })); // prettier-ignore
    const measured = new Profile({ source: "model", topK: 1, experts: 4, sequences: 1, layers });
    const p = (...ranked: number[][]) => {
      const { hypotheses } = diagnoseSelection(new ExpertSet({ layers: ranked.map((r, layer) => [layer, { ranked: r }] as const) }), measured); // prettier-ignore
      const found = hypotheses.find((h) => h.normalization === "per-layer" && h.score === "token")!;
      return [found.layersExplained, found.p?.above.toFixed(6), found.p?.upTo.toFixed(6)];
    };
    expect(p([0], [0])).toEqual([2, "0.000000", "0.400000"]);
    expect(p([0, 1, 2], [0, 1, 2])).toEqual([2, "0.800000", "0.900000"]);
    expect(p([0, 1, 2], [0, 2, 1, 3])).toEqual([2, "0.900000", "0.950000"]);
    expect(p([0, 1], [0, 2])).toEqual([1, "0.500000", "0.800000"]); // 2 is not the second best
  });

  it("divides where layers have other numbers of experts", () => {
    const uneven = scored({ 0: [0.5, 0.5], 1: [0.5, 0.25, 0.25] });
    expect([...normalizedScores(uneven, "axis-0", "token")].map(([, s]) => [...s])).toEqual([[0.5, 2 / 3], [0.5, 1 / 3, 1]]); // prettier-ignore
    expect([...normalizedScores(scored({ 0: [0.12344, 0.87656] }), "esft-2024", "token").get(0)!]).toEqual([0.1234, 0.8766]);
  });

  it("is unknown below nine layers of ten, and for a set of no expert", () => {
    const many = (good: number, n: number) => {
      const measured = new Profile({ source: "model", topK: 1, experts: 4, sequences: 1, layers: Array.from({ length: n }, (_, layer) => ({ layer, tokens: 100, counts: [40, 30, 20, 10], gateSums: [40, 30, 20, 10] })) }); // prettier-ignore
      const set = new ExpertSet({
        layers: Array.from({ length: n }, (_, layer) => [layer, { ranked: layer < good ? [0, 1] : [3] }] as const),
      });
      return diagnoseSelection(set, measured);
    };
    expect([many(9, 10).verdict, many(8, 10).verdict, many(10, 10).verdict]).toEqual(["esft-2024", "unknown", "esft-2024"]);
    expect(many(8, 10).message).toMatch(
      /no known rule explains this selection; the closest \(token scores, esft-2024\) explains 8 of 10 layers/,
    );
    const empty = diagnoseSelection(new ExpertSet({ layers: [[0, { ranked: [] }]] }), profile);
    expect([empty.verdict, empty.hypotheses[0]?.p, empty.hypotheses[0]?.layers]).toEqual(["unknown", null, 0]);
    expect(() => diagnoseSelection(new ExpertSet({ layers: [[9, { ranked: [0] }]] }), profile)).toThrow(
      /one of the layers 0, 1, 2, found 9/,
    );
  });
});
