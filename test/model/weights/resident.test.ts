// Weights on a device with its own memory: what does not fit is refused before anything is taken. No GPU: the device is a stand-in
// that says how much it has. Alone: npx vitest run test/model/weights.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openCheckpoint } from "../../../lib/files/checkpoint.ts";
import { modelSpec } from "../../../lib/model/families/index.ts";
import { parameterShapes } from "../../../lib/model/spec.ts";
import { locateWeights, Weights } from "../../../lib/model/weights/resident.ts";
import type { Device } from "../../../lib/tensor.ts";
import { tinyDeepseek, writeTinyModel } from "../../support/tiny_model.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "esft-weights-"));
  await writeTinyModel(dir, tinyDeepseek, { dtype: "f32", tokenizer: false });
});
afterAll(() => rm(dir, { recursive: true, force: true }));

it("refuses before it allocates, with what is needed, what is there and three fixes", async () => {
  const checkpoint = await openCheckpoint(dir);
  const spec = modelSpec(checkpoint.config, dir);
  const elements = parameterShapes(spec).reduce((n, { shape }) => n + shape.reduce((a, b) => a * b, 1), 0);
  const small = {
    info: { hostMemory: false, activationDtype: "bf16", memoryBytes: 2 ** 21, name: "a small GPU" },
    memoryFree: () => elements,
    empty: () => {
      throw new Error("allocated");
    },
  } as unknown as Device;
  const stored = locateWeights(spec, checkpoint);
  await expect(Weights.load(small, spec, checkpoint, stored)).rejects.toMatchObject({
    code: "ERR_MEMORY",
    message:
      /the weights need \S+ GiB of device memory, \S+ GiB of \S+ GiB are free on a small GPU\. Fixes: 1\. .*; 2\. .*; 3\. device "cpu"/,
    where: { availableBytes: elements },
  });
  // f32 matrices become bf16: two bytes each, a little for norms, routers and the distance between experts.
  const error = (await Weights.load(small, spec, checkpoint, stored).catch((e: unknown) => e)) as { where: { neededBytes: number } };
  expect(error.where.neededBytes).toBeGreaterThan(2 * elements);
  expect(error.where.neededBytes).toBeLessThan(2.1 * elements);
});
