// The demo on the embedded model with few steps: every check passes, the figures are there, a second run replaces the first, and
// nothing but a demo's directory is ever replaced. No GPU. Alone: npx vitest run test/cli/demo.test.ts

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cli, scratch } from "./support.ts";

const root = scratch();
const out = join(root, "demo");

describe("demo", () => {
  it("profiles, selects, trains, evaluates, merges, verifies and compares", async () => {
    mkdirSync(join(out, "esft"), { recursive: true });
    writeFileSync(join(out, "demo.json"), "{}"); // left by an earlier demo
    writeFileSync(join(out, "esft", "stale"), "");
    const { code, out: text, err } = await cli(["demo", "--out", out, "--steps", "4"]);
    expect(code, err).toBe(0);
    expect(text).not.toMatch(/FAILED/);
    for (const row of ["base", "esft", "lora", "full"]) expect(text, row).toMatch(new RegExp(`^${row} +\\d`, "m"));
    const { ok, checks, result, times } = JSON.parse(readFileSync(join(out, "demo.json"), "utf8"));
    expect([ok, checks.length, result.others.length]).toEqual([true, 6, 14]);
    const [esft, lora, full] = result.cells;
    expect([esft.method, lora.method, full.method]).toEqual(["esft", "lora", "full"]);
    expect(esft.trainedShare).toBeLessThan(0.15);
    expect(full.trainedShare).toBe(1);
    expect(esft.test.loss).toBeLessThan(result.base.tasks.requests.test.loss);
    expect(Object.keys(times.cells)).toHaveLength(3);
    for (const file of ["compare/compare.json", "merged/model.safetensors", "report.html"])
      expect(existsSync(join(out, file)), file).toBe(true);
    expect(readFileSync(join(out, "report.html"), "utf8")).toContain("<svg");
    expect(existsSync(join(out, "esft", "stale"))).toBe(false);
  }, 180_000);

  it("refuses a directory that holds something else", async () => {
    const mine = join(root, "mine");
    mkdirSync(mine);
    writeFileSync(join(mine, "thesis.txt"), "");
    const { code, err } = await cli(["demo", "--out", mine]);
    expect([code, err]).toEqual([1, expect.stringMatching(/ERR_CONFIG.*holds other files than the demo's/)]);
    expect(existsSync(join(mine, "thesis.txt"))).toBe(true);
  });
});
