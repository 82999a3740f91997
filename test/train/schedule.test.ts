// Learning rate over the steps, against figures worked out by hand. No GPU. Alone: npx vitest run test/train/schedule.test.ts

import { describe, expect, it } from "vitest";
import type { OptimizerOptions } from "../../lib/options.ts";
import { learningRate, rateOf, stageAt } from "../../lib/train/schedule.ts";
import { trainOptions } from "../support/tiny_training.ts";

const rates = (optimizer: Partial<OptimizerOptions>, steps: number, upTo = steps): number[] => {
  const { optimizer: options } = trainOptions({ optimizer: { lr: 1, ...optimizer } });
  return Array.from({ length: upTo }, (_, step) => learningRate(options, steps, step));
};
const close = (found: number[], wanted: number[]): void => {
  expect(found.length).toBe(wanted.length);
  found.forEach((rate, i) => expect(rate, `step ${i}`).toBeCloseTo(wanted[i]!, 12));
};

describe("warm-up", () => {
  it("begins with the first part of the rate, not with 0, and ends with the whole", () => {
    close(rates({ warmupSteps: 4, lr: 2 }, 6), [0.5, 1, 1.5, 2, 2, 2]);
    close(rates({ warmupSteps: 1 }, 3), [1, 1, 1]);
    close(rates({ warmupSteps: 0 }, 3), [1, 1, 1]);
  });
  it("may be longer than the run", () => close(rates({ warmupSteps: 8, schedule: "cosine" }, 3), [1 / 8, 2 / 8, 3 / 8]));
});

describe("stages", () => {
  const stages = [
    { targets: "attention", steps: 2, lr: 3 },
    { targets: "experts", steps: 4, schedule: "linear", warmupSteps: 0 },
  ] as const;
  it("each has a schedule of its own, with the run's rates where it says none", () => {
    const options = { ...trainOptions({ steps: 6, optimizer: { lr: 1, warmupSteps: 2 } }), stages };
    close(
      Array.from({ length: 6 }, (_, done) => rateOf(options, done)),
      [1.5, 3, 1, 0.75, 0.5, 0.25],
    );
  });
  it("an update is of the stage that it falls in; beyond the last, of that", () => {
    expect([0, 1, 2, 5, 6, 9].map((done) => stageAt(stages, done))).toEqual([
      { index: 0, first: 0 },
      { index: 0, first: 0 },
      { index: 1, first: 2 },
      { index: 1, first: 2 },
      { index: 1, first: 2 },
      { index: 1, first: 2 },
    ]);
    expect(stageAt([], 3)).toEqual({ index: 0, first: 0 });
  });
});

describe("decay", () => {
  it("linear falls by equal parts, to 0 with the update after the last", () => {
    close(rates({ schedule: "linear" }, 4, 6), [1, 0.75, 0.5, 0.25, 0, 0]);
    close(rates({ schedule: "linear", warmupSteps: 2 }, 6), [0.5, 1, 1, 0.75, 0.5, 0.25]);
  });
  it("cosine is half a period", () => {
    const root = Math.SQRT1_2;
    close(rates({ schedule: "cosine" }, 4, 6), [1, (1 + root) / 2, 0.5, (1 - root) / 2, 0, 0]);
    close(rates({ schedule: "cosine", warmupSteps: 1 }, 5), [1, 1, (1 + root) / 2, 0.5, (1 - root) / 2]);
  });
  it("ends at minLrRatio, which scales what lies above it and is no floor", () => {
    close(rates({ schedule: "linear", minLrRatio: 0.2 }, 4, 6), [1, 0.8, 0.6, 0.4, 0.2, 0.2]);
    close(rates({ schedule: "cosine", minLrRatio: 0.5, lr: 4 }, 2, 4), [4, 3, 2, 2]);
    close(rates({ schedule: "constant", minLrRatio: 0.2 }, 2, 4), [1, 1, 1, 1]);
  });
  it("has room where warm-up takes all steps", () => close(rates({ schedule: "linear", warmupSteps: 3 }, 3, 5), [1 / 3, 2 / 3, 1, 1, 0]));
});
