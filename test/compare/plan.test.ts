// Plans: short forms, what is refused and in which words, and the command without computing. No GPU, no addon.
// Alone: npx vitest run test/compare/plan.test.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cellCount, cellsOf, searched } from "../../lib/compare/cells.ts";
import { candidate, chooseRate } from "../../lib/compare/choose.ts";
import { parsePlan } from "../../lib/compare/plan.ts";
import { readPlan } from "../../lib/compare/plan_file.ts";
import { cli, scratch } from "../cli/support.ts";

const root = scratch();
const task = { name: "law", train: "a.jsonl", validation: "b.jsonl", test: "c.jsonl" };
const esft = { name: "esft", method: { type: "esft", p: 0.2 }, lr: [1e-5, 2e-5] };
const plan = { model: "m", tasks: [task], methods: [esft] };
const fault = (more: Readonly<Record<string, unknown>>): string => {
  try {
    parsePlan({ ...plan, ...more });
    return "accepted";
  } catch (error) {
    return (error as Error).message;
  }
};
const method = (more: Readonly<Record<string, unknown>>) => fault({ methods: [{ ...esft, ...more }] });

describe("short forms", () => {
  it("stand for the long ones", () => {
    const { methods, tasks, others } = parsePlan({
      ...plan,
      data: { maxLength: 64, template: "esft" },
      optimizer: { weightDecay: 0, schedule: "cosine" },
      tasks: [{ ...task, maxLength: 32 }],
      others: [{ name: "general", file: "g.jsonl" }],
      methods: [
        { name: "a", method: { p: 0.2, score: "gate" }, lr: 1e-5 },
        { name: "b", method: "full", lr: [1e-5], optimizer: { weightDecay: 0.1 } },
        { name: "c", method: { type: "esft", experts: "e.json" }, lr: [1e-5] },
        { name: "d", method: { type: "lora", targets: "experts", topKPerLayer: 2 }, lr: [1e-5] },
      ],
    });
    expect(methods.map((m) => m.method)).toEqual([
      { type: "esft", profile: "task", select: expect.objectContaining({ p: 0.2, score: "gate" }) },
      { type: "full" },
      { type: "esft", experts: "e.json" },
      expect.objectContaining({ type: "lora", profile: "task", select: expect.objectContaining({ topKPerLayer: 2 }) }),
    ]);
    expect(methods.map((m) => [m.lr, m.optimizer.weightDecay, m.optimizer.schedule])).toEqual(
      [0, 0.1, 0, 0].map((weightDecay) => [[1e-5], weightDecay, "cosine"]),
    );
    expect([tasks[0]!.maxLength, tasks[0]!.template, others[0]!.maxLength]).toEqual([32, "esft", 64]);
  });

  it.each([
    [
      { p: 0.4, sharedExperts: true, nonExpertModules: true },
      { select: { p: 0.4 }, sharedExperts: true, nonExpertModules: true },
    ],
    [{ p: 0.4, random: 7 }, { select: { p: 0.4, random: 7 } }],
    [{ p: 0.4, groupSize: 2 }, { select: { p: 0.4, groupSize: 2 } }],
    [
      { fixed: {}, sharedExperts: true },
      { select: { fixed: {} }, sharedExperts: true },
    ],
    [
      { fixed: "none", nonExpertModules: true },
      { select: { fixed: "none" }, nonExpertModules: true },
    ],
  ])("of a selection on the task's rows: %j", (short, long) => {
    const parsed = parsePlan({ ...plan, methods: [{ ...esft, method: { type: "esft", ...short } }] }).methods[0]!.method;
    const defaults = { score: "token", gateNormalize: "raw", average: "tokens" };
    expect(parsed).toEqual({ type: "esft", profile: "task", ...long, select: { ...defaults, ...long.select } });
  });

  it("of no routed expert", () => {
    const none = { type: "esft", experts: {}, sharedExperts: true };
    expect(parsePlan({ ...plan, methods: [{ ...esft, method: none }] }).methods[0]!.method).toEqual(none);
  });

  it("give cells in the plan's order", () => {
    const cells = cellsOf(parsePlan({ ...plan, seeds: [3, 1] }));
    expect(cells.map(({ id }) => id)).toEqual(
      ["1e-5/seed-3", "1e-5/seed-1", "2e-5/seed-3", "2e-5/seed-1"].map((rest) => `law/esft/lr-${rest}`),
    );
  });

  it("run further seeds at the chosen rate alone", () => {
    const methods = [esft, { ...esft, name: "once", seeds: [1] }, { ...esft, name: "one-rate", lr: 1e-5 }];
    const parsed = parsePlan({ ...plan, methods, seeds: [3, 1, 2], rateSeeds: 1 });
    const first = cellsOf(parsed).filter((cell) => searched(parsed, cell));
    expect(first.map(({ id }) => id)).toEqual([
      "law/esft/lr-1e-5/seed-3",
      "law/esft/lr-2e-5/seed-3",
      "law/once/lr-1e-5/seed-1",
      "law/once/lr-2e-5/seed-1",
      "law/one-rate/lr-1e-5/seed-3",
      "law/one-rate/lr-1e-5/seed-1",
      "law/one-rate/lr-1e-5/seed-2",
    ]);
    expect(cellCount(parsed)).toBe(first.length + 2);
  });

  it("leave a method its own tasks", () => {
    const methods = [{ ...esft, lr: 1e-5, tasks: ["code"] }, { name: "full", method: "full", lr: 1e-5 }]; // prettier-ignore
    const cells = cellsOf(parsePlan({ ...plan, tasks: [task, { ...task, name: "code" }], methods }));
    expect(cells.map(({ id }) => id)).toEqual(["law/full", "code/esft", "code/full"].map((id) => `${id}/lr-1e-5/seed-1`));
  });
});

