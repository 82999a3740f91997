// What each method trains of a model: parameters, counts, the lowest layer that a backward needs. No GPU.
// Run alone: npx vitest run test/methods/trainable.test.ts

import { describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { attachmentsOf } from "../../lib/methods/attachments.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import { trainable } from "../../lib/methods/method.ts";
import type { TrainableSpec } from "../../lib/methods/method.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { tinyDeepseek, tinyOlmoe } from "../support/tiny_model.ts";

// Three layers: one dense, two with 8 experts of width 24 and a shared expert.
const spec = modelSpec(tinyDeepseek, "config.json");
const EXPERT = 3 * 48 * 24;
const ATTENTION = 72 * 48 + 32 * 48 + 24 + 96 * 24 + 48 * 48; // q, kv_a, its norm, kv_b, o
const NORMS = 2 * 48;
const TOTAL = 2 * 2048 * 48 + 48 + 3 * (ATTENTION + NORMS) + 3 * 64 * 48 + 2 * (9 * EXPERT + 8 * 48);

const experts = (layers: [number, number[]][], switches: { sharedExperts?: boolean; nonExpertModules?: boolean } = {}): ExpertSet =>
  new ExpertSet({
    layers: layers.map(([layer, ranked]) => [layer, { ranked }] as const),
    sharedExperts: false,
    nonExpertModules: false,
    ...switches,
  });
const facts = ({ type, parameters, totalParameters, lowestLayer }: TrainableSpec): unknown[] => [
  type,
  parameters,
  totalParameters,
  lowestLayer,
];

describe("esft", () => {
  it("without a routed expert trains what the switches name", () => {
    const shared = esftTrainable(spec, experts([], { sharedExperts: true }));
    expect(facts(shared)).toEqual(["esft", 2 * EXPERT, TOTAL, 1]);
    expect(facts(esftTrainable(spec, experts([[1, []]], { nonExpertModules: true })))).toEqual(["esft", TOTAL - 18 * EXPERT, TOTAL, 0]);
    const all = esftTrainable(spec, experts([], { sharedExperts: true, nonExpertModules: true }));
    expect(facts(all)).toEqual(["esft", TOTAL - 16 * EXPERT, TOTAL, 0]);
    expect(() => esftTrainable(spec, experts([]))).toThrow(/both switches off; name experts, or set sharedExperts or nonExpertModules/);
    const olmoe = modelSpec(tinyOlmoe, "config.json");
    expect(() => esftTrainable(olmoe, experts([], { sharedExperts: true }))).toThrow(
      /this olmoe model has no shared experts; name experts, or set nonExpertModules/,
    );
  });

  it("trains the selected experts alone", () => {
    const set = experts([[1, [0, 5]], [2, [7]]]); // prettier-ignore
    const t = esftTrainable(spec, set);
    expect(facts(t)).toEqual(["esft", 3 * EXPERT, TOTAL, 1]);
    expect(t.keys).toEqual(
      ["1.mlp.experts.0", "1.mlp.experts.5", "2.mlp.experts.7"].flatMap((e) =>
        ["gate_proj", "up_proj", "down_proj"].map((m) => `model.layers.${e}.${m}.weight`),
      ),
    );
    expect([t.experts, t.attachments, t.options]).toEqual([set, null, {}]);
  });

  it("a selection in the last layer spares the others' backward", () => {
    expect(facts(esftTrainable(spec, experts([[2, [3]]])))).toEqual(["esft", EXPERT, TOTAL, 2]);
  });

  it("shared experts, and everything that is no expert, by their switches", () => {
    const shared = esftTrainable(spec, experts([[2, [3]]], { sharedExperts: true }));
    expect(facts(shared)).toEqual(["esft", 3 * EXPERT, TOTAL, 1]);
    expect(shared.keys.filter((k) => k.includes("shared_experts"))).toHaveLength(2 * 3);
    const rest = esftTrainable(spec, experts([[2, [3]]], { nonExpertModules: true }));
    expect(facts(rest)).toEqual(["esft", TOTAL - 17 * EXPERT, TOTAL, 0]);
    expect(rest.keys.some((k) => k.includes("shared_experts"))).toBe(false);
  });

  it("an empty selection, and a model without sparse layers, are refused", () => {
    expect(() => trainable(spec, { type: "full" }, () => false)).toThrow(/nothing to train/);
    const dense = modelSpec({ ...tinyDeepseek, first_k_dense_replace: 3 }, "config.json");
    expect(() => esftTrainable(dense, experts([[1, [0]]]))).toThrow(/^ESFT needs a Mixture-of-Experts model; this deepseek_v2 model/);
  });
});

it("full trains every parameter", () => {
  const t = fullTrainable(spec);
  expect(facts(t)).toEqual(["full", TOTAL, TOTAL, 0]);
  expect([t.experts, t.attachments, t.options]).toEqual([null, null, {}]);
});

it("the head alone needs no layer's backward", () => {
  const t = trainable(spec, { type: "full" }, ({ role }) => role === "head");
  expect(facts(t)).toEqual(["full", 2048 * 48, TOTAL, 3]);
});

describe("lora", () => {
  const options = { rank: 2, alpha: 4, targets: ["router"] };

  it("trains what it brings; the base's keys stay out", () => {
    const t = loraTrainable(spec, options, 1);
    expect(facts(t)).toEqual(["lora", 2 * 2 * (48 + 8), TOTAL, 1]);
    expect([t.keys, t.experts, t.options]).toEqual([[], null, options]);
  });

  it("an adapter without attached tensors attaches nothing", () => {
    expect(attachmentsOf(spec, { type: "full" }, new Map())).toBeNull();
  });
});
