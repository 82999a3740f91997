// What records keep, and when it is used again: figures that are not finite, coverage, adapters, metrics, files that change; and errors
// that say which cell they are of. No GPU. Alone: npx vitest run test/compare/records.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { compare, MoeModel, NonFiniteError } from "../../lib/index.ts";
import type { Comparison, PlanInput } from "../../lib/index.ts";
import { scratch, writeRows } from "../cli/support.ts";
import { toyRows } from "../support/tiny_model.ts";
import { smallPlan } from "./support.ts";

const root = scratch();
let plan: PlanInput;
let at: (name: string) => string;
let found: Comparison;
const lora = { name: "lora", method: { type: "lora", rank: 2 }, lr: 0.001 } as const;
const read = (...names: string[]): string => readFileSync(join(at(names[0]!), ...names.slice(1)), "utf8");
const again = async (given: PlanInput, out: string): Promise<{ found: Comparison; notes: string[] }> => {
  const notes: string[] = [];
  return { found: await compare(given, { out: at(out), onNote: (text) => notes.push(text) }), notes };
};

beforeAll(async () => {
  const small = await smallPlan(root);
  ({ at } = small);
  plan = { ...small.plan, methods: [{ ...lora, lr: [0.001, 0.01] }], seeds: [1], steps: 3 };
  found = await compare(plan, { out: at("out") });
});
afterEach(() => vi.restoreAllMocks());

