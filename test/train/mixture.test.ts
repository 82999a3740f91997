// A run on several files: told before it starts, kept in request.json and in the adapter, resumed to the same bytes, refused with other
// files. No GPU. Alone: npx vitest run test/train/mixture.test.ts

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { beforeAll, describe, expect, it } from "vitest";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { cli, scratch, writeRows } from "../cli/support.ts";
import { tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { runUntil } from "../support/training_run.ts";

const root = scratch();
const at = (...parts: string[]): string => join(root, ...parts);
const [few, many] = [at("few.json"), at("many.jsonl")];
let model: MoeModel;
beforeAll(async () => {
  await writeTinyModel(at("model"), tinyOlmoe);
  writeFileSync(few, JSON.stringify(toyRows(12)));
  writeRows(many, toyRows(60).slice(12));
  await new ExpertSet({ layers: [[0, { ranked: [0, 3] }], [1, { ranked: [2] }]] }).save(at("c.json")); // prettier-ignore
  model = await MoeModel.fromPretrained(at("model"), { device: "cpu", threads: 1 });
  return () => model.dispose();
});

const files = [{ file: few, weight: 1 }, { file: many, weight: 1, rows: 40 }]; // prettier-ignore
const request = (out: string, more: Partial<TrainRequest> = {}): TrainRequest => ({
  data: { files, maxLength: 64 },
  method: { type: "esft", experts: at("c.json") },
  outDir: at(out),
  steps: 12,
  rowsPerStep: 4,
  saveEvery: 3,
  evalFraction: 0.1,
  keep: "last",
  optimizer: { lr: 5e-3 },
  ...more,
});
async function train(out: string, more: Partial<TrainRequest> = {}, stopAt?: number): Promise<TrainEvent[]> {
  const { events } = await runUntil(model, request(out, more), (e) => e.type === "step" && e.step === stopAt);
  return events;
}
const read = (...path: string[]) => JSON.parse(readFileSync(at(...path), "utf8")) as Record<string, any>; // eslint-disable-line typescript/no-explicit-any
const same = (a: string, b: string): void => {
  for (const file of ["adapter.safetensors", "adapter.json"]) expect(readFileSync(at(a, file)).equals(readFileSync(at(b, file))), `${file} of ${a}`).toBe(true); // prettier-ignore
};

describe("a run on two files", () => {
  let started: Extract<TrainEvent, { type: "start" }>;
  beforeAll(async () => {
    started = (await train("whole")).find((e) => e.type === "start")!;
  });

  it("tells before it starts what each gives, and keeps it in the adapter, its card and request.json", () => {
    const { files: told, examples } = started;
    expect(told!.map((f) => [f.file, f.weight])).toEqual([["few.json", 1], ["many.jsonl", 1]]); // prettier-ignore
    expect(told!.reduce((n, f) => n + f.rows, 0)).toBe(examples);
    expect(told!.reduce((n, f) => n + f.rowsPerEpoch, 0)).toBe(examples);
    expect(Math.abs(told![0]!.rowsPerEpoch - told![1]!.rowsPerEpoch)).toBeLessThan(2);
    expect(told![0]!.rows).toBeLessThan(told![0]!.rowsPerEpoch);
    expect(read("whole", "adapter.json")["training"].files).toEqual(JSON.parse(JSON.stringify(told)));
    expect(readFileSync(at("whole", "README.md"), "utf8")).toMatch(/\| files \| \[\{"file":"few\.json"/);
    expect(read("whole", "request.json")["data"]).toMatchObject({ files, maxLength: 64 });
    expect(read("whole", "request.json")["data"]).not.toHaveProperty("file");
  });

  it("is resumed to the same bytes, by TypeScript and by its directory alone", async () => {
    await train("killed", {}, 5);
    cpSync(at("killed"), at("killed2"), { recursive: true });
    expect((await train("killed", { resume: true })).find((e) => e.type === "start")!.step).toBe(5);
    same("killed", "whole");
    const { code, err } = await cli(["resume", at("killed2"), "--threads", "1"]);
    expect([code, err]).toEqual([0, expect.stringMatching(/going on from step 5.*\n.*few\.json: \d+ rows, .* tokens; \d+ rows of an epoch \(5\d\.\d*.*%\), each \d\.\d times: it repeats\n/)]); // prettier-ignore
    same("killed2", "whole");
  });

  it("may find its files in other places and formats, not with other rows or weights", async () => {
    await train("moved", {}, 5);
    const [few2, many2] = [at("elsewhere.jsonl.gz"), at("many2.json")];
    writeFileSync(few2, gzipSync(toyRows(12).map((r) => `${JSON.stringify(r)}\n`).join(""))); // prettier-ignore
    writeFileSync(many2, JSON.stringify(toyRows(60).slice(12)));
    const other = (weight: number, file = few2) => ({ data: { files: [{ file, weight }, { ...files[1]!, file: many2 }], maxLength: 64 }, resume: true }); // prettier-ignore
    await expect(train("moved", other(2))).rejects.toThrow(/weights "1 1" → "2 1"/);
    const changed = at("changed.json");
    writeFileSync(changed, JSON.stringify([...toyRows(11), { prompt: "another", completion: "row" }]));
    await expect(train("moved", other(1, changed))).rejects.toThrow(/the (training|held-out) rows .* → /);
    await train("moved", other(1));
    expect(readFileSync(at("moved", "adapter.safetensors")).equals(readFileSync(at("whole", "adapter.safetensors")))).toBe(true);
  });
});

describe("the command line", () => {
  const flags = ["--max-length", "64", "--rows-per-step", "4", "--steps", "2", "--eval-fraction", "0", "--threads", "1", "--device", "cpu"];
  const run = (out: string, ...more: string[]) => cli(["train", "--model", at("model"), "--experts", at("c.json"), "--out", at(out), ...flags, ...more]); // prettier-ignore

  it("takes --data more than once, with weights or without", async () => {
    const weighted = await run("cli", "--data", `${few}=2.5`, "--data", `${many}=1`);
    expect([weighted.code, weighted.err]).toEqual([0, expect.stringMatching(/few\.json: 12 rows, .*; 43 rows of an epoch \(7\d.*it repeats\n {2}many\.jsonl: 48 rows, .*; 17 rows of an epoch \([^)]*\)\n/)]); // prettier-ignore
    expect(read("cli", "request.json")["data"].files).toEqual([{ file: few, weight: 2.5 }, { file: many, weight: 1 }]); // prettier-ignore
    const plain = await run("cli2", "--data", few, "--data", many);
    expect([plain.code, plain.err]).toEqual([0, expect.stringMatching(/few\.json: 12 rows, .*; 12 rows of an epoch \(20/)]);
    expect((await run("cli3", "--data", `${few}=1`, "--data", many)).err).toMatch(/data\.files\.1\.weight: expected a weight for every file, or for none, found none for .*many\.jsonl/); // prettier-ignore
  });

  it("takes a list in YAML, which flags replace", async () => {
    writeFileSync(at("job.yaml"), `data: [{file: ${few}, weight: 1}, {file: ${many}, weight: 3}]\n`);
    const listed = await run("yaml", at("job.yaml"));
    expect([listed.code, listed.err]).toEqual([0, expect.stringMatching(/; 15 rows of an epoch .*\n.*; 45 rows of an epoch/)]);
    const replaced = await run("yaml2", at("job.yaml"), "--data", few);
    expect(replaced.code, replaced.err).toBe(0);
    expect(read("yaml2", "request.json")["data"]).toMatchObject({ file: few, maxLength: 64 });
    writeFileSync(at("bad.yaml"), `data: [{file: ${few}, wieght: 1}]\n`);
    expect((await run("yaml3", at("bad.yaml"))).err).toMatch(/data\.files\.0: unknown key "wieght"; did you mean "weight"\?/);
  });
});
