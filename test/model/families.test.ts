// config.json against the headers: a model that is described wrongly is refused in words, before anything is made of what is claimed.
// Run alone: npx vitest run test/model/families.test.ts
import { mkdtempSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigError, LayoutError } from "../../lib/errors.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { plainWeight } from "../../lib/files/quantised/packed.ts";
import type { TensorInfo } from "../../lib/files/safetensors.ts";
import { inspectCheckpoint } from "../../lib/inspect.ts";
import { Builder } from "../../lib/model/families/build.ts";
import { ConfigReader } from "../../lib/model/families/config.ts";
import { Headers } from "../../lib/model/families/headers.ts";
import { checkpointSpec, modelSpec } from "../../lib/model/families/index.ts";
import { ropeFromConfig } from "../../lib/model/families/rope.ts";
import { MoeModel } from "../../lib/moe_model.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek, tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";

type Config = Readonly<Record<string, unknown>>;
const root = tempDir();
const small = { vocab_size: 16, max_position_embeddings: 64 };
const low = { ...tinyDeepseek, ...small, q_lora_rank: 16 };
const yarn = { type: "yarn", factor: 4, original_max_position_embeddings: 16, mscale: 0.707, mscale_all_dim: 0.707 };
const llama3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 16 };
const models: Readonly<Record<string, Config>> = {
  deepseek: { ...tinyDeepseek, ...small },
  low,
  olmoe: { ...tinyOlmoe, ...small },
  dense: { ...tinyDeepseek, ...small, first_k_dense_replace: 3 },
};
const opened = new Map<string, Promise<Checkpoint>>();
async function base(name: string): Promise<Checkpoint> {
  const dir = mkdtempSync(join(root, `${name}-`));
  await writeTinyModel(dir, models[name]!, { tokenizer: false });
  return openCheckpoint(dir);
}
/** The weights of one of `models` under another config.json. */
async function changed(name: string, change: Config, more: readonly string[] = []): Promise<Checkpoint> {
  if (!opened.has(name)) opened.set(name, base(name));
  const checkpoint = await opened.get(name)!;
  const like = [...checkpoint.tensors.values()][0]!;
  const tensors = new Map<string, TensorInfo>([...checkpoint.tensors, ...more.map((name) => [name, { ...like, name }] as const)]);
  const weights = new Map([...tensors].map(([name, t]) => [name, plainWeight(t)]));
  return { ...checkpoint, config: { ...checkpoint.config, ...change }, tensors, weights };
}
const refusal = async (name: string, change: Config, more?: readonly string[]) => {
  const checkpoint = await changed(name, change, more);
  try {
    checkpointSpec(checkpoint);
  } catch (error) {
    return error as Error;
  }
  return expect.unreachable();
};

describe("a model as its headers show it", () => {
  it.each(Object.keys(models))("%s passes", async (name) => {
    const checkpoint = await changed(name, {});
    expect(checkpointSpec(checkpoint)).toEqual(modelSpec(checkpoint.config, "config.json"));
    expect(inspectCheckpoint(checkpoint).unusedTensors).toBe(0);
  });

  it("has as many positions, and the ids, that config.json says", async () => {
    const spec = checkpointSpec(await changed("olmoe", { eos_token_id: [0, 15] }));
    expect([spec.maxPositions, spec.vocab, spec.eosIds]).toEqual([64, 16, [0, 15]]);
  });
});

