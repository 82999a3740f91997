// The rules of an adapter's tensors, one by one: floats only, the bytes that their shape needs, whole experts, and which switches of the
// expert set allow the rest. No GPU. Run alone: npx vitest run test/adapter/tensors.test.ts
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { AdapterInit } from "../../lib/adapter/adapter.ts";
import { Adapter } from "../../lib/adapter/adapter.ts";
import type { AdapterTensor, AttachedTensor } from "../../lib/adapter/tensors.ts";
import { adapterFault, parameterTensor, readInto, requirePlaces } from "../../lib/adapter/tensors.ts";
import { LayoutError, NonFiniteError } from "../../lib/errors.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { encodeFloats } from "../../lib/files/floats.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { ParameterPlace } from "../../lib/model/spec.ts";
import { parameterShapes } from "../../lib/model/spec.ts";
import { tinyDeepseek } from "../support/tiny_model.ts";

const tensor = (name: string, place: ParameterPlace, over: Partial<AdapterTensor> = {}): AdapterTensor => {
  return { name, ...place, dtype: "F32", shape: [2], read: async () => encodeFloats(Float32Array.of(1, 2), "F32"), ...over };
};
const norm = tensor("norm", { role: "norm", layer: 0 });
const shared = tensor("shared", { role: "shared", layer: 1 });
const expert = (part: "gate" | "up" | "down", id = 3) => tensor(`${id}.${part}`, { role: "expert", layer: 1, expert: id, part });
const added: AttachedTensor = { ...norm, name: "added", layer: 0 };
const make = (init: Partial<AdapterInit>): Adapter =>
  new Adapter({ method: { type: "full" }, base: { identity: null }, experts: null, ...init });

describe("an adapter", () => {
  it("says which version made it, unless something else did", () => {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
    expect(make({ tensors: [norm] }).createdBy).toBe(`esft ${version}`);
    expect(make({ tensors: [norm], createdBy: "me" }).createdBy).toBe("me");
  });

  it("holds tensors of both kinds, sorted by key, and has no others", async () => {
    const adapter = make({ tensors: [shared, norm], attached: [added] });
    expect([...adapter.tensors.keys(), ...adapter.attached.keys()]).toEqual(["norm", "shared", "added"]);
    expect([make({ tensors: [norm], attached: [added] }).parameters, adapter.parameters, adapter.bytes]).toEqual([4, 6, 24]);
    await expect(adapter.read("absent")).rejects.toThrow(adapterFault("expected this tensor, found 3 others", "absent"));
  });

  it("is of floats, of as many bytes as shape and type need", async () => {
    for (const dtype of ["F32", "BF16", "F16", "F64"] as const) expect(make({ tensors: [{ ...norm, dtype }] }).tensors.size).toBe(1);
    for (const dtype of ["I32", "F8_E4M3", "BOOL"] as const)
      expect(() => make({ tensors: [{ ...norm, dtype }] })).toThrow(adapterFault(`expected F32, BF16, F16, F64, found ${dtype}`, "norm"));
    for (const shape of [[3], [1]])
      await expect(make({ tensors: [{ ...norm, shape }] }).read("norm")).rejects.toThrow(
        adapterFault(`expected ${4 * shape[0]!} bytes for F32 [${shape[0]}], found 8`, "norm"),
      );
  });

  it("of selected experts holds them, whatever else it trains; attached tensors can stand for them", () => {
    const init = { method: { type: "esft" }, experts: new ExpertSet({ layers: [[1, { ranked: [3] }]], nonExpertModules: true }) };
    expect(make({ ...init, tensors: [expert("gate"), expert("up"), expert("down"), norm] }).tensors.size).toBe(4);
    expect(() => make({ ...init, tensors: [norm] })).toThrow(/layer 1, expert 3: expected gate, up, down .* found no gate/);
    expect(make({ ...init, method: { type: "lora" }, tensors: [norm], attached: [added] }).attached.size).toBe(1);
    expect(() => make({ ...init, tensors: [norm], attached: [added] })).toThrow(/found no gate/);
  });

  it("of a method that says how routers train holds those, and nothing else beside its experts", () => {
    const experts = new ExpertSet({ layers: [] });
    const router = { ...norm, name: "gate", role: "router" } as const;
    expect(make({ method: { type: "lora", router: "train" }, experts, tensors: [router] }).tensors.size).toBe(1);
    for (const [method, tensor] of [
      [{ type: "lora" }, router],
      [{ type: "lora", router: "train" }, norm],
    ] as const)
      expect(() => make({ method, experts, tensors: [tensor] })).toThrow(/expected no tensors of non-expert modules/);
    // The mode decides: frozen ones are not replaced, and terms beside them replace matrices once they are folded.
    expect(() => make({ method: { type: "lora", router: "frozen" }, experts, tensors: [router] })).toThrow(/expected no tensors/);
    const terms = { method: { type: "lora", router: "lora" }, experts, tensors: [router] };
    expect(() => make({ ...terms, attached: [added] })).toThrow(/expected no tensors of non-expert modules/);
    expect(make(terms).tensors.size).toBe(1);
    expect(make({ method: { type: "lora", router: "ste" }, experts, tensors: [router] }).tensors.size).toBe(1);
  });

  it.each([
    ["shared experts", { sharedExperts: true }, shared, norm],
    ["non-expert modules", { nonExpertModules: true }, norm, shared],
  ])("trains %s where the switch of that says so, and no other one", (_, switches, allowed, refused) => {
    const experts = new ExpertSet({ layers: [], ...switches });
    expect(make({ experts, tensors: [allowed] }).tensors.size).toBe(1);
    const kind = refused === norm ? "non-expert modules" : "shared experts";
    expect(() => make({ experts, tensors: [refused] })).toThrow(`expected no tensors of ${kind} since the expert set does not train them`);
  });
});

