// Adapters with tensors that a method attached beside the base's weights: what is kept of them, and what is refused. No GPU.
// Run alone: npx vitest run test/adapter/attached.test.ts
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { AdapterInit } from "../../lib/adapter/adapter.ts";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { modelCard } from "../../lib/adapter/card.ts";
import { frozenDigest } from "../../lib/adapter/digest.ts";
import { saveEsftAdapter } from "../../lib/adapter/esft_layout.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import { verifyMerge } from "../../lib/adapter/verify_merge.ts";
import type { AttachedTensor } from "../../lib/adapter/tensors.ts";
import { LayoutError, NonFiniteError } from "../../lib/errors.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { encodeFloats } from "../../lib/files/floats.ts";
import { hashCheckpoint } from "../../lib/files/hash.ts";
import { floats } from "../support/fixture.ts";
import { experts, fresh, makeBase, makeTensors } from "./support.ts";

const Q = "model.layers.1.self_attn.q_proj.weight";
const values = (n: number, seed: number) => async () => encodeFloats(floats(n, seed), "F32");

/** A pair of rank 2 on the query projection [8, 8], and a matrix that modifies no weight. */
const pair: AttachedTensor[] = [
  { name: `lora.${Q}.B`, layer: 1, target: { name: Q }, dtype: "F32", shape: [8, 2], read: values(16, 2) },
  { name: `lora.${Q}.A`, layer: 1, target: { name: Q }, dtype: "F32", shape: [2, 8], read: values(16, 1) },
  { name: "added.router", layer: 2, dtype: "F32", shape: [4, 8], read: values(32, 3) },
];
const method = { type: "lora", rank: 2, alpha: 4, targets: ["q"] };

async function make(base: Checkpoint, over: Partial<AdapterInit> = {}): Promise<Adapter> {
  const { identity } = await hashCheckpoint(base);
  return new Adapter({ method, base: { identity }, experts: null, attached: pair, frozenDigest: await frozenDigest(base, []), ...over });
}

describe("attached tensors", () => {
  it("are saved and loaded with layer, target and the method's own options; the base is frozen as a whole", async () => {
    const base = await makeBase();
    const adapter = await make(base);
    const dir = join(fresh(), "a");
    await adapter.save(dir, { maxShardBytes: 100 });
    const loaded = await Adapter.load(dir, { base });
    expect(loaded.method).toEqual(method);
    expect([...loaded.attached.keys()]).toEqual(["added.router", `lora.${Q}.A`, `lora.${Q}.B`]);
    expect([loaded.tensors.size, loaded.parameters, loaded.bytes]).toEqual([0, 64, 256]);
    expect(loaded.attached.get(`lora.${Q}.B`)).toMatchObject({ layer: 1, target: { name: Q }, shape: [8, 2] });
    expect(loaded.attached.get("added.router")!.target).toBeUndefined();
    for (const t of pair) expect(await loaded.read(t.name)).toEqual(await t.read());
    expect(await frozenDigest(base, loaded.tensors.values())).toBe(loaded.frozenDigest);
    const card = readFileSync(join(dir, "README.md"), "utf8");
    expect(card).toMatch(/^3 trained tensors.* They stand beside the base model's weights/m);
    expect(card).toContain("esft merge");
    const { identity } = loaded.base;
    const beside = new Adapter({ method: { type: "perft" }, base: { identity }, experts: null, attached: pair });
    expect(modelCard(beside)).not.toContain("esft merge");
  });

  it("stand together with replaced ones; experts are whole unless the method only attaches to them", async () => {
    const base = await makeBase();
    const tensors = await makeTensors(base);
    const both = await make(base, { tensors, experts });
    const dir = join(fresh(), "a");
    await both.save(dir);
    const loaded = await Adapter.load(dir, { base });
    expect([loaded.tensors.size, loaded.attached.size]).toEqual([9, 3]);
    expect(readFileSync(join(dir, "README.md"), "utf8")).toContain(
      "9 of them replace the tensors of the same names in the base model, 3 stand beside",
    );
    await make(base, { experts }); // attached to selected experts only
    await expect(make(base, { experts, tensors: tensors.slice(1) })).rejects.toThrow(/expected gate, up, down of every selected expert/);
    await expect(make(base, { experts, attached: [] })).rejects.toThrow(/found none/);
    expect(both.with({ attached: [], experts }).attached.size).toBe(0);
  });

  it("cannot be merged or saved in the official layout", async () => {
    const base = await makeBase();
    const adapter = await make(base, { tensors: await makeTensors(base), experts });
    const out = join(fresh(), "m");
    const message = /this adapter of method "lora": .*3 that are attached beside them \("added.router" first\)/;
    for (const [task, run] of [
      ["merge", mergeAdapter(base, adapter, out)],
      ["verify a merged model with", verifyMerge(base, adapter, base.dir)],
      ["save in the official ESFT layout", saveEsftAdapter(adapter, out)],
    ] as const) {
      const error = await run.catch((e: unknown) => e);
      expect(error).toBeInstanceOf(LayoutError);
      expect((error as Error).message).toMatch(message);
      expect((error as Error).message).toContain(`cannot ${task} this adapter`);
    }
  });

  it("are refused twice, under the name of a replaced one, beside no such target, damaged or not finite", async () => {
    const base = await makeBase();
    const one = pair[0]!;
    await expect(make(base, { attached: [one, one] })).rejects.toThrow(/found .* twice/);
    const tensors = await makeTensors(base);
    const clash = { ...one, name: tensors[0]!.name };
    await expect(make(base, { attached: [clash], tensors, experts })).rejects.toThrow(/each tensor once/);
    const nowhere = await make(base, { attached: [{ ...one, target: { name: "model.absent" } }] });
    await expect(nowhere.checkBase(base)).rejects.toThrow(/attached to "model.absent": .*found no such tensor/);
    const outside = await make(base, { attached: [{ ...one, target: { name: Q, rows: [0, 9] } }] });
    await expect(outside.checkBase(base)).rejects.toThrow(/expected rows inside \[0, 8\)/);
    const bad = await make(base, { attached: [{ ...one, read: async () => encodeFloats(new Float32Array(16).fill(NaN), "F32") }] });
    await expect(bad.save(join(fresh(), "a"))).rejects.toThrow(NonFiniteError);

    const dir = join(fresh(), "a");
    await (await make(base)).save(dir);
    const data = readFileSync(join(dir, "adapter.safetensors"));
    data[data.length - 1]! ^= 1;
    writeFileSync(join(dir, "adapter.safetensors"), data);
    await expect(Adapter.load(dir)).rejects.toThrow(/expected sha256 .*damaged/);
    const manifest = JSON.parse(readFileSync(join(dir, "adapter.json"), "utf8")) as { attached: object[] };
    manifest.attached.pop();
    writeFileSync(join(dir, "adapter.json"), JSON.stringify(manifest));
    await expect(Adapter.load(dir)).rejects.toThrow(/only tensors that adapter.json lists/);
  });
});
