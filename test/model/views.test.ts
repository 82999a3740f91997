// No tensor, view or list is made per call in a step: the second of two equal steps makes none. No GPU.
// Run alone: npx vitest run test/model/views.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import type { TrainableSpec } from "../../lib/methods/method.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { moeLayers } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { Device, tensorsMade } from "../../lib/tensor.ts";
import { Coverage } from "../../lib/train/coverage.ts";
import { AdamW } from "../../lib/train/optimizer.ts";
import { tinyDeepseek, tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";

const methods: Record<string, (spec: ModelSpec) => TrainableSpec> = {
  esft: (spec) => esftTrainable(spec, new ExpertSet({ layers: moeLayers(spec).map((l) => [l, { ranked: [1, 3] }] as const) })),
  full: fullTrainable,
  lora: (spec) => loraTrainable(spec, { rank: 2, alpha: 4, targets: ["linear"] }, 1),
};

describe.each([
  ["olmoe", tinyOlmoe],
  ["deepseek_v2", tinyDeepseek],
] as const)("%s", (_name, config) => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), "esft-views-"));
    await writeTinyModel(dir, config, { tokenizer: false });
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  it.each(Object.keys(methods))("%s: the second of two equal steps makes no tensor", async (method) => {
    const device = new Device({ kind: "cpu", threads: 1 });
    const checkpoint = await openCheckpoint(dir);
    const spec = modelSpec(checkpoint.config, dir);
    const params = await Parameters.load(device, spec, checkpoint);
    const model = new Transformer(spec, device, params);
    const state = model.train(methods[method]!(spec));
    const optimizer = new AdamW(device, state, { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0, clipNorm: 1 });
    const coverage = Coverage.of(model);
    const ids = Int32Array.from({ length: 24 }, (_, t) => (t * 37) % 2048);
    const host = hostBatch([{ ids, targets: Int32Array.from(ids, (x) => (x + 1) % 2048) }]);
    const step = async (): Promise<number> => {
      const before = tensorsMade();
      model.resetLoss();
      coverage?.reset();
      const hooks = coverage ? { onRoute: coverage.observe } : {};
      for (let micro = 0; micro < 2; micro++) model.forwardBackward(host, 1 / 48, 24, hooks, micro > 0);
      optimizer.step(1e-3);
      await Promise.all([model.readLoss(), optimizer.readNorm(), coverage?.read()]);
      return tensorsMade() - before;
    };
    expect(await step()).toBeGreaterThan(0);
    expect(await step()).toBe(0);
    for (const x of [optimizer, coverage, model, params, device]) x?.dispose();
  });
});
