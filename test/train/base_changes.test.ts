// Weight files that change or go while a run is using them. No GPU.
// Run alone: npx vitest run test/train/base_changes.test.ts
import { existsSync } from "node:fs";
import { appendFile, copyFile, mkdtemp, open, readdir, rename, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { Adapter, ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent } from "../../lib/index.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-base-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const WEIGHTS = "model.safetensors";

/** A run during which `change` happens to the weights after step 2. */
async function run(name: string, change: (weights: string) => Promise<unknown>) {
  const dir = join(root, name, "model");
  await writeTinyModel(dir, tinyDeepseek);
  const outDir = join(root, name, "out");
  await using model = await MoeModel.fromPretrained(dir, { threads: 1 });
  const events: TrainEvent[] = [];
  const started = model.train({
    data: { rows: Dataset.fromRows(toyRows(40)), maxLength: 64 },
    method: { type: "esft", experts: new ExpertSet({ layers: [[1, { ranked: [0] }]] }) },
    outDir,
    steps: 4,
    rowsPerStep: 2,
    saveEvery: 1,
    keep: "last",
    evalFraction: 0,
  });
  try {
    for await (const e of started) {
      events.push(e);
      if (e.type === "checkpoint" && e.step === 2) await change(join(dir, WEIGHTS));
    }
  } catch {
    // the result tells
  }
  const error = await started.result.then(() => null, (e: unknown) => e as Error); // prettier-ignore
  return { dir, outDir, events, error };
}

describe("weights under a run", () => {
  it.each<[string, (w: string) => Promise<unknown>]>([
    ["overwritten in place", async (w) => { await using f = await open(w, "r+"); await f.write(Buffer.alloc(5000, 255), 0, 5000, 20_000); }],
    ["appended to", (w) => appendFile(w, "x")],
    ["cut to nothing", (w) => truncate(w, 0)],
    ["replaced", async (w) => { await copyFile(w, `${w}.new`); await rename(`${w}.new`, w); }],
  ])("%s: the run ends and names the file, nothing more is saved", async (name, change) => {
    const { outDir, error, events } = await run(name, change);
    expect(error).toMatchObject({ name: "LayoutError", code: "ERR_LAYOUT" });
    expect(error!.message).toMatch(/weight files changed while the model was in use: model.safetensors \(/);
    expect(error!.message).not.toMatch(/learning rate/i);
    expect(events.filter((e) => e.type === "checkpoint").at(-1)).toMatchObject({ step: 2 });
    expect(existsSync(join(outDir, "adapter.json"))).toBe(false);
  }); // prettier-ignore

  it("deleted: the adapter is delivered, and is the one of an undisturbed run", async () => {
    const calm = await run("calm", async () => undefined);
    const deleted = await run("deleted", (w) => rm(w));
    expect([calm.error, deleted.error]).toEqual([null, null]);
    const [a, b] = [await Adapter.load(calm.outDir), await Adapter.load(deleted.outDir)];
    for (const key of a.tensors.keys()) expect(await b.read(key)).toEqual(await a.read(key));
    expect(b.frozenDigest).toBe(a.frozenDigest);
    expect(b.base).toEqual(a.base);
    expect(calm.events.filter((e) => e.type === "warning")).toEqual([]);
    expect(deleted.events.filter((e) => e.type === "warning")).toMatchObject([{ message: expect.stringContaining(`deleted while it was in use (${join(deleted.dir, WEIGHTS)})`) as string }]); // prettier-ignore
  });

  it("are noticed by what is measured on them", async () => {
    const dir = join(root, "measured", "model");
    await writeTinyModel(dir, tinyDeepseek);
    await using model = await MoeModel.fromPretrained(dir, { threads: 1 });
    const rows = Dataset.fromRows(toyRows(4));
    expect((await model.evaluate(rows, { maxLength: 64 })).loss).toBeGreaterThan(0);
    await using file = await open(join(dir, WEIGHTS), "r+");
    await file.write(Buffer.alloc(500_000, 255), 0, 500_000, 20_000);
    const changed = { code: "ERR_LAYOUT", message: expect.stringContaining("weight files changed while the model was in use") as string };
    await expect(model.evaluate(rows, { maxLength: 64 })).rejects.toMatchObject(changed);
    await expect(model.profile(rows, { tokens: 64, data: { maxLength: 64 } })).rejects.toMatchObject(changed);
  });

  it("are let go with the model", async () => {
    const dir = join(root, "open", "model");
    await writeTinyModel(dir, tinyDeepseek, { tokenizer: false });
    const handles = async () => (await readdir("/proc/self/fd")).length;
    const before = await handles();
    for (let i = 0; i < 20; i++) {
      await using model = await MoeModel.fromPretrained(dir, { threads: 1, checkWeights: false });
      expect(model.checkpoint.files.get(join(dir, WEIGHTS))).toBeDefined();
    }
    await expect(MoeModel.fromPretrained(dir, { threads: 1, device: "cuda:99" })).rejects.toThrow();
    expect(await handles()).toBeLessThanOrEqual(before + 1);
  });
});
