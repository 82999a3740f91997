// The demo's two tables: what each method gains on the task and forgets elsewhere, and what it costs.

import type { Evaluation } from "../train/evaluate.ts";
import { bytes, change, count, duration, percent, table } from "../format.ts";

/** Held-out figures by the name of their rows. */
export type Results = Readonly<Record<string, Evaluation>>;

export interface MethodResult {
  readonly name: "esft" | "full";
  readonly lr: number;
  readonly seconds: number;
  readonly trainedParameters: number;
  readonly share: number;
  readonly adapterBytes: number;
  readonly stateBytes: number;
  readonly results: Results;
}

/** `rows`: the task first, then the other domains. */
export function resultTable(rows: readonly string[], base: Results, methods: readonly MethodResult[]): string {
  const others = rows.slice(1);
  const mean = (of: Results, key: "loss" | "accuracy"): number => others.reduce((s, name) => s + of[name]![key], 0) / others.length;
  const line = (label: string, loss: (of: Results) => number, accuracy: (of: Results) => number) => [
    label,
    loss(base).toFixed(3),
    ...methods.flatMap((m) => [loss(m.results).toFixed(3), change(loss(m.results) - loss(base), 3)]),
    percent(accuracy(base)),
    ...methods.map((m) => percent(accuracy(m.results))),
  ];
  const one = (name: string) => line(name === rows[0] ? `${name} (the task)` : name, (of) => of[name]!.loss, (of) => of[name]!.accuracy); // prettier-ignore
  return table(
    ["held-out rows", "base loss", "ESFT", "change", "full", "change", "base acc.", "ESFT", "full"],
    [...rows.map(one), line("mean of the others", (of) => mean(of, "loss"), (of) => mean(of, "accuracy"))], // prettier-ignore
  );
}

export function methodTable(methods: readonly MethodResult[]): string {
  return table(
    ["method", "learning rate", "time", "trained parameters", "share of model", "adapter", "training state"],
    methods.map((m) => [
      m.name === "esft" ? "ESFT" : "full",
      m.lr.toExponential(),
      duration(m.seconds),
      count(m.trainedParameters),
      percent(m.share),
      bytes(m.adapterBytes),
      bytes(m.stateBytes),
    ]),
  );
}
