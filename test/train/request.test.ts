// One parser for what a run is asked: the forms of data and method, what it refuses and how it says so, request.json of earlier
// runs. No GPU. Alone: npx vitest run test/train/request.test.ts

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { CheckedRequest, loadRequest, longForms } from "../../lib/train/request.ts";
import type { TrainRequest } from "../../lib/train/request.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-request-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const rows = Dataset.fromRows([{ text: "a" }]);
const examples = new ExampleBuilder().build(null);
const experts = new ExpertSet({ layers: [[1, { ranked: [0] }]] });
const base = { method: { type: "esft", experts }, outDir: "out" } as const;
const parse = (more: object): CheckedRequest => CheckedRequest.parse({ ...base, data: rows, ...more } as TrainRequest);
const refusal = (more: object): string => {
  try {
    parse(more);
  } catch (error) {
    expect(error).toMatchObject({ code: "ERR_CONFIG" });
    return (error as Error).message;
  }
  throw new Error("nothing was refused");
};

describe("data", () => {
  it("is a file, rows in memory, or an object of data options with one of them", () => {
    const forms: [TrainRequest["data"], unknown][] = [
      ["law.jsonl", "law.jsonl"],
      [rows, rows],
      [examples, examples],
      [{ file: "law.jsonl" }, "law.jsonl"],
      [{ rows }, rows],
      [{ rows: examples }, examples],
    ];
    for (const [data, source] of forms) {
      const request = parse({ data });
      expect(request.data).toBe(source);
      expect(request.options.data).toEqual({
        template: "tokenizer",
        packing: "document",
        maxLength: 1024,
        onOverflow: "truncateRight",
        onBadRow: "error",
        onDropped: "error",
      });
    }
    const { data, options } = parse({ data: { rows, template: "esft", maxLength: 64 } });
    expect(data).toBe(rows);
    expect(options.data).toMatchObject({ template: "esft", maxLength: 64 });
  });

  it("held out is a file or rows in memory", () => {
    for (const evalData of ["test.jsonl", rows, examples]) expect(parse({ evalData }).evalData).toBe(evalData);
    expect(parse({}).evalData).toBeNull();
    expect(refusal({ evalData: 5 })).toBe("train.evalData: expected a file, a Dataset or Examples, found 5");
  });

  it.each([
    [{ data: { maxLength: 64 } }, /^train\.data: expected rows to train on: file, files or rows .*, found none$/],
    [{ data: undefined }, /^train\.data: expected rows to train on: .*, found none$/],
    [{ data: { file: "a", rows } }, /^train\.data: expected rows .*, found file and rows$/],
    [{ data: { rows: "a.jsonl" } }, /^train\.data\.rows: expected a Dataset or Examples, found "a\.jsonl"$/],
    [{ data: { rows: experts } }, /^train\.data\.rows: expected a Dataset or Examples, found a value of class ExpertSet$/],
    [{ evalDat: rows }, /^train: unknown key "evalDat"; did you mean "evalData"\?/],
    [{ data: { rows, maxLenght: 4 } }, /^train\.data: unknown key "maxLenght"; did you mean "maxLength"\?/],
    [{ data: [] }, /^train\.data\.files: expected at least one file, found \[\]$/],
    [{ data: ["a.jsonl", { file: "b.jsonl", weight: 0 }] }, /^train\.data\.files\.1\.weight: expected a number > 0, found 0$/],
    [{ data: ["a.jsonl", 5] }, /^train\.data\.files\.1: expected keys and values, found 5$/],
    [
      { data: ["a", { file: "b", weight: 2 }] },
      /^train\.data\.files\.0\.weight: expected a weight for every file, or for none, found none for a$/,
    ],
    [{ data: { files: ["a"], file: "b" } }, /^train\.data: expected rows to train on: .*, found file and files$/],
    [{ data: 5 }, /^train\.data: expected a file of rows, a list of files, or \{file, …\}, found 5$/],
    [{ data: null }, /^train\.data: expected a file of rows, a list of files, or \{file, …\}, found null$/],
  ])("refuses %#", (more, message) => expect(refusal(more)).toMatch(message));
});

