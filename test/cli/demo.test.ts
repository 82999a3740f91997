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
    expect(text).toMatch(/^booking \(the task\) +\d/m);
    expect(text).toMatch(/^mean of the others +\d/m);
    expect(text).toMatch(/^ESFT +1e-3 /m);
    const { ok, checks, base, methods } = JSON.parse(readFileSync(join(out, "demo.json"), "utf8"));
    expect([ok, checks.length, Object.keys(base).length]).toEqual([true, 6, 14]);
    const [esft, full] = methods;
    expect(esft.trainedParameters).toBeLessThan(0.15 * full.trainedParameters);
    expect(full.share).toBe(1);
    expect(esft.results.booking.loss).toBeLessThan(base.booking.loss);
    for (const file of ["esft/adapter.safetensors", "full/adapter.safetensors", "merged/model.safetensors", "profile.json", "experts.json"])
      expect(existsSync(join(out, file)), file).toBe(true);
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
