// A base that is quantised on disk: loaded with exactly its dequantised values, trained, verified, merged to bf16 where that is asked
// for and refused otherwise. No GPU. Alone: npx vitest run test/quantised.test.ts

import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { frozenDigest } from "../lib/adapter/digest.ts";
import { openAdapter } from "../lib/adapter/esft_layout.ts";
import { mergeAdapter } from "../lib/adapter/merge.ts";
import { verifyMerge } from "../lib/adapter/verify_merge.ts";
import { parameterTensor } from "../lib/adapter/tensors.ts";
import { Dataset } from "../lib/data/dataset.ts";
import { castFloats, decodeFloats, encodeFloats } from "../lib/files/floats.ts";
import { openCheckpoint } from "../lib/files/checkpoint.ts";
import { hashCheckpoint } from "../lib/files/hash.ts";
import { openSafetensors } from "../lib/files/safetensors.ts";
import { writeSafetensors } from "../lib/files/safetensors_writer.ts";
import { placeSlice, sliceKey } from "../lib/files/slice.ts";
import { Adapter, ExpertSet, MoeModel } from "../lib/index.ts";
import { inspectCheckpoint } from "../lib/inspect.ts";
import { checkMergedLogits } from "../lib/logits_check.ts";
import { checkpointSpec } from "../lib/model/families/index.ts";
import { parameterShapes } from "../lib/model/spec.ts";
import { DequantisedCheckpoint } from "../lib/quantised.ts";
import { requireRoomForWeights } from "../lib/train/available_memory.ts";
import { fuseExperts, quantiseModel } from "./support/quantised_model.ts";
import type { Scheme } from "./support/quantised_model.ts";
import { tinyDeepseek, tinyOlmoe, toyRows, writeTinyModel } from "./support/tiny_model.ts";

let root: string;
const at = (name: string): string => join(root, name);
const values = new Map<string, ReadonlyMap<string, Float32Array>>();
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-quantised-"));
  await writeTinyModel(at("bf16"), tinyDeepseek);
  values.set("fp8", await quantiseModel(at("bf16"), at("fp8"), "fp8"));
  values.set("int8", await quantiseModel(at("bf16"), at("int8"), "int8"));
  values.set("shards", await quantiseModel(at("bf16"), at("shards"), "fp8", true));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const experts = new ExpertSet({
  layers: [
    [1, { ranked: [0, 3] }],
    [2, { ranked: [5] }],
  ],
});
const rows = () => Dataset.fromRows(toyRows(24));
const load = { device: "cpu", threads: 2 } as const;

/** An adapter of the selected experts with the values that the dequantised base has. */
async function unchanged(dir: string): Promise<Adapter> {
  const checkpoint = await openCheckpoint(dir);
  const tensors = parameterShapes(checkpointSpec(checkpoint)).flatMap((p) => {
    if (p.role !== "expert" || !experts.has(p.layer, p.expert!)) return [];
    const read = async () => {
      using source = new DequantisedCheckpoint(checkpoint);
      return await source.range(p.ref.name, 0, 2 * p.shape[0]! * p.shape[1]!);
    };
    return [parameterTensor(p, { dtype: "BF16", read })];
  });
  return new Adapter({ method: { type: "esft" }, base: { identity: (await hashCheckpoint(checkpoint)).identity }, experts, tensors });
}

