// The command line over a base that is quantised on disk: what inspect says, both choices of memory, merging. Alone:
// npx vitest run test/cli/quantised.test.ts

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { quantiseModel } from "../support/quantised_model.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { cli } from "./support.ts";

let root: string;
const at = (...names: string[]): string => join(root, ...names);
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-cli-quantised-"));
  await writeTinyModel(at("bf16"), tinyDeepseek);
  await quantiseModel(at("bf16"), at("base"), "fp8");
  await writeFile(at("rows.jsonl"), toyRows(24).map((row) => JSON.stringify(row)).join("\n")); // prettier-ignore
  await writeFile(at("experts.json"), JSON.stringify({ experts: { 1: [0, 3], 2: [5] }, shared_experts: false, non_expert_modules: false }));
});
afterAll(() => rm(root, { recursive: true, force: true }));

it("inspect names the quantisation and the memory that it costs", async () => {
  const { out } = await cli(["inspect", at("base")]);
  expect(out).toMatch(/^quantised {3}\d+ weights as FP8, blocks 16 × 24: .* kB, in memory .* kB as f32$/m);
  expect(JSON.parse((await cli(["inspect", at("base"), "--json"])).out)).toMatchObject({
    quantMethod: "fp8",
    decoded: [{ memoryDtype: "f32" }],
  });
});

it("train, verify and merge", async () => {
  const train = (out: string, ...more: string[]) =>
    cli(["train", "--model", at("base"), "--data", at("rows.jsonl"), "--experts", at("experts.json"), "--out", at(out), "--steps", "3", "--max-length", "64", "--device", "cpu", ...more]); // prettier-ignore
  expect((await train("run")).code).toBe(0);
  expect((await train("rounded", "--dequantise", "bf16")).code).toBe(0);
  expect(JSON.parse(await readFile(at("rounded", "request.json"), "utf8"))).toMatchObject({ dequantise: "bf16" });
  expect(Object.keys(JSON.parse(await readFile(at("run", "request.json"), "utf8")) as object)).not.toContain("dequantise");
  const verified = await cli(["verify", at("run"), "--base", at("base")]);
  expect([verified.code, verified.out]).toEqual([0, expect.stringMatching(/frozen weights of the base are those of training/)]);

  const merge = (...more: string[]) => cli(["merge", at("base"), "--adapter", at("run"), "-o", at("merged"), ...more]);
  const refused = await merge();
  expect([refused.code, refused.err]).toEqual([1, expect.stringMatching(/ERR_LAYOUT.*quantised on disk.*1. dequantise \(--dequantise\).*2. keep the adapter/)]);
  const merged = await merge("--dequantise");
  expect([merged.code, merged.out]).toEqual([0, expect.stringMatching(/logits: all \d+ of 3 rows equal base \+ adapter bit for bit/)]);
  const again = await cli(["verify", at("merged"), "--base", at("base"), "--adapter", at("run")]);
  expect([again.code, again.out]).toEqual([0, expect.stringMatching(/frozen weights of the merged model are those of training/)]);
}, 120_000); // prettier-ignore