describe("a parameter's tensor", () => {
  const content = { dtype: "F32" as const, read: norm.read };
  it("has the parameter's place, and expert and part only where there are any", () => {
    const ref = { name: "w", index: 3 };
    expect(parameterTensor({ ref, role: "norm", layer: 2, shape: [4] }, content)).toStrictEqual({ ...ref, role: "norm", layer: 2, shape: [4], ...content }); // prettier-ignore
    const routed = { role: "expert", layer: 1, expert: 0, part: "up" } as const;
    expect(parameterTensor({ ref, ...routed, shape: [4] }, { ...content, shape: [2, 2] })).toStrictEqual({ ...ref, ...routed, shape: [2, 2], ...content }); // prettier-ignore
  });

  it("is cast for a base of floats, and refused for another one or where it does not fit", async () => {
    const into = (dtype: "BF16" | "F16" | "I32", values: number[]) =>
      readInto(
        "w",
        { dtype: "F32", shape: [2], read: async () => encodeFloats(Float32Array.from(values), "F32") },
        { dtype, path: "file" },
      );
    expect(await into("BF16", [1, -2])).toEqual(encodeFloats(Float32Array.of(1, -2), "BF16"));
    const foreign = (await into("I32", [1, 2]).catch((e: unknown) => e)) as Error;
    expect(foreign).toBeInstanceOf(LayoutError);
    expect(foreign).toMatchObject({ where: { file: "file", tensor: "w" }, cause: expect.any(LayoutError) as Error });
    expect(foreign.message).toBe('file: tensor "w": cannot merge F32 into I32; merge into a dequantised base');
    const large = into("F16", [1, 1e6]);
    await expect(large).rejects.toThrow(NonFiniteError);
    await expect(large).rejects.toThrow(/expected values that fit the base's dtype F16, found an overflow at element 1/);
  });
});

describe("places", () => {
  const spec = modelSpec(tinyDeepseek, "config.json");
  const all = new Map(parameterShapes(spec).map((p) => [sliceKey(p.ref), p as ParameterPlace]));

  it("are those of the model", () => {
    expect(() => requirePlaces(spec, all)).not.toThrow();
  });

  it.each([
    ["model.layers.1.self_attn.o_proj.weight", { layer: 1e9 }, /expected role attention, layer 1, found role attention, layer 1000000000/],
    ["model.layers.0.input_layernorm.weight", { role: "dense" }, /expected role norm, layer 0, found role dense, layer 0/],
    ["model.layers.1.mlp.experts.2.up_proj.weight", { expert: 3 }, /layer 1, expert 2, up, found .* expert 3, up/],
    ["model.layers.1.mlp.experts.2.up_proj.weight", { part: "gate" }, /expert 2, up, found .* expert 2, gate/],
    ["model.layers.7.input_layernorm.weight", {}, /expected a parameter of this deepseek_v2 model, found role norm, layer 0/],
  ] as const)("%s %j is refused", (key, changes, message) => {
    const from = all.get(key) ?? all.get("model.layers.0.input_layernorm.weight")!;
    const changed = new Map([[key, { ...from, ...changes }]]);
    expect(() => requirePlaces(spec, changed)).toThrow(message);
    expect(() => requirePlaces(spec, changed)).toThrow(LayoutError);
  });
});
