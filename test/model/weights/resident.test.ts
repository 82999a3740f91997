// Where the weights of a checkpoint lie, and what is refused: tensors that are not as the model needs them, and, on a device with its own
// memory, what does not fit, before anything is taken. No GPU: that device is a stand-in that says how much it has.
// Run alone: npx vitest run test/model/weights/resident.test.ts

import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LayoutError } from "../../../lib/errors.ts";
import { openCheckpoint } from "../../../lib/files/checkpoint.ts";
import { decodeFloats } from "../../../lib/files/floats.ts";
import { openSafetensors } from "../../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../../lib/files/safetensors_writer.ts";
import { checkpointSpec, modelSpec } from "../../../lib/model/families/index.ts";
import { parameterShapes } from "../../../lib/model/spec.ts";
import { Parameters } from "../../../lib/model/weights/parameters.ts";
import { isProductWeight, locateWeights, Weights } from "../../../lib/model/weights/resident.ts";
import { Device } from "../../../lib/tensor.ts";
import { tinyDeepseek, tinyOlmoe, writeTinyModel } from "../../support/tiny_model.ts";

const olmoe = { ...tinyOlmoe, vocab_size: 32 };
const Q = "model.layers.0.self_attn.q_proj.weight";
let dir: string;
let root: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "esft-weights-"));
  root = join(dir, "olmoe");
  await writeTinyModel(dir, tinyDeepseek, { dtype: "f32", tokenizer: false });
  await writeTinyModel(join(root, "f32"), olmoe, { tokenizer: false, dtype: "f32" });
  await writeTinyModel(join(root, "bf16"), olmoe, { tokenizer: false });
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
    message: expect.stringMatching(
      /the weights need \S+ GiB of device memory, \S+ GiB of \S+ GiB are free on a small GPU\. Fixes: 1\. .*; 2\. .*; 3\. device "cpu"/,
    ) as string,
    where: { availableBytes: elements },
  });
  // f32 matrices become bf16: two bytes each, a little for norms, routers and the distance between experts.
  const error = (await Weights.load(small, spec, checkpoint, stored).catch((e: unknown) => e)) as { where: { neededBytes: number } };
  expect(error.where.neededBytes).toBeGreaterThan(2 * elements);
  expect(error.where.neededBytes).toBeLessThan(2.1 * elements);
});

describe("where weights lie", () => {
  it("is told for every parameter, and refused where a tensor is not as it must be", async () => {
    const checkpoint = await openCheckpoint(join(root, "bf16"));
    const spec = modelSpec(olmoe, "config.json");
    const located = locateWeights(spec, checkpoint);
    for (const w of located) {
      const info = checkpoint.tensors.get(w.key)!;
      expect(w).toMatchObject({ path: info.path, byteOffset: info.begin, stored: "bf16", ref: { name: w.key }, shape: info.shape });
    }
    const info = checkpoint.weights.get(Q)!;
    for (const [change, message] of [
      [null, /: tensor ".*q_proj.weight" is missing; a olmoe checkpoint with 2 layers must have it \(found \d+ tensors\)/],
      [
        { ...info, dtype: "I8" as const },
        /must be F32, BF16 or F16, or quantised as quantization_config of config.json says, found I8; convert/,
      ],
      [{ ...info, shape: [20, 80] }, /expected shape \[40, 40\], found \[20, 80\]/],
    ] as const) {
      const weights = new Map(checkpoint.weights);
      if (change) weights.set(Q, change);
      else weights.delete(Q);
      expect(() => locateWeights(spec, { ...checkpoint, weights })).toThrow(message);
      expect(() => locateWeights(spec, { ...checkpoint, weights })).toThrow(LayoutError);
    }
  });

  it("products are matrices of everything but routers, norms and biases", () => {
    const of = (role: "attention" | "router" | "norm" | "selectionBias" | "expert", ...shape: number[]) => isProductWeight({ role, shape });
    expect([of("attention", 2, 2), of("expert", 2, 2)]).toEqual([true, true]);
    expect([of("attention", 2), of("router", 2, 2), of("norm", 2, 2), of("selectionBias", 2, 2)]).toEqual([false, false, false, false]);
  });

  it("tensors at odd addresses are copied", async () => {
    const source = await openSafetensors(join(root, "f32/model.safetensors"));
    const dir = join(root, "odd");
    await cp(join(root, "f32"), dir, { recursive: true });
    const [one, ...rest] = [...source.tensors.values()].map((t) => ({ ...t, data: () => source.read(t.name) }));
    const odd = { name: "x.rotary_emb.inv_freq", dtype: "U8" as const, shape: [3], data: new Uint8Array(3) };
    await writeSafetensors(join(dir, "model.safetensors"), [one!, odd, ...rest]);
    using device = new Device({ threads: 1 });
    const checkpoint = await openCheckpoint(dir);
    expect(checkpoint.tensors.get(rest[0]!.name)!.begin % 4).toBe(3);
    const params = await Parameters.load(device, checkpointSpec(checkpoint), checkpoint);
    for (const p of params.all()) expect(await p.value.readF32()).toEqual(decodeFloats(await source.read(p.key), "F32"));
    params.dispose();
  });
});
