// Saving and loading the folder of an adapter: its files, what a manifest says, interrupted saves, a full disk, progress. No GPU.
// Run alone: npx vitest run test/adapter/saving.test.ts
import { mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { openAdapter, saveEsftAdapter } from "../../lib/adapter/esft_layout.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import type { AttachedTensor } from "../../lib/adapter/tensors.ts";
import { AbortError, ConfigError, IoError } from "../../lib/errors.ts";
import { disk, replaceDisk } from "../../lib/files/disk.ts";
import { encodeFloats } from "../../lib/files/floats.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import type { Progress } from "../../lib/task.ts";
import { fresh, makeAdapter, makeBase } from "./support.ts";

afterEach(() => vi.restoreAllMocks());

describe("saving an adapter", () => {
  it("shards with an index, replaces an older adapter and keeps the run's other files", async () => {
    const base = await makeBase();
    const adapter = await makeAdapter(base);
    const dir = fresh();
    writeFileSync(join(dir, "events.jsonl"), "x");
    await adapter.save(dir, { maxShardBytes: 700 });
    const files = readdirSync(dir).filter((n) => n.endsWith(".safetensors"));
    expect(files.length).toBeGreaterThan(2);
    expect(readdirSync(dir)).toContain("adapter.safetensors.index.json");
    expect((await Adapter.load(dir, { base })).tensors.size).toBe(9);
    await adapter.save(dir);
    expect(readdirSync(dir).sort()).toEqual(["README.md", "adapter.json", "adapter.safetensors", "events.jsonl"]);
    expect(readFileSync(join(dir, "README.md"), "utf8")).toContain("| 1 | 0, 2 |");
  });

  it("completes a save that was killed after its commit point", async () => {
    const base = await makeBase();
    const dir = join(fresh(), "a");
    const adapter = await makeAdapter(base);
    await adapter.save(dir);
    mkdirSync(join(dir, ".adapter.next"));
    for (const name of ["adapter.json", "adapter.safetensors"]) renameSync(join(dir, name), join(dir, ".adapter.next", name));
    expect((await openAdapter(dir, { base })).tensors.size).toBe(9);
    expect(readdirSync(dir).sort()).toEqual(["README.md", "adapter.json", "adapter.safetensors"]);
  });

  it("does not touch a README.md of the user", async () => {
    const dir = fresh();
    writeFileSync(join(dir, "README.md"), "mine");
    await (await makeAdapter(await makeBase())).save(dir);
    expect(readFileSync(join(dir, "README.md"), "utf8")).toBe("mine");
  });

  it("on a full disk keeps the older adapter whole", async () => {
    const base = await makeBase();
    const dir = join(fresh(), "a");
    const adapter = await makeAdapter(base);
    await adapter.save(dir);
    const before = readFileSync(join(dir, "adapter.json"));
    const probe = await open(join(dir, "adapter.json"), "r");
    const proto = Object.getPrototypeOf(probe) as { write: (b: Uint8Array, at: number, n: number) => Promise<{ bytesWritten: number }> };
    await probe.close();
    let left = 600;
    vi.spyOn(proto, "write").mockImplementation(async (_b, _at, n) => {
      left -= n;
      if (left < 0) throw Object.assign(new Error("full"), { code: "ENOSPC" });
      return { bytesWritten: n };
    });
    await expect(adapter.save(dir)).rejects.toThrow(/disk is full/);
    await expect(mergeAdapter(base, adapter, join(dir, "../merged"))).rejects.toThrow(IoError);
    vi.restoreAllMocks();
    expect(readFileSync(join(dir, "adapter.json")).equals(before)).toBe(true);
    expect(readdirSync(join(dir, ".."))).toEqual(["a"]);
    expect((await Adapter.load(dir, { base })).tensors.size).toBe(9);
  });

  it("needs as many bytes as its tensors, and is refused before the first where there are fewer", async () => {
    const base = await makeBase();
    const adapter = await makeAdapter(base);
    const taken = fresh();
    writeFileSync(join(taken, "notes.txt"), "x");
    const before = disk;
    const size = base.shards.reduce((n, { size }) => n + size, 0);
    const runs: [needed: number, run: () => Promise<unknown>][] = [
      [adapter.bytes, () => adapter.save(join(taken, "new"))],
      [adapter.bytes, () => adapter.save(taken)],
      [adapter.bytes, () => saveEsftAdapter(adapter, taken)],
      [size, () => mergeAdapter(base, adapter, join(taken, "merged"))],
    ];
    expect(adapter.bytes).toBe(9 * 48 * 4);
    for (const [needed, run] of runs) {
      replaceDisk({ ...before, statfs: (async () => ({ bavail: 1, bsize: needed - 1 })) as never });
      const error: unknown = await run().catch((e: unknown) => e);
      replaceDisk(before);
      expect(error).toMatchObject({ code: "ERR_IO", where: { neededBytes: needed, freeBytes: needed - 1 } });
    }
    expect(readdirSync(taken)).toEqual(["notes.txt"]);
  });

  it("writes tensors of both kinds by name, and in the manifest only what there is", async () => {
    const base = await makeBase();
    const replacing = await makeAdapter(base);
    const read = async () => encodeFloats(Float32Array.of(1), "F32");
    const one = (name: string): AttachedTensor => ({ name, layer: 1, dtype: "F32", shape: [1], read });
    const both = replacing.with({ attached: [one("z"), one("a"), one("model.layers.1.mlp.experts.1")] });
    for (const adapter of [replacing, both]) {
      const dir = join(fresh(), "a");
      const manifest = await adapter.save(dir);
      expect(JSON.parse(readFileSync(join(dir, "adapter.json"), "utf8"))).toEqual(manifest);
      expect(manifest.attached?.map((t) => t.name)).toEqual(adapter === both ? ["a", "model.layers.1.mlp.experts.1", "z"] : undefined);
      expect("attached" in manifest).toBe(adapter === both);
      expect(manifest).toMatchObject({ createdBy: adapter.createdBy, format: "esft-adapter", version: 2 });
      const file = await openSafetensors(join(dir, "adapter.safetensors"));
      expect([...file.tensors.keys()]).toEqual([...adapter.tensors.keys(), ...adapter.attached.keys()].sort());
      expect(file.metadata).toEqual({ format: "pt", esft: "adapter" });
    }
  });
});

describe("loading an adapter", () => {
  it("tells how far its verification is, and can be stopped", async () => {
    const dir = join(fresh(), "a");
    const adapter = await makeAdapter(await makeBase());
    await adapter.save(dir);
    const seen: Progress[] = [];
    await Adapter.load(dir, { onProgress: (p) => seen.push(p) });
    expect(seen).toEqual(
      [...adapter.tensors.keys()].map((_, i) => ({ phase: "verify adapter", done: 192 * (i + 1), total: adapter.bytes, unit: "bytes" })),
    );
    const stop = new AbortController();
    const stopped = Adapter.load(dir, { signal: stop.signal, onProgress: () => stop.abort() });
    await expect(stopped).rejects.toThrow(AbortError);
    await expect(stopped).rejects.toThrow(`loading ${dir} was aborted`);
  });

  it("without verification reads no tensor, and still believes no manifest", async () => {
    const dir = join(fresh(), "a");
    await (await makeAdapter(await makeBase())).save(dir);
    const data = readFileSync(join(dir, "adapter.safetensors"));
    data[data.length - 1]! ^= 1;
    writeFileSync(join(dir, "adapter.safetensors"), data);
    await expect(Adapter.load(dir, { verify: true })).rejects.toThrow(/damaged/);
    expect((await Adapter.load(dir, { verify: false })).tensors.size).toBe(9);
    const path = join(dir, "adapter.json");
    const manifest = JSON.parse(readFileSync(path, "utf8")) as { experts: object };
    writeFileSync(path, JSON.stringify({ ...manifest, experts: { ...manifest.experts, layers: [{ layer: 1 }] } }));
    const error: unknown = await Adapter.load(dir, { verify: false }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toContain(`${path}: experts`);
  });
});