describe("a plan is refused", () => {
  it.each([
    ["a misspelt key", fault({ evaluaton: {} }), /^plan: unknown key "evaluaton"; did you mean "evaluation"\?/],
    ["a misspelt key of a task", fault({ tasks: [{ ...task, tset: "x" }] }), /^plan\.tasks\.0: unknown key "tset"; did you mean "test"\?/],
    ["a misspelt option of a method", method({ method: { type: "lora", rnak: 3 } }), /^plan\.methods\.0\.method: unknown key "rnak"; did you mean "rank"\?/],
    ["another tool's key", fault({ base_model: "m" }), /^plan: unknown key "base_model"; in esft: model/],
    ["a fault of the data of all, once", fault({ data: { maxLenght: 3 } }), /^plan\.data: unknown key "maxLenght"; did you mean "maxLength"\?/],
    ["a budget of one method alone", method({ steps: 3 }), /^plan\.methods\.0\.steps: rows, order, tokens and evaluation are the same/],
    ["a rate among the optimizer's options", method({ optimizer: { lr: 1 } }), /^plan\.methods\.0\.optimizer: unknown key "lr"/],
    ["a rate among those of all", fault({ optimizer: { lr: 1 } }), /^plan\.optimizer: unknown key "lr"/],
    ["rates that cannot be meant", method({ optimizer: { decaySteps: 3 } }), /^plan\.methods\.0\.optimizer\.decaySteps: expected with schedule wsd only, found schedule constant$/],
    ["no rate", method({ lr: [] }), /^plan\.methods\.0\.lr: expected at least one learning rate/],
    ["a rate twice", method({ lr: [1e-5, 1e-5] }), /^plan\.methods\.0\.lr: expected each once, found 0\.00001 twice/],
    ["more seeds that choose than there are", fault({ seeds: [1, 2], rateSeeds: 3 }), /^plan\.rateSeeds: expected at most the number of seeds \(2\), found 3/],
    ["seeds that choose for one method alone", method({ rateSeeds: 1 }), /^plan\.methods\.0\.rateSeeds: rows, order, tokens/],
    ["a method's seed that is not the plan's", method({ seeds: [7] }), /^plan\.methods\.0\.seeds\.0: expected a seed of the plan \(1\), found 7/],
    ["a seed twice", fault({ seeds: [1, 1] }), /^plan\.seeds: expected each once, found 1 twice/],
    ["a name twice", fault({ methods: [esft, { ...esft, name: "ESFT" }] }), /^plan\.methods\.1\.name: expected a name of its own, found "ESFT"/],
    ["a name that is no folder", fault({ tasks: [{ ...task, name: "../x" }] }), /^plan\.tasks\.0\.name: expected a name of letters/],
    ["the base's name", method({ name: "base" }), /"base" is the model as it is/],
    ["a selection without a rule", method({ method: { type: "esft", score: "gate" } }), /^plan\.methods\.0\.method\.select: expected one of p, .*, found none/],
    ["two rules", method({ method: { type: "esft", p: 0.2, topKPerLayer: 2 } }), /found p and topKPerLayer/],
    ["one option twice", method({ method: { type: "esft", p: 0.2, select: { p: 0.3 } } }), /p and select\.p are the same option/],
    ["ESFT without experts", method({ method: "esft" }), /^plan\.methods\.0\.method: expected either experts .*, found neither/],
    ["nothing to train", method({ method: { type: "esft", experts: {} } }), /^plan\.methods\.0\.method\.experts: expected experts, or sharedExperts or nonExpertModules: true, .*found no expert and both switches off/],
    ["groups of no size", method({ method: { type: "esft", p: 0.2, groupSize: 0 } }), /^plan\.methods\.0\.method\.select\.groupSize: expected a number >= 1, found 0/],
    ["stages of another length", fault({ steps: 4, methods: [{ ...esft, stages: [{ targets: "experts", steps: 3 }] }] }), /^plan\.methods\.0\.stages: expected stages of 4 steps together, the plan's, found 3/],
    ["a task that the plan has not", method({ tasks: ["law", "Law"] }), /^plan\.methods\.0\.tasks\.1: expected a task of the plan \(law\), found "Law"/],
    ["a method's task twice", method({ tasks: ["law", "law"] }), /^plan\.methods\.0\.tasks: expected each once, found law twice/],
    ["a method without tasks", method({ tasks: [] }), /^plan\.methods\.0\.tasks: expected at least one task/],
    ["no task", fault({ tasks: [] }), /^plan\.tasks: expected at least one task/],
    ["a task without test rows", fault({ tasks: [{ ...task, test: undefined }] }), /^plan\.tasks\.0\.test: expected a string, found nothing/],
  ] as const)("%s", (_, message, words) => {
    expect(message).toMatch(words);
  }); // prettier-ignore

  it("with file and line", async () => {
    const file = join(root, "plan.yaml");
    const lines = ["model: m", "tasks:", "  - name: law", "    train: a.jsonl", "    validation: b.jsonl", "    test: c.jsonl", "methods:"];
    writeFileSync(file, [...lines, "  - name: esft", "    method: {type: esft, p: 2}", "    lr: 1.0e-5", ""].join("\n"));
    await expect(readPlan(file)).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringContaining("plan.yaml:9: plan.methods.0.method.select.p: expected a number <= 1, found 2"),
      where: { file, line: 9, key: "methods.0.method.select.p" },
    });
    writeFileSync(file, [...lines, "  - name: esft", "    method: full", "    lr: 1.0e-5", "    wieghts: 3", ""].join("\n"));
    await expect(readPlan(file)).rejects.toThrow(/plan\.yaml:11: plan\.methods\.0: unknown key "wieghts"/);
  });
});

