// The public surface under arguments that only plain JavaScript can give: each call is carried out or refused with an error of ours, never
// with another, and it ends. No GPU. Alone: npx vitest run test/surface/arguments.test.ts

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import * as esft from "../../lib/index.ts";
import { cli, writeRows } from "../cli/support.ts";
import { hostile, publicCalls } from "./calls.ts";
import type { PublicCall } from "./calls.ts";

const root = mkdtempSync(join(tmpdir(), "esft-surface-"));
const home = process.cwd();
let calls: Record<string, PublicCall> = {};
let close: () => Promise<void> = async () => undefined;

beforeAll(async () => {
  ({ calls, close } = await publicCalls(root));
  process.chdir(root); // words are paths too
});
afterAll(async () => {
  process.chdir(home);
  await close();
  rmSync(root, { recursive: true, force: true });
});

/** What a call came to: "done", the code of an error of ours, or what else was thrown. */
async function outcome({ call }: PublicCall, args: readonly unknown[]): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => (timer = setTimeout(() => resolve("does not end"), 20_000)));
  const ended = Promise.resolve()
    .then(() => call(...args))
    .then(
      () => "done",
      (error: unknown) => (error instanceof esft.EsftError ? error.code : `not ours: ${error instanceof Error ? error.message : "thrown"}`),
    );
  const result = await Promise.race([ended, late]);
  clearTimeout(timer);
  return result;
}

describe("every public function", () => {
  it("is in the table", () => {
    const covered = new Set(Object.keys(calls).flatMap((name) => name.replace(/^new /, "").split(/[.,]/, 1)));
    const elsewhere = [
      "TrainingRun",
      "Graph",
      "Tensor",
      "ops",
      "Generation",
      "methodSchema",
      "trainSchema",
      "dataSchema",
      "compareSchema",
      "planSchema",
      "timesSchema",
      "generateSchema",
      "supportedModelTypes",
      "metricNames",
    ];
    const errors = Object.entries(esft).flatMap(([name, value]) => (name.endsWith("Error") && typeof value === "function" ? [name] : []));
    expect(Object.keys(esft).filter((name) => !covered.has(name) && !elsewhere.includes(name) && !errors.includes(name))).toEqual([]);
  });

  it("does what it does with good arguments", async () => {
    for (const [name, entry] of Object.entries(calls)) expect([name, await outcome(entry, entry.args())]).toEqual([name, "done"]);
  });

  it.each(hostile)("given %s anywhere: done, or an error of ours", async (what, value) => {
    const wrong: string[] = [];
    for (const [name, entry] of Object.entries(calls)) {
      const { length } = entry.args();
      for (let i = 0; i < length; i++) {
        const result = await outcome(
          entry,
          entry.args().map((good, j) => (i === j ? value : good)),
        );
        if (!/^(done|ERR_[A-Z_]+)$/.test(result)) wrong.push(`${name}, argument ${i} ${what}: ${result}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it("names the argument, what it must be and what it was", async () => {
    const says = (name: string, ...args: unknown[]) =>
      Promise.resolve()
        .then(() => calls[name]!.call(...args))
        .catch((error: Error) => error.message);
    expect(await says("profile.select")).toMatch(
      /^selection: expected exactly one of p, topKPerLayer, maxTrainableParams, fixed, found none/,
    );
    expect(await says("profile.select", null)).toBe("select: options: expected an object of options, found null");
    expect(await says("openAdapter", "")).toBe('openAdapter: dir: expected a path, found ""');
    expect(await says("openCheckpoint", "a\0b")).toMatch(/^openCheckpoint: dir: expected a path without NUL/);
    expect(await says("model.evaluate", 3)).toBe("evaluate: data: expected a file, a Dataset or Examples, found 3");
    expect(await says("verifyMerge", {})).toMatch(/^verifyMerge: base: expected an opened checkpoint/);
    expect(await says("model.identity", { signal: "now" })).toBe('identity: task.signal: expected an AbortSignal, found "now"');
  });
});

describe("places where nothing can be written", () => {
  const places = ["", "rows.jsonl/x", "/dev/null/x", ...(process.platform === "linux" ? ["/proc/nope/x", "/sys/nope/x"] : [])];
  it.each(places)("%j", async (place) => {
    for (const name of ["profile.save", "experts.save", "adapter.save"]) {
      const result = await outcome(calls[name]!, [place]);
      expect([name, result]).toEqual([name, expect.stringMatching(/^ERR_(IO|CONFIG)$/)]);
    }
    const [merge, train] = [calls["mergeAdapter"]!, calls["model.train"]!];
    const [base, adapter] = merge.args();
    expect(await outcome(merge, [base, adapter, place])).toMatch(/^ERR_(IO|CONFIG)$/);
    expect(await outcome(train, [{ ...(train.args()[0] as object), outDir: place }])).toMatch(/^ERR_(IO|CONFIG)$/);
  });

  it("a file as the directory of a run", async () => {
    const train = calls["model.train"]!;
    expect(await outcome(train, [{ ...(train.args()[0] as object), outDir: writeRows(join(root, "file.jsonl")) }])).toBe("ERR_IO");
  });

  it("from the command line: one line, with a code", async () => {
    const flags = ["--method", "full", "--steps", "1", "--max-length", "64", "--threads", "1"];
    for (const place of places) {
      const { code, err } = await cli([
        "train",
        "--model",
        join(root, "model"),
        "--data",
        join(root, "rows.jsonl"),
        ...flags,
        "--out",
        place,
      ]);
      expect([code, err]).toEqual([1, expect.stringMatching(/^error \[ERR_(IO|CONFIG)\]: /m)]);
      expect(err).not.toMatch(/ERR_INTERNAL|defect/);
    }
  });

  it("a current folder that is gone", async () => {
    const cwd = vi.spyOn(process, "cwd").mockImplementation(() => {
      throw Object.assign(new Error("ENOENT: no such file or directory, uv_cwd"), { code: "ENOENT", syscall: "uv_cwd" });
    });
    try {
      await expect(esft.MoeModel.fromPretrained("model")).rejects.toThrow(
        /^fromPretrained: dir: model is relative to the current folder, which is gone/,
      );
      expect((await cli(["inspect", "model"])).err).toMatch(/^error \[ERR_IO\]: .* is relative to the current folder, which is gone/);
      expect((await cli(["inspect", join(root, "model")])).code).toBe(0);
    } finally {
      cwd.mockRestore();
    }
  });
});