describe("counts that the weights do not show", () => {
  it.each<[string, string, number]>([
    ["deepseek", "num_hidden_layers", 4],
    ["deepseek", "num_hidden_layers", 1e9],
    ["olmoe", "num_hidden_layers", 3],
    ["deepseek", "n_routed_experts", 9],
    ["deepseek", "n_routed_experts", 1e9],
    ["olmoe", "num_experts", 7],
    ["olmoe", "num_experts", 1e9],
  ])("%s: %s %d", async (name, key, found) => {
    const expected = Number(models[name]![key]);
    const error = await refusal(name, { [key]: found });
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(
      new RegExp(`config.json: "${key}" is ${found}, the weights show ${expected} \\(entries of "model.layers`),
    );
    expect(error).toMatchObject({ where: { key, found, expected } });
  });

  it.each<[string, string, RegExp]>([
    ["deepseek", "num_attention_heads", /q_proj.weight": expected \[24000000000, 48\], found \[72, 48\]; .*"num_attention_heads" is 1000000000, 3 would fit/],
    ["deepseek", "n_shared_experts", /expected \[24000000000, 48\], found \[24, 48\]; .*"n_shared_experts" is 1000000000, 1 would fit/],
    ["deepseek", "moe_intermediate_size", /expected \[1000000000, 48\], found \[24, 48\]; .*"moe_intermediate_size" is 1000000000, 24 would fit/],
    ["deepseek", "intermediate_size", /expected \[1000000000, 48\], found \[64, 48\]; .*"intermediate_size" is 1000000000, 64 would fit/],
    ["deepseek", "kv_lora_rank", /look at "kv_lora_rank" \(1000000000\)/],
    ["deepseek", "hidden_size", /expected \[16, 1000000000\], found \[16, 48\]; .*"hidden_size" is 1000000000, 48 would fit/],
    ["deepseek", "vocab_size", /expected \[1000000000, 48\], found \[16, 48\]; .*"vocab_size" is 1000000000, 16 would fit/],
    ["deepseek", "first_k_dense_replace", /"model.layers.1.mlp.gate_proj.weight": expected \[64, 48\], found no such tensor; .*"first_k_dense_replace" \(1000000000\)/],
    ["low", "q_lora_rank", /"q_lora_rank" is 1000000000, 16 would fit/],
    ["olmoe", "num_key_value_heads", /num_attention_heads 4 must be a multiple of num_key_value_heads 1000000000/],
    ["olmoe", "num_attention_heads", /"num_attention_heads" must be a divisor of hidden_size 40 \(head_dim is not given\), found 1000000000/],
    ["deepseek", "num_experts_per_tok", /num_experts_per_tok 1000000000 exceeds the 8 experts/],
    ["deepseek", "qk_rope_head_dim", /"qk_rope_head_dim" must be an integer from 1 to 65536, found 1000000000/],
    ["deepseek", "qk_nope_head_dim", /"qk_nope_head_dim" must be an integer from 1 to 65536/],
    ["deepseek", "v_head_dim", /"v_head_dim" must be an integer from 1 to 65536/],
    ["olmoe", "head_dim", /"head_dim" must be an integer from 1 to 65536/],
    ["olmoe", "max_position_embeddings", /"max_position_embeddings" must be an integer from 1 to 134217728/],
  ])("%s: %s 1e9", async (name, key, message) => {
    expect((await refusal(name, { [key]: 1e9 })).message).toMatch(message);
  }); // prettier-ignore

  it.each<[string, string, number, RegExp]>([
    ["deepseek", "intermediate_size", 32, /\[32, 48\], found \[64, 48\]; .*"intermediate_size" is 32, 64 would fit$/],
    ["deepseek", "moe_intermediate_size", 48, /\[48, 48\], found \[24, 48\]; .*"moe_intermediate_size" is 48, 24 would fit$/],
    ["deepseek", "n_shared_experts", 2, /\[48, 48\], found \[24, 48\]; .*"n_shared_experts" is 2, 1 would fit$/],
    ["deepseek", "hidden_size", 24, /\[16, 24\], found \[16, 48\]; .*"hidden_size" is 24, 48 would fit$/],
    ["deepseek", "qk_rope_head_dim", 10, /\[78, 48\], found \[72, 48\]; .*look at "q_lora_rank" \(null\), "num_attention_heads" \(3\), "qk_rope_head_dim" \(10\)$/],
    ["olmoe", "intermediate_size", 12, /"intermediate_size" is 12, 24 would fit$/],
    ["olmoe", "num_key_value_heads", 4, /k_proj.weight": expected \[40, 40\], found \[20, 40\]; .*"num_key_value_heads" is 4, 2 would fit$/],
  ])("a shape names the key whose other value would give it: %s: %s %d", async (name, key, value, message) => {
    expect((await refusal(name, { [key]: value })).message).toMatch(message);
  }); // prettier-ignore

  it("are refused for fused experts too, whatever the family", () => {
    const shapes = new Map([
      ["x.experts", { shape: [4, 2, 2] }],
      ["x.layers.0.a.weight", { shape: [1] }],
      ["x.layers.07.a", { shape: [1] }],
    ]);
    const list = (key: string, at: string, count: number) =>
      new Builder(new ConfigReader({ hidden_size: 8, [key]: count }, "c"), new Headers(shapes), { eps: 1e-6 }).list(key, at, (entry, i) => [
        entry,
        i,
      ]);
    expect(list("experts", "x.experts", 4)).toHaveLength(4);
    expect(() => list("experts", "x.experts", 1e9)).toThrow(/c: "experts" is 1000000000, the first dimension of "x.experts" is 4/);
    expect(() => list("experts", "x.experts", 3)).toThrow(/"experts" is 3, the first dimension of "x.experts" is 4/);
    expect(list("layers", "x.layers", 1)).toEqual([["x.layers.0", 0]]);
    expect(() => list("layers", "x.layers", 2)).toThrow(/the weights show 1 /);
    expect(() => list("layers", "x", 1)).toThrow(/the weights show 0 /);
  });
});

describe("tensors that belong to no part of the model", () => {
  it.each<[string, Config, readonly string[], RegExp]>([
    ["deepseek", { num_hidden_layers: 2 }, [], /: 35 of \d+ tensors belong to no part of the model that config.json describes: "model.layers.2.*".* …; .*"num_hidden_layers" is 2, the weights show 3/],
    ["olmoe", { num_hidden_layers: 1 }, [], /"num_hidden_layers" is 1, the weights show 2/],
    ["olmoe", { num_experts: 5 }, [], /gate.weight": expected \[5, 40\], found \[6, 40\]; .*"num_experts" is 5, 6 would fit/],
    ["deepseek", { n_shared_experts: 0 }, [], /: 6 of .*shared_experts.*look at "n_shared_experts" \(0\)$/],
    ["deepseek", { n_shared_experts: null }, [], /"n_shared_experts" \(0\)/],
    ["dense", { first_k_dense_replace: 2 }, [], /"n_routed_experts" is 8, the weights show 0/],
    ["deepseek", { tie_word_embeddings: true }, [], /: 1 of \d+ tensors .*: "lm_head.weight"; .*"tie_word_embeddings" \(true\)/],
    ["low", { q_lora_rank: null }, [], /q_proj.weight": expected \[72, 48\], found no such tensor; .*"q_lora_rank" \(null\)/],
    ["olmoe", {}, ["model.layers.0.self_attn.q_proj.bias"], /: 1 of .*q_proj.bias"; .*"attention_bias" \(false\)/],
    ["olmoe", {}, ["model.layers.0.mlp.experts.6.up_proj.weight"], /"num_experts" is 6, the weights show 7/],
    ["olmoe", { quantization_config: { bits: 4 } }, ["model.layers.0.mlp.experts.0.up_proj.weight_scale_inv"], /"quantization_config" \(\{"bits":4\}\)/],
    ["olmoe", {}, ["stowaway"], /: 1 of \d+ tensors .*: "stowaway"$/],
    ["olmoe", {}, ["a", "b", "c"], /: "a", "b", "c"$/],
    ["olmoe", {}, ["a", "b", "c", "d"], /: 4 of \d+ .*: "a", "b", "c" …$/],
    ["deepseek", {}, ["model.layers.3.mtp.weight"], /"num_hidden_layers" is 3, the weights show 4/],
    ["deepseek", { num_nextn_predict_layers: 1 }, ["model.layers.4.mtp.weight"], /"num_hidden_layers" is 3/],
    ["deepseek", { num_nextn_predict_layers: 0 }, ["mtp.fc.weight"], /mtp/],
    ["olmoe", {}, ["model.visual.patch.weight"], /visual/],
    ["olmoe", {}, ["audio_tower.patch.weight"], /audio/],
  ])("%s %j %j", async (name, change, more, message) => {
    expect((await refusal(name, change, more)).message).toMatch(message);
  }); // prettier-ignore

  it.each<[string, Config, readonly string[]]>([
    ["olmoe", {}, ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.cos_cached"]],
    ["deepseek", { num_nextn_predict_layers: 1 }, ["model.layers.3.eh_proj.weight", "model.layers.3.shared_head.norm.weight"]],
    ["deepseek", { num_nextn_predict_layers: 2 }, ["model.layers.3.a.weight", "model.layers.4.a.weight"]],
    ["olmoe", { mtp_num_hidden_layers: 1 }, ["mtp.layers.0.norm.weight"]],
    ["olmoe", { vision_config: {} }, ["visual.patch.weight", "model.vision_tower.x", "multi_modal_projector.weight"]],
    ["olmoe", { audio_config: {} }, ["model.audio_tower.x"]],
  ])("known exceptions pass: %s %j %j", async (name, change, more) => {
    const checkpoint = await changed(name, change, more);
    checkpointSpec(checkpoint);
    expect(inspectCheckpoint(checkpoint).unusedTensors).toBe(more.length);
  });

  it("name the file of a tensor that is not as it must be", async () => {
    const checkpoint = await changed("olmoe", {});
    const name = "model.norm.weight";
    const wrong = new Map(checkpoint.weights).set(name, { ...checkpoint.weights.get(name)!, shape: [5, 8] });
    expect(() => checkpointSpec({ ...checkpoint, weights: wrong })).toThrow(/model.safetensors: tensor "model.norm.weight": expected \[40\], found \[5, 8\]; .*look at "hidden_size" \(40\)/);
    wrong.delete(name);
    expect(() => checkpointSpec({ ...checkpoint, weights: wrong })).toThrow(LayoutError);
  }); // prettier-ignore

  it("is refused wherever weights are opened", async () => {
    const { dir } = await base("deepseek");
    await writeFile(join(dir, "config.json"), JSON.stringify({ ...models["deepseek"], num_hidden_layers: 2 }));
    const checkpoint = await openCheckpoint(dir);
    const message = /belong to no part of the model/;
    expect(() => inspectCheckpoint(checkpoint)).toThrow(message);
    await expect(MoeModel.fromPretrained(dir, { device: "cpu" })).rejects.toThrow(message);
    const { cli } = await import("../cli/support.ts");
    for (const args of [
      ["inspect", dir],
      ["merge", dir, "--adapter", "a", "-o", join(root, "merged")],
      ["verify", "a", "--base", dir],
      ["train", "--model", dir, "--method", "full", "--data", "d", "--out", join(root, "run")],
    ])
      expect(await cli(args)).toMatchObject({ code: 1, err: expect.stringMatching(message) as string });
  });
});

describe("rotary embeddings", () => {
  const of = (change: Config, name = "olmoe") => {
    const { attention } = modelSpec({ ...models[name], ...change } as Config, "config.json").layers[0]!;
    if (!("rope" in attention) || !attention.rope) throw new Error("no rotary embedding");
    return attention.rope;
  };
  const half = of({}).inverseFrequencies.length;
  const ones = new Array<number>(half).fill(1);
  const twos = ones.map(() => 2);

  it("longrope: short and long factors, one attention factor by the lengths", () => {
    const plain = of({}).inverseFrequencies;
    const scaling = { type: "longrope", short_factor: ones, long_factor: twos, original_max_position_embeddings: 16 };
    const rope = of({ max_position_embeddings: 64, rope_scaling: scaling });
    expect(rope.inverseFrequencies).toEqual(plain);
    const factor = Math.sqrt(1 + Math.log(4) / Math.log(16));
    expect(rope.factor).toBe(factor);
    expect(rope.beyond).toEqual({ length: 16, inverseFrequencies: plain.map((f) => f / 2), factor });
    expect(of({ max_position_embeddings: 64, rope_scaling: { ...scaling, attention_factor: 1.5 } }).factor).toBe(1.5);
    expect(of({ max_position_embeddings: 64, original_max_position_embeddings: 32, rope_scaling: scaling }).beyond?.length).toBe(32);
  });

  it("longrope with factors on cos and sin of its own takes the short factors at any length", () => {
    const scaling = { rope_type: "longrope", short_factor: ones, long_factor: twos, short_mscale: 1.1, long_mscale: 1.3 };
    const c = new ConfigReader({ max_position_embeddings: 64, original_max_position_embeddings: 16, rope_scaling: scaling }, "config.json");
    const { spec } = ropeFromConfig(c, 2 * half, { mscales: true });
    const { inverseFrequencies } = spec;
    expect(spec).toMatchObject({ factor: 1.1, beyond: { length: 16, inverseFrequencies, factor: 1.3 } });
  });

  it.each<[Config, RegExp]>([
    [{ long_factor: twos }, /"short_factor" must be a list of \d+ numbers .*found nothing/],
    [{ short_factor: ones, long_factor: [...twos, 2] }, /"long_factor" must be a list of/],
    [{ short_factor: ones.map(() => 0), long_factor: twos }, /"short_factor"/],
    [{ short_factor: ones, long_factor: twos, attention_factor: 0 }, /"attention_factor"/],
  ])("longrope refuses %j", (change, message) => {
    const scaling = { rope_type: "longrope", original_max_position_embeddings: 16, ...change };
    expect(() => of({ max_position_embeddings: 64, rope_scaling: scaling })).toThrow(message);
  });

  it("llama3 with one factor for both divides the long waves and leaves the short ones", () => {
    const scaling = {
      rope_type: "llama3",
      rope_theta: 500000,
      factor: 16,
      low_freq_factor: 1,
      high_freq_factor: 1,
      original_max_position_embeddings: 8192,
    };
    const { inverseFrequencies } = ropeFromConfig(new ConfigReader({ rope_parameters: scaling }, "config.json"), 128).spec;
    const plain = Array.from({ length: 64 }, (_, i) => Math.fround(1 / Math.fround(Math.fround(500000) ** Math.fround((2 * i) / 128))));
    expect(inverseFrequencies).toEqual(plain.map((x) => ((2 * Math.PI) / x > 8192 ? Math.fround(x / 16) : x)));
    expect(inverseFrequencies.filter((x, i) => x !== plain[i]).length).toBeGreaterThan(10);
  });
  it("dynamic: as it begins, where its base is stretched by alpha as well", () => {
    const of = (rope: object, alpha: boolean, d = 8) =>
      ropeFromConfig(new ConfigReader({ rope_parameters: { rope_type: "dynamic", rope_theta: 100, ...rope } }, "config.json"), d, { alpha })
        .spec;
    const frequencies = (theta: number) => [0, 2, 4, 6].map((i) => Math.fround(1 / Math.fround(Math.fround(theta) ** (i / 8))));
    expect(of({ factor: 2 }, false)).toEqual({ inverseFrequencies: frequencies(100), factor: 1, interleaved: false });
    expect(of({ alpha: 1000 }, true).inverseFrequencies).toEqual(frequencies(100 * 1000 ** (8 / 6)));
    expect(of({}, true).inverseFrequencies).toEqual(frequencies(100));
    expect(() => of({ alpha: 0.5 }, true)).toThrow(/"alpha" must be a number from 1 to 1000000, found 0.5/);
    expect(() => of({ alpha: 1000 }, true, 2)).toThrow(/"alpha" must be 1 \(or none\) where heads have 2 dimensions/);
  });
  it("proportional is no type of theirs unless a family says so", () => {
    expect(() => of({ rope_scaling: { rope_type: "proportional" } })).toThrow(/"rope_type" must be "default" or .*found "proportional"/);
    const c = { rope_parameters: { full: { rope_type: "proportional", rope_theta: 100, partial_rotary_factor: 0.5 } } };
    const { spec } = ropeFromConfig(new ConfigReader(c, "config.json"), 8, { layerType: "full", types: ["proportional"] });
    expect(spec.inverseFrequencies).toEqual([1, Math.fround(1 / Math.fround(100 ** 0.25)), 0, 0]);
  });
});

describe("numbers outside of what any model has", () => {
  const rope = (parameters: Config): Config => ({ rope_parameters: parameters });
  const cases: [string, Config, RegExp][] = [
    ["olmoe", { rms_norm_eps: 1e300 }, /config.json: "rms_norm_eps" must be a number from 1e-12 to 0.01, found 1e\+300/],
    ["olmoe", { rms_norm_eps: 0 }, /"rms_norm_eps"/],
    ["olmoe", { rms_norm_eps: -1e-6 }, /"rms_norm_eps"/],
    ["olmoe", { rms_norm_eps: "1e-6" }, /"rms_norm_eps" .*found "1e-6"/],
    ["olmoe", { rope_theta: 1 }, /"rope_theta" must be a number from 2 to 1000000000000, found 1/],
    ["olmoe", { rope_theta: 1e13 }, /"rope_theta"/],
    ["olmoe", rope({ rope_theta: 0 }), /rope_parameters: "rope_theta"/],
    ["olmoe", rope({ rope_theta: 1e300, rope_type: "default" }), /"rope_theta"/],
    ["olmoe", { clip_qkv: 0 }, /"clip_qkv" must be a number from 0.001 to 1000000, found 0/],
    ["olmoe", { clip_qkv: 1e30 }, /"clip_qkv"/],
    ["olmoe", { rope_scaling: { type: "linear", factor: 0.5 } }, /rope_scaling: "factor" must be a number from 1 to 10000, found 0.5/],
    ["olmoe", { rope_scaling: { type: "linear", factor: 1e5 } }, /"factor"/],
    ["olmoe", { rope_scaling: { ...llama3, factor: 0 } }, /"factor"/],
    ["olmoe", { rope_scaling: { ...llama3, low_freq_factor: 0 } }, /"low_freq_factor"/],
    ["olmoe", { rope_scaling: { ...llama3, high_freq_factor: 0.5 } }, /"high_freq_factor" must be at least low_freq_factor 1, found 0.5/],
    ["olmoe", { rope_scaling: { ...llama3, high_freq_factor: 1e9 } }, /"high_freq_factor"/],
    ["olmoe", { rope_scaling: { ...llama3, original_max_position_embeddings: 0.5 } }, /"original_max_position_embeddings"/],
    ["deepseek", { rope_scaling: { ...yarn, factor: 1e300 } }, /"factor"/],
    ["deepseek", { rope_scaling: { ...yarn, factor: null, original_max_position_embeddings: 1e6 } }, /"factor"/],
    ["deepseek", { rope_scaling: { ...yarn, original_max_position_embeddings: 0 } }, /"original_max_position_embeddings"/],
    ["deepseek", { rope_scaling: { ...yarn, mscale: 1e9 } }, /"mscale"/],
    ["deepseek", { rope_scaling: { ...yarn, mscale_all_dim: -1 } }, /"mscale_all_dim"/],
    ["deepseek", { rope_scaling: { ...yarn, attention_factor: 0 } }, /"attention_factor"/],
    ["deepseek", { rope_scaling: { ...yarn, beta_fast: 1 } }, /"beta_fast" must be above beta_slow 1, found 1/],
    ["deepseek", { rope_scaling: { ...yarn, beta_slow: 0 } }, /"beta_slow"/],
    ["deepseek", { routed_scaling_factor: 0 }, /"routed_scaling_factor" must be a number from 0.001 to 10000, found 0/],
    ["deepseek", { routed_scaling_factor: 1e300 }, /"routed_scaling_factor"/],
    ["deepseek", { qk_rope_head_dim: 0 }, /"qk_rope_head_dim" must be an integer from 1 to 65536, found 0/],
    ["deepseek", { num_hidden_layers: 0 }, /"num_hidden_layers" must be an integer from 1 to/],
    ["deepseek", { num_hidden_layers: 2.5 }, /"num_hidden_layers"/],
    ["deepseek", { n_shared_experts: -1 }, /"n_shared_experts" must be an integer from 0 to/],
    ["deepseek", { max_position_embeddings: 0 }, /"max_position_embeddings"/],
    ["deepseek", { eos_token_id: 16 }, /"eos_token_id" must be an id from 0 to 15 \(below vocab_size\), or a list of such, found 16/],
    ["deepseek", { eos_token_id: -1 }, /"eos_token_id"/],
    ["deepseek", { eos_token_id: [2, "3"] }, /"eos_token_id"/],
    ["deepseek", { bos_token_id: 16 }, /"bos_token_id" must be an id from -1 to 15/],
    ["deepseek", { pad_token_id: -2 }, /"pad_token_id"/],
  ];
  it.each(cases)("%s %j", async (name, change, message) => {
    const error = await refusal(name, change);
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(message);
  });

  it.each<[string, Config]>([
    ["olmoe", { rms_norm_eps: 1e-12, rope_theta: 2, clip_qkv: 1e-3 }],
    ["olmoe", { rms_norm_eps: 1e-2, rope_theta: 1e12, clip_qkv: 1e6, pad_token_id: -1, bos_token_id: 15, eos_token_id: null }],
    ["olmoe", { rope_scaling: llama3 }],
    ["deepseek", { rope_scaling: yarn, routed_scaling_factor: 16 }],
    ["deepseek", { rope_scaling: { ...yarn, factor: null }, pad_token_id: null }],
  ])("the bounds themselves pass: %s %j", async (name, change) => {
    checkpointSpec(await changed(name, change));
  });
});
