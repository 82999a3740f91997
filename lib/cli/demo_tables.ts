// The demo's two tables: what each method gains on the task and forgets elsewhere, and what it costs.

import type { Comparison, CompareResult } from "../compare/result.ts";
import { bytes, change, count, duration, percent, table } from "../format.ts";

/** A line per method: the task's test rows, and the mean of the other domains. */
export function resultTable({ summary, methods, others }: CompareResult, task: string): string {
  const rows = ["base", ...methods.map(({ name }) => name)].map((name) => {
    const found = summary.find((s) => s.task === task && s.method === name)!;
    const value = (key: string): number => found.values[key]?.mean ?? NaN;
    const mean = (of: typeof found, key: "loss" | "accuracy"): number =>
      others.reduce((sum, other) => sum + (of.values[`others.${other.name}.${key}`]?.mean ?? NaN), 0) / others.length;
    const base = summary.find((s) => s.task === task && s.method === "base")!;
    const loss = mean(found, "loss");
    return [
      name,
      value("test.loss").toFixed(3),
      percent(value("test.accuracy")),
      percent(value("answers.exact")),
      loss.toFixed(3),
      name === "base" ? "" : change(loss - mean(base, "loss"), 3),
      percent(mean(found, "accuracy")),
    ];
  });
  return table([task, "loss", "accuracy", "exact", "others: loss", "change", "accuracy"], rows);
}

export function costTable({ result, times }: Comparison): string {
  return table(
    ["method", "learning rate", "training", "trained parameters", "share of model", "adapter", "training state"],
    result.cells.map((c) => [
      c.method,
      c.lr.toExponential(),
      duration(times.cells[c.id]!.stepSeconds),
      count(c.trainedParameters ?? 0),
      percent(c.trainedShare ?? 0),
      bytes(c.adapterBytes ?? 0),
      bytes(c.stateBytes ?? 0),
    ]),
  );
}