describe("the choice of a rate", () => {
  const of = (...losses: readonly (readonly (number | null)[])[]) => losses.map((loss, i) => candidate(10 ** -i, loss));
  it("is the lowest mean over the seeds", () => {
    expect(chooseRate(of([1, 4], [2, 2.5], [3, 3]))).toBe(0.1);
  });
  it("goes to the lower rate of two that are equal", () => {
    expect(chooseRate(of([2, 3], [2, 3]))).toBe(0.1);
  });
  it("leaves out a rate of which a seed diverged", () => {
    expect(chooseRate(of([1, null], [2, 3]))).toBe(0.1);
    expect(chooseRate(of([1, null], [null, null]))).toBeNull();
  });
});

describe("esft compare --dry-run", () => {
  const file = join(root, "dry.yaml");
  it("prints the cells, and reads no model", async () => {
    writeFileSync(file, JSON.stringify({ ...plan, seeds: [1, 2], steps: 10 }));
    const { code, out } = await cli(["compare", file, "--dry-run"]);
    expect(code).toBe(0);
    expect(out).toContain("law/esft/lr-2e-5/seed-2");
    expect(out).toContain("4 cells of 10 updates of 32 rows: 40 updates in all");
    const json = await cli(["compare", file, "--dry-run", "--json"]);
    expect((JSON.parse(json.out) as { cells: unknown[] }).cells).toHaveLength(4);
  });
  it("without --out asks for one", async () => {
    expect(await cli(["compare", file])).toMatchObject({ code: 2, err: expect.stringContaining("--out DIR") });
  });
});
