// Reports of comparisons: gain, forgetting and the front by hand, verdicts, chosen rates, costs. No GPU, no addon.
// Alone: npx vitest run test/report/comparison.test.ts

import { describe, expect, it } from "vitest";
import type { Comparison } from "../../lib/compare/result.ts";
import { comparisonReport } from "../../lib/report/comparison.ts";
import type { Figure, Report } from "../../lib/report/content.ts";
import { sample } from "../compare/sample.ts";

const figureOf = (report: Report, id: string): Figure => report.sections.flatMap((s) => s.figures).find((f) => f.id === id)!;
const rowsOf = (report: Report, id: string) => figureOf(report, id).table.rows;
const changed = (change: (result: Comparison["result"]) => void): Report => {
  const copy = structuredClone(sample);
  change(copy.result);
  return comparisonReport(copy);
};

describe("a comparison", () => {
  const report = comparisonReport(sample);

  it("says what is gained and what is forgotten, by the chosen runs", () => {
    const rows = rowsOf(report, "trade-off");
    // base: test 3.1, general 2.5; esft: tests 2.2 and 2.3, full: 2.5 and 2.7; general is 3 after both
    expect(
      rows.map((r) => [r["method"], Number(r["gain"]).toFixed(3), Number(r["gainSd"]).toFixed(3), r["forgetting"], r["n"], r["front"]]),
    ).toEqual([
      ["esft", "0.850", "0.071", 0.5, 2, "yes"],
      ["full", "0.500", "0.141", 0.5, 2, "no"],
    ]);
    expect(report.facts.map((f) => f.value)).toEqual(["esft", "esft", "esft"]);
  });

  it("says of differences what the interval tells", () => {
    expect(rowsOf(report, "differences")[0]).toMatchObject({ a: "esft", b: "full", mean: -0.35, verdict: "not told apart" });
    const told = (low: number | null, high: number | null, measure = "test.loss") =>
      rowsOf(changed((r) => (r.differences = [{ ...r.differences[0]!, measure, low, high }])), "differences")[0]!["verdict"]; // prettier-ignore
    expect(told(-0.5, -0.1)).toBe("esft is better");
    expect(told(null, null)).toBe("one pair");
    const higher = changed((r) => {
      r.measures.push({ key: "test.accuracy", label: "test accuracy", better: "higher" });
      r.differences = [{ ...r.differences[0]!, measure: "test.accuracy", low: -0.5, high: -0.1 }];
    });
    expect(rowsOf(higher, "differences")[0]!["verdict"]).toBe("full is better");
  });

  it("marks the rates that were chosen, and those that diverged", () => {
    const rates = changed((r) => r.choices[0]!.candidates.push({ lr: 0.01, validationLoss: null }));
    expect(rowsOf(rates, "rates-1").map((r) => [r["method"], r["lr"], r["chosen"]])).toEqual([
      ["esft", 0.001, "chosen"],
      ["esft", 0.01, "diverged"],
      ["full", 0.001, "chosen"],
    ]);
  });

  it("has the costs as they were measured, and leaves out what was not", () => {
    expect(rowsOf(report, "adapter-bytes").map((r) => [r["name"], r["mean"], r["sd"]])).toEqual([["esft", 200, 0], ["full", 2000, 0]]); // prettier-ignore
    expect(rowsOf(report, "step-seconds")).toEqual([{ name: "esft", mean: 0.5, sd: null, n: 1 }]);
    const untimed = comparisonReport({ ...sample, times: { ...sample.times, cells: {} } });
    expect(figureOf(untimed, "step-seconds")).toBeUndefined();
  });

  it("has every run", () => {
    const rows = rowsOf(report, "runs");
    expect(rows).toHaveLength(8);
    expect(rows.filter((r) => r["result"] === "chosen")).toHaveLength(4);
    expect(rows[0]).toMatchObject({ validation: 2.1, test: 2.2, share: 10, seconds: 2.5 });
  });
});

