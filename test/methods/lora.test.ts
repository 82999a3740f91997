// LoRA as a method: which matrices targets name, first values, a run from start to adapter (resumed, on any number of threads, applied
// again), and what is refused. The mathematics: seams.test.ts and the fixtures of other implementations. No GPU.
// Run alone: npx vitest run test/methods/lora.test.ts

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Adapter } from "../../lib/adapter/adapter.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { attachmentsOf } from "../../lib/methods/attachments.ts";
import { LoraAttachments, loraTrainable } from "../../lib/methods/lora.ts";
import { loraMatrices } from "../../lib/methods/lora_targets.ts";
import type { LoraOptions } from "../../lib/methods/lora_targets.ts";
import { LowRankExperts } from "../../lib/methods/low_rank_experts.ts";
import { GroupedTerms } from "../../lib/methods/low_rank_terms.ts";
import { LowRank, LowRankMlp } from "../../lib/methods/low_rank.ts";
import { planActivations } from "../../lib/model/decoder.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { AttachmentContext, ExpertsSite } from "../../lib/model/layers/attachment.ts";
import type { ExpertWeights } from "../../lib/model/spec.ts";
import { moeLayers, moeOf } from "../../lib/model/spec.ts";
import { MoeModel } from "../../lib/moe_model.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { apart, tinyDeepseek, tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";

const deepseek = modelSpec(tinyDeepseek, "config.json");
const matrices = (targets: readonly string[], more: Partial<LoraOptions> = {}) => loraMatrices(deepseek, { rank: 2, targets, ...more });
const names = (targets: string[], more: Partial<LoraOptions> = {}): string[] => matrices(targets, more).map((m) => m.key);
const selected = new ExpertSet({ layers: [[1, { ranked: [5, 0] }], [2, { ranked: [7] }]] }); // prettier-ignore

const tinyLlama4 = {
  model_type: "llama4_text",
  hidden_size: 16,
  head_dim: 8,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  intermediate_size: 8,
  intermediate_size_mlp: 16,
  num_local_experts: 3,
  interleave_moe_layer_step: 2,
  max_position_embeddings: 64,
  vocab_size: 32,
};

