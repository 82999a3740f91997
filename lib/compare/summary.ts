// From the figures of cells to what is told of methods: means over repetitions, and paired differences.

import { tasksOf } from "./method_tasks.ts";
import type { CompareCell, CompareResult, Difference, Estimate, Figures, Measure } from "./result.ts";
import { estimate, meanOf, pairedDifference } from "./statistics.ts";

type Result = Pick<CompareResult, "tasks" | "others" | "methods" | "seeds" | "base" | "cells" | "choices">;
type Values = ReadonlyMap<string, number>;

/** What is told of every method, in the order of tables. */
export function measuresOf({ others }: Pick<Result, "others">, metrics: readonly string[]): Measure[] {
  return [
    { key: "validation.loss", label: "validation loss", better: "lower" },
    { key: "test.loss", label: "test loss", better: "lower" },
    { key: "test.accuracy", label: "test accuracy", better: "higher" },
    ...metrics.map((name): Measure => ({ key: `answers.${name}`, label: `${name} of answers`, better: "higher" })),
    ...others.flatMap(({ name }): Measure[] => [
      { key: `others.${name}.loss`, label: `loss on ${name}`, better: "lower" },
      { key: `others.${name}.accuracy`, label: `accuracy on ${name}`, better: "higher" },
    ]),
    ...(others.length > 1 ? [{ key: "others.loss", label: "mean loss on others", better: "lower" } as const] : []),
  ];
}

interface Held {
  readonly validation: Figures | null;
  readonly test: Figures | null;
  readonly others: Readonly<Record<string, Figures>> | null;
  readonly answers: Readonly<Record<string, number>> | null;
}

/** @param domains of the plan: the mean over others is that of all of them */
function valuesOf({ validation, test, others, answers }: Held, domains: number): Values {
  const values = new Map<string, number>();
  if (validation) values.set("validation.loss", validation.loss);
  if (test) values.set("test.loss", test.loss).set("test.accuracy", test.accuracy);
  for (const [name, score] of Object.entries(answers ?? {})) values.set(`answers.${name}`, score);
  const all = Object.entries(others ?? {});
  for (const [name, { loss, accuracy }] of all) values.set(`others.${name}.loss`, loss).set(`others.${name}.accuracy`, accuracy);
  if (all.length > 1 && all.length === domains) values.set("others.loss", meanOf(all.map(([, { loss }]) => loss))!);
  return values;
}

/** By task, and for methods by seed, what a method came to at its chosen rate. */
class Outcomes {
  private readonly chosen = new Map<string, Values>();
  private readonly base = new Map<string, Values>();

  constructor({ base, cells, others: { length } }: Result) {
    for (const [task, of] of Object.entries(base.tasks)) this.base.set(task, valuesOf({ ...of, others: base.others }, length));
    for (const cell of cells) if (cell.chosen) this.chosen.set(keyOf(cell), valuesOf(cell, length));
  }

  of(method: string, task: string, seed: number): Values | undefined {
    return method === "base" ? this.base.get(task) : this.chosen.get(keyOf({ method, task, seed }));
  }
}
const keyOf = ({ method, task, seed }: Pick<CompareCell, "method" | "task" | "seed">): string => `${task}/${method}/${seed}`;

/** Of each measure that every task has: over the tasks' outcomes; `once`: those of other domains are the same for every task. */
function estimates(measures: readonly Measure[], byTask: readonly (readonly Values[])[], once: boolean): Record<string, Estimate> {
  const found: Record<string, Estimate> = {};
  for (const { key } of measures) {
    const values = byTask.map((outcomes) => outcomes.flatMap((of) => of.get(key) ?? []));
    if (values.some((of) => of.length === 0)) continue;
    const of = estimate(once && key.startsWith("others.") ? values[0]! : values.flat());
    if (of !== null) found[key] = of;
  }
  return found;
}

/** Per task over the seeds; with more than one task also over all, of methods that have all. The base has no seeds. */
export function summaryOf(result: Result, measures: readonly Measure[]): CompareResult["summary"] {
  const outcomes = new Outcomes(result);
  const tasks = result.tasks.map(({ name }) => name);
  const methods = ["base", ...result.methods.map(({ name }) => name)];
  const on = (method: string): readonly string[] => (method === "base" ? tasks : tasksOf(result, method));
  const rateOf = (task: string, method: string): number | null =>
    result.choices.find((c) => c.task === task && c.method === method)?.lr ?? null;
  const row = (task: string | null, method: string) => {
    const found = (task === null ? tasks : [task]).map((name) =>
      (method === "base" ? [0] : result.seeds).flatMap((seed) => outcomes.of(method, name, seed) ?? []),
    );
    return { task, method, lr: task === null ? null : rateOf(task, method), values: estimates(measures, found, method === "base") };
  };
  const rows = tasks.flatMap((task) => methods.filter((method) => on(method).includes(task)).map((method) => row(task, method)));
  const whole = methods.filter((method) => on(method).length === tasks.length);
  return tasks.length > 1 ? [...rows, ...whole.map((method) => row(null, method))] : rows;
}

/** Of every two methods, and of each and the base, where both have figures of the same task and seed; of other domains only their mean. */
export function differencesOf(result: Result, all: readonly Measure[]): Difference[] {
  // Pairs of methods times domains would be most of the file, and no reader looks for them; every cell has the figures.
  const mean = all.some(({ key }) => key === "others.loss");
  const measures = all.filter(({ key }) => !mean || !key.startsWith("others.") || key === "others.loss");
  const outcomes = new Outcomes(result);
  const names = result.methods.map(({ name }) => name);
  const pairs = names.flatMap((a, i) => [...names.slice(i + 1), "base"].map((b) => [a, b] as const));
  return pairs.flatMap(([a, b]) =>
    measures.flatMap(({ key: measure }) => {
      const found = result.tasks.flatMap(({ name }) =>
        result.seeds.flatMap((seed) => {
          const [x, y] = [outcomes.of(a, name, seed)?.get(measure), outcomes.of(b, name, seed)?.get(measure)];
          return x === undefined || y === undefined ? [] : [[x, y] as const];
        }),
      );
      const of = pairedDifference(
        found.map(([x]) => x),
        found.map(([, y]) => y),
      );
      return of === null ? [] : [{ a, b, measure, ...of }];
    }),
  );
}
