// Adapters in the official ESFT layout: written, read in every form in which they were published, and what is refused. No GPU.
// Run alone: npx vitest run test/adapter/esft_layout.test.ts
import { copyFileSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { openAdapter, saveEsftAdapter } from "../../lib/adapter/esft_layout.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import { AbortError, LayoutError, NonFiniteError } from "../../lib/errors.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { encodeFloats } from "../../lib/files/floats.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { fresh, makeAdapter, makeBase, makeServedBase, placesIn } from "./support.ts";

describe("official ESFT layout", () => {
  it("saves and loads, also with the legacy prefix and in shards", async () => {
    const base = await makeServedBase();
    const adapter = await makeAdapter(base);
    const dir = join(fresh(), "esft");
    await saveEsftAdapter(adapter, dir, { maxShardBytes: 700 });
    expect(readFileSync(join(dir, "expert_cfg.json"), "utf8")).toBe(
      '{"experts": {"1": [2, 0], "2": [3]}, "shared_experts": false, "non_expert_modules": false}',
    );
    const loaded = await openAdapter(dir, { base });
    expect(loaded.base.identity).toBeNull();
    for (const key of adapter.tensors.keys()) expect(await loaded.read(key)).toEqual(await adapter.read(key));
    expect(placesIn(loaded)).toEqual(placesIn(adapter));
    expect((await mergeAdapter(base, loaded, join(fresh(), "m"))).ok).toBe(true);

    const legacy = fresh();
    copyFileSync(join(dir, "expert_cfg.json"), join(legacy, "expert_cfg.json"));
    await writeSafetensors(join(legacy, "anything.safetensors"), [...adapter.tensors.values()].map((t) => ({ name: t.name.replace("model.", ""), dtype: t.dtype, shape: t.shape, data: t.read }))); // prettier-ignore
    expect([...(await openAdapter(legacy, { base })).tensors.keys()]).toEqual([...adapter.tensors.keys()]);
    writeFileSync(join(legacy, "expert_cfg.json"), '{"experts": {"1": [2]}, "shared_experts": false, "non_expert_modules": false}');
    await expect(openAdapter(legacy, { base })).rejects.toThrow(/selected experts only/);
    await expect(openAdapter(legacy)).rejects.toThrow(/official ESFT layout does not say .*--base DIR/);
    await expect(openAdapter(legacy, { base: await makeBase() })).rejects.toThrow(/"model_type" "tiny" is not supported/);
    const smaller = await makeServedBase({ n_routed_experts: 3 });
    await expect(openAdapter(dir, { base: smaller })).rejects.toThrow(
      /tensor "model.layers.2.mlp.experts.3.*expected a parameter of the base/,
    );
    rmSync(join(legacy, "anything.safetensors"));
    await expect(openAdapter(legacy, { base })).rejects.toThrow(/expected \*.safetensors/);
  });

  it("cannot hold slices of fused tensors and says so", async () => {
    const base = await makeBase({ fused: true });
    await expect(saveEsftAdapter(await makeAdapter(base), join(fresh(), "x"))).rejects.toThrow(/slice of a fused tensor/);
    await expect(saveEsftAdapter(await makeAdapter(base, { method: { type: "full" }, experts: null }), join(fresh(), "x"))).rejects.toThrow(
      /expert set/,
    );
  });

  it("is an adapter of method esft that knows no base; its values are read unless that is declined", async () => {
    const base = await makeServedBase();
    const dir = join(fresh(), "esft");
    await saveEsftAdapter(await makeAdapter(base), dir);
    expect((await openSafetensors(join(dir, "model.safetensors"))).metadata).toEqual({ format: "pt" });
    const none = { profile: undefined, training: undefined, frozenDigest: undefined };
    expect(await openAdapter(dir, { base })).toMatchObject({ method: { type: "esft" }, base: { identity: null }, createdBy: "official ESFT layout", ...none }); // prettier-ignore
    const aborted = openAdapter(dir, { base, signal: AbortSignal.abort() });
    await expect(aborted).rejects.toThrow(AbortError);
    await expect(aborted).rejects.toThrow(`loading ${dir} was aborted`);
    const file = join(dir, "model.safetensors");
    writeFileSync(file, Buffer.concat([readFileSync(file).subarray(0, -4), Buffer.of(0, 0, 128, 127)])); // infinity
    for (const verify of [undefined, true]) await expect(openAdapter(dir, { base, verify })).rejects.toThrow(NonFiniteError);
    expect((await openAdapter(dir, { base, verify: false })).tensors.size).toBe(9);
    await expect(openAdapter(join(dir, "absent"), { base })).rejects.toMatchObject({
      code: "ERR_IO",
      where: { file: join(dir, "absent") },
      message: expect.stringContaining(`cannot open the adapter ${join(dir, "absent")}: no such file`) as string,
    });
  });

  it("is read by its index where there is one, else from every file that is not hidden", async () => {
    const base = await makeServedBase();
    const adapter = await makeAdapter(base);
    const dir = join(fresh(), "esft");
    await saveEsftAdapter(adapter, dir, { maxShardBytes: 700 });
    writeFileSync(join(dir, "optimizer.safetensors"), "something else");
    expect((await openAdapter(dir, { base })).tensors.size).toBe(9);
    rmSync(join(dir, "model.safetensors.index.json"));
    await expect(openAdapter(dir, { base })).rejects.toThrow(LayoutError);
    renameSync(join(dir, "optimizer.safetensors"), join(dir, ".optimizer.safetensors"));
    expect((await openAdapter(dir, { base })).tensors.size).toBe(9);
  });

  it("replaces an older adapter, and leaves what is not of it", async () => {
    const base = await makeServedBase();
    const adapter = await makeAdapter(base);
    const dir = fresh();
    for (const name of ["notes.txt", "modelling.safetensors"]) writeFileSync(join(dir, name), "x");
    await saveEsftAdapter(adapter, dir, { maxShardBytes: 700 });
    expect(readdirSync(dir).length).toBeGreaterThan(5);
    expect(readdirSync(dir)).toContain("model.safetensors.index.json");
    await saveEsftAdapter(adapter, dir);
    expect(readdirSync(dir).sort()).toEqual(["expert_cfg.json", "model.safetensors", "modelling.safetensors", "notes.txt"]);
  });

  it("names whole tensors only: neither rows nor an entry of one", async () => {
    const experts = new ExpertSet({ layers: [], nonExpertModules: true });
    const read = async () => encodeFloats(Float32Array.of(1, 2), "F32");
    const whole = { name: "w", role: "dense", layer: 0, dtype: "F32", shape: [1, 2], read } as const;
    const make = (slice: object) =>
      new Adapter({ method: { type: "full" }, base: { identity: null }, experts, tensors: [{ ...whole, ...slice }] });
    for (const [slice, key] of [
      [{ rows: [0, 1] }, "w[0:1]"],
      [{ index: 0 }, "w[0]"],
    ] as const)
      await expect(saveEsftAdapter(make(slice), join(fresh(), "x"))).rejects.toMatchObject({ code: "ERR_LAYOUT", where: { tensor: key } });
    await saveEsftAdapter(make({}), join(fresh(), "x"));
  });
});
