// The edges of a model: as many positions as config.json says and not one more, and a selection bias that never trains. No GPU.
// Run alone: npx vitest run test/model/limits.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { LayoutError } from "../../lib/errors.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { parameterShapes } from "../../lib/model/spec.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { MoeModel } from "../../lib/moe_model.ts";
import { Device } from "../../lib/tensor.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-limits-"));
  await writeTinyModel(join(root, "model"), { ...tinyDeepseek, max_position_embeddings: 48 });
});
afterAll(() => rm(root, { recursive: true, force: true }));

describe("48 positions", () => {
  const document = (tokens: number) => {
    const ids = Int32Array.from({ length: tokens }, (_, t) => t + 3);
    return hostBatch([{ ids, targets: ids.map(() => -100) }]);
  };
  it("hold 48 tokens and not 49, in a pass, a continuation and a run", async () => {
    await using model = await MoeModel.fromPretrained(join(root, "model"), { threads: 1 });
    expect(model.spec.maxPositions).toBe(48);
    expect(await model.transformer.lastLogits(document(48))).toHaveLength(2048);
    await expect((async () => model.transformer.lastLogits(document(49)))()).rejects.toThrow(
      /a document of 49 tokens exceeds the model's 48 positions/,
    );
    const ids = Array.from({ length: 47 }, (_, t) => t + 3);
    const generated = async (maxTokens: number) => (await model.generate(ids, { maxTokens, stopIds: [] }).result()).ids.length;
    expect(await generated(1)).toBe(1);
    expect(await generated(2)).toBe(2); // the last one is never read
    expect(await generated(3)).toBe(2);
    await expect(model.generate([...ids, 1, 2]).result()).rejects.toThrow(/a prompt of 49 tokens exceeds the model's 48 positions/);
    const run = (maxLength: number) =>
      model.train({
        data: { rows: Dataset.fromRows(toyRows(4)), maxLength },
        method: { type: "esft", experts: new ExpertSet({ layers: [[1, { ranked: [0] }]] }) },
        outDir: join(root, `run ${maxLength}`),
        steps: 1,
        rowsPerStep: 2,
        evalFraction: 0,
      }).result;
    await expect(run(49)).rejects.toThrow(/train.data.maxLength 49 exceeds the model's 48 positions/);
    expect(await run(48)).toMatchObject({ reason: "finished" });
  });
});

describe("a selection bias", () => {
  it("is loaded as it is, and is nothing that any method trains", async () => {
    const dir = join(root, "biased");
    await writeTinyModel(dir, tinyDeepseek, { tokenizer: false });
    const plain = modelSpec(tinyDeepseek, "config.json");
    const name = (l: number) => `bias.${l}`;
    const spec = {
      ...plain,
      layers: plain.layers.map((layer, l) =>
        layer.mlp.kind === "moe" ? { ...layer, mlp: { ...layer.mlp, selectionBias: { name: name(l) } } } : layer,
      ),
    } as ModelSpec;
    const file = join(dir, "model.safetensors");
    const opened = await openSafetensors(file);
    const values = Float32Array.from({ length: 8 }, (_, e) => e / 7);
    const biases = [1, 2].map((l) => ({ name: name(l), dtype: "F32" as const, shape: [8], data: new Uint8Array(values.buffer) }));
    await writeSafetensors(file, [...[...opened.tensors.values()].map((t) => ({ ...t, data: () => opened.read(t.name) })), ...biases]);

    expect(parameterShapes(spec).filter((p) => p.role === "selectionBias").map((p) => [sliceKey(p.ref), p.shape, p.layer])).toEqual([["bias.1", [8], 1], ["bias.2", [8], 2]]); // prettier-ignore
    const everything = new ExpertSet({ layers: [[1, { ranked: [0] }]], sharedExperts: true, nonExpertModules: true });
    for (const method of [fullTrainable(spec), esftTrainable(spec, everything)]) {
      expect(method.keys.filter((key) => key.startsWith("bias"))).toEqual([]);
      expect(method.keys).toContain("model.layers.1.mlp.gate.weight");
    }
    using device = new Device({ threads: 1 });
    const params = await Parameters.load(device, spec, await openCheckpoint(dir));
    expect(await params.get({ name: name(1) }).value.readF32()).toEqual(values);
    expect(() => params.train(["model.norm.weight", "bias.1"])).toThrow(LayoutError);
    expect(() => params.train(["bias.2"])).toThrow(/cannot train "bias.2": a selection bias has no gradient/);
    expect(params.state).toBeNull();
    params.dispose();
  });
});
