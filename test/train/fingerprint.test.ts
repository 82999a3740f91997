// What ties a checkpoint to its run: each part of it alone changes the fingerprint. No GPU.
// Alone: npx vitest run test/train/fingerprint.test.ts

import { afterAll, beforeAll, expect, it } from "vitest";
import { BatchStream } from "../../lib/data/stream.ts";
import { runFingerprint } from "../../lib/train/fingerprint.ts";
import type { RunParts } from "../../lib/train/fingerprint.ts";
import { tinyExamples, tinyTraining, trainOptions } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());

const stream = (seed = 1): BatchStream =>
  new BatchStream(tinyExamples(20, seed), { packing: "none", maxLength: 16, onOverflow: "error", seed: 1, rowsPerBatch: 1 });

it("changes with everything that decides the result, and with nothing else", () => {
  const parts: RunParts = { options: trainOptions(), base: "b", trainable: tiny.trainable, heldOut: tinyExamples(4, 7), model: tiny.model };
  const of = (more: Partial<RunParts>, data = stream()): string => runFingerprint({ ...parts, ...more }, data);
  const same = of({});
  expect(of({})).toBe(same);
  expect(of({ heldOut: tinyExamples(4, 7), options: trainOptions({ saveEvery: 9 }) })).toBe(same);
  const others: Partial<RunParts>[] = [
    { heldOut: null },
    { heldOut: tinyExamples(4, 8) },
    { heldOut: tinyExamples(5, 7) },
    { base: "c" },
    { trainable: { ...tiny.trainable, type: "full" } },
    { trainable: { ...tiny.trainable, keys: tiny.trainable.keys.slice(1) } },
    { trainable: { ...tiny.trainable, options: { rank: 4 } } },
    { model: { precision: "bf16" } as RunParts["model"] },
    { options: trainOptions({ seed: 2 }) },
    { options: trainOptions({ evalEvery: 7 }) },
    { options: trainOptions({ optimizer: { lr: 0.02 } }) },
    { options: trainOptions({ optimizer: { lr: 0.01, schedule: "cosine" } }) },
  ];
  const found = [same, of({}, stream(2)), ...others.map((more) => of(more))];
  expect(new Set(found).size).toBe(found.length);
});