describe("method", () => {
  it("is ESFT when none is named, and takes objects as well as files", () => {
    expect(parse({ method: { experts } }).method).toEqual({ type: "esft", experts });
    expect(parse({ method: "full" }).method).toEqual({ type: "full" });
    expect(parse({ method: { type: "esft", profile: "p.json", select: { p: 0.2 } } }).method).toMatchObject({
      profile: "p.json",
      select: { p: 0.2, score: "token" },
    });
  });

  it.each([
    [{ method: "esft" }, /^train\.method: expected either experts .* or profile and select, found neither$/],
    [{ method: { type: "esft", experts, profile: "p.json" } }, /^train\.method: .*, found both$/],
    [{ method: { type: "esft", experts, select: { p: 0.2 } } }, /^train\.method\.select: expected with a profile only, found experts too$/],
    [
      { method: { type: "esft", experts: rows } },
      /^train\.method\.experts: expected a file, an ExpertSet, or layer: \[ids\], found a value of class Dataset$/,
    ],
    [{ method: 5 }, /^train\.method: expected keys and values, found 5$/],
    [{ method: "lorra" }, /^train\.method\.type: .*found "lorra"$/],
    [{ method: { type: "full", experts } }, /^train\.method: unknown key "experts"/],
  ])("refuses %#", (more, message) => expect(refusal(more)).toMatch(message));
});

describe("parts of a request", () => {
  it("in long forms can be merged: strings become objects, nothing is added", () => {
    expect(longForms({ data: "a.jsonl", method: "full", steps: 3 })).toEqual({
      data: { file: "a.jsonl" },
      method: { type: "full" },
      steps: 3,
    });
    expect(longForms({ data: rows })).toEqual({ data: { rows } });
    expect(longForms({ steps: 3 })).toEqual({ steps: 3 });
  });

  it("control goes beside what is computed", () => {
    const { signal } = new AbortController();
    const request = parse({ resume: true, signal, steps: 7 });
    expect(request.control).toMatchObject({ resume: true, signal });
    expect(request.options.steps).toBe(7);
    expect(Object.keys(request.options)).not.toContain("resume");
  });
});

it("reads request.json as earlier versions wrote it", async () => {
  const kept = {
    model: "/models/OLMoE",
    steps: 60,
    optimizer: { lr: 0.001, schedule: "cosine" },
    data: {
      template: "tokenizer",
      packing: "document",
      maxLength: 256,
      onOverflow: "truncateRight",
      onBadRow: "error",
      file: "/data/a.jsonl",
    },
    evalData: "/data/b.jsonl",
    method: { type: "esft", experts: "experts.json" },
    outDir: ".",
    device: "cpu",
    precision: "f32",
  };
  writeFileSync(join(dir, "request.json"), JSON.stringify(kept));
  const { job, file } = await loadRequest(dir);
  const { model, device, precision, request } = CheckedRequest.parseJob(job, file, { resume: true });
  expect([model, device, precision]).toEqual(["/models/OLMoE", "cpu", "f32"]);
  expect([request.data, request.evalData, request.outDir]).toEqual(["/data/a.jsonl", "/data/b.jsonl", dir]);
  expect(request.method).toEqual({ type: "esft", experts: join(dir, "experts.json") });
  expect(request.options).toMatchObject({ steps: 60, data: { maxLength: 256 }, optimizer: { lr: 0.001, beta2: 0.95 } });
  for (const memory of [{ data: { ...kept.data, file: null } }, { evalData: null }]) {
    writeFileSync(join(dir, "request.json"), JSON.stringify({ ...kept, ...memory }));
    await expect(loadRequest(dir)).rejects.toThrow(/the rows of this run came from memory/);
  }
});