describe.each<Scheme | "shards">(["fp8", "int8", "shards"])("a base stored as %s", (name) => {
  it("is loaded with what its library makes of it, or with bf16", async () => {
    for (const dequantise of ["exact", "bf16"] as const) {
      await using model = await MoeModel.fromPretrained(at(name), { ...load, dequantise });
      for (const [tensor, wanted] of values.get(name)!) {
        const p = model.params.byName(tensor)!;
        const rounded = decodeFloats(encodeFloats(wanted, "BF16"), "BF16");
        expect(await p.value.readF32(), tensor).toEqual(dequantise === "exact" ? wanted : rounded);
        expect(await model.params.storedValues(p)).toEqual(dequantise === "exact" ? wanted : rounded);
        expect(p.value.dtype).toBe(name === "int8" || dequantise === "bf16" ? "bf16" : "f32");
      }
    }
  });

  it("is described from its headers", async () => {
    const found = inspectCheckpoint(await openCheckpoint(at(name)));
    const plain = inspectCheckpoint(await openCheckpoint(at("bf16")));
    expect(found).toMatchObject({
      parameters: plain.parameters,
      unusedTensors: 0,
      quantMethod: name === "int8" ? "compressed-tensors" : "fp8",
    });
    const [decoded] = found.decoded;
    const count = [...values.get(name)!.values()].reduce((n, w) => n + w.length, 0);
    expect(decoded).toMatchObject({
      scheme: name === "int8" ? "int8, a scale for each row" : "FP8, blocks 16 × 24",
      weights: values.get(name)!.size,
      memoryBytes: count * (name === "int8" ? 2 : 4),
    });
    expect(found.roles.reduce((n, r) => n + r.bytes, 0)).toBeCloseTo(found.bytes, 5);
  });

  it("is trained; the adapter is bf16, and verifies", async () => {
    const run = {
      method: { type: "esft", experts } as const,
      steps: 6,
      rowsPerStep: 4,
      evalFraction: 0.2,
      evalEvery: 3,
      keep: "last" as const,
    };
    await using model = await MoeModel.fromPretrained(at(name), load);
    const outDir = at(`${name}-adapter`);
    const { result } = model.train({
      ...run,
      data: { rows: rows(), maxLength: 64 },
      outDir,
      optimizer: { lr: 1e-2, schedule: "constant" },
    });
    const { adapter, firstEval, lastEval } = await result;
    expect(lastEval!).toBeLessThan(firstEval!);
    expect([...adapter!.tensors.values()].map((t) => t.dtype)).toEqual(Array.from({ length: 9 }, () => "BF16"));
    const again = await openAdapter(outDir, { base: model.checkpoint });
    using source = new DequantisedCheckpoint(model.checkpoint);
    expect(await frozenDigest(source, again.tensors.values())).toBe(adapter!.frozenDigest);
    const before = await model.evaluate(rows(), { maxLength: 64 });
    await model.applyAdapter(again);
    expect((await model.evaluate(rows(), { maxLength: 64 })).loss).toBeLessThan(before.loss);
    model.removeAdapter();
    expect((await model.evaluate(rows(), { maxLength: 64 })).loss).toBe(before.loss);
  }, 60_000);

  it("is merged to bf16 where that is asked for", async () => {
    const base = await openCheckpoint(at(name));
    const adapter = await openAdapter(at(`${name}-adapter`), { base });
    await expect(mergeAdapter(base, adapter, at(`${name}-no`))).rejects.toThrow(/quantised on disk.*Two ways out: 1. dequantise \(--dequantise\).*2. keep the adapter/);
    const report = await mergeAdapter(base, adapter, at(`${name}-merged`), { dequantise: true });
    expect(report).toMatchObject({ ok: true, tensors: base.weights.size, untouched: base.weights.size - 9 });
    const merged = await openCheckpoint(at(`${name}-merged`));
    expect("quantization_config" in merged.config).toBe(false);
    expect(await frozenDigest(merged, adapter.tensors.values())).toBe(adapter.frozenDigest);
    expect(await checkMergedLogits(at(name), adapter, merged.dir)).toMatchObject({ ok: true });
    expect((await readdir(merged.dir)).sort()).toEqual(expect.arrayContaining(["config.json", "tokenizer.json"]));
  }, 60_000); // prettier-ignore

  it("merged with an adapter that changes nothing gives exactly the dequantised values", async () => {
    const base = await openCheckpoint(at(name));
    const out = at(`${name}-same`);
    const report = await mergeAdapter(base, await unchanged(at(name)), out, { dequantise: true });
    expect(report.slices.every((s) => s.changed === 0)).toBe(true);
    const [merged, plain] = [await openCheckpoint(out), await openCheckpoint(at("bf16"))];
    expect([...merged.tensors.keys()].sort()).toEqual([...plain.tensors.keys()].sort());
    for (const t of merged.tensors.values()) {
      const wanted = values.get(name)!.get(t.name);
      const bytes = Buffer.from(await merged.read(t.name));
      expect(bytes.equals(wanted ? encodeFloats(wanted, "BF16") : await plain.read(t.name)), t.name).toBe(true);
    }
    // A bit that is off is found.
    const wrong = [...merged.tensors.values()].find((t) => values.get(name)!.has(t.name))!;
    const file = await readFile(wrong.path);
    file[wrong.begin + 1]! ^= 1;
    await writeFile(wrong.path, file);
    expect((await verifyMerge(base, await unchanged(at(name)), out)).ok).toBe(false);
  });
});

it("a base that was deleted while it is held is still there for its digest", async () => {
  await cp(at("shards"), at("gone"), { recursive: true });
  const base = await openCheckpoint(at("gone"));
  await base.files.hold(base.shards);
  const digest = async (): Promise<string> => {
    using source = new DequantisedCheckpoint(base);
    return await frozenDigest(source, []);
  };
  const before = await digest();
  await rm(at("gone"), { recursive: true });
  expect(await digest()).toBe(before);
  await base.files.close();
  await expect(digest()).rejects.toThrow();
});

