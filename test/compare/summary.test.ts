// From cells to tables: means over seeds, over tasks, and pairs; the outlook on what is left. No GPU, no addon.
// Alone: npx vitest run test/compare/summary.test.ts

import { describe, expect, it } from "vitest";
import { groupsOf, partialWords } from "../../lib/compare/method_tasks.ts";
import { Outlook } from "../../lib/compare/outlook.ts";
import type { CompareCell, CompareResult, Figures } from "../../lib/compare/result.ts";
import { differencesOf, measuresOf, summaryOf } from "../../lib/compare/summary.ts";
import { markdownOf } from "../../lib/compare/table.ts";
import { sample } from "./sample.ts";

const figures = (loss: number): Figures => ({ loss, accuracy: 0.5, supervised: 1, tokens: 1 });
const [like] = sample.result.cells;
const cell = (task: string, method: string, seed: number, loss: number, others: readonly number[]): CompareCell => ({
  ...like!,
  id: `${task}/${method}/lr-1e-3/seed-${seed}`,
  task,
  method,
  seed,
  chosen: true,
  validation: figures(loss - 1),
  test: figures(loss),
  others: Object.fromEntries(others.map((x, i) => [`o${i}`, figures(x)])),
  answers: { exact: loss / 10 },
});
const held = { validation: figures(4), test: figures(5), answers: { exact: 0 } };
const file = { file: "f", sha256: "0" };
const result = {
  ...sample.result,
  tasks: ["a", "b"].map((name) => ({ name, train: file, validation: file, test: file, answers: file })),
  others: [{ name: "o0", ...file }, { name: "o1", ...file }], // prettier-ignore
  methods: ["x", "y"].map((name) => ({ name, type: "full", lr: [0.001] })),
  seeds: [1, 2],
  base: { tasks: { a: held, b: { ...held, test: figures(7) } }, others: { o0: figures(1), o1: figures(3) } },
  cells: [
    cell("a", "x", 1, 2, [1, 2]), cell("a", "x", 2, 3, [1, 4]), cell("a", "y", 1, 4, [2, 2]), cell("a", "y", 2, 4, [2, 2]),
    cell("b", "x", 1, 5, [1, 1]), cell("b", "x", 2, 6, [1, 1]), cell("b", "y", 1, 8, [2, 4]), { ...cell("b", "y", 2, 9, [2, 4]), chosen: false },
  ],
  choices: ["a", "b"].flatMap((task) => ["x", "y"].map((method) => ({ task, method, lr: 0.001, candidates: [] }))),
} satisfies CompareResult; // prettier-ignore
const measures = measuresOf(result, ["exact"]);

describe("a summary", () => {
  const summary = summaryOf(result, measures);
  const row = (task: string | null, method: string) => summary.find((r) => r.task === task && r.method === method)!;

  it("has means over the seeds of each task, and over task × seed", () => {
    expect(row("a", "x").values["test.loss"]).toEqual({ mean: 2.5, sd: Math.SQRT1_2, n: 2 });
    expect(row("b", "y").values["test.loss"]).toEqual({ mean: 8, sd: null, n: 1 });
    expect(row(null, "x").values["test.loss"]!).toMatchObject({ mean: 4, n: 4 });
    expect(row(null, "x").values["test.loss"]!.sd).toBeCloseTo(1.8257418583505538, 14); // numpy.std([2, 3, 5, 6], ddof=1)
    expect([row("a", "x").lr, row(null, "x").lr]).toEqual([0.001, null]);
  });
  it("has the base once per task", () => {
    expect(row("b", "base").values["test.loss"]).toEqual({ mean: 7, sd: null, n: 1 });
    expect(row(null, "base").values["test.loss"]).toMatchObject({ mean: 6, n: 2 });
    expect(row("a", "base").values["others.loss"]).toMatchObject({ mean: 2 });
  });
  it("counts what the base makes of other domains once", () => {
    expect(row(null, "base").values["others.o1.loss"]).toEqual({ mean: 3, sd: null, n: 1 });
    expect(row(null, "x").values["others.o1.loss"]).toMatchObject({ n: 4 });
  });
  it("has what is forgotten by domain and over all", () => {
    expect(row("a", "x").values["others.o1.loss"]).toMatchObject({ mean: 3 });
    expect(row("a", "x").values["others.loss"]).toMatchObject({ mean: 2, n: 2 });
  });
});