it("without other domains there is no trade-off, and a method whose runs all diverged has no figures", () => {
  expect(
    figureOf(
      changed((r) => (r.others = [])),
      "trade-off",
    ),
  ).toBeUndefined();
  const report = changed((r) => {
    for (const c of r.cells) if (c.method === "full") c.diverged = "gradients are not finite";
    r.choices[1]!.lr = null;
  });
  expect(rowsOf(report, "trade-off").map((r) => r["method"])).toEqual(["esft"]);
  expect(report.remarks).toEqual([
    "full on law: every learning rate diverged; it has no figures.",
    "4 of 8 runs diverged; the table of all runs says why.",
  ]);
});

it("methods are told side by side on the tasks that all of them have", () => {
  const report = changed((r) => {
    r.tasks.push({ ...r.tasks[0]!, name: "code" });
    r.base.tasks["code"] = structuredClone(r.base.tasks["law"]!);
    r.choices.push({ ...r.choices[0]!, task: "code" });
    for (const c of r.cells.filter((x) => x.method === "esft")) r.cells.push({ ...structuredClone(c), task: "code", test: c.test && { ...c.test, loss: 1.1 } }); // prettier-ignore
  });
  expect(rowsOf(report, "trade-off").map((r) => [r["method"], r["n"]])).toEqual([["esft", 4]]);
  expect(figureOf(report, "trade-off").title).toBe("What a method gains and what it forgets");
  expect(rowsOf(report, "trade-off-2").map((r) => [r["method"], r["n"]])).toEqual([["esft", 2], ["full", 2]]); // prettier-ignore
  expect(figureOf(report, "trade-off-2").title).toBe("What a method gains and what it forgets: law");
  expect(report.facts[0]).toMatchObject({ value: "esft", note: "test loss falls by 0.8500 on law" });
  expect(figureOf(report, "adapter-bytes").about).toContain("of the tasks full has law alone");
});

it("scores of answers are beside those of the model as it is", () => {
  const report = changed((r) => {
    r.measures.push({ key: "answers.exact", label: "exact", better: "higher" });
    r.base.tasks["law"]!.answers = { exact: 0.25 };
    for (const c of r.cells) if (c.chosen) c.answers = { exact: c.method === "esft" ? 0.75 : 0.5 };
  });
  expect(rowsOf(report, "answers-0")).toEqual([
    { name: "base", mean: 0.25, sd: null, n: null }, // of no run
    { name: "esft", mean: 0.75, sd: 0, n: 2 },
    { name: "full", mean: 0.5, sd: 0, n: 2 },
  ]);
});

it("the model as it is has no runs to spread, whatever the number of tasks", () => {
  const report = changed((r) => {
    r.summary.push({ task: null, method: "base", lr: null, values: { "test.loss": { mean: 3, sd: 0.5, n: 2 } } });
  });
  expect(rowsOf(report, "summary").map((r) => [r["task"], r["method"], r["n"], r["m0"], r["s0"]])).toEqual([
    ["law", "base", null, 3.1, null],
    ["law", "esft", 2, 2.25, 0.07],
    ["law", "full", 2, 2.6, 0.14],
    ["all tasks", "base", null, 3, null],
  ]);
});

it("deviations are spoken of where there are some", () => {
  const about = (report: Report, id: string): string => figureOf(report, id).about;
  const [two, one] = [comparisonReport(sample), changed((r) => (r.cells = r.cells.filter((c) => c.seed === 1)))];
  expect([about(two, "trade-off"), about(one, "trade-off")]).toEqual([
    expect.stringMatching(/with a cross of one standard deviation between the seeds of a task\.$/),
    expect.stringMatching(/at the chosen learning rates\.$/),
  ]);
  const lines = (report: Report, id: string): boolean => about(report, id).includes("Lines: ± one standard deviation.");
  expect([lines(two, "adapter-bytes"), lines(two, "step-seconds"), lines(one, "adapter-bytes")]).toEqual([true, false, false]);
});