it("slices of fused experts are trained and merged as slices", async () => {
  await writeTinyModel(at("olmoe"), tinyOlmoe);
  const fused = await fuseExperts(at("olmoe"), at("fused"));
  const set = new ExpertSet({ layers: [[1, { ranked: [2, 4] }]] });
  await using model = await MoeModel.fromPretrained(at("fused"), load);
  for (const p of model.params.all()) {
    const whole = fused.get(p.ref.name);
    if (!whole) continue;
    const { shape } = model.checkpoint.weights.get(p.ref.name)!;
    const from = placeSlice(p.ref, { dtype: "F32", shape }).begin / 4;
    expect(await p.value.readF32(), p.key).toEqual(whole.slice(from, from + p.value.size));
  }
  const { result } = model.train({ data: { rows: rows(), maxLength: 64 }, method: { type: "esft", experts: set }, steps: 2, outDir: at("fused-adapter") }); // prettier-ignore
  const { adapter } = await result;
  expect([...adapter!.tensors.keys()].filter((key) => !/\[[24]/.test(key))).toEqual([]);
  const report = await mergeAdapter(model.checkpoint, adapter!, at("fused-merged"), { dequantise: true });
  expect(report).toMatchObject({ ok: true, changedExperts: { 1: [2, 4] } });
  const merged = await openCheckpoint(at("fused-merged"));
  expect(await frozenDigest(merged, adapter!.tensors.values())).toBe(adapter!.frozenDigest);
  for (const [name, wanted] of fused) {
    const E = merged.tensors.get(name)!.shape[0]!;
    const [found, want] = [await merged.read(name), encodeFloats(wanted, "BF16")];
    const same = Array.from({ length: E }, (_, e) => [e * (want.length / E), (e + 1) * (want.length / E)] as const).map(([a, b]) => Buffer.from(found.subarray(a, b)).equals(want.subarray(a, b)));
    expect(same, name).toEqual(same.map((_, e) => !(name.includes(".1.") && [2, 4].includes(e))));
  }
  expect(await checkMergedLogits(at("fused"), adapter!, at("fused-merged"))).toMatchObject({ ok: true });
}, 60_000); // prettier-ignore

describe("F16", () => {
  it("is computed with as f32, and merged as F16", async () => {
    await cp(at("bf16"), at("f16"), { recursive: true });
    const source = await openSafetensors(join(at("bf16"), "model.safetensors"));
    const halves = [...source.tensors.values()].map((t) => {
      const dtype = t.dtype === "BF16" ? "F16" : t.dtype;
      return { name: t.name, dtype, shape: t.shape, data: async function* () { yield castFloats(await source.read(t.name), t.dtype, dtype); } }; // prettier-ignore
    });
    await writeSafetensors(join(at("f16"), "model.safetensors"), halves);
    const base = await openCheckpoint(at("f16"));
    expect(inspectCheckpoint(base)).toMatchObject({ quantMethod: null, decoded: [{ scheme: "F16", memoryDtype: "f32" }] });
    await using model = await MoeModel.fromPretrained(at("f16"), load);
    for (const p of model.params.all()) expect(await p.value.readF32()).toEqual(decodeFloats(await base.read(p.ref.name), base.tensors.get(p.ref.name)!.dtype));
    const tensors = model.params.all().filter((p) => p.role === "expert" && experts.has(p.layer, p.place.expert!)).map((p) => parameterTensor(p.weight, { dtype: "F32", read: async () => encodeFloats(await p.value.readF32(), "F32") })); // prettier-ignore
    expect(tensors.map(sliceKey).length).toBe(9);
    await mergeAdapter(base, new Adapter({ method: { type: "esft" }, base: { identity: null }, experts, tensors }), at("f16-merged"));
    expect(await readFile(join(at("f16-merged"), "model.safetensors"))).toEqual(await readFile(join(at("f16"), "model.safetensors")));
  }); // prettier-ignore
});

describe("refusals", () => {
  it("memory is asked for before it is taken", async () => {
    await requireRoomForWeights("base", 0, "exact");
    await expect(requireRoomForWeights("base", 1e18, "exact")).rejects.toThrow(/^base: weights that are stored quantised, as F16 or transposed need 909494\.7 TiB of memory when they are loaded, .* are available. Fixes: dequantise bf16 \(--dequantise bf16\)/); // prettier-ignore
    await expect(requireRoomForWeights("base", 1e18, "bf16")).rejects.toMatchObject({ code: "ERR_MEMORY" });
  });
  it("an unknown choice", async () => {
    await expect(MoeModel.fromPretrained(at("fp8"), { ...load, dequantise: "f16" as "bf16" })).rejects.toThrow(/dequantise: expected "exact" or "bf16", found "f16"/);
  }); // prettier-ignore
  it("scales that are not there", async () => {
    await cp(at("fp8"), at("broken"), { recursive: true });
    const file = await openSafetensors(join(at("fp8"), "model.safetensors"));
    const kept = [...file.tensors.values()].filter((t) => !t.name.endsWith("scale_inv"));
    await writeSafetensors(join(at("broken"), "model.safetensors"), kept.map((t) => ({ ...t, data: () => file.read(t.name) })) as never); // prettier-ignore
    await expect(MoeModel.fromPretrained(at("broken"), load)).rejects.toThrow(
      /model.safetensors: tensor ".*": expected its scales beside it/,
    );
  });
});
