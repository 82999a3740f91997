// What ties a checkpoint to its run: each part of it alone is a difference that is named, and nothing else is one. No GPU.
// Alone: npx vitest run test/train/fingerprint.test.ts

import { afterAll, beforeAll, expect, it } from "vitest";
import { BatchStream } from "../../lib/data/stream.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { requireSameRun, runFacts } from "../../lib/train/fingerprint.ts";
import type { RunParts } from "../../lib/train/fingerprint.ts";
import { tinyExamples, tinyTraining, trainOptions } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());

const stream = (seed = 1): BatchStream =>
  new BatchStream(tinyExamples(20, seed), { packing: "none", maxLength: 16, onOverflow: "error", seed: 1, rowsPerBatch: 1 });
const cosine = { lr: 0.01, schedule: "cosine" };

it("names what differs, and takes what decides no result", () => {
  const parts: RunParts = { options: trainOptions(), base: "b", trainable: tiny.trainable, heldOut: tinyExamples(4, 7), model: tiny.model };
  const of = (more: Partial<RunParts>, data = stream()): ReturnType<typeof runFacts> => runFacts({ ...parts, ...more }, data);
  const same = (more: Partial<RunParts>): unknown => requireSameRun("dir", 3, of({}), of(more), false);
  for (const options of [{}, { saveEvery: 9 }, { steps: 99 }, { keep: "last" }])
    expect(same({ options: trainOptions(options) })).toBeNull();
  expect(same({ heldOut: tinyExamples(4, 7) })).toBeNull();
  const others: [string, Partial<RunParts>][] = [
    ["heldOutRows", { heldOut: null }],
    ["heldOutRows", { heldOut: tinyExamples(4, 8) }],
    ["heldOutRows", { heldOut: tinyExamples(5, 7) }],
    ["base", { base: "c" }],
    ["method.type", { trainable: { ...tiny.trainable, type: "full" } }],
    ["trained", { trainable: { ...tiny.trainable, keys: tiny.trainable.keys.slice(1) } }],
    ["method.rank", { trainable: { ...tiny.trainable, options: { rank: 4 } } }],
    ["experts", { trainable: { ...tiny.trainable, experts: new ExpertSet({ layers: [[1, { ranked: [2] }]] }) } }],
    ["precision", { model: { precision: "bf16" } }],
    ["seed", { options: trainOptions({ seed: 2 }) }],
    ["evalEvery", { options: trainOptions({ evalEvery: 7 }) }],
    ["optimizer.lr", { options: trainOptions({ optimizer: { lr: 0.02 } }) }],
    ["optimizer.schedule", { options: trainOptions({ optimizer: cosine }) }],
  ];
  const refusal = (before: typeof parts, after: typeof parts, data = stream(), extend = false): unknown => {
    try {
      return requireSameRun("dir", 3, runFacts(before, stream()), runFacts(after, data), extend);
    } catch (error) {
      return error;
    }
  };
  for (const [key, more] of others) {
    const error = refusal(parts, { ...parts, ...more }) as Error;
    expect(error, key).toMatchObject({ code: "ERR_CONFIG", where: { file: "dir" } });
    expect((error as unknown as { where: { key: string } }).where.key === key || error.message.includes(` ${key} `), `${key}: ${error.message}`).toBe(true); // prettier-ignore
  }
  expect(refusal(parts, parts, stream(2))).toMatchObject({ where: { key: "rows" } });
  // A schedule that decays is lengthened when asked for.
  const [short, long] = [4, 9].map((steps) => ({ ...parts, options: trainOptions({ optimizer: cosine, steps }) })) as [RunParts, RunParts];
  expect(refusal(short, long)).toMatchObject({
    where: { key: "steps" },
    message: /steps 4 → 9 \(a longer schedule is taken with --extend/,
  });
  expect(refusal(long, short, stream(), true)).toMatchObject({ message: /can be lengthened, not shortened/ });
  expect(refusal(short, long, stream(), true)).toEqual({ step: 3, from: 4, to: 9 });
});
