// What trains, where the choice is unusual: gradients do not depend on what else trains, tied or shared parts add up, and the first pass
// of a step reads nothing of what gradients were. No GPU.
// Alone: npx vitest run test/model/freezing.test.ts

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { parameterShapes } from "../../lib/model/spec.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import type { TrainingChoice } from "../../lib/model/transformer.ts";
import { Device } from "../../lib/tensor.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import { tinyDeepseek, tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-freezing-"));
  await writeTinyModel(join(root, "deepseek"), tinyDeepseek, { tokenizer: false });
  await writeTinyModel(join(root, "low rank"), { ...tinyDeepseek, q_lora_rank: 16 }, { tokenizer: false });
  await writeTinyModel(join(root, "olmoe"), tinyOlmoe, { tokenizer: false });
  await writeTinyModel(join(root, "tied"), { ...tinyOlmoe, tie_word_embeddings: true }, { tokenizer: false });
  // The same values with the head as a tensor of its own.
  const tied = await openSafetensors(join(root, "tied/model.safetensors"));
  const entries = [...tied.tensors.values()].map((t) => ({ ...t, data: () => tied.read(t.name) }));
  const table = entries.find((t) => t.name === "model.embed_tokens.weight")!;
  await mkdir(join(root, "untied"));
  await writeFile(join(root, "untied/config.json"), JSON.stringify(tinyOlmoe));
  await writeSafetensors(join(root, "untied/model.safetensors"), [...entries, { ...table, name: "lm_head.weight" }]);
});
afterAll(() => rm(root, { recursive: true, force: true }));

const ids = Int32Array.from({ length: 50 }, (_, i) => (i * 37 + 11) % 97);
const batch = hostBatch([{ ids, targets: Int32Array.from(ids, (_, t) => (t + 1 < ids.length && t % 4 !== 0 ? ids[t + 1]! : -100)) }]);

async function gradients(
  dir: string,
  choose: (spec: ModelSpec) => TrainingChoice,
  as?: ModelSpec,
  overwrite = false,
): Promise<Map<string, Float32Array>> {
  const checkpoint = await openCheckpoint(join(root, dir));
  const spec = as ?? modelSpec(checkpoint.config, dir);
  using device = new Device({ threads: 2 });
  const params = await Parameters.load(device, spec, checkpoint);
  const model = new Transformer(spec, device, params);
  const chosen = choose(spec);
  const state = model.train(chosen);
  if (overwrite) for (const p of state.parameters) p.grad!.write(new Float32Array(p.shape.reduce((a, b) => a * b, 1)).fill(Number.NaN));
  if ("lowestLayer" in chosen) expect(model.lowestTrained()).toBe(chosen.lowestLayer);
  model.resetLoss();
  // Two micro-batches; only the first may overwrite.
  for (let i = 0; i < 2; i++) model.forwardBackward(batch, 0.5 / batch.supervised, ids.length, {}, !overwrite || i > 0);
  const out = new Map<string, Float32Array>();
  for (const p of state.parameters) out.set(p.key, await p.grad!.readF32());
  out.set("loss", Float32Array.of((await model.readLoss()).loss));
  model.dispose();
  params.dispose();
  return out;
}
const same = (a: Float32Array, b: Float32Array): boolean => Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0;

describe.each(["deepseek", "olmoe"])("%s", (dir) => {
  const sets: [string, ExpertSet][] = [
    ["experts of layer 1, none of the others", new ExpertSet({ layers: [[1, { ranked: [2, 0] }]] })],
    ["a layer with an empty list below one that trains", new ExpertSet({ layers: [[1, { ranked: [] }], [dir === "olmoe" ? 0 : 2, { ranked: [3] }]] })], // prettier-ignore
    ["shared experts alone", new ExpertSet({ layers: [], sharedExperts: true })],
    ["non-expert modules alone", new ExpertSet({ layers: [], nonExpertModules: true })],
    [
      "experts, shared experts and non-expert modules",
      new ExpertSet({ layers: [[1, { ranked: [5, 1] }]], sharedExperts: true, nonExpertModules: true }),
    ],
  ];
  it.each(sets.filter(([name]) => dir === "deepseek" || name !== "shared experts alone"))(
    "%s: the gradients of full fine-tuning, bit for bit",
    async (_, set) => {
      const full = await gradients(dir, fullTrainable);
      const some = await gradients(dir, (spec) => esftTrainable(spec, set));
      expect(some.size).toBeGreaterThan(3);
      for (const [key, grad] of some) expect(same(grad, full.get(key)!), key).toBe(true);
    },
  );

  it.each(["head", "finalNorm", "embedding"] as const)("%s alone", async (which) => {
    const name = (spec: ModelSpec): string => (which === "finalNorm" ? spec.finalNorm.weight!.name : spec[which].name);
    const full = await gradients(dir, fullTrainable);
    const alone = await gradients(dir, (spec) => ({ keys: [name(spec)] }));
    for (const [key, grad] of alone) expect(same(grad, full.get(key)!), key).toBe(true);
  });
});