describe("methods that lack tasks", () => {
  const onA = (of: { readonly task: string; readonly method: string }) => of.method === "x" || of.task === "a";
  const less = { ...result, cells: result.cells.filter(onA), choices: result.choices.filter(onA) };
  const rows = summaryOf(less, measures);

  it("are told on their own, and not over all", () => {
    expect(rows.map(({ task, method }) => `${task} ${method}`)).toEqual(["a base", "a x", "a y", "b base", "b x", "null base", "null x"]);
    expect(rows[2]!.values["test.loss"]).toMatchObject({ mean: 4, n: 2 });
  });
  it("are compared where both have figures", () => {
    const found = differencesOf(less, measures).filter((d) => d.measure === "test.loss");
    expect(found.map(({ a, b, n, mean }) => [a, b, n, mean])).toEqual([["x", "y", 2, -1.5], ["x", "base", 4, -2], ["y", "base", 2, -1]]); // prettier-ignore
  });
  it("are named in the tables", () => {
    const text = markdownOf({ ...sample, result: { ...less, measures, summary: rows, differences: [] } });
    expect(text).toContain('Of the tasks y has a alone: "All tasks" tells the methods that have every one.');
    expect(text.split("## Task b")[1]!.split("##")[0]).not.toContain("| y |");
  });
  it("make groups, of which every method is in one", () => {
    expect(groupsOf(less)).toEqual([{ tasks: ["a", "b"], methods: ["x"] }, { tasks: ["a"], methods: ["x", "y"] }]); // prettier-ignore
    expect([groupsOf(result), partialWords(result)]).toEqual([[{ tasks: ["a", "b"], methods: ["x", "y"] }], null]);
  });
  it("and one whose every rate diverged on a task has no mean over all", () => {
    const choices = result.choices.map((c) => (c.task === "b" && c.method === "y" ? { ...c, lr: null } : c));
    const cells = result.cells.map((c) => (c.task === "b" && c.method === "y" ? { ...c, chosen: false } : c));
    const all = summaryOf({ ...result, cells, choices }, measures);
    expect(all.at(-1)).toEqual({ task: null, method: "y", lr: null, values: {} });
  });
});

describe("differences", () => {
  const found = differencesOf(result, measures);
  const of = (a: string, b: string, measure: string) => found.find((d) => d.a === a && d.b === b && d.measure === measure)!;

  it("are paired over task and seed, where both have figures", () => {
    const d = of("x", "y", "test.loss"); // 2 − 4, 3 − 4, 5 − 8; y has no seed 2 on b
    expect([d.n, d.mean]).toEqual([3, -2]);
    expect(d.sd).toBeCloseTo(1, 14);
    expect(d.low).toBeCloseTo(-2 - 4.302652729749462 / Math.sqrt(3), 12); // scipy.stats.t.ppf(0.975, 2)
    expect(d.high).toBeCloseTo(-2 + 4.302652729749462 / Math.sqrt(3), 12);
  });
  it("to the base take its figure of the task for each seed", () => {
    expect(of("x", "base", "test.loss")).toMatchObject({ n: 4, mean: (2 - 5 + 3 - 5 + 5 - 7 + 6 - 7) / 4 });
    expect(found.some(({ a }) => a === "base")).toBe(false);
  });
});

it("tables tell all tasks, and what diverged", () => {
  const choices = [{ task: "a", method: "x", lr: null, candidates: [{ lr: 0.1, validationLoss: null }] }];
  const whole = { ...result, choices, measures, summary: summaryOf(result, measures), differences: differencesOf(result, measures) };
  const text = markdownOf({ ...sample, result: whole });
  expect(text).toMatch(/## All tasks\n\n\| method .*\n.*\n\| base \| – \| 4\.0000 ± 0\.0000 \| 6\.0000 ± 1\.4142 \|/);
  expect(text).toMatch(/^\| a \| x \| 1e-1 \| diverged \| {2}\|$/m);
});

describe("the outlook", () => {
  it("is unknown until an update was made, then goes by what work of a kind took", () => {
    const outlook = new Outlook();
    outlook.add("train a", 10);
    outlook.add("train b", 10);
    outlook.add("evaluate x", 4);
    expect(outlook.seconds).toBeNull();
    outlook.spent("train a", 2, 1);
    expect(outlook.seconds).toBeCloseTo(8 * 0.5 + 10 * 0.5, 12); // b as a; nothing is known of evaluation
    outlook.spent("train b", 1, 2);
    outlook.spent("evaluate x", 1, 3);
    expect(outlook.seconds).toBeCloseTo(8 * 0.5 + 9 * 2 + 3 * 3, 12);
    outlook.skip("train b", 20);
    expect(outlook.seconds).toBeCloseTo(8 * 0.5 + 3 * 3, 12);
  });
});