describe("targets", () => {
  it("groups are what matrices are to the model", () => {
    expect(names(["attention"])).toHaveLength(3 * 4); // q, kv_a, kv_b, o
    expect(names(["dense"])).toHaveLength(3);
    expect(names(["shared"])).toHaveLength(2 * 3);
    expect(names(["router"])).toHaveLength(2);
    expect(names(["experts"])).toHaveLength(2 * 8 * 3);
    expect(names(["linear"])).toEqual(names(["attention", "dense", "shared"]));
    expect(names(["head"])).toEqual(["lm_head.weight"]);
    expect(names(["lm_head"])).toEqual(["lm_head.weight"]);
    expect(names(["all-linear"])).toEqual(names(["attention", "dense", "shared", "router", "experts"]));
  });

  it("of routed experts all, or a selection; fused, gate and up are one matrix", () => {
    const modules = (l: number, e: number, parts: string[]): string[] => parts.map((m) => `model.layers.${l}.mlp.experts.${e}.${m}.weight`);
    expect(names(["experts"], { experts: selected })).toEqual(
      [[1, 0], [1, 5], [2, 7]].flatMap(([l, e]) => modules(l!, e!, ["gate_proj", "up_proj", "down_proj"])), // prettier-ignore
    );
    expect(names(["experts", "router"], { experts: selected })).toHaveLength(2 + 3 * 3);
    const fused = matrices(["experts"], { experts: selected, expertTerms: "fused" });
    expect(fused.map((m) => m.key)).toEqual(
      [[1, 0], [1, 5], [2, 7]].flatMap(([l, e]) => modules(l!, e!, ["gate_up_proj", "down_proj"])), // prettier-ignore
    );
    expect(fused[0]).toMatchObject({ shape: [48, 48], place: { role: "expert", layer: 1, expert: 0 } });
    expect(fused[0]!.target).toBeUndefined();
    expect(fused[1]).toMatchObject({ shape: [48, 24], target: { name: fused[1]!.key } });
    expect(() => matrices(["attention"], { experts: selected })).toThrow(/was given 3 experts, but no target names routed experts/);
    const elsewhere = new ExpertSet({ layers: [[1, { ranked: [8] }]] });
    expect(() => matrices(["experts"], { experts: elsewhere })).toThrow(expect.objectContaining({ code: "ERR_CONFIG" }));
  });

  it("a head that is the embedding is refused with the reason", () => {
    const tied = modelSpec({ ...tinyOlmoe, tie_word_embeddings: true }, "config.json");
    for (const target of ["head", "lm_head"])
      expect(() => loraMatrices(tied, { rank: 2, targets: [target] })).toThrow(
        /names the head, which is the embedding in this model: .*untie/,
      );
    expect(loraMatrices(tied, { rank: 2, targets: ["all-linear"] }).some((m) => m.place.role === "head")).toBe(false);
  });

  it("experts of a fused tensor go by its name, and each by its own", () => {
    const fused = modelSpec({ ...tinyLlama4 }, "config.json");
    const keys = (target: string) => loraMatrices(fused, { rank: 2, targets: [target] }).map((m) => m.key);
    const at = "model.layers.1.feed_forward.experts";
    expect(keys("experts.down_proj")).toEqual([0, 1, 2].map((e) => `${at}.down_proj[${e}]`));
    expect(keys("gate_up_proj")).toEqual([0, 1, 2].map((e) => `${at}.gate_up_proj[${e}]`));
    expect(keys("down_proj[1]")).toEqual([`${at}.down_proj[1]`]);
    expect(() => keys("down_prj")).toThrow(/did you mean "down_proj"/);
  });

  it("a regular expression is tried on whole names of modules", () => {
    expect(names(["/layers\\.[01]\\..*\\.(q|o)_proj$/"])).toEqual(
      [0, 1].flatMap((l) => ["q_proj", "o_proj"].map((m) => `model.layers.${l}.self_attn.${m}.weight`)),
    );
    expect(() => names(["/nothing/"])).toThrow(/matches nothing/);
    expect(() => names(["/(/"])).toThrow(/is no regular expression/);
  });

  it("ranks and factors follow the last name that says something", () => {
    const of = (more: Partial<LoraOptions>): [string, number, number][] => {
      const found = loraMatrices(deepseek, { rank: 4, targets: ["attention", "experts"], ...more });
      const brief = (part: string): [string, number, number] => {
        const m = found.find(({ key }) => key.includes(part))!;
        return [part, m.rank, m.scaling];
      };
      return [brief("o_proj"), brief("experts.0.down_proj")];
    };
    expect(of({})).toEqual([["o_proj", 4, 2], ["experts.0.down_proj", 4, 2]]); // prettier-ignore
    expect(of({ alpha: 8, ranks: { experts: 2 } })).toEqual([["o_proj", 4, 2], ["experts.0.down_proj", 2, 4]]); // prettier-ignore
    expect(of({ ranks: { experts: 2, down_proj: 1 }, alphas: { o_proj: 1 } })).toEqual([["o_proj", 4, 0.25], ["experts.0.down_proj", 1, 2]]); // prettier-ignore
    expect(of({ alpha: 8, rslora: true })).toEqual([["o_proj", 4, 4], ["experts.0.down_proj", 4, 4]]); // prettier-ignore
    expect(of({ rank: 7, ranks: { experts: "r/top_k" } })).toEqual([["o_proj", 7, 2], ["experts.0.down_proj", 2, 2]]); // prettier-ignore
    expect(() => of({ ranks: { o_proj: "r/top_k" } })).toThrow(
      /"r\/top_k" is one of routed experts, "model.layers.0.self_attn.o_proj.weight" is none/,
    );
    expect(() => of({ ranks: { router: 2 } })).toThrow(/"router" names no matrix that the targets adapt/);
    expect(() => of({ ranks: { exprets: 2 } })).toThrow(/did you mean "experts"/);
    expect(() => of({ ranks: { experts: 0 } })).toThrow(/^LoRA rank of "experts" must be an integer >= 1, found 0/);
    expect(() => of({ ranks: { experts: 25 } })).toThrow(/at most 24 beside "model.layers.1.mlp.experts.0.gate_proj.weight"/);
    expect(() => of({ alphas: { experts: 0 } })).toThrow(/^LoRA alpha of "experts" must be a number > 0, found 0/);
  });

  it("names match whole parts of a module's name, in model order, each matrix once", () => {
    expect(names(["o_proj", "self_attn.q_proj", "q_proj"])).toEqual(
      [0, 1, 2].flatMap((l) => ["q_proj", "o_proj"].map((m) => `model.layers.${l}.self_attn.${m}.weight`)),
    );
    expect(names(["model.layers.1.self_attn.o_proj"])).toEqual(["model.layers.1.self_attn.o_proj.weight"]);
    expect(names(["gate_proj"])).toHaveLength(1 + 2 + 2 * 8); // dense, shared and routed
    expect(names(["experts.3.up_proj"])).toHaveLength(2);
  });

  it.each([
    [[], /at least one target/],
    [["roj"], /"roj" matches nothing in this deepseek_v2 model/],
    [["q_porj"], /did you mean "q_proj"/],
    [["embed_tokens"], /matches only the embedding/],
    [["input_layernorm"], /matches only vectors/],
    [["kv_a_layernorm"], /matches only vectors/], // of attention, but not a matrix
    [
      ["xyzzy"],
      /"xyzzy" matches nothing in this deepseek_v2 model \(valid: attention, dense, shared, router, experts, head, linear, all-linear, q_proj, kv_a_proj_with_mqa, kv_b_proj, o_proj, gate_proj, up_proj, down_proj, gate, lm_head\)$/,
    ],
  ])("refuses %j", (targets, message) => {
    expect(() => matrices(targets as string[])).toThrow(message);
    expect(() => matrices(targets as string[])).toThrow(expect.objectContaining({ code: "ERR_CONFIG" }));
  });

  it("the first values of a matrix depend on seed and name alone, B is zero", () => {
    const values = (targets: string[], seed: number): Map<string, Float32Array> =>
      new Map(loraTrainable(deepseek, { rank: 4, alpha: 8, targets }, seed).attachments!.parameters.map((p) => [p.key, p.initial()]));
    const [all, some, other] = [values(["linear"], 1), values(["o_proj"], 1), values(["o_proj"], 2)];
    for (const [key, x] of some) {
      expect(x).toEqual(all.get(key));
      const bound = 1 / Math.sqrt(48); // o_proj reads 3 heads of 16
      if (key.endsWith(".B")) expect(x.every((v) => v === 0)).toBe(true);
      else {
        expect(x).not.toEqual(other.get(key));
        expect(Math.max(...x.map(Math.abs))).toBeLessThanOrEqual(bound);
        expect(Math.hypot(...x) / Math.sqrt(x.length)).toBeCloseTo(bound / Math.sqrt(3), 1);
      }
    }
  });
});

