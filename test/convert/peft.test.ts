// LoRA folders of PEFT: those that PEFT wrote give the logits of its fixtures, ours come back as they were, and what cannot be honoured
// whole is refused. That PEFT reads ours with the same logits: bench/peer/peft_check.py. No GPU.
// Run alone: npx vitest run test/convert/peft.test.ts

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { openAdapter } from "../../lib/convert/open.ts";
import type { PeftConfig } from "../../lib/convert/peft_config.ts";
import { loraOptionsOf } from "../../lib/convert/peft_options.ts";
import { fuseHalves, stack, unstack } from "../../lib/convert/peft_stacks.ts";
import { savePeftAdapter } from "../../lib/convert/peft_write.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { decodeFloats, encodeFloats } from "../../lib/files/floats.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import { adaptableMatrices, loraMatrices } from "../../lib/methods/lora_targets.ts";
import type { LoraOptions } from "../../lib/methods/lora_targets.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { checkpointSpec, modelSpec } from "../../lib/model/families/index.ts";
import { MoeModel } from "../../lib/moe_model.ts";
import { tempDir } from "../support/fixture.ts";
import { normals, tinyDeepseek, tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";

const fixtures = "test/fixtures/methods";
const root = tempDir();
let made = 0;
const fresh = (): string => join(root, `peft-${made++}`);

async function logits(base: string, adapter: string | Adapter, ids: readonly (readonly number[])[]): Promise<Float32Array> {
  await using model = await MoeModel.fromPretrained(join(fixtures, base), { device: "cpu" });
  await model.applyAdapter(adapter);
  using out = model.transformer.logits(hostBatch(ids.map((row) => ({ ids: row, targets: row.map(() => -100) }))));
  return out.readF32();
}
const distance = (a: Float32Array, b: Float32Array): number => Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));

/** A LoRA adapter with values everywhere. */
async function filled(base: string, options: LoraOptions): Promise<Adapter> {
  const spec = checkpointSpec(await openCheckpoint(base.startsWith("base-") ? join(fixtures, base) : base));
  const { attachments, options: method, experts } = loraTrainable(spec, options, 1);
  const attached = attachments!.parameters.map(({ key, shape, place, target }, i) => {
    const normal = normals(i);
    const values = Float32Array.from({ length: shape[0]! * shape[1]! }, () => 0.2 * normal());
    return { name: key, layer: place.layer, target, dtype: "F32" as const, shape, read: async () => encodeFloats(values, "F32") };
  });
  return new Adapter({ method: { type: "lora", ...method } as Adapter["method"], base: { identity: null }, experts, attached });
}

it("names that PEFT has for one kind of matrix stand for no other of ours", () => {
  const spec = modelSpec(tinyDeepseek, "config.json");
  const all = adaptableMatrices(spec, "fused").filter(({ place: { role } }) => role === "expert" || role === "shared");
  const alphaOf = (key: string): number => (/shared_experts\.(gate|up)_proj/.test(key) ? 32 : 8);
  const terms = all.map((matrix) => ({ matrix, rank: 4, alpha: alphaOf(matrix.key) }));
  const options = loraOptionsOf(adaptableMatrices(spec, "fused"), terms, { r: 4, lora_alpha: 8 } as PeftConfig, "fused");
  const found = loraMatrices(spec, options);
  expect(found.map((m) => [m.key, m.rank, m.scaling])).toEqual(all.map(({ key }) => [key, 4, alphaOf(key) / 4]));
});

