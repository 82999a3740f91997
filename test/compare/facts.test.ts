// What cells rest on beside their options: the model's bytes, its files beside the weights, what computes; and how listeners and models
// that are given can stop a comparison. No GPU. Alone: npx vitest run test/compare/facts.test.ts

import { appendFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { compare, MoeModel } from "../../lib/index.ts";
import type { PlanInput } from "../../lib/index.ts";
import { cli, scratch, writeRows } from "../cli/support.ts";
import { smallPlan, writePlan } from "./support.ts";

const root = scratch();
let plan: PlanInput;
let at: (name: string) => string;
const cell = "cells/sums/lora/lr-1e-3/seed-1";
const notesOf = async (out: string): Promise<string> => {
  const notes: string[] = [];
  await compare(plan, { out: at(out), onNote: (text) => notes.push(text) });
  return notes.join("\n");
};

beforeAll(async () => {
  const small = await smallPlan(root);
  ({ at } = small);
  plan = { ...small.plan, methods: [{ name: "lora", method: { type: "lora", rank: 2 }, lr: 0.001 }], seeds: [1], steps: 3, evaluation: {} };
  await compare(plan, { out: at("out") });
});

describe("a cell rests on", () => {
  const before = process.env["ESFT_ISA"];
  afterEach(() => {
    if (before === undefined) delete process.env["ESFT_ISA"];
    else process.env["ESFT_ISA"] = before;
  });

  it("the bytes of the model", async () => {
    const { facts } = JSON.parse(readFileSync(join(at("out"), cell, "record.json"), "utf8")) as { facts: Record<string, unknown> };
    await using model = await MoeModel.fromPretrained(plan.model, { device: "cpu" });
    expect(facts["model"]).toBe((await model.identity()).contents);
    expect(Object.keys(facts["modelFiles"] as object)).toEqual(expect.arrayContaining(["config.json", "tokenizer.json"]));
  });
  it("the model's files beside the weights", async () => {
    expect(await notesOf("out")).toBe("");
    appendFileSync(join(plan.model, "tokenizer_config.json"), "\n");
    expect(await notesOf("out")).toContain("lr-1e-3/seed-1 is trained again: modelFiles.tokenizer_config.json changed");
    appendFileSync(join(plan.model, "config.json"), "\n");
    expect(await notesOf("out")).toContain("the base is measured again: modelFiles.config.json changed");
  });
  it.skipIf(before === "baseline")("the instruction set", async () => {
    process.env["ESFT_ISA"] = "baseline";
    expect(await notesOf("out")).toContain("lr-1e-3/seed-1 is trained again: instructionSet changed");
  });
});

describe("a model that is given", () => {
  it("with an adapter applied is refused, since its figures would be the base's", async () => {
    await using model = await MoeModel.fromPretrained(plan.model, { device: "cpu", threads: 1 });
    await model.applyAdapter(join(at("out"), cell));
    await expect(compare(plan, { out: at("given"), model })).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/found an adapter applied.*removeAdapter\(\) first/),
    });
  });
});

describe("a listener that fails", () => {
  const oops = new Error("the listener's own");
  it.each([
    ["throws", () => { throw oops; }],
    ["rejects", () => Promise.reject(oops)],
  ] as const)("and %s ends the comparison with its error, and the same call goes on", async (how, fail) => {
    await using model = await MoeModel.fromPretrained(plan.model, { device: "cpu", threads: 1 });
    const out = at(`listener-${how}`);
    const onProgress = ({ work }: { work: string }) => (work === "train" ? fail() : undefined);
    await expect(compare(plan, { out, model, onProgress: onProgress as () => void })).rejects.toBe(oops);
    const { result } = await compare(plan, { out, model }); // it is free again
    expect(result.cells).toHaveLength(1);
  }); // prettier-ignore
  it("when it takes notes", async () => {
    const wild = { ...plan, methods: [{ ...plan.methods[0]!, lr: 1e30, optimizer: { clipNorm: 0 } }] };
    const onNote = (): void => {
      throw oops;
    };
    await expect(compare(wild, { out: at("noted"), onNote })).rejects.toBe(oops);
  });
});

it("the command opens the model after all else was checked", async () => {
  writeRows(at("mine/rows.jsonl"), []);
  const { code, err } = await cli(["compare", writePlan(at("p.json"), plan), "--out", at("mine")]);
  expect([code, err]).toEqual([1, expect.stringMatching(/holds other files/)]);
  expect(err).not.toContain("device:");
});