describe("rank and alpha", () => {
  const make = (rank: number, alpha: number): unknown => loraTrainable(deepseek, { rank, alpha, targets: ["router"] }, 1);

  it.each([
    [0, 1, /^LoRA rank must be an integer >= 1, found 0/],
    [-3, 1, /^LoRA rank must be an integer >= 1, found -3/],
    [1.5, 1, /^LoRA rank must be an integer >= 1, found 1.5/],
    [NaN, 1, /^LoRA rank must be an integer >= 1, found NaN/],
    [1, 0, /^LoRA alpha must be a number > 0, found 0/],
    [1, -1, /^LoRA alpha must be a number > 0, found -1/],
    [1, Infinity, /^LoRA alpha must be a number > 0, found Infinity/],
    [1, NaN, /^LoRA alpha must be a number > 0, found NaN/],
    [9, 1, /^LoRA rank must be at most 8 beside "model.layers.1.mlp.gate.weight" \[8, 48\], found 9/],
  ])("%d, %d are refused", (rank, alpha, message) => {
    expect(() => make(rank, alpha)).toThrow(message);
    expect(() => make(rank, alpha)).toThrow(expect.objectContaining({ code: "ERR_CONFIG" }));
  });
  it("the smallest and the largest rank are served", () => {
    expect(() => make(1, 1e-9)).not.toThrow();
    expect(() => make(8, 1)).not.toThrow();
  });
});

