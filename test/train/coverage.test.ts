// Share of routed slots that meet a trained expert, against routing that is counted by hand. No GPU.
// Alone: npx vitest run test/train/coverage.test.ts

import { afterAll, beforeAll, expect, it } from "vitest";
import { hostBatch } from "../../lib/model/batch.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { Coverage } from "../../lib/train/coverage.ts";
import { tinyExamples, tinyTraining } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());

it("counts slots of all layers, those of trained experts among them, since the reset", async () => {
  const { model, trainable } = tiny;
  model.train(trainable);
  const coverage = Coverage.of(model)!;
  const rows = [...tinyExamples(6)].map(({ inputIds }) => ({ ids: inputIds, targets: inputIds.map(() => -100) }));
  const trained: Record<number, readonly number[]> = { 0: [0, 3], 1: [2] };
  const seen: Promise<[number, Int32Array]>[] = [];
  model.forward(hostBatch(rows), {
    onRoute: (layer, ids, weights) => {
      coverage.observe(layer, ids, weights);
      seen.push(ids.readI32().then((values) => [layer, values]));
    },
  });
  let [hit, all] = [0, 0];
  for (const [layer, ids] of await Promise.all(seen)) {
    all += ids.length;
    hit += ids.filter((e) => trained[layer]!.includes(e)).length;
  }
  expect(hit).toBeGreaterThan(0);
  const { share, sums } = await coverage.read();
  expect(share).toBe(hit / all);
  expect([...sums.values()].flatMap(({ counts }) => counts).reduce((a, b) => a + b, 0)).toBe(all);
  coverage.reset();
  expect((await coverage.read()).share).toBe(0);
  coverage.dispose();
});

it("is nothing to tell where all experts train, or none", () => {
  const { model } = tiny;
  model.train(fullTrainable(model.spec));
  expect(Coverage.of(model)).toBeNull();
  model.freeze();
  expect(Coverage.of(model)).toBeNull();
});