describe("written by PEFT", () => {
  it.each(["olmoe-lora-all-linear", "deepseek_v2-lora-linear"])("%s gives the logits of its fixture", async (name) => {
    const { base, batches } = JSON.parse(readFileSync(join(fixtures, name, "golden.json"), "utf8")) as {
      base: string;
      batches: { input_ids: number[][] }[];
    };
    const wanted = decodeFloats(await (await openSafetensors(join(fixtures, name, "golden.safetensors"))).read("logits"), "F32");
    expect(distance(await logits(base.replace("../", ""), join(fixtures, name, "peft"), batches[0]!.input_ids), wanted)).toBeLessThan(2e-5);
  });

  const folder = async (
    change: (config: Record<string, unknown>) => void,
    rename: (key: string) => string | null = (key) => key,
  ): Promise<string> => {
    const dir = fresh();
    cpSync(join(fixtures, "olmoe-lora-all-linear/peft"), dir, { recursive: true });
    const file = join(dir, "adapter_config.json");
    const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
    change(config);
    writeFileSync(file, JSON.stringify(config));
    const weights = await openSafetensors(join(dir, "adapter_model.safetensors"));
    const entries = await Promise.all(
      [...weights.tensors.values()].map(async ({ name, dtype, shape }) => ({
        name: rename(name),
        dtype,
        shape,
        bytes: await weights.read(name),
      })),
    );
    const kept = entries.flatMap(({ name, bytes, ...t }) => (name === null ? [] : [{ ...t, name, data: async () => bytes }]));
    await writeSafetensors(join(dir, "adapter_model.safetensors"), kept);
    return dir;
  };
  const vproj = "base_model.model.model.layers.1.self_attn.v_proj";
  const nothing = (): void => undefined;
  it.each<[string, Parameters<typeof folder>, RegExp]>([
    ["another method", [(c) => (c["peft_type"] = "IA3")], /peft_type/],
    ["DoRA", [(c) => (c["use_dora"] = true)], /"use_dora" true is not served/],
    ["biases", [(c) => (c["bias"] = "all")], /"bias" "all" is not served/],
    ["an option that is not known", [(c) => (c["new_thing"] = 3)], /"new_thing" 3 is not served/],
    ["first values that change the base", [(c) => (c["init_lora_weights"] = "pissa")], /changes the base's weights too/],
    ["other ranks than the tensors'", [(c) => (c["r"] = 3)], /\(rank 3\), found \[/],
    ["a bad pattern", [(c) => (c["rank_pattern"] = { "(": 3 })], /"\(" is no pattern/],
    [
      "one factor alone",
      [nothing, (key) => (key === `${vproj}.lora_B.weight` ? null : key)],
      /expected this tensor beside the other factor/,
    ],
    [
      "a module without tensors",
      [nothing, (key) => (key.startsWith(vproj) ? null : key)],
      /target "v_proj" names "model.layers.1.self_attn.v_proj"/,
    ],
    ["a stack without tensors", [nothing, (key) => (/layers\.1\.mlp\.experts\.lora/.test(key) ? null : key)], /target "down_proj"/],
    ["a module of another model", [nothing, (key) => key.replace("layers.1", "layers.7")], /expected a module of this olmoe model/],
    ["another tensor", [nothing, (key) => key.replace(/v_proj\.lora_A/, "v_proj.lora_magnitude")], /expected factors of LoRA .* alone/],
    ["tensors of a module that no target names", [(c) => (c["target_modules"] = ["q_proj", "k_proj", "o_proj"])], /found "model\.layers\.0\.self_attn\.v_proj", which neither target_modules nor target_parameters names/], // prettier-ignore
    ["tensors of a pattern that leaves them out", [(c) => (c["target_modules"] = ".*\\.[qko]_proj")], /v_proj", which neither/],
    ["a pattern that cannot be read", [(c) => (c["target_modules"] = "(")], /target_modules "\(" is no pattern/],
    ["stacks that no target names", [(c) => (c["target_parameters"] = ["gate_up_proj", "gate.weight"])], /experts.*", which neither/],
    ["routers that no target names", [(c) => (c["target_parameters"] = ["gate_up_proj", "down_proj"])], /mlp\.gate", which neither/],
    ["a target of nothing", [(c) => (c["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj", "w9"])], /target "w9" names no module/],
  ])("with %s it is refused", async (_what, change, message) => {
    const base = await openCheckpoint(join(fixtures, "base-olmoe"));
    const dir = await folder(...change);
    await expect(openAdapter(dir, { base })).rejects.toThrow(message);
    await expect(openAdapter(dir, { base })).rejects.toMatchObject({ code: "ERR_LAYOUT" });
  });

  it("a pattern over whole names, and patterns of ranks that match nothing, are taken", async () => {
    const base = await openCheckpoint(join(fixtures, "base-olmoe"));
    const dir = await folder((c) => {
      c["target_modules"] = ".*\\.[qkvo]_proj";
      c["rank_pattern"] = { ...(c["rank_pattern"] as object), nothing: 2 };
    });
    expect((await openAdapter(dir, { base })).attached.size).toBeGreaterThan(0);
  });

  it("beside the head the base's own matrix may lie there, as PEFT saves it, and no other", async () => {
    const base = await openCheckpoint(join(fixtures, "base-olmoe"));
    const adapter = await filled("base-olmoe", { rank: 3, targets: ["head"] });
    const dir = fresh();
    await savePeftAdapter(adapter, base, dir);
    const weights = await openSafetensors(join(dir, "adapter_model.safetensors"));
    const own = await Promise.all(
      [...weights.tensors.values()].map(async ({ name, dtype, shape }) => ({ name, dtype, shape, bytes: await weights.read(name) })),
    );
    const head = base.tensors.get("lm_head.weight")!;
    const withCopy = async (name: string, change: (bytes: Uint8Array) => void): Promise<string> => {
      const bytes = Uint8Array.from(await base.read("lm_head.weight"));
      change(bytes);
      const to = fresh();
      cpSync(dir, to, { recursive: true });
      const entries = [...own, { name: `base_model.model.${name}.base_layer.weight`, dtype: head.dtype, shape: head.shape, bytes }];
      await writeSafetensors(
        join(to, "adapter_model.safetensors"),
        entries.map(({ bytes: b, ...t }) => ({ ...t, data: async () => b })),
      );
      return to;
    };
    const same = await openAdapter(await withCopy("lm_head", () => undefined), { base });
    expect([...same.attached.keys()]).toEqual(["lora.lm_head.weight.A", "lora.lm_head.weight.B"]);
    const other = await withCopy("lm_head", (b) => (b[0]! ^= 1));
    await expect(openAdapter(other, { base })).rejects.toThrow(/expected "lm_head.weight" as this base has it/);
    const elsewhere = await withCopy("model.layers.0.self_attn.q_proj", () => undefined);
    await expect(openAdapter(elsewhere, { base })).rejects.toThrow(/alone, found another tensor/);
  });

  it("a term beside the head is refused by its reason where the head is the embedding", async () => {
    const [apart, tied, dir] = [fresh(), fresh(), fresh()];
    for (const [at, tie] of [[apart, false], [tied, true]] as const) await writeTinyModel(at, { ...tinyOlmoe, tie_word_embeddings: tie }, { tokenizer: false }); // prettier-ignore
    await savePeftAdapter(await filled(apart, { rank: 3, targets: ["head"] }), await openCheckpoint(apart), dir);
    await expect(openAdapter(dir, { base: await openCheckpoint(tied) })).rejects.toThrow(
      /stands beside the head, which is the embedding in this model: .*untie them first/,
    );
  });

  it("without its base it is refused", async () => {
    await expect(openAdapter(join(fixtures, "olmoe-lora-all-linear/peft"))).rejects.toThrow(/open it together with its base/);
  });
});

describe("written by us", () => {
  const ids = [Array.from({ length: 20 }, (_, i) => (i * 13 + 5) % 90)];
  const selected = new ExpertSet({ layers: [[0, { ranked: [1, 4] }], [1, { ranked: [0] }]] }); // prettier-ignore

  it.each<[string, string, LoraOptions]>([
    ["linear layers", "base-olmoe", { rank: 3, alpha: 5, targets: ["attention", "router"], ranks: { q_proj: 2 } }],
    ["experts, matrix by matrix", "base-mixtral", { rank: 3, alpha: 5, targets: ["experts", "attention", "router"] }],
    ["fused experts", "base-deepseek_v2", { rank: 4, targets: ["experts"], expertTerms: "fused" }],
    [
      "some experts, of several ranks",
      "base-olmoe",
      { rank: 4, targets: ["experts"], experts: selected, ranks: { down_proj: 2 }, rslora: true },
    ],
    ["the head, and what stands before it", "base-olmoe", { rank: 3, alpha: 5, targets: ["head", "v_proj"], ranks: { head: 5 } }],
    ["down alone", "base-olmoe", { rank: 2, targets: ["down_proj"] }],
  ])("%s: the same logits again", async (_what, base, options) => {
    const adapter = await filled(base, options);
    const dir = fresh();
    await savePeftAdapter(adapter, await openCheckpoint(join(fixtures, base)), dir);
    expect(distance(await logits(base, dir, ids), await logits(base, adapter, ids))).toBeLessThan(1e-5);
  });

  it("a module per expert: the same tensors again", async () => {
    const adapter = await filled("base-olmoe", { rank: 3, targets: ["experts"], experts: selected });
    const base = await openCheckpoint(join(fixtures, "base-olmoe"));
    const dir = fresh();
    await savePeftAdapter(adapter, base, dir, { layout: "per-expert" });
    const weights = await openSafetensors(join(dir, "adapter_model.safetensors"));
    expect([...weights.tensors.keys()]).toContain("base_model.model.model.layers.0.mlp.experts.4.up_proj.lora_B.weight");
    const again = await openAdapter(dir, { base });
    expect([...again.attached.keys()]).toEqual([...adapter.attached.keys()]);
    for (const key of adapter.attached.keys()) expect(await again.read(key)).toEqual(await adapter.read(key));
    await expect(savePeftAdapter(await filled("base-olmoe", { rank: 3, targets: ["experts"], expertTerms: "fused" }), base, fresh(), { layout: "per-expert" })).rejects.toThrow(/part of a fused tensor, or of several/); // prettier-ignore
    await expect(savePeftAdapter(adapter, base, fresh(), { layout: "other" as never })).rejects.toThrow(/layout must be/);
  });

  it("what PEFT would leave out is refused", async () => {
    const base = await openCheckpoint(join(fixtures, "base-deepseek_v2"));
    const adapter = await filled("base-deepseek_v2", { rank: 3, targets: ["linear"] });
    await expect(savePeftAdapter(adapter, base, fresh())).rejects.toThrow(
      /PEFT 0.21 takes "model.layers.0.mlp.gate_proj" for routed experts/,
    );
    const perft = new Adapter({ ...adapter, method: { type: "perft" }, tensors: [], attached: adapter.attached.values() });
    await expect(savePeftAdapter(perft, base, fresh())).rejects.toThrow(/it is of method "perft", PEFT has LoRA/);
  });
});

it("stacks: A is expert-major, B rank-major; halves are blocks of a diagonal", () => {
  const f = (rank: number, from: number, scaling = 2) => ({
    a: Float32Array.from({ length: rank * 2 }, (_, i) => from + i),
    b: Float32Array.from({ length: 3 * rank }, (_, i) => -from - i),
    rank,
    scaling,
  });
  const all = [f(2, 10), undefined, f(1, 50, 4)];
  const { a, b, rank } = stack(all, [3, 2]);
  expect([rank, [...a]]).toEqual([2, [10, 11, 12, 13, 0, 0, 0, 0, 50, 51, 0, 0]]);
  expect([...b.subarray(0, 6)]).toEqual([-10, 0, -100, -11, 0, 0]); // row 0: rank 0 of experts 0, 1, 2, then rank 1
  expect(unstack({ a, b, rank, scaling: 2 }, 0, 3, [3, 2])).toEqual(all[0]);
  const fused = fuseHalves(f(1, 1), f(1, 5), 3)!;
  expect([[...fused.a], [...fused.b]]).toEqual([[1, 2, 5, 6], [-1, 0, -2, 0, -3, 0, 0, -5, 0, -6, 0, -7]]); // prettier-ignore
});