describe("what is beside a layer", () => {
  const slots: string[] = [];
  const plan = {
    named: (part: string) => ({ ...plan, part }),
    kept: (spec: { dtype: string }, name: string) => slots.push(`${name}: ${spec.dtype}`),
    shared: () => null,
    scratch: () => null,
    backward: (spec: { dtype: string }, name: string) => slots.push(`${name}: ${spec.dtype}`),
  };
  const lists = { values: () => ({}), gradients: () => ({}) };
  const context = { plan, named: () => context, attached: (key: string) => ({ key }), ...lists } as unknown as AttachmentContext;
  const beside = (...targets: string[]): LoraAttachments => new LoraAttachments(matrices(targets), "kaiming", 1);
  const layer = deepseek.layers[1]!;
  const moe = moeOf(deepseek, 1)!;
  const router = { weight: moe.router, in: 48, out: 8 };
  const site = (routed: boolean, experts: readonly ExpertWeights[]): ExpertsSite => ({
    layer: 1,
    routed,
    experts,
    width: 48,
    hidden: 24,
    topK: 2,
  });

  it("only what was named gets a term", () => {
    const attachments = beside("o_proj");
    expect(attachments.linear(layer.attention.o, context)).toBeInstanceOf(LowRank);
    expect(attachments.linear(router, context)).toBeNull();
    expect(attachments.experts(site(false, [moe.shared!]), context)).toBeNull();
  });
  it.each(["gate_proj", "up_proj", "down_proj"])("of an MLP or of routed experts %s alone is enough", (name) => {
    expect(beside(name).experts(site(false, [moe.shared!]), context)).toBeInstanceOf(LowRankMlp);
    const routed = beside(name).experts(site(true, moe.experts.map(apart)), context);
    if (name === "down_proj") expect(routed).toMatchObject({ hidden: null, output: expect.any(GroupedTerms) });
    else expect(routed).toBeInstanceOf(LowRankExperts);
    expect(beside("o_proj").experts(site(true, moe.experts.map(apart)), context)).toBeNull();
    expect(beside(name).experts(site(false, []), context)).toBeNull();
  });
  it("takes u and its gradient in routed experts, and nothing else", () => {
    const rows = (attachments: LoraAttachments | null) =>
      planActivations(deepseek, { keys: [], attachments, lowestLayer: 0 })
        .table(64)
        .map((r) => ({ ...r, name: `${r.owner}/${r.name}` }));
    const frozen = new Map(rows(null).map((r) => [r.name, r.bytes]));
    const more = rows(beside("experts")).filter((r) => r.bytes !== frozen.get(r.name));
    const { topK } = moe;
    // Kept in every sparse layer; du is scratch of the one pass that needs most.
    const [u, du] = [(r: (typeof more)[0]) => r.lifetime === "kept", (r: (typeof more)[0]) => r.lifetime !== "kept"];
    const sparse = moeLayers(deepseek).length;
    expect(more.filter(u).map((r) => [r.name.replace(/.*experts\./, ""), r.shape])).toEqual(
      Array.from({ length: sparse }, () => [
        ["gate|up.u", [64 * topK, 2 * 2]],
        ["down.u", [64 * topK, 2]],
      ]).flat(),
    );
    for (const r of more.filter(du)) expect(r.name).toMatch(/experts\.(gate\|up|down)\.du$/);
    expect(rows(beside("experts")).length - frozen.size).toBe(more.length);
  });
  it("activations of a router's term are f32, others follow the model", () => {
    slots.length = 0;
    beside("router").linear(router, context);
    beside("o_proj").linear(layer.attention.o, context);
    expect(slots).toEqual(["u: f32", "du: f32", "u: act", "du: act"]);
  });
});