it.each(["deepseek", "low rank", "olmoe"])("%s: each parameter of a layer alone", async (dir) => {
  const full = await gradients(dir, fullTrainable);
  const spec = modelSpec((await openCheckpoint(join(root, dir))).config, dir);
  const chosen = parameterShapes(spec).filter(({ layer, expert }) => layer >= 0 && layer < 2 && (expert ?? 3) === 3);
  for (const { ref } of chosen) {
    const key = sliceKey(ref);
    if (/up_proj/.test(key)) continue; // trains together with gate
    const keys = [key, ...(/gate_proj/.test(key) ? [key.replace("gate_proj", "up_proj")] : [])];
    const alone = await gradients(dir, () => ({ keys }));
    expect([...alone.keys()]).toEqual([...keys, "loss"]);
    for (const [k, grad] of alone) {
      expect(same(grad, full.get(k)!), k).toBe(true);
      expect(grad.some((x) => x !== 0), k).toBe(true); // prettier-ignore
    }
  }
});

it("experts inside fused tensors train like experts of their own", async () => {
  const apart = await openSafetensors(join(root, "olmoe/model.safetensors"));
  const spec = modelSpec(tinyOlmoe, "config.json");
  const F = tinyOlmoe.intermediate_size;
  const expert = /^(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight$/;
  const fused = new Map<string, { shape: number[]; parts: Uint8Array[] }>(); // [E, 2F, D] gate above up, and [E, D, F]
  const others = [];
  for (const t of apart.tensors.values()) if (!expert.test(t.name)) others.push({ ...t, data: () => apart.read(t.name) });
  const E = tinyOlmoe.num_experts;
  const D = spec.hidden;
  for (let l = 0; l < spec.layers.length; l++)
    for (const kind of ["gate_up", "down"] as const) {
      const parts: Uint8Array[] = [];
      for (let e = 0; e < E; e++)
        for (const part of kind === "down" ? ["down"] : ["gate", "up"])
          parts.push(await apart.read(`model.layers.${l}.mlp.experts.${e}.${part}_proj.weight`));
      fused.set(`model.layers.${l}.mlp.experts.${kind}_proj`, { shape: kind === "down" ? [E, D, F] : [E, 2 * F, D], parts });
    }
  await mkdir(join(root, "fused"));
  await writeFile(join(root, "fused/config.json"), JSON.stringify(tinyOlmoe));
  const stacked = [...fused].map(([name, t]) => ({
    name,
    dtype: "BF16" as const,
    shape: t.shape,
    data: new Uint8Array(Buffer.concat(t.parts)),
  }));
  await writeSafetensors(join(root, "fused/model.safetensors"), [...others, ...stacked]);
  const layers = spec.layers.map((layer, l) => ({
    ...layer,
    mlp: {
      ...layer.mlp,
      experts: Array.from({ length: E }, (_, index) => ({
        gate: { name: `model.layers.${l}.mlp.experts.gate_up_proj`, index, rows: [0, F] as const },
        up: { name: `model.layers.${l}.mlp.experts.gate_up_proj`, index, rows: [F, 2 * F] as const },
        down: { name: `model.layers.${l}.mlp.experts.down_proj`, index },
      })),
    },
  }));
  const set = new ExpertSet({ layers: [[0, { ranked: [1] }], [1, { ranked: [4, 2] }]] }); // prettier-ignore
  const own = await gradients("olmoe", (s) => esftTrainable(s, set));
  const inside = await gradients("fused", (s) => esftTrainable(s, set), { ...spec, layers } as ModelSpec);
  expect(inside.size).toBe(own.size);
  for (const [key, grad] of own) {
    const [, at, e, part] = expert.exec(key) ?? [];
    const rows = part === "gate" ? `,0:${F}` : part === "up" ? `,${F}:${2 * F}` : "";
    const name = at === undefined ? key : `${at}.${part === "down" ? "down" : "gate_up"}_proj[${e}${rows}]`;
    expect(same(grad, inside.get(name)!), name).toBe(true);
  }
});

describe("a first pass that overwrites gradients full of NaN gives the bits of one that adds to zeros", () => {
  const all = ["deepseek", "low rank", "olmoe", "tied", "untied"].map((dir) => [`all of ${dir}`, dir, fullTrainable] as const);
  it.each([
    ...all,
    ["two experts", "deepseek", (s: ModelSpec) => esftTrainable(s, new ExpertSet({ layers: [[1, { ranked: [4, 2] }]] }))] as const, // prettier-ignore
    ["LoRA on everything", "deepseek", (s: ModelSpec) => loraTrainable(s, { targets: ["linear", "router"], rank: 4, alpha: 8 }, 1)] as const, // prettier-ignore
  ])("%s", async (_, dir, choose) => {
    const [added, written] = [await gradients(dir, choose), await gradients(dir, choose, undefined, true)];
    expect(written.size).toBe(added.size);
    for (const [key, grad] of added) expect(same(written.get(key)!, grad), key).toBe(true);
  });
});

it("a tied table gets the gradient of the embedding and that of the head", async () => {
  const tied = await gradients("tied", fullTrainable);
  const untied = await gradients("untied", fullTrainable);
  const [table, head] = [untied.get("model.embed_tokens.weight")!, untied.get("lm_head.weight")!];
  const sum = tied.get("model.embed_tokens.weight")!;
  const largest = sum.reduce((n, x) => Math.max(n, Math.abs(x)), 0);
  sum.forEach((x, i) => expect(Math.abs(x - (table[i]! + head[i]!))).toBeLessThan(1e-6 * largest));
  for (const [key, grad] of tied) if (key !== "model.embed_tokens.weight") expect(same(grad, untied.get(key)!), key).toBe(true);
});
