// One run at a time in a run directory: the second is refused and names the first, whatever the first comes to the lock is released, a
// killed run's lock is taken over. No GPU. Alone: npx vitest run test/train/run_lock.test.ts

import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { thisHolder } from "../../lib/files/holder.ts";
import { ExpertSet, LockError, MoeModel } from "../../lib/index.ts";
import type { TrainRequest } from "../../lib/index.ts";
import { lockRun } from "../../lib/train/run_lock.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-run-lock-"));
  await writeTinyModel(join(root, "model"), tinyDeepseek);
});
afterAll(() => rm(root, { recursive: true, force: true }));

const request = (outDir: string, more: Partial<TrainRequest> = {}): TrainRequest => ({
  data: { rows: Dataset.fromRows(toyRows(20)), maxLength: 64 },
  method: { type: "esft", experts: new ExpertSet({ layers: [[1, { ranked: [0, 3] }]] }) },
  outDir: join(root, outDir),
  steps: 3,
  rowsPerStep: 2,
  evalFraction: 0,
  ...more,
});
const open = (): Promise<MoeModel> => MoeModel.fromPretrained(join(root, "model"), { threads: 1 });
const locked = (outDir: string): boolean => existsSync(join(root, outDir, "run.lock"));

describe("a second run in a directory", () => {
  it("is refused while the first goes on, also to resume, and leaves it as it is", async () => {
    using first = await open();
    using second = await open();
    const run = first.train(request("double"));
    let refused = 0;
    for await (const event of run) {
      if (event.type !== "step") continue;
      expect(locked("double")).toBe(true);
      for (const resume of [true, false]) {
        const error: unknown = await second.train(request("double", { resume })).result.catch((e: unknown) => e);
        expect(error).toBeInstanceOf(LockError);
        expect(error).toMatchObject({ code: "ERR_LOCKED", where: { pid: process.pid, file: join(root, "double/run.lock") } });
        refused++;
      }
    }
    expect(refused).toBe(6);
    const { adapter } = await run.result;
    expect(adapter!.training!["step"]).toBe(3);
    expect(locked("double")).toBe(false);
    // The directory is free again.
    expect((await second.train(request("double", { resume: true, steps: 4 })).result).step).toBe(4);
  });

  it("takes over the lock of one that was killed", async () => {
    using model = await open();
    mkdirSync(join(root, "killed"));
    const lock = { ...thisHolder(), pid: 999_999_999, token: "0123456789abcdef", since: "2026-01-01T00:00:00.000Z", command: "esft train" };
    writeFileSync(join(root, "killed/run.lock"), JSON.stringify(lock));
    expect((await model.train(request("killed")).result).step).toBe(3);
    expect(readdirSync(join(root, "killed")).filter((n) => n.startsWith("run.lock"))).toEqual([]);
  });
});

describe("the lock", () => {
  it("is released by a run that is interrupted, refused or fails", async () => {
    using model = await open();
    const stop = new AbortController();
    const run = model.train(request("ends", { signal: stop.signal }));
    for await (const event of run) if (event.type === "step") stop.abort(new Error("stop"));
    expect((await run.result).reason).toBe("interrupted");
    expect(locked("ends")).toBe(false);
    await expect(model.train(request("ends")).result).rejects.toMatchObject({ code: "ERR_CONFIG" });
    expect(locked("ends")).toBe(false);
    const diverging = { optimizer: { lr: 1e30, clipNorm: 0 }, steps: 30 };
    await expect(model.train(request("fails", diverging)).result).rejects.toMatchObject({ code: "ERR_NON_FINITE" });
    expect(locked("fails")).toBe(false);
  });

  it("leaves no directory behind that it was taken in for nothing", async () => {
    using model = await open();
    const long = { data: { rows: Dataset.fromRows(toyRows(20)), maxLength: 1_000_000 } };
    await expect(model.train(request("a/b/c", long)).result).rejects.toMatchObject({ code: "ERR_CONFIG" });
    expect(existsSync(join(root, "a"))).toBe(false);
    mkdirSync(join(root, "there"));
    await (await lockRun(join(root, "there"))).release();
    expect(existsSync(join(root, "there"))).toBe(true);
    const lock = await lockRun(join(root, "used/x"));
    writeFileSync(join(root, "used/file"), "");
    await lock.release();
    expect(readdirSync(join(root, "used"))).toEqual(["file"]);
  });

  it("of a place that cannot be written is an IoError", async () => {
    writeFileSync(join(root, "file"), "");
    for (const place of ["file", "file/x"]) await expect(lockRun(join(root, place))).rejects.toMatchObject({ code: "ERR_IO" });
  });
});