describe("a run", () => {
  let root: string;
  const at = (name: string): string => join(root, name);
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), "esft-lora-"));
    await writeTinyModel(at("model"), tinyDeepseek);
    await writeTinyModel(at("other"), tinyOlmoe);
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  const request = (outDir: string, more: Partial<TrainRequest> = {}): TrainRequest => ({
    data: { rows: Dataset.fromRows(toyRows(40)), maxLength: 48 },
    method: { type: "lora", rank: 4, targets: ["linear", "router"] },
    outDir: at(outDir),
    steps: 6,
    rowsPerStep: 4,
    evalFraction: 0.2,
    keep: "last",
    optimizer: { lr: 1e-2 },
    ...more,
  });
  const train = async (outDir: string, more: Partial<TrainRequest> = {}, threads = 2): Promise<Adapter | null> => {
    await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu", threads });
    return (await model.train(request(outDir, more)).result).adapter;
  };
  const bytes = (outDir: string): Promise<Buffer> => readFile(join(at(outDir), "adapter.safetensors"));

  it.each([
    ["of the head alone", { rank: 4, targets: ["head"] }],
    ["of the head too, with dropout", { rank: 4, targets: ["head", "o_proj"], dropout: 0.2 }],
    ["of all-linear, with the paper's first values", { rank: 4, targets: "all-linear", init: "perft" }],
    ["of selected experts", { rank: 4, targets: ["experts"], ranks: "down_proj=2", experts: selected, rslora: true }],
    ["fused", { rank: 4, targets: ["experts"], expertTerms: "fused" }],
    ["with dropout", { rank: 6, targets: ["all-linear"], ranks: { experts: "r/top_k" }, dropout: 0.3 }],
  ] as const)("%s: resumed and on one thread, the same bytes; applied again, the same loss", async (name, options) => {
    const method = { type: "lora", ...options } as TrainRequest["method"];
    const dir = name.replace(/\W+/g, "_");
    const adapter = (await train(`${dir}-whole`, { method }))!;
    await train(`${dir}-single`, { method }, 1);
    expect(await bytes(`${dir}-single`)).toEqual(await bytes(`${dir}-whole`));
    await train(`${dir}-parts`, { method, steps: 3 });
    await train(`${dir}-parts`, { method, resume: true });
    expect(await bytes(`${dir}-parts`)).toEqual(await bytes(`${dir}-whole`));
    await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
    const held = Dataset.fromRows(toyRows(9, 5));
    const before = (await model.evaluate(held, { maxLength: 48 })).loss;
    await model.applyAdapter(at(`${dir}-whole`));
    expect((await model.evaluate(held, { maxLength: 48 })).loss).not.toBe(before);
    expect(adapter.experts?.count ?? null).toBe("experts" in options ? 3 : null);
  });

  it("delivers its tensors alone; resumed and on one thread, the same bytes", async () => {
    const adapter = (await train("whole"))!;
    expect(adapter.tensors.size).toBe(0);
    expect(adapter.method).toEqual({ type: "lora", rank: 4, alpha: 8, targets: ["linear", "router"] });
    expect(adapter.attached.get("lora.model.layers.1.self_attn.o_proj.weight.A")).toMatchObject({
      layer: 1,
      shape: [4, 48],
      dtype: "F32",
      target: { name: "model.layers.1.self_attn.o_proj.weight" },
    });
    await train("single", {}, 1);
    expect(await bytes("single")).toEqual(await bytes("whole"));
    await train("parts", { steps: 3 });
    await train("parts", { resume: true });
    expect(await bytes("parts")).toEqual(await bytes("whole"));
  });

  it("applied to the base it gives the loss that training measured; taken off, the base", async () => {
    await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
    const held = Dataset.fromRows(toyRows(9, 5));
    const before = await model.evaluate(held, { maxLength: 48 });
    const run = model.train({ ...request("measured"), evalData: held });
    let last = 0;
    for await (const e of run) if (e.type === "eval") last = e.loss;
    await run.result;
    expect(last).toBeLessThan(before.loss);
    expect((await model.evaluate(held, { maxLength: 48 })).loss).toBe(before.loss);
    await model.applyAdapter(at("measured"));
    expect((await model.evaluate(held, { maxLength: 48 })).loss).toBeCloseTo(last, 6);
    expect(() => model.train(request("more"))).toThrow(/adapter is applied/);
    model.removeAdapter();
    expect((await model.evaluate(held, { maxLength: 48 })).loss).toBe(before.loss);
  });

  it("is not applied to another model or with other tensors", async () => {
    const adapter = (await train("kept"))!;
    await using other = await MoeModel.fromPretrained(at("other"), { device: "cpu" });
    await expect(other.applyAdapter(at("kept"))).rejects.toMatchObject({ code: "ERR_LAYOUT" });
    const spec = modelSpec(tinyDeepseek, "config.json");
    const tensors = new Map(adapter.attached);
    const [first] = tensors.keys();
    tensors.delete(first!);
    expect(() => attachmentsOf(spec, adapter.method, tensors)).toThrow(/found no such tensor/);
    expect(() =>
      attachmentsOf(
        spec,
        adapter.method,
        new Map<string, { shape: readonly number[]; layer: number }>([...adapter.attached, ["lora.x.A", { shape: [1], layer: 0 }]]),
      ),
    ).toThrow(/"lora\.x\.A"/);
    expect(() => attachmentsOf(spec, { ...adapter.method, rank: 3 } as never, adapter.attached)).toThrow(/expected ".*" \[3, /);
    for (const [changes, message] of [
      [{ target: undefined }, /expected ".*" \[.*\] in layer 0, beside ".*", found \[.*\] in layer 0, beside no tensor/],
      [{ layer: 2 }, /expected ".*" \[.*\] in layer 0, .*, found .* in layer 2/],
    ] as const)
      expect(() =>
        attachmentsOf(spec, adapter.method, new Map([...adapter.attached].map(([key, t]) => [key, { ...t, ...changes }]))),
      ).toThrow(message);
    for (const [changes, message] of [
      [{ use_rslora: true }, /^adapter.json, method: .*use_rslora/],
      [{ targets: ["nothing"] }, /^adapter.json, method: LoRA target "nothing"/],
    ] as const)
      expect(() => attachmentsOf(spec, { ...adapter.method, ...changes } as never, adapter.attached)).toThrow(message);
    expect(() => attachmentsOf(spec, { type: "ia3" }, adapter.attached)).toThrow(/"ia3" are not known/);
  });
});
