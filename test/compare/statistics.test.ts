// Statistics of a comparison against SciPy 1.17.1. No GPU. Alone: npx vitest run test/compare/statistics.test.ts

import { describe, expect, it } from "vitest";
import { estimate, estimateWithin, meanOf, pairedDifference, studentQuantile } from "../../lib/compare/statistics.ts";

describe("the quantile of Student's t", () => {
  // scipy.stats.t.ppf(p, df)
  it.each([
    [0.975, 1, 12.706204736174694],
    [0.975, 2, 4.302652729749462],
    [0.975, 3, 3.1824463052837078],
    [0.975, 5, 2.5705818356363146],
    [0.975, 11, 2.200985160091639],
    [0.975, 29, 2.045229642132703],
    [0.975, 120, 1.9799304050824402],
    [0.975, 1000, 1.9623390808264083],
    [0.995, 1, 63.656741162871526],
    [0.995, 5, 4.032142983555228],
    [0.9, 3, 1.637744353696209],
    [0.9, 1000, 1.2823987214609247],
  ])("of %f with %i degrees of freedom", (p, freedom, expected) => {
    expect(Math.abs(studentQuantile(p, freedom) / expected - 1)).toBeLessThan(1e-12);
  });

  it("of one half is 0", () => {
    expect(studentQuantile(0.5, 4)).toBeLessThan(1e-12);
  });
});

describe("an estimate", () => {
  it("has the deviation of the sample", () => {
    const { mean, sd, n } = estimate([1, 2, 4])!;
    expect([mean, n]).toEqual([7 / 3, 3]);
    expect(sd).toBeCloseTo(1.5275252316519468, 14); // numpy.std([1, 2, 4], ddof=1)
  });
  it("is that of the values that are there", () => {
    expect(estimate([null, 2, undefined])).toEqual({ mean: 2, sd: null, n: 1 });
    expect(estimate([1, null, 3])).toEqual({ mean: 2, sd: Math.SQRT2, n: 2 });
    expect([meanOf([1, null, 3]), meanOf([undefined])]).toEqual([2, null]);
  });
  it("of one value has none, of no values is none", () => {
    expect(estimate([2])).toEqual({ mean: 2, sd: null, n: 1 });
    expect(estimate([])).toBeNull();
  });
});

describe("a paired difference", () => {
  it("has the interval of scipy.stats.ttest_rel(a, b).confidence_interval(0.95)", () => {
    const d = pairedDifference([1.92, 2.05, 1.88, 2.31, 2.22, 2.4], [2.01, 2.02, 2.11, 2.45, 2.28, 2.39])!;
    expect(d.mean).toBeCloseTo(-0.08, 14);
    expect(d.sd).toBeCloseTo(0.09674709297958253, 14); // numpy.std(a - b, ddof=1)
    expect(d.low).toBeCloseTo(-0.1815298474291045, 12);
    expect(d.high).toBeCloseTo(0.021529847429104493, 12);
    expect(d.n).toBe(6);
  });
  it("of one pair has no interval, of equal differences one of no width", () => {
    expect(pairedDifference([2], [1.5])).toEqual({ mean: 0.5, sd: null, n: 1, low: null, high: null });
    expect(pairedDifference([2, 3], [1, 2])).toEqual({ mean: 1, sd: 0, n: 2, low: 1, high: 1 });
  });
});

describe("an estimate within groups", () => {
  it("has the mean of all values, and the deviation of those of a group around their own mean", () => {
    const of = estimateWithin([[1, 3], [101, 103], [50]]);
    expect(of).toEqual({ mean: 51.6, sd: Math.SQRT2, n: 5 });
    expect(estimateWithin([[1, 2, 3], [10, 14]])!.sd).toBeCloseTo(Math.sqrt((2 + 8) / 3), 12); // prettier-ignore
  });
  it("knows no deviation where nothing is repeated, and nothing of nothing", () => {
    expect(estimateWithin([[1], [5], []])).toEqual({ mean: 3, sd: null, n: 2 });
    expect(estimateWithin([[null], []])).toBeNull();
    expect(estimateWithin([])).toBeNull();
  });
});
