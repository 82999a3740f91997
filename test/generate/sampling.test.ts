// The options of sampling and the random numbers of its steps. No GPU. Alone: npx vitest run test/generate/sampling.test.ts

import { describe, expect, it } from "vitest";
import { ConfigError } from "../../lib/errors.ts";
import { samplingOptions, uniformAt } from "../../lib/generate/sampling.ts";

describe("options", () => {
  it("are greedy where nothing is said", () => {
    const defaults = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 1, logprobs: 0 };
    expect(samplingOptions()).toEqual(defaults);
    expect(samplingOptions({ temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1.2, seed: 7, logprobs: 32 })).toEqual({
      ...defaults,
      repetitionPenalty: 1.2,
      seed: 7,
      logprobs: 32,
    });
    const all = { temperature: 0.7, topK: 50, topP: 0.9, minP: 0.05, repetitionPenalty: 1.1, seed: 2 ** 53 - 1, logprobs: 5 };
    expect(samplingOptions(all)).toEqual(all);
  });

  for (const [value, message] of [
    [{ temperature: -1 }, "sampling.temperature: expected a number >= 0, found -1"],
    [{ temperature: 1e40 }, "sampling.temperature: expected a number <= 1000000, found 1e+40"],
    [{ temperature: NaN }, "sampling.temperature: expected a number >= 0 and <= 1000000, found NaN"],
    [{ temperature: "0.7" }, 'sampling.temperature: expected a number >= 0 and <= 1000000, found "0.7"'],
    [{ topK: -1 }, "sampling.topK: expected a number >= 0, found -1"],
    [{ topK: 1.5 }, "sampling.topK: expected a whole number >= 0 and <= 2147483647, found 1.5"],
    [{ topK: 2 ** 31 }, "sampling.topK: expected a number <= 2147483647, found 2147483648"],
    [{ topP: 0 }, "sampling.topP: expected a number > 0, found 0"],
    [{ topP: 1.1 }, "sampling.topP: expected a number <= 1, found 1.1"],
    [{ minP: -0.1 }, "sampling.minP: expected a number >= 0, found -0.1"],
    [{ minP: 2 }, "sampling.minP: expected a number <= 1, found 2"],
    [{ repetitionPenalty: 0 }, "sampling.repetitionPenalty: expected a number >= 0.001, found 0"],
    [{ repetitionPenalty: 1e9 }, "sampling.repetitionPenalty: expected a number <= 1000, found 1000000000"],
    [{ seed: -1 }, "sampling.seed: expected a number >= 0, found -1"],
    [{ seed: 2 ** 53 }, "sampling.seed: expected a whole number"],
    [{ logprobs: 33 }, "sampling.logprobs: expected a number <= 32, found 33"],
    [{ top_p: 0.9 }, 'sampling: unknown key "top_p"; did you mean "topP"?'],
    [{ maxTokens: 9 }, 'sampling: unknown key "maxTokens"'],
    [null, "sampling: expected keys and values, found null"],
    [{ topK: 5 }, "sampling.topK: expected 0 (off) with temperature 0"],
    [{ topP: 0.9, temperature: 0 }, "sampling.topP: expected 1 (off) with temperature 0, which takes the most probable token, found 0.9"],
    [{ minP: 0.1, temperature: 1e-60 }, "sampling.minP: expected 0 (off) with temperature 1e-60"],
  ] as const)
    it(`refuse ${JSON.stringify(value)}`, () => {
      const refused = (): unknown => samplingOptions(value);
      expect(refused).toThrow(ConfigError);
      expect(refused).toThrow(message);
    });
  it("name their source", () => {
    expect(() => samplingOptions({ topP: 2 }, "request")).toThrow(/^request\.topP: /);
  });
});

describe("random numbers", () => {
  it("are those of SplitMix64 from a mixed seed, in 53 bits", () => {
    // The generator itself from state 0 begins 0xe220a8397b1dcdaf: what seed 0 is mixed to.
    let state = 0xe220a8397b1dcdafn;
    for (let step = 0; step < 5; step++) {
      state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
      let x = state;
      x = BigInt.asUintN(64, (x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
      x = BigInt.asUintN(64, (x ^ (x >> 27n)) * 0x94d049bb133111ebn);
      x ^= x >> 31n;
      expect(uniformAt(0, step)).toBe(Number(x >> 11n) / 2 ** 53);
    }
  });
  it("are different at every step of every seed", () => {
    const seen = new Set<number>();
    for (let seed = 0; seed < 100; seed++) for (let step = 0; step < 100; step++) seen.add(uniformAt(seed, step));
    expect(seen.size).toBe(10_000);
    expect(uniformAt(2 ** 53 - 1, 2 ** 40)).not.toBe(uniformAt(2 ** 53 - 2, 2 ** 40));
  });
  for (const [name, of] of [
    ["steps of a seed", (i: number) => uniformAt(7, i)],
    ["first steps of seeds", (i: number) => uniformAt(i, 0)],
    ["seeds and steps that go together", (i: number) => uniformAt(i, 20_000 - i)],
  ] as const)
    it(`are uniform and independent: ${name}`, () => {
      const n = 20_000;
      const u = Array.from({ length: n }, (_, i) => of(i));
      expect(u.every((x) => x >= 0 && x < 1)).toBe(true);
      const counts = new Array<number>(20).fill(0);
      for (const x of u) counts[Math.floor(x * 20)]!++;
      const chi = counts.reduce((s, c) => s + (c - n / 20) ** 2 / (n / 20), 0);
      expect(chi).toBeLessThan(43.8); // 19 degrees of freedom: passed by one in a thousand
      let together = 0;
      for (let i = 1; i < n; i++) together += (u[i]! - 0.5) * (u[i - 1]! - 0.5);
      expect(Math.abs((together / n) * 12)).toBeLessThan(3.3 / Math.sqrt(n));
    });
});
