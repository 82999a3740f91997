// Adapters, merge and its verification, frozen digest, on tiny per-expert, sharded and fused checkpoints, in every dtype; and what
// loading refuses. No GPU. Run alone: npx vitest run test/adapter/adapter.test.ts
import { cpSync, existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { EsftError, IoError, LayoutError, NonFiniteError } from "../../lib/errors.ts";
import type { AdapterTensor } from "../../lib/adapter/tensors.ts";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { openAdapter } from "../../lib/adapter/esft_layout.ts";
import { frozenDigest } from "../../lib/adapter/digest.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import { verifyMerge } from "../../lib/adapter/verify_merge.ts";
import type { TensorSlice } from "../../lib/files/slice.ts";
import { placeSlice } from "../../lib/files/slice.ts";
import type { ParameterPlace } from "../../lib/model/spec.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { castFloats, decodeFloats, encodeFloats } from "../../lib/files/floats.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { hashCheckpoint } from "../../lib/files/hash.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import type { TinyOptions } from "../support/fixture.ts";
import { floats } from "../support/fixture.ts";
import { experts, fresh, makeAdapter, makeBase, makeServedBase, makeTensors, placesIn } from "./support.ts";

describe.each([
  ["per-expert bf16", {}],
  ["per-expert f32, three shards", { dtype: "F32", shards: 3 }],
  ["per-expert f16", { dtype: "F16" }],
  ["fused bf16", { fused: true }],
  ["fused f32, two shards", { fused: true, dtype: "F32", shards: 2 }],
] as [string, TinyOptions][])("adapter and merge: %s", (_, options) => {
  it("saves, loads, merges and verifies; everything else is bit-equal to the base", async () => {
    const base = await makeBase(options);
    const adapter = await makeAdapter(base);
    const dir = join(fresh(), "law");
    await adapter.save(dir);
    expect(readdirSync(dir).sort()).toEqual(["README.md", "adapter.json", "adapter.safetensors"]);
    const loaded = await Adapter.load(dir, { base });
    expect([...loaded.tensors.keys()]).toEqual([...adapter.tensors.keys()]);
    for (const key of adapter.tensors.keys()) expect(await loaded.read(key)).toEqual(await adapter.read(key));
    expect(placesIn(loaded)).toEqual(placesIn(adapter));
    expect(loaded.experts!.equals(experts)).toBe(true);
    expect(loaded).toMatchObject({
      method: { type: "esft", p: 0.2 },
      base: adapter.base,
      training: { steps: 20 },
      frozenDigest: adapter.frozenDigest,
    });

    const out = join(fresh(), "merged");
    const report = await mergeAdapter(base, loaded, out);
    expect(report).toMatchObject({ ok: true, mismatches: [], changedExperts: { 1: [0, 2], 2: [3] }, bytesCompared: base.totalBytes });
    expect(readdirSync(out).sort()).toEqual(readdirSync(base.dir).filter((n) => n !== "README.md").sort()); // prettier-ignore
    const merged = await openCheckpoint(out);
    for (const [name, t] of base.tensors) {
      const expected = Buffer.from(await base.read(name));
      for (const a of adapter.tensors.values())
        if (a.name === name) {
          const placed = placeSlice(a, t);
          expected.set(castFloats(await a.read(), "F32", t.dtype), placed.begin);
        }
      expect(Buffer.compare(expected, await merged.read(name))).toBe(0);
      expect(merged.tensors.get(name)).toMatchObject({ file: t.file, dtype: t.dtype, shape: t.shape, begin: t.begin });
    }
    expect(await frozenDigest(merged, adapter.tensors.values())).toBe(adapter.frozenDigest);
    expect(await frozenDigest(merged, [])).not.toBe(await frozenDigest(base, []));
    for (const s of report.slices) {
      expect(s.changed).toBeGreaterThan(0);
      expect(s.deltaNorm).toBeGreaterThan(0);
      expect(s.deltaNorm).toBeLessThan(s.baseNorm);
    }
  });

  it("verification finds one flipped bit in any tensor", async () => {
    const base = await makeBase(options);
    const adapter = await makeAdapter(base);
    const out = join(fresh(), "merged");
    await mergeAdapter(base, adapter, out);
    const merged = await openCheckpoint(out);
    for (const [name, t] of [...merged.tensors].filter((_, i) => i % 3 === 0)) {
      const bytes = readFileSync(t.path);
      const at = t.begin + 3 + ((t.end - t.begin) >>> 1);
      bytes[at]! ^= 0x10;
      writeFileSync(t.path, bytes);
      const report = await verifyMerge(base, adapter, out);
      expect(report.ok).toBe(false);
      expect(report.mismatches.join()).toContain(name);
      bytes[at]! ^= 0x10;
      writeFileSync(t.path, bytes);
    }
    expect((await verifyMerge(base, adapter, out)).ok).toBe(true);
  });
});

describe("Adapter.load refuses", () => {
  async function saved(): Promise<{ base: Checkpoint; dir: string; manifest: Record<string, unknown> }> {
    const base = await makeBase();
    const dir = join(fresh(), "a");
    await (await makeAdapter(base)).save(dir);
    return { base, dir, manifest: JSON.parse(readFileSync(join(dir, "adapter.json"), "utf8")) as Record<string, unknown> };
  }

  it("another base, with both identities; also one that differs in a single bit", async () => {
    const { dir, base } = await saved();
    const error = await Adapter.load(dir, { base: await makeBase({ seed: 9 }) }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(LayoutError);
    expect((error as Error).message).toMatch(/adapter for another base \(tiny\): expected [0-9a-f]{16}.*found [0-9a-f]{16}/);
    const copy = fresh();
    cpSync(base.dir, copy, { recursive: true });
    const bytes = readFileSync(join(copy, "model.safetensors"));
    bytes[bytes.length - 100]! ^= 1;
    writeFileSync(join(copy, "model.safetensors"), bytes);
    await expect(Adapter.load(dir, { base: await openCheckpoint(copy) })).rejects.toThrow(/another base/);
  });

  it("damaged data, missing, extra and reshaped tensors, foreign files", async () => {
    const { dir, manifest } = await saved();
    const data = readFileSync(join(dir, "adapter.safetensors"));
    const flipped = Buffer.from(data);
    flipped[flipped.length - 1]! ^= 1;
    writeFileSync(join(dir, "adapter.safetensors"), flipped);
    await expect(Adapter.load(dir)).rejects.toThrow(/expected sha256 .*damaged/);
    writeFileSync(join(dir, "adapter.safetensors"), data);

    const tensors = manifest["tensors"] as Record<string, unknown>[];
    const edit = async (change: (list: Record<string, unknown>[]) => void, message: RegExp) => {
      const list = structuredClone(tensors);
      change(list);
      writeFileSync(join(dir, "adapter.json"), JSON.stringify({ ...manifest, tensors: list }));
      const error = await Adapter.load(dir).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(EsftError);
      expect((error as Error).message).toMatch(message);
    };
    await edit((l) => l.pop(), /only tensors that adapter.json lists/);
    await edit((l) => l.push({ ...l[0]!, name: "model.layers.1.mlp.experts.2.extra.weight" }), /found no such tensor/);
    await edit((l) => (l[0]!["shape"] = [48]), /expected F32 \[48\], found F32 \[8, 6\]/);
    await edit((l) => (l[0]!["file"] = "../adapter.safetensors"), /same directory/);
    await edit((l) => (l[0]!["file"] = "model.safetensors"), /name of an adapter file/);
    await edit((l) => (l[0]!["sha256"] = "x"), /sha256/);
    await edit((l) => (l[0]!["dtype"] = "I8"), /dtype/);
    await edit((l) => l.push(l[0]!), /found .* twice/);
  });

  it("broken manifests and folders that are no adapters", async () => {
    const { dir, manifest } = await saved();
    for (const text of ["", "{", "[]", "{}", '{"format":"esft-adapter","version":2}', JSON.stringify({ ...manifest, version: 1 })]) {
      writeFileSync(join(dir, "adapter.json"), text);
      await expect(Adapter.load(dir)).rejects.toThrow(LayoutError);
    }
    rmSync(join(dir, "adapter.json"));
    await expect(openAdapter(dir)).rejects.toThrow(/expected an adapter/);
    await expect(openAdapter(join(dir, "absent"))).rejects.toThrow(IoError);
    await expect(Adapter.load(dir)).rejects.toThrow(IoError);
  });

  it("NaN and infinity, when saving and when loading", async () => {
    const base = await makeBase();
    const tensors = await makeTensors(base);
    const bad = decodeFloats(await tensors[3]!.read(), "F32").slice();
    bad[7] = NaN;
    tensors[3] = { ...tensors[3]!, read: async () => encodeFloats(bad, "F32") };
    const dir = join(fresh(), "a");
    await expect((await makeAdapter(base, { tensors })).save(dir)).rejects.toThrow(NonFiniteError);
    expect(readdirSync(join(dir, ".."))).toEqual([]);
    const esft = fresh();
    writeFileSync(join(esft, "expert_cfg.json"), experts.toEsftConfig());
    await writeSafetensors(
      join(esft, "model.safetensors"),
      await Promise.all(tensors.map(async (t) => ({ name: t.name, dtype: t.dtype, shape: t.shape, data: await t.read() }))),
    );
    await expect(openAdapter(esft, { base: await makeServedBase() })).rejects.toThrow(/NaN or infinity at element 7/);
  });

  it("experts that were not selected, half experts, unselected kinds of tensors", async () => {
    const base = await makeBase();
    const all = await makeTensors(base);
    const named = (name: string, place: ParameterPlace): AdapterTensor => ({
      name,
      ...place,
      dtype: "F32",
      shape: [8, 8],
      read: async () => encodeFloats(floats(64, 1), "F32"),
    });
    const q = named("model.layers.1.self_attn.q_proj.weight", { role: "attention", layer: 1 });
    const make = (tensors: AdapterTensor[], e = experts) => makeAdapter(base, { tensors, experts: e, frozenDigest: undefined });
    const other = named("model.layers.1.mlp.experts.1.up_proj.weight", { role: "expert", layer: 1, expert: 1, part: "up" });
    await expect(make([...all, other])).rejects.toThrow(/selected experts only, found .*expert 1/);
    await expect(make(all.slice(1))).rejects.toThrow(/layer 1, expert 0: expected gate, up, down of every selected expert, found no down/);
    await expect(make([])).rejects.toThrow(/found none/);
    await expect(make([...all, q])).rejects.toThrow(/non-expert modules/);
    const shared = named("model.layers.1.mlp.shared_experts.up_proj.weight", { role: "shared", layer: 1 });
    await expect(make([...all, shared])).rejects.toThrow(/shared experts/);
    const modules = experts.with({ nonExpertModules: true });
    await (await make([...all, q], modules)).checkBase(base);
    // The same parts of every expert, but one too few.
    await expect(make(all.filter((t) => t.part !== "up"))).rejects.toThrow(/every selected expert, found no up/);
    const absent = named("model.absent.weight", { role: "norm", layer: 3 });
    await expect((await make([...all, absent], modules)).checkBase(base)).rejects.toThrow(/found no such tensor/);
    const embedding = named("model.embed_tokens.weight", { role: "embedding", layer: -1 });
    await expect((await make([...all, embedding], modules)).checkBase(base)).rejects.toThrow(/expected shape \[10, 8\].*found \[8, 8\]/);
  });
});

describe("an adapter of a method that needs its experts", () => {
  it("is refused without them, when made, loaded or verified", async () => {
    const base = await makeBase();
    await expect(makeAdapter(base, { experts: null })).rejects.toThrow(/expected the experts that method "esft" trained, found none/);
    await expect(makeAdapter(base, { experts: null, method: { type: "full" } })).resolves.toMatchObject({ experts: null });
    const dir = fresh();
    await (await makeAdapter(base)).save(dir);
    const manifest = JSON.parse(readFileSync(join(dir, "adapter.json"), "utf8")) as object;
    writeFileSync(join(dir, "adapter.json"), JSON.stringify({ ...manifest, experts: null }));
    await expect(Adapter.load(dir, { verify: false })).rejects.toThrow(/"experts": null/);
    const { cli } = await import("../cli/support.ts");
    expect(await cli(["verify", dir])).toMatchObject({ code: 1, err: expect.stringContaining('"experts": null') as string });
  });
});

const families = join(process.env.ESFT_SHARED ?? join(import.meta.dirname, "../../../shared"), "golden/families");
describe.skipIf(!existsSync(families))("weights trained by the reference, in every published layout (skipped without ../shared)", () => {
  it.each(existsSync(families) ? readdirSync(families) : [])("%s: adapter, merge, verification", async (family) => {
    const base = await openCheckpoint(join(families, family));
    const golden = JSON.parse(readFileSync(join(base.dir, "golden.json"), "utf8")) as {
      esft: { experts: Record<string, number[]>; moved: string[] };
    };
    const trained = await openSafetensors(join(base.dir, "golden.safetensors"));
    const set = new ExpertSet({ layers: Object.entries(golden.esft.experts).map(([l, ranked]) => [Number(l), { ranked }] as const) });
    const tensors: AdapterTensor[] = [];
    for (const name of golden.esft.moved) {
      const t = trained.tensors.get(`esft.${name}`)!;
      const layer = Number(/layers\.(\d+)\./.exec(name)![1]);
      const add = (slice: TensorSlice, expert: number, part: "gate" | "up" | "down") => {
        const { shape, begin, end } = placeSlice(slice, t);
        const read = async () => (await trained.read(`esft.${name}`)).slice(begin, end);
        tensors.push({ ...slice, role: "expert", layer, expert, part, dtype: t.dtype, shape, read });
      };
      const own = /\.experts\.(\d+)\./.exec(name)?.[1];
      const part = /down|w2|output/.test(name) ? "down" : /gate_up|input/.test(name) ? "both" : /up|w3/.test(name) ? "up" : "gate";
      for (const expert of own === undefined ? set.ids(layer) : [Number(own)]) {
        const slice = own === undefined ? { name, index: expert } : { name };
        const half = placeSlice(slice, t).shape[0]! / 2;
        if (part !== "both") add(slice, expert, part);
        else for (const [i, p] of (["gate", "up"] as const).entries()) add({ ...slice, rows: [i * half, (i + 1) * half] }, expert, p);
      }
    }
    const adapter = new Adapter({
      method: { type: "esft" },
      base: { identity: (await hashCheckpoint(base)).identity },
      experts: set,
      tensors,
    });
    const dir = join(fresh(), "a");
    await adapter.save(dir);
    const report = await mergeAdapter(base, await Adapter.load(dir, { base }), join(dir, "../m"));
    expect(report.ok).toBe(true);
    expect([...new Set(report.slices.filter((s) => s.changed > 0).map((s) => s.key.replace(/\[.*\]$/, "")))].sort()).toEqual(
      [...golden.esft.moved].sort(),
    );
    for (const [layer, ids] of Object.entries(report.changedExperts)) expect(ids).toEqual(set.ids(Number(layer)));
  });
});