describe("figures that are not finite", () => {
  it("of test rows decide nothing: the rate stays, and the figures are missing", async () => {
    const { encode, evaluate } = MoeModel.prototype; // eslint-disable-line @typescript-eslint/unbound-method
    const tests = new Set<unknown>();
    vi.spyOn(MoeModel.prototype, "encode").mockImplementation(async function (this: MoeModel, data, ...rest) {
      const encoded = await encode.call(this, data, ...rest);
      if (data === plan.tasks[0]!.test) tests.add(encoded.examples);
      return encoded;
    });
    vi.spyOn(MoeModel.prototype, "evaluate").mockImplementation(async function (this: MoeModel, data, ...rest) {
      if (tests.has(data) && this.params.overridden) throw new NonFiniteError("evaluation: the loss is NaN");
      return evaluate.call(this, data, ...rest);
    });
    const { found: without, notes } = await again(plan, "not-finite");
    expect(without.result.choices).toEqual(found.result.choices);
    expect(without.result.cells).toEqual(found.result.cells.map((c) => ({ ...c, test: null })));
    expect(notes).toEqual([expect.stringMatching(/seed-1, test sums: evaluation: the loss is NaN; it has no figures/)]);
    const row = without.result.summary.find((r) => r.method === "lora")!;
    expect([row.values["test.loss"], row.values["others.general.loss"]]).toEqual([undefined, expect.anything()]);
    vi.restoreAllMocks();
    expect((await again(plan, "not-finite")).found.result).toEqual(without.result); // it was recorded
  });

  it("as it trains are told in the same words, however often the run was saved", async () => {
    const wild = { ...plan, steps: 8, methods: [{ ...lora, lr: [1e3, 1e30], optimizer: { clipNorm: 0 } }] };
    const words = async (saveEvery: number) =>
      (await compare({ ...wild, saveEvery }, { out: at(`saved-${saveEvery}`) })).result.cells.map((c) => c.diverged);
    const often = await words(1);
    expect(often).toEqual([1, 2].map(() => expect.stringMatching(/^the trained weights are not finite after \d updates \(step \d: a router's input is not finite\)$/))); // prettier-ignore
    expect(await words(100)).toEqual(often);
  });
});

it("of an older form are not read: the cell is trained again", async () => {
  const id = "sums/lora/lr-1e-3/seed-1";
  await compare({ ...plan, methods: [lora], evaluation: {} }, { out: at("older") });
  const file = join(at("older"), "cells", id, "record.json");
  writeFileSync(file, JSON.stringify({ format: "esft-compare-record", version: 1 }));
  const { notes } = await again({ ...plan, methods: [lora], evaluation: {} }, "older");
  expect(notes).toEqual([`${id} is trained again: the form of records changed`]);
});

it("coverage of a profile is that of the profile as it is now", async () => {
  const named = { name: "named", method: { type: "lora", rank: 2, targets: "experts", experts: { "0": [0, 2], "1": [1] } }, lr: 0.001 };
  const selecting = { name: "selecting", method: { type: "esft", topKPerLayer: 2 }, lr: 0.001 };
  const small = { ...plan, methods: [named, selecting], evaluation: {} } as unknown as PlanInput;
  const before = (await compare(small, { out: at("covered") })).result.cells[0]!;
  const other = { ...small, profile: { tokens: 40, seed: 3 } };
  const { found: now, notes } = await again(other, "covered");
  const fresh = (await compare(other, { out: at("covered-anew") })).result.cells[0]!;
  expect(notes.some((n) => n.startsWith("sums/named/"))).toBe(false); // it is reused
  expect(now.result.cells[0]).toEqual(fresh);
  expect([fresh.coverageFrom, fresh.coverage === before.coverage]).toEqual(["profile", false]);
});

describe("an adapter whose adapter.json was changed", () => {
  const id = "sums/lora/lr-1e-3/seed-1";
  it.each(["last", "best"] as const)("is made again (keep: %s)", async (keep) => {
    const kept = { ...plan, keep, ...(keep === "best" ? { evalEvery: 1 } : {}) };
    const out = `manifest-${keep}`;
    await compare(kept, { out: at(out) });
    const [manifest, result] = [read(out, "cells", id, "adapter.json"), read(out, "compare.json")];
    writeFileSync(join(at(out), "cells", id, "adapter.json"), manifest.replace('"alpha"', '"alhpa"'));
    expect((await again(kept, out)).notes).toEqual([expect.stringContaining(`${id}: adapter.json is not the one that was recorded`)]);
    expect([read(out, "cells", id, "adapter.json"), read(out, "compare.json")]).toEqual([manifest, result]);
    expect((await again(kept, out)).notes).toEqual([]);
  });
});

it("a metric that is asked for by another path has its scores under that", async () => {
  const module = "export const score = ({ answer }) => answer.length;\n";
  const scored = async (folder: string) => {
    writeRows(at(`${folder}/made`), []);
    const metric = at(`${folder}/length.mjs`);
    writeFileSync(metric, module);
    const evaluation = { answers: { metrics: [metric], maxTokens: 3, rows: 2 } };
    const { result } = await compare({ ...plan, methods: [lora], evaluation }, { out: at("metrics") });
    return [result.base.tasks["sums"]!.answers![metric], result.cells[0]!.answers![metric]];
  };
  const first = await scored("one");
  expect(first).toEqual([expect.any(Number), expect.any(Number)]);
  expect(await scored("two")).toEqual(first);
});

it("a figure of rows that changed while it was taken is not recorded", async () => {
  const file = plan.tasks[0]!.test;
  const rows = readFileSync(file);
  const onProgress = ({ work, done, total }: { work: string; done: number; total: number }): void => {
    if (work === "test sums" && done === total) writeRows(file, toyRows(9, 77));
  };
  await expect(compare(plan, { out: at("changing"), onProgress })).rejects.toThrow(/test\.jsonl changed while the comparison was running/);
  const { evaluations } = JSON.parse(read("changing", "base/record.json")) as { evaluations: object };
  expect(Object.keys(evaluations)).toEqual(["validation sums"]);
  writeFileSync(file, rows);
});

it("warnings of rows and selections are given once", async () => {
  const odd = [{ messages: [{ role: "user", content: "1+1?" }, { role: "assistant", content: "" }] }]; // prettier-ignore
  const train = writeRows(at("odd.jsonl"), [...toyRows(12, 5), ...odd]);
  const one = 3 * 40 * 24; // parameters of an expert: one of the two layers goes without
  const methods = [{ name: "esft", method: { type: "esft", maxTrainableParams: one }, lr: [0.001, 0.01] }, { ...lora, lr: [0.001, 0.01] }] as const; // prettier-ignore
  const given = { ...plan, tasks: [{ ...plan.tasks[0]!, train }], methods, evaluation: {} } as unknown as PlanInput;
  const { notes } = await again(given, "warned");
  expect(notes).toEqual([
    expect.stringMatching(/^sums, esft: the budget leaves layer \d without a trained expert$/),
    expect.stringMatching(/^sums, esft: .*odd\.jsonl: 1 of 13 rows have an answer of no text/),
    expect.stringMatching(/^sums, lora: .*odd\.jsonl: 1 of 13 rows have an answer of no text/),
  ]);
});

describe("errors name", () => {
  it("what was evaluated, and its file", async () => {
    const test = at("unsupervised.jsonl");
    writeFileSync(test, `${JSON.stringify({ messages: [{ role: "user", content: "1+1?" }] })}\n`);
    const given = { ...plan, tasks: [{ ...plan.tasks[0]!, test }] };
    await expect(compare(given, { out: at("named") })).rejects.toMatchObject({
      code: "ERR_DATA",
      message: expect.stringMatching(/^base, test sums.*unsupervised\.jsonl/),
    });
  });
  it("the cell that cannot train", async () => {
    const given = { ...plan, methods: [{ ...lora, method: { type: "lora", rank: 2, targets: "nothing" } }] } as const;
    await expect(compare(given, { out: at("untrained") })).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/^sums\/lora\/lr-1e-3\/seed-1: /),
    });
  });
});
