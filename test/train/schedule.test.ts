// Learning rate over the steps, against figures worked out by hand. No GPU. Alone: npx vitest run test/train/schedule.test.ts

import { describe, expect, it } from "vitest";
import type { OptimizerOptions } from "../../lib/options.ts";
import { CheckedRequest } from "../../lib/train/request.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { dependsOnSteps, learningRate, rateOf, stageAt } from "../../lib/train/schedule.ts";
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
  it("as a ratio is a share of the steps, rounded up, whatever the schedule", () => {
    for (const schedule of ["constant", "linear", "cosine", "wsd"] as const)
      for (const [warmupRatio, steps, warmupSteps] of [
        [0.25, 8, 2],
        [0.3, 10, 3],
        [0.21, 10, 3],
        [0, 5, 0],
      ] as const)
        // prettier-ignore
        close(rates({ schedule, warmupRatio }, steps), rates({ schedule, warmupSteps }, steps));
    close(rates({ warmupRatio: 1 }, 4), [0.25, 0.5, 0.75, 1]);
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
  it("of two that say the same, the stage's own one holds", () => {
    const two = [
      { targets: "attention", steps: 4, warmupRatio: 0.5 },
      { targets: "experts", steps: 4, schedule: "wsd", warmupSteps: 1, decayRatio: 0.5 },
    ] as const;
    const all = (optimizer: Partial<OptimizerOptions>): number[] => {
      const options = { ...trainOptions({ steps: 8, optimizer: { lr: 1, ...optimizer } }), stages: two };
      return Array.from({ length: 8 }, (_, done) => rateOf(options, done));
    };
    close(all({ warmupSteps: 4 }), [0.5, 1, 1, 1, 1, 1, 1, 0.5]);
    close(all({ warmupRatio: 1 }), [0.5, 1, 1, 1, 1, 1, 1, 0.5]);
    close(all({ schedule: "wsd", decaySteps: 1 }), [0.5, 1, 1, 1, 1, 1, 1, 0.5]);
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

describe("warm-up, stable, decay", () => {
  it("stays at lr and falls in the last updates, to minLrRatio with the update after the last", () => {
    close(rates({ schedule: "wsd", warmupSteps: 2, decaySteps: 4 }, 10, 12), [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]);
    close(rates({ schedule: "wsd", decaySteps: 2, minLrRatio: 0.5, lr: 2 }, 4, 6), [2, 2, 2, 1.5, 1, 1]);
    close(rates({ schedule: "wsd", decaySteps: 4 }, 4), rates({ schedule: "linear" }, 4));
  });
  it("decays in a share of the steps, a tenth unless one says another", () => {
    close(rates({ schedule: "wsd" }, 20), rates({ schedule: "wsd", decaySteps: 2 }, 20));
    close(rates({ schedule: "wsd", decayRatio: 0.3 }, 10), rates({ schedule: "wsd", decaySteps: 3 }, 10));
    close(rates({ schedule: "wsd", decayRatio: 0.21 }, 10), rates({ schedule: "wsd", decaySteps: 3 }, 10));
  });
  it("linearly unless one says how", () => {
    const root = Math.SQRT1_2;
    const of = (decayShape?: OptimizerOptions["decayShape"]) => rates({ schedule: "wsd", decaySteps: 4, decayShape }, 5, 6);
    close(of(), [1, 1, 0.75, 0.5, 0.25, 0]);
    close(of("linear"), of());
    close(of("cosine"), [1, 1, (1 + root) / 2, 0.5, (1 - root) / 2, 0]);
    close(of("sqrt"), [1, 1, 0.5, 1 - root, 1 - Math.sqrt(0.75), 0]);
  });
  it("depends on the steps, as a warm-up does that is a share of them", () => {
    const of = (optimizer: Partial<OptimizerOptions>): boolean => dependsOnSteps(trainOptions({ optimizer }).optimizer);
    expect([of({}), of({ warmupSteps: 3 }), of({ warmupRatio: 0 })]).toEqual([false, false, false]);
    expect([of({ warmupRatio: 0.1 }), of({ schedule: "wsd" }), of({ schedule: "linear" })]).toEqual([true, true, true]);
  });
});

describe("rates that cannot be meant", () => {
  const given = { data: "d", method: "full", outDir: "o", steps: 10 };
  const lists = [{ targets: "attention", steps: 10, schedule: "wsd", warmupSteps: 5, decayRatio: 0.6 }];
  it.each([
    [{ optimizer: { warmupSteps: 1, warmupRatio: 0.1 } }, "optimizer.warmupRatio", /expected either warmupRatio or warmupSteps, found both \(0\.1 and 1\)$/],
    [{ optimizer: { schedule: "wsd", decaySteps: 1, decayRatio: 0.1 } }, "optimizer.decayRatio", /expected either decayRatio or decaySteps, found both/],
    [{ optimizer: { decaySteps: 1 } }, "optimizer.decaySteps", /expected with schedule wsd only, found schedule constant$/],
    [{ optimizer: { schedule: "cosine", decayShape: "linear" } }, "optimizer.decayShape", /wsd only, found schedule cosine$/],
    [{ optimizer: { schedule: "wsd", warmupSteps: 7, decaySteps: 4 } }, "optimizer.decaySteps", /fit into 10 steps, found 7 and 4; make one of them shorter$/],
    [{ optimizer: { schedule: "wsd", warmupRatio: 1 } }, "optimizer.decayRatio", /fit into 10 steps, found 10 and 1;/],
    [{ optimizer: { warmupRatio: 1.5 } }, "optimizer.warmupRatio", /expected a number <= 1, found 1\.5$/],
    [{ stages: lists }, "stages.0.decayRatio", /fit into 10 steps, found 5 and 6;/],
    [{ stages: [{ ...lists[0], decaySteps: 2 }] }, "stages.0.decayRatio", /expected either decayRatio or decaySteps/],
    [{ stages: [{ targets: "attention", steps: 10, decaySteps: 2 }] }, "stages.0.decaySteps", /wsd only, found schedule constant$/],
  ])("%j", (more, key, message) => {
    const words = expect.stringMatching(new RegExp(`^train\\.${key.replaceAll(".", "\\.")}: .*${message.source}`)) as string;
    expect(() => CheckedRequest.parse({ ...given, ...more } as unknown as TrainRequest)).toThrow(expect.objectContaining({ where: { key }, message: words })); // prettier-ignore
  }); // prettier-ignore
  it("are no fault of rates that do", () => {
    const wsd = { schedule: "wsd", warmupSteps: 6, decaySteps: 4 } as const;
    for (const more of [{ optimizer: wsd }, { optimizer: wsd, epochs: 1, steps: undefined }, { optimizer: { ...wsd, warmupSteps: 0, warmupRatio: 0.6 } }])
      CheckedRequest.parse({ ...given, ...more } as unknown as TrainRequest);
  }); // prettier-ignore
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
